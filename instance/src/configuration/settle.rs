//! Finds what of a candidate can be installed, by asking a judge again and again. Pure but for the
//! judge.
//!
//! What is at fault gives way to the last good value of the same setting, or is left out where
//! there is none. Everything else of the candidate stays, so that one bad setting keeps no other
//! from being applied.

use pgraft_core::configuration::Problem;
use std::collections::BTreeSet;

use super::faults::{Blame, ConfigurationFault};
use super::user::{REJECT_THE_REST, UserConfig, of_hba_line, of_parameter};

/// Rounds before the last good configuration is taken as a whole.
const MOST_ROUNDS: usize = 12;

/// Parameters that are tried one by one where Postgres does not say which is at fault.
const MOST_SUSPECTS: usize = 32;

/// What is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The user's part.
    pub user: UserConfig,
    /// The text of `postgresql.auto.conf`.
    pub auto: String,
}

/// Who says whether a candidate can be used: Postgres.
pub trait ConfigurationCheck {
    /// Its faults; none where the server would start and reload with it.
    fn judge(
        &mut self,
        candidate: &Candidate,
    ) -> impl Future<Output = Vec<ConfigurationFault>> + Send;
}

/// What can be installed of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Without faults, or with those only that pgraft's own part has.
    pub candidate: Candidate,
    /// What was left out.
    pub problems: Vec<Problem>,
    /// Faults that no setting of the user's causes.
    pub foreign: Vec<String>,
}

/// The most of `wanted` that the judge accepts.
pub async fn settle(
    judge: &mut (impl ConfigurationCheck + Send),
    wanted: &Candidate,
    good: Option<&UserConfig>,
) -> Settled {
    let mut settled = Settled { candidate: wanted.clone(), problems: vec![], foreign: vec![] };
    for _ in 0..MOST_ROUNDS {
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
    // Too many to be named one by one.
    settled.candidate.user = good.cloned().unwrap_or_default();
    settled.problems.push(of_parameter(
        "postgresql",
        None,
        "too many settings are invalid; the last good configuration is used",
    ));
    settled
}

/// The candidate without what is at fault, and the problem to report. The same candidate where that
/// is not known, or is not the user's.
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
    // Said once, about what was asked for.
    let value = wanted.user.parameters.get(name).filter(|value| **value == had)?;
    let used = last.map_or_else(
        || "the default is used".to_owned(),
        |last| format!("the last good value \"{last}\" is used"),
    );
    Some(of_parameter(name, Some(value), format!("{message}; {used}")))
}

/// A library that cannot be loaded, out of each list that names it.
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

/// The items of a list of libraries.
pub fn names(list: &str) -> Vec<String> {
    list.split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// The last good list as a whole, since its lines belong together; where there is none, the lines
/// before the first bad one.
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
        "the last good lines are used"
    } else {
        hba.truncate(index);
        hba.push(REJECT_THE_REST.into());
        "connections that no earlier line matches are rejected"
    };
    Some(of_hba_line(index, &value, format!("{message}; {used}")))
}

/// Where `ALTER SYSTEM` sets a parameter: the line counts, since it outranks the user's file.
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
        message: format!("{message}; the line, which ALTER SYSTEM wrote, is taken out"),
    }
}

/// Takes out one parameter after the other until Postgres is content, and blames that one. False
/// where nothing of the user's is at fault.
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
    for (name, _) in new.into_iter().chain(old).take(MOST_SUSPECTS.min(suspects.len())) {
        let mut next = tried.clone();
        let problem = without_parameter(&mut next, wanted, name, &message, good);
        if !judge.judge(&next).await.iter().any(|f| f.message == message) {
            settled.candidate = next;
            settled.problems.extend(problem);
            return true;
        }
    }
    // Only several together: as a whole, or what ALTER SYSTEM has set.
    let parameters = good.map(|g| g.parameters.clone()).filter(|p| *p != tried.user.parameters);
    let (setting, used) = match parameters {
        Some(last) => {
            settled.candidate.user.parameters = last;
            ("postgresql.parameters", "the last good parameters are used")
        }
        None if !tried.auto.is_empty() => {
            settled.candidate.auto = String::new();
            ("postgresql.auto.conf", "what ALTER SYSTEM has set is taken out")
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
