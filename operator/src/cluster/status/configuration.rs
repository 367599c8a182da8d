//! The condition of what is configured: whether the members' Postgres takes it, and what waits for
//! a restart.

use pgraft_core::NodeId;
use pgraft_core::configuration::ConfigurationStatus;
use std::collections::{BTreeMap, BTreeSet};

use super::{StatusInput, StatusVerdict};
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::names;

/// Problems that are told in full; of more only how many.
const MAX_SHOWN: usize = 5;

impl StatusInput<'_> {
    /// None where no member has said anything yet.
    pub(super) fn configuration(&self) -> Option<StatusVerdict> {
        let type_ = ConditionType::ConfigurationValid;
        let said = &self.seen.configurations;
        if said.is_empty() {
            let known = self.before.conditions.iter().any(|c| c.type_ == type_.as_str());
            let message = "no member answered".to_owned();
            return known.then_some(StatusVerdict {
                type_,
                holds: None,
                reason: ConditionReason::NoMemberAnswers,
                message,
            });
        }
        let (holds, reason, message) = if let Some(message) = self.problems(said) {
            (false, ConditionReason::ConfigurationRejected, message)
        } else if let Some(message) = self.server_failures(said) {
            (false, ConditionReason::ServerFails, message)
        } else {
            (true, ConditionReason::ConfigurationAccepted, in_force(said))
        };
        Some(StatusVerdict { type_, holds: Some(holds), reason, message })
    }

    /// Each problem once, with the pods that have it where not all do.
    fn problems(&self, said: &BTreeMap<NodeId, ConfigurationStatus>) -> Option<String> {
        let problems: BTreeSet<_> = said.values().flat_map(|status| &status.problems).collect();
        let told = problems.iter().take(MAX_SHOWN).map(|problem| {
            let pods: Vec<String> = said
                .iter()
                .filter(|(_, s)| s.problems.contains(problem))
                .map(|(id, _)| names::pod(self.subject.name, *id))
                .collect();
            if pods.len() == said.len() {
                problem.to_string()
            } else {
                format!("{problem} (on {})", pods.join(", "))
            }
        });
        let mut told: Vec<String> = told.collect();
        if problems.len() > MAX_SHOWN {
            told.push(format!("and {} more", problems.len() - MAX_SHOWN));
        }
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn server_failures(&self, said: &BTreeMap<NodeId, ConfigurationStatus>) -> Option<String> {
        let failure = |(id, status): (&NodeId, &ConfigurationStatus)| {
            let failure = status.failure.as_ref()?;
            let pod = names::pod(self.subject.name, *id);
            Some(format!(
                "Postgres on {pod} ended {} times in a row: {}",
                failure.count, failure.message
            ))
        };
        let told: Vec<String> = said.iter().filter_map(failure).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

fn in_force(said: &BTreeMap<NodeId, ConfigurationStatus>) -> String {
    let waiting: BTreeSet<&str> =
        said.values().flat_map(|status| &status.pending_restart).map(String::as_str).collect();
    let held: BTreeSet<String> =
        said.values().flat_map(|status| &status.held).map(ToString::to_string).collect();
    let mut told: Vec<String> = held.into_iter().collect();
    if !waiting.is_empty() {
        let names: Vec<&str> = waiting.into_iter().collect();
        told.insert(0, format!("these settings take effect after a restart: {}", names.join(", ")));
    }
    if told.is_empty() { "every setting is in force".into() } else { told.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;
    use crate::cluster::status::{ConditionSubject, derive};
    use crate::cluster::step::{Step, StepOutcome};
    use pgraft_api::cluster::PgRaftClusterStatus;
    use pgraft_core::configuration::{Problem, ServerFailure};

    const SUBJECT: ConditionSubject<'_> = ConditionSubject {
        name: "demo",
        namespace: "default",
        generation: Some(1),
        replicas: 3,
        template: None,
        storage: None,
        switchover: None,
        invalid: None,
    };

    fn problem(setting: &str) -> Problem {
        Problem {
            setting: setting.into(),
            line: None,
            value: Some("1".into()),
            message: "unknown; the default is used".into(),
        }
    }

    fn said(of: [ConfigurationStatus; 2]) -> PgRaftClusterStatus {
        let mut seen = healthy(&wanted(3), 3);
        seen.configurations = (1..).map(id).zip(of).collect();
        derive(SUBJECT, &seen, &StepOutcome::Took(Step::Steady), &PgRaftClusterStatus::default())
    }

    fn words(of: [ConfigurationStatus; 2]) -> String {
        let status = said(of);
        let condition = status.conditions.iter().find(|c| c.type_ == "ConfigurationValid").unwrap();
        format!("{} {}: {}", condition.status, condition.reason, condition.message)
    }

    #[test]
    fn what_members_say() {
        let fine = ConfigurationStatus::default;
        let bad = |names: &[&str]| ConfigurationStatus {
            valid: false,
            problems: names.iter().map(|name| problem(name)).collect(),
            ..fine()
        };
        let waits =
            ConfigurationStatus { pending_restart: vec!["shared_buffers".into()], ..fine() };
        let fails = ConfigurationStatus {
            failure: Some(ServerFailure { count: 3, message: "out of disk".into() }),
            ..fine()
        };
        assert_eq!(
            words([fine(), fine()]),
            "True ConfigurationAccepted: every setting is in force"
        );
        assert_eq!(
            words([fine(), waits.clone()]),
            "True ConfigurationAccepted: these settings take effect after a restart: shared_buffers"
        );
        let held = ConfigurationStatus { held: vec![problem("max_connections")], ..waits.clone() };
        assert_eq!(
            words([held.clone(), held]),
            "True ConfigurationAccepted: these settings take effect after a restart: shared_buffers; max_connections \"1\": unknown; the default is used"
        );
        assert_eq!(
            words([bad(&["a", "b"]), bad(&["a"])]),
            "False ConfigurationRejected: a \"1\": unknown; the default is used; b \"1\": unknown; the default is used (on demo-1)"
        );
        assert!(
            words([bad(&["a", "b", "c", "d", "e", "f", "g"]), fine()]).ends_with("; and 2 more")
        );
        assert_eq!(
            words([fails, fine()]),
            "False ServerFails: Postgres on demo-1 ended 3 times in a row: out of disk"
        );
    }

    #[test]
    fn nothing_is_said_before_a_member_has_answered_and_unknown_after() {
        let mut seen = healthy(&wanted(3), 3);
        let first = derive(
            SUBJECT,
            &seen,
            &StepOutcome::Took(Step::Steady),
            &PgRaftClusterStatus::default(),
        );
        assert!(first.conditions.iter().all(|c| c.type_ != "ConfigurationValid"));
        seen.configurations = [(id(1), ConfigurationStatus::default())].into();
        let second = derive(SUBJECT, &seen, &StepOutcome::Took(Step::Steady), &first);
        seen.configurations.clear();
        let third = derive(SUBJECT, &seen, &StepOutcome::Took(Step::Steady), &second);
        assert_eq!(
            third.conditions.iter().find(|c| c.type_ == "ConfigurationValid").unwrap().status,
            "Unknown"
        );
    }
}
