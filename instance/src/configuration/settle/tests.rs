//! Whatever is at fault is left out and named, and nothing else is.

use proptest::prelude::*;
use std::collections::BTreeMap;

use super::*;

/// Postgres: values that begin with `bad` are refused by name, `odd` without a name, and of two
/// `half` one is too many.
#[derive(Default)]
struct Fake {
    asked: usize,
    /// The host's fault: nothing helps.
    broken: bool,
}

impl ConfigurationCheck for Fake {
    async fn judge(&mut self, candidate: &Candidate) -> Vec<ConfigurationFault> {
        self.asked += 1;
        let unknown =
            |message: &str| ConfigurationFault { blame: Blame::Unknown, message: message.into() };
        let parameters = &candidate.user.parameters;
        let mut faults: Vec<ConfigurationFault> = parameters
            .iter()
            .filter(|(_, value)| value.starts_with("bad"))
            .map(|(name, value)| ConfigurationFault {
                blame: Blame::Parameter(name.clone()),
                message: format!("invalid: {value}"),
            })
            .collect();
        let libraries =
            parameters.get("shared_preload_libraries").map(|list| names(list)).unwrap_or_default();
        faults.extend(
            libraries.into_iter().find(|l| l.starts_with("no")).map(|l| ConfigurationFault {
                message: format!("no {l}"),
                blame: Blame::Library(l),
            }),
        );
        let line = candidate.user.hba.iter().position(|line| line.starts_with("bad"));
        faults.extend(line.map(|index| ConfigurationFault {
            blame: Blame::Hba(Some(index + 1)),
            message: "invalid line".into(),
        }));
        let line = candidate.auto.lines().position(|line| line.contains("bad"));
        faults.extend(line.map(|index| ConfigurationFault {
            blame: Blame::Auto(index + 1),
            message: "invalid line".into(),
        }));
        if faults.is_empty() {
            let odd = parameters.values().any(|value| value.starts_with("odd"));
            let halves = parameters.values().filter(|value| value.starts_with("half")).count();
            if self.broken || odd || halves > 1 {
                faults.push(unknown(if self.broken {
                    "the host is broken"
                } else {
                    "something is odd"
                }));
            }
        }
        faults
    }
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(what)
}

fn user(parameters: &[(&str, &str)], hba: &[&str]) -> UserConfig {
    UserConfig {
        parameters: parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        hba: hba.iter().map(|l| (*l).to_owned()).collect(),
    }
}

fn settled(wanted: &UserConfig, auto: &str, good: Option<&UserConfig>, mut fake: Fake) -> Settled {
    let wanted = Candidate { user: wanted.clone(), auto: auto.into() };
    block_on(settle(&mut fake, &wanted, good))
}

