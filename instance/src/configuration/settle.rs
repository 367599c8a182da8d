//! Finds the part of a candidate that can be installed, by repeated checks. Pure except for the check.
//!
//! An invalid setting is replaced by its last valid value, or left out if there is none. All other
//! settings stay, so one invalid setting does not affect the others.

use pgraft_core::configuration::Problem;
use std::collections::BTreeSet;

use super::faults::{Blame, ConfigurationFault};
use super::user::{REJECT_THE_REST, UserConfig, of_hba_line, of_parameter};

/// The number of rounds before the last valid configuration is used.
const MAX_ROUNDS: usize = 12;

/// The number of parameters that are tried one by one if Postgres does not name the invalid one.
const MAX_SUSPECTS: usize = 32;

/// A configuration to check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The user's part.
    pub user: UserConfig,
    /// The text of `postgresql.auto.conf`.
    pub auto: String,
}

/// Checks whether a candidate can be used. Implemented with Postgres.
pub trait ConfigurationCheck {
    /// Returns the faults; none if the server would start and reload with it.
    fn judge(
        &mut self,
        candidate: &Candidate,
    ) -> impl Future<Output = Vec<ConfigurationFault>> + Send;
}

/// The part of a candidate that can be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Without faults, or only with those in pgraft's own part.
    pub candidate: Candidate,
    /// The settings that were left out or replaced.
    pub problems: Vec<Problem>,
    /// Faults that are not caused by the user's settings.
    pub foreign: Vec<String>,
}

/// Finds the largest part of `wanted` that passes the check.
pub async fn settle(
    judge: &mut (impl ConfigurationCheck + Send),
    wanted: &Candidate,
    good: Option<&UserConfig>,
) -> Settled {
    let mut settled = Settled { candidate: wanted.clone(), problems: vec![], foreign: vec![] };
    for _ in 0..MAX_ROUNDS {
        let faults = judge.judge(&settled.candidate).await;
        if faults.is_empty() {
            return settled;
        }
        let before = settled.candidate.clone();
        for fault in &faults {
            let (next, problem) = without(&settled.candidate, wanted, fault, good);
            settled.candidate = next;
            settled.problems.extend(problem);
        }
        if settled.candidate == before {
            let message = faults.first().map(|f| f.message.clone()).unwrap_or_default();
            if !blame_by_trial(judge, &mut settled, wanted, good, message).await {
                return settled;
            }
        }
    }
    // Too many faults to report each.
    settled.candidate.user = good.cloned().unwrap_or_default();
    settled.problems.push(of_parameter(
        "postgresql",
        None,
        "too many settings are invalid; the last valid configuration is used",
    ));
    settled
}

/// The candidate without the fault, and the problem to report. Unchanged if the cause is unknown or
/// not in the user's part.
fn without(
    tried: &Candidate,
    wanted: &Candidate,
    fault: &ConfigurationFault,
    good: Option<&UserConfig>,
) -> (Candidate, Option<Problem>) {
    let mut next = tried.clone();
    let problem = match &fault.blame {
        Blame::Parameter(name) => match auto_line_of(&tried.auto, name) {
            Some(line) => Some(without_auto_line(&mut next, line, &fault.message)),
            None => without_parameter(&mut next, wanted, name, &fault.message, good),
        },
        Blame::Library(library) => {
            without_library(&mut next, wanted, library, &fault.message, good)
        }
        Blame::Hba(line) => without_hba(&mut next, *line, &fault.message, good),
        Blame::Auto(line) => Some(without_auto_line(&mut next, *line, &fault.message)),
        Blame::Unknown => None,
    };
    (next, problem)
}

fn without_parameter(
    next: &mut Candidate,
    wanted: &Candidate,
    name: &str,
    message: &str,
    good: Option<&UserConfig>,
) -> Option<Problem> {
    let parameters = &mut next.user.parameters;
    let had = parameters.remove(name)?;
    let last = good.and_then(|g| g.parameters.get(name)).filter(|value| **value != had);
    if let Some(last) = last {
        parameters.insert(name.to_owned(), last.clone());
    }
    // Reported once, for the configured value.
    let value = wanted.user.parameters.get(name).filter(|value| **value == had)?;
    let used = last.map_or_else(
        || "the default is used".to_owned(),
        |last| format!("the last valid value \"{last}\" is used"),
    );
    Some(of_parameter(name, Some(value), format!("{message}; {used}")))
}

