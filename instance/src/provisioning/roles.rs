//! The roles: what is changed about them, and what is left alone. Pure.
//!
//! | role | who decides | changed by SQL |
//! |---|---|---|
//! | `pgraft_replication`, `pgraft_operator`, `postgres` | pgraft: it connects as them | put back at the next look, always |
//! | the application's owner | the application: pgraft makes it and sets its password | left alone, always; a Secret that changes sets the password again |

use pgraft_core::instance_config::{OPERATOR_ROLE, REPLICATION_ROLE};
use std::fmt;

use crate::secrets::Secrets;

/// Of `pgraft_replication`, in the words of `ALTER ROLE`.
const REPLICATION: &[&str] = &[
    "LOGIN",
    "REPLICATION",
    "NOSUPERUSER",
    "NOCREATEDB",
    "NOCREATEROLE",
    "NOBYPASSRLS",
    "INHERIT",
    "CONNECTION LIMIT -1",
    "VALID UNTIL 'infinity'",
];
/// Of `pgraft_operator`.
const OPERATOR: &[&str] = &[
    "LOGIN",
    "NOREPLICATION",
    "NOSUPERUSER",
    "NOCREATEDB",
    "NOCREATEROLE",
    "NOBYPASSRLS",
    "INHERIT",
    "CONNECTION LIMIT -1",
    "VALID UNTIL 'infinity'",
];
/// Of `postgres`. The rest is not pgraft's concern.
const SUPERUSER: &[&str] = &["LOGIN", "SUPERUSER", "VALID UNTIL 'infinity'"];
/// Of the owner, when it is made.
const OWNER: &[&str] = &["LOGIN"];

