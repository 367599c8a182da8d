//! Decides which changes of the roles are applied. Pure.
//!
//! | role | owner | a change by SQL |
//! |---|---|---|
//! | `pgraft_replication`, `pgraft_operator`, `postgres` | pgraft, which connects as them | is reverted in the next round |
//! | the application's owner | the application; pgraft creates the role and sets its password | is kept; a changed Secret sets the password again |

use pgraft_core::instance_config::{OPERATOR_ROLE, REPLICATION_ROLE};
use std::fmt;

use crate::secrets::Secrets;

/// The attributes of `pgraft_replication`, as `ALTER ROLE` takes them.
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
/// The attributes of `pgraft_operator`.
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
/// The managed attributes of `postgres`.
const SUPERUSER: &[&str] = &["LOGIN", "SUPERUSER", "VALID UNTIL 'infinity'"];
/// The initial attributes of the owner.
const OWNER: &[&str] = &["LOGIN"];

/// The attributes of each role, in the same form.
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

/// Who controls a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleControl {
    /// pgraft.
    Pgraft,
    /// The application.
    Application,
}

/// A role that pgraft maintains.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagedRole {
    /// Its name.
    pub name: String,
    /// Who controls it.
    pub control: RoleControl,
    /// Its attributes.
    pub attributes: &'static [&'static str],
    /// Its password; None disables password authentication.
    pub password: Option<String>,
    /// When the password was written on this host, in microseconds since 1970.
    pub changed: i64,
}

/// The managed roles.
pub fn all(owner: &str, secrets: &Secrets) -> [ManagedRole; 4] {
    let Secrets { replication, operator, owner: owner_password, superuser, changed } = secrets;
    let role = |name: &str, control, attributes, password: &Option<String>, changed| ManagedRole {
        name: name.to_owned(),
        control,
        attributes,
        password: password.clone(),
        changed,
    };
    [
        role(REPLICATION_ROLE, RoleControl::Pgraft, REPLICATION, replication, changed.replication),
        role(OPERATOR_ROLE, RoleControl::Pgraft, OPERATOR, operator, changed.operator),
        role("postgres", RoleControl::Pgraft, SUPERUSER, superuser, changed.superuser),
        role(owner, RoleControl::Application, OWNER, owner_password, changed.owner),
    ]
}

/// A role in the server.
#[derive(Clone, PartialEq, Eq)]
pub struct ExistingRole {
    /// The attributes, as [`QUERY`] lists them.
    pub attributes: Vec<String>,
    /// The verifier.
    pub password: Option<String>,
}

/// What was last applied to a role.
#[derive(Clone, PartialEq, Eq)]
pub struct AppliedRole {
    /// The verifier that was set.
    pub verifier: Option<String>,
    /// Whether it is from this host's password or a newer one.
    pub is_current: bool,
}

/// Why a role is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleReason {
    /// Nothing was applied yet.
    New,
    /// Its Secret has another password.
    Secret,
    /// It was dropped.
    Dropped,
    /// Its password was changed by SQL.
    Password,
    /// These attributes were changed by SQL.
    Attributes(Vec<&'static str>),
}

impl RoleReason {
    /// Whether a change by SQL is reverted.
    pub const fn is_revert(&self) -> bool {
        match self {
            Self::New | Self::Secret => false,
            Self::Dropped | Self::Password | Self::Attributes(_) => true,
        }
    }
}

impl fmt::Display for RoleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("its password was never set"),
            Self::Secret => f.write_str("its Secret has a new password"),
            Self::Dropped => f.write_str("it was dropped"),
            Self::Password => f.write_str("its password was changed by SQL"),
            Self::Attributes(wanted) => write!(f, "it no longer has {}", wanted.join(", ")),
        }
    }
}

/// What to do with a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleDecision {
    /// Nothing.
    Nothing,
    /// Create or change it, and set its password.
    Change {
        /// Create it first.
        create: bool,
        /// Set its attributes, too.
        attributes: bool,
        /// Why.
        why: RoleReason,
    },
    /// The Secret has a new password, but the role was dropped or renamed.
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
    match (role.control, seen) {
        (RoleControl::Pgraft, None) => change(RoleReason::Dropped),
        (RoleControl::Pgraft, Some(_)) if !applied.is_current => change(RoleReason::Secret),
        (RoleControl::Pgraft, Some(seen)) if seen.password != applied.verifier => {
            change(RoleReason::Password)
        }
        (RoleControl::Pgraft, Some(seen)) => {
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
        (RoleControl::Application, _) if applied.is_current => RoleDecision::Nothing,
        (RoleControl::Application, None) => RoleDecision::Missing,
        (RoleControl::Application, Some(_)) => {
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
    fn only_changes_of_pgrafts_own_roles_are_reverted() {
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
                let wanted = match role.control {
                    RoleControl::Pgraft => RoleDecision::Change {
                        create: changed.is_none(),
                        attributes: true,
                        why: why.clone(),
                    },
                    RoleControl::Application => RoleDecision::Nothing,
                };
                assert_eq!(decision, wanted, "{}: {why}", role.name);
                assert!(why.is_revert());
            }
        }
    }

    #[test]
    fn a_secret_that_changes_is_applied_to_everybody_and_brings_nobody_back_that_the_application_removed()
     {
        for role in &roles() {
            let old = AppliedRole { is_current: false, ..CURRENT() };
            let locked = ExistingRole { attributes: vec!["NOLOGIN".into()], ..as_wanted(role) };
            let (ours, why) = (role.control == RoleControl::Pgraft, RoleReason::Secret);
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
    fn a_new_role_is_created() {
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
        assert!(!RoleReason::New.is_revert() && !RoleReason::Secret.is_revert());
    }

    #[test]
    fn the_reasons() {
        let lost = RoleReason::Attributes(vec!["LOGIN", "CONNECTION LIMIT -1"]);
        assert_eq!(lost.to_string(), "it no longer has LOGIN, CONNECTION LIMIT -1");
        assert_eq!(RoleReason::Password.to_string(), "its password was changed by SQL");
        assert_eq!(RoleReason::Dropped.to_string(), "it was dropped");
    }
}