/// Removes a library that cannot be loaded from the list that names it.
fn without_library(
    next: &mut Candidate,
    wanted: &Candidate,
    library: &str,
    message: &str,
    good: Option<&UserConfig>,
) -> Option<Problem> {
    let lists =
        ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];
    let (name, value) = lists.iter().find_map(|name| {
        let value = next.user.parameters.get(*name)?;
        names(value).iter().any(|item| item == library).then(|| (*name, value.clone()))
    })?;
    let last = good
        .and_then(|g| g.parameters.get(name))
        .filter(|last| **last != value && !names(last).iter().any(|item| item == library));
    if last.is_some() {
        return without_parameter(next, wanted, name, message, good);
    }
    let rest: Vec<String> = names(&value).into_iter().filter(|item| item != library).collect();
    if rest.is_empty() {
        next.user.parameters.remove(name);
    } else {
        next.user.parameters.insert(name.to_owned(), rest.join(","));
    }
    Some(of_parameter(
        name,
        wanted.user.parameters.get(name).map(String::as_str),
        format!("{message}; the library is left out"),
    ))
}

/// Splits a list of libraries.
pub fn names(list: &str) -> Vec<String> {
    list.split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// Uses all lines of the last valid list, because their order matters. Without one, uses the lines
/// before the first invalid one.
fn without_hba(
    next: &mut Candidate,
    line: Option<usize>,
    message: &str,
    good: Option<&UserConfig>,
) -> Option<Problem> {
    let hba = &mut next.user.hba;
    let index = line.unwrap_or(1).checked_sub(1)?;
    let value = hba.get(index)?.clone();
    let used = if let Some(good) = good.filter(|g| g.hba != *hba) {
        hba.clone_from(&good.hba);
        "the last valid lines are used"
    } else {
        hba.truncate(index);
        hba.push(REJECT_THE_REST.into());
        "connections that no earlier line matches are rejected"
    };
    Some(of_hba_line(index, &value, format!("{message}; {used}")))
}

/// The line in which `ALTER SYSTEM` sets a parameter. It takes precedence over the user's setting.
fn auto_line_of(auto: &str, name: &str) -> Option<usize> {
    let sets = |line: &str| {
        line.trim_start()
            .split(|c: char| c == '=' || c.is_whitespace())
            .next()
            .is_some_and(|n| n.eq_ignore_ascii_case(name))
    };
    auto.lines().position(sets).map(|index| index + 1)
}

fn without_auto_line(next: &mut Candidate, number: usize, message: &str) -> Problem {
    let taken =
        next.auto.lines().nth(number.saturating_sub(1)).unwrap_or_default().trim().to_owned();
    let kept = next
        .auto
        .split_inclusive('\n')
        .enumerate()
        .filter(|(index, _)| index + 1 != number)
        .map(|(_, line)| line);
    next.auto = kept.collect();
    Problem {
        setting: "postgresql.auto.conf".into(),
        line: u32::try_from(number).ok(),
        value: Some(taken),
        message: format!("{message}; the line of ALTER SYSTEM was removed"),
    }
}

/// Finds the invalid parameter by leaving out one after the other. False if none of the user's is
/// invalid.
async fn blame_by_trial(
    judge: &mut (impl ConfigurationCheck + Send),
    settled: &mut Settled,
    wanted: &Candidate,
    good: Option<&UserConfig>,
    message: String,
) -> bool {
    let tried = settled.candidate.clone();
    let bare = Candidate::default();
    if tried == bare || judge.judge(&bare).await.iter().any(|f| f.message == message) {
        settled.foreign.push(message);
        return false;
    }
    // New values first.
    let is_new = |(name, value): &(&String, &String)| {
        good.and_then(|g| g.parameters.get(*name)) != Some(*value)
    };
    let (new, old): (Vec<_>, Vec<_>) = tried.user.parameters.iter().partition(is_new);
    let suspects: BTreeSet<&String> = tried.user.parameters.keys().collect();
    for (name, _) in new.into_iter().chain(old).take(MAX_SUSPECTS.min(suspects.len())) {
        let mut next = tried.clone();
        let problem = without_parameter(&mut next, wanted, name, &message, good);
        if !judge.judge(&next).await.iter().any(|f| f.message == message) {
            settled.candidate = next;
            settled.problems.extend(problem);
            return true;
        }
    }
    // Only a combination is invalid: use the last valid one, or drop what ALTER SYSTEM has set.
    let parameters = good.map(|g| g.parameters.clone()).filter(|p| *p != tried.user.parameters);
    let (setting, used) = match parameters {
        Some(last) => {
            settled.candidate.user.parameters = last;
            ("postgresql.parameters", "the last valid parameters are used")
        }
        None if !tried.auto.is_empty() => {
            settled.candidate.auto = String::new();
            ("postgresql.auto.conf", "the settings of ALTER SYSTEM were removed")
        }
        None => {
            settled.candidate.user.parameters.clear();
            ("postgresql.parameters", "the defaults are used")
        }
    };
    settled.problems.push(of_parameter(setting, None, format!("{message}; {used}")));
    true
}

#[cfg(test)]
mod tests;