/// All of these about each role, in the same words.
pub const QUERY: &str = "SELECT rolname::text, ARRAY[
         CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
         CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
         CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
         CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
         CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
         CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
         CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
         'CONNECTION LIMIT ' || rolconnlimit::text,
         'VALID UNTIL ''' || coalesce(rolvaliduntil, 'infinity')::text || ''''], rolpassword
    FROM pg_catalog.pg_authid WHERE rolname = ANY ($1::text[]::name[])";

/// Who decides about a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// pgraft.
    Ours,
    /// The application.
    Users,
}

/// A role that pgraft sees to.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagedRole {
    /// Its name.
    pub name: String,
    /// Who decides about it.
    pub care: Care,
    /// What it should be.
    pub attributes: &'static [&'static str],
    /// Its password. None is that nobody logs in by one.
    pub password: Option<String>,
    /// When that was put on this host.
    pub changed: i64,
}

/// All of them.
pub fn all(owner: &str, secrets: &Secrets) -> [ManagedRole; 4] {
    let Secrets { replication, operator, owner: owner_password, superuser, changed } = secrets;
    let role = |name: &str, care, attributes, password: &Option<String>, changed| ManagedRole {
        name: name.to_owned(),
        care,
        attributes,
        password: password.clone(),
        changed,
    };
    [
        role(REPLICATION_ROLE, Care::Ours, REPLICATION, replication, changed.replication),
        role(OPERATOR_ROLE, Care::Ours, OPERATOR, operator, changed.operator),
        role("postgres", Care::Ours, SUPERUSER, superuser, changed.superuser),
        role(owner, Care::Users, OWNER, owner_password, changed.owner),
    ]
}

/// A role as the server has it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExistingRole {
    /// As [`QUERY`] lists them.
    pub attributes: Vec<String>,
    /// The verifier.
    pub password: Option<String>,
}

/// What was applied last.
#[derive(Clone, PartialEq, Eq)]
pub struct AppliedRole {
    /// The verifier that was set.
    pub verifier: Option<String>,
    /// Whether it was made of the password that this host has, or of one that was put on its host
    /// later.
    pub is_current: bool,
}

/// Why a role is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleReason {
    /// Nothing was applied yet.
    New,
    /// Its Secret has another password.
    Secret,
    /// It is gone.
    Dropped,
    /// Its password was changed by SQL.
    Password,
    /// These were.
    Attributes(Vec<&'static str>),
}

impl RoleReason {
    /// Whether somebody else's change is taken back.
    pub const fn puts_back(&self) -> bool {
        match self {
            Self::New | Self::Secret => false,
            Self::Dropped | Self::Password | Self::Attributes(_) => true,
        }
    }
}

impl fmt::Display for RoleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("nothing was applied to it yet"),
            Self::Secret => f.write_str("its Secret has another password"),
            Self::Dropped => f.write_str("it does not exist any more"),
            Self::Password => f.write_str("its password was changed by SQL"),
            Self::Attributes(wanted) => write!(f, "it is not {} any more", wanted.join(", ")),
        }
    }
}

/// What is done about a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleDecision {
    /// Nothing.
    Nothing,
    /// It is made or changed, and its password set.
    Change {
        /// `CREATE ROLE` comes first.
        create: bool,
        /// Its attributes are set as well.
        attributes: bool,
        /// Why.
        why: RoleReason,
    },
    /// The Secret has another password, and there is no such role any more: somebody removed or
    /// renamed it.
    Missing,
}

/// Decides.
pub fn decide(
    role: &ManagedRole,
    seen: Option<&ExistingRole>,
    applied: Option<&AppliedRole>,
) -> RoleDecision {
    let change = |why| RoleDecision::Change { create: seen.is_none(), attributes: true, why };
    let Some(applied) = applied else { return change(RoleReason::New) };
    match (role.care, seen) {
        (Care::Ours, None) => change(RoleReason::Dropped),
        (Care::Ours, Some(_)) if !applied.is_current => change(RoleReason::Secret),
        (Care::Ours, Some(seen)) if seen.password != applied.verifier => {
            change(RoleReason::Password)
        }
        (Care::Ours, Some(seen)) => {
            let lost: Vec<_> = role
                .attributes
                .iter()
                .copied()
                .filter(|a| !seen.attributes.iter().any(|has| has == a))
                .collect();
            if lost.is_empty() {
                RoleDecision::Nothing
            } else {
                change(RoleReason::Attributes(lost))
            }
        }
        (Care::Users, _) if applied.is_current => RoleDecision::Nothing,
        (Care::Users, None) => RoleDecision::Missing,
        (Care::Users, Some(_)) => {
            RoleDecision::Change { create: false, attributes: false, why: RoleReason::Secret }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> [ManagedRole; 4] {
        all("app", &Secrets::default())
    }

    fn as_wanted(role: &ManagedRole) -> ExistingRole {
        ExistingRole {
            attributes: role.attributes.iter().map(|a| (*a).to_owned()).collect(),
            password: Some("v1".into()),
        }
    }

    const CURRENT: fn() -> AppliedRole =
        || AppliedRole { verifier: Some("v1".into()), is_current: true };

    /// Every way in which a role may differ, whoever decides about it.
    #[test]
    fn what_pgraft_connects_as_is_put_back_and_the_rest_is_left_alone() {
        for role in &roles() {
            let seen = as_wanted(role);
            assert_eq!(
                decide(role, Some(&seen), Some(&CURRENT())),
                RoleDecision::Nothing,
                "{}",
                role.name
            );
            let mut changes = vec![
                (None, RoleReason::Dropped),
                (
                    Some(ExistingRole { password: Some("v2".into()), ..seen.clone() }),
                    RoleReason::Password,
                ),
            ];
            changes.push((
                Some(ExistingRole { password: None, ..seen.clone() }),
                RoleReason::Password,
            ));
            for (n, attribute) in role.attributes.iter().enumerate() {
                let mut other = seen.clone();
                other.attributes[n] = "another".into();
                changes.push((Some(other), RoleReason::Attributes(vec![attribute])));
            }
            for (changed, why) in changes {
                let decision = decide(role, changed.as_ref(), Some(&CURRENT()));
                let wanted = match role.care {
                    Care::Ours => RoleDecision::Change {
                        create: changed.is_none(),
                        attributes: true,
                        why: why.clone(),
                    },
                    Care::Users => RoleDecision::Nothing,
                };
                assert_eq!(decision, wanted, "{}: {why}", role.name);
                assert!(why.puts_back());
            }
        }
    }

    #[test]
    fn a_secret_that_changes_is_applied_to_everybody_and_brings_nobody_back_that_the_application_removed()
     {
        for role in &roles() {
            let old = AppliedRole { is_current: false, ..CURRENT() };
            let locked = ExistingRole { attributes: vec!["NOLOGIN".into()], ..as_wanted(role) };
            let (ours, why) = (role.care == Care::Ours, RoleReason::Secret);
            assert_eq!(
                decide(role, Some(&locked), Some(&old)),
                RoleDecision::Change { create: false, attributes: ours, why },
                "{}",
                role.name
            );
            let gone = decide(role, None, Some(&old));
            assert_eq!(gone == RoleDecision::Missing, !ours, "{}", role.name);
        }
    }

    #[test]
    fn what_is_new_is_made() {
        for role in &roles() {
            for seen in [None, Some(as_wanted(role))] {
                let decision = decide(role, seen.as_ref(), None);
                assert_eq!(
                    decision,
                    RoleDecision::Change {
                        create: seen.is_none(),
                        attributes: true,
                        why: RoleReason::New
                    }
                );
            }
        }
        assert!(!RoleReason::New.puts_back() && !RoleReason::Secret.puts_back());
    }

    #[test]
    fn the_reasons() {
        let lost = RoleReason::Attributes(vec!["LOGIN", "CONNECTION LIMIT -1"]);
        assert_eq!(lost.to_string(), "it is not LOGIN, CONNECTION LIMIT -1 any more");
        assert_eq!(RoleReason::Password.to_string(), "its password was changed by SQL");
        assert_eq!(RoleReason::Dropped.to_string(), "it does not exist any more");
    }
}