fn words(settled: &Settled) -> Vec<String> {
    settled.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn one_invalid_parameter_does_not_affect_the_others() {
    let good = user(&[("a", "1"), ("b", "1")], &[]);
    let wanted = user(&[("a", "bad"), ("b", "2"), ("c", "bad"), ("d", "2")], &[]);
    let settled = settled(&wanted, "", Some(&good), Fake::default());
    assert_eq!(settled.candidate.user, user(&[("a", "1"), ("b", "2"), ("d", "2")], &[]));
    assert_eq!(
        words(&settled),
        [
            "a \"bad\": invalid: bad; the last valid value \"1\" is used",
            "c \"bad\": invalid: bad; the default is used"
        ]
    );
}

#[test]
fn a_formerly_valid_value_is_left_out() {
    let wanted = user(&[("a", "bad")], &[]);
    let settled = settled(&wanted, "", Some(&wanted), Fake::default());
    assert_eq!(settled.candidate.user, user(&[], &[]));
    assert_eq!(words(&settled), ["a \"bad\": invalid: bad; the default is used"]);
}

#[test]
fn only_the_missing_library_is_left_out() {
    let wanted = user(&[("shared_preload_libraries", "x, nosuch,\"y\"")], &[]);
    let first = settled(&wanted, "", None, Fake::default());
    assert_eq!(first.candidate.user, user(&[("shared_preload_libraries", "x,y")], &[]));
    let said = "shared_preload_libraries \"x, nosuch,\"y\"\": no nosuch; the library is left out";
    assert_eq!(words(&first), [said]);
    let good = user(&[("shared_preload_libraries", "z")], &[]);
    assert_eq!(settled(&wanted, "", Some(&good), Fake::default()).candidate.user, good);
    let alone = user(&[("shared_preload_libraries", "nosuch")], &[]);
    assert_eq!(settled(&alone, "", Some(&alone), Fake::default()).candidate.user, user(&[], &[]));
}

#[test]
fn an_invalid_line_of_pg_hba_restores_the_last_valid_list() {
    let (good, wanted) =
        (user(&[], &["host a"]), user(&[("p", "2")], &["host a", "bad b", "host c"]));
    let with_good = settled(&wanted, "", Some(&good), Fake::default());
    assert_eq!(with_good.candidate.user, user(&[("p", "2")], &["host a"]));
    assert_eq!(
        words(&with_good),
        ["pg_hba line 2 \"bad b\": invalid line; the last valid lines are used"]
    );
    let without = settled(&wanted, "", None, Fake::default());
    assert_eq!(without.candidate.user.hba, ["host a", REJECT_THE_REST]);
}

#[test]
fn an_invalid_line_of_alter_system_is_removed() {
    let settled =
        settled(&user(&[("a", "1")], &[]), "x = 1\nbad = 1\ny = 1\n", None, Fake::default());
    assert_eq!(settled.candidate.auto, "x = 1\ny = 1\n");
    let said = "postgresql.auto.conf line 2 \"bad = 1\": invalid line; the line of ALTER SYSTEM was removed";
    assert_eq!(words(&settled), [said]);
}

#[test]
fn a_parameter_of_alter_system_is_removed_there() {
    let mut next = Candidate { user: user(&[("a", "1")], &[]), auto: "A = 'bad'\n".into() };
    let fault =
        ConfigurationFault { blame: Blame::Parameter("a".into()), message: "invalid".into() };
    (next, _) = without(&next.clone(), &next, &fault, None);
    assert_eq!(next, Candidate { user: user(&[("a", "1")], &[]), auto: String::new() });
}

#[test]
fn an_unnamed_invalid_parameter_is_found_by_trial() {
    let good = user(&[("a", "1"), ("b", "1")], &[]);
    let wanted = user(&[("a", "2"), ("b", "odd"), ("c", "2")], &[]);
    let found = settled(&wanted, "", Some(&good), Fake::default());
    assert_eq!(found.candidate.user, user(&[("a", "2"), ("b", "1"), ("c", "2")], &[]));
    assert_eq!(words(&found), ["b \"odd\": something is odd; the last valid value \"1\" is used"]);
    let halves = user(&[("a", "half"), ("b", "half")], &[]);
    assert_eq!(
        settled(&halves, "", Some(&good), Fake::default()).candidate.user.parameters.len(),
        2,
        "one of them gives way"
    );
}

#[test]
fn a_fault_outside_the_users_part_changes_nothing() {
    let wanted = user(&[("a", "1")], &["host a"]);
    let settled = settled(&wanted, "x = 1\n", None, Fake { broken: true, ..Fake::default() });
    assert_eq!((&settled.candidate.user, &settled.problems[..]), (&wanted, &[][..]));
    assert_eq!(settled.foreign, ["the host is broken"]);
}

fn any_parameters() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value =
        prop::sample::select(vec!["1", "2", "bad", "odd", "half", "bad2"]).prop_map(str::to_owned);
    prop::collection::btree_map("[a-f]", value, 0..6)
}

fn any_hba() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop::sample::select(vec!["host a", "host b", "bad"]).prop_map(str::to_owned),
        0..4,
    )
}

proptest! {
    /// What is installed is what Postgres accepts, and whatever it does not object to by itself is
    /// in it.
    #[test]
    fn what_is_installed_is_accepted_and_nothing_good_is_lost(
        parameters in any_parameters(), hba in any_hba(),
        before in any_parameters(), hba_before in any_hba(), first in any::<bool>(),
    ) {
        let wanted = UserConfig { parameters, hba };
        // A last valid configuration was accepted when it was installed.
        let good = (!first).then(|| settled(&UserConfig { parameters: before, hba: hba_before }, "", None, Fake::default()).candidate.user);
        let result = settled(&wanted, "", good.as_ref(), Fake::default());
        let again = block_on(Fake::default().judge(&result.candidate));
        prop_assert_eq!(again, vec![]);
        prop_assert!(result.foreign.is_empty());
        let named: Vec<&str> = result.problems.iter().map(|p| p.setting.as_str()).collect();
        if !named.contains(&"postgresql.parameters") {
            for (name, value) in &wanted.parameters {
                let kept = result.candidate.user.parameters.get(name) == Some(value);
                prop_assert!(kept || named.contains(&name.as_str()), "{name} is lost without a word");
                prop_assert!(kept || !["1", "2"].contains(&value.as_str()), "{name} = {value} is good");
            }
        }
        prop_assert!(result.candidate.user.hba == wanted.hba || named.contains(&"pg_hba"));
    }
}
