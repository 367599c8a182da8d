//! SQLSTATEs: the five characters by which a program tells errors apart.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A SQLSTATE: five digits or upper-case letters. The constants are those of pgraft's own errors
/// ([`Refusal::sqlstate`](crate::Refusal::sqlstate)); a server can send any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SqlState([u8; 5]);

/// A text that is not a SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid SQLSTATE \"{0}\"")]
pub struct InvalidSqlState(String);

impl SqlState {
    /// A node id, host or port that cannot be used.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// A write on a server without the primary's lease. Drivers and poolers take it for "read-only,
    /// try the next server".
    pub const READ_ONLY_SQL_TRANSACTION: Self = Self(*b"25006");
    /// No member has this id.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// Another member has this id or address.
    pub const DUPLICATE_OBJECT: Self = Self(*b"42710");
    /// The cluster has its maximum of members.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// The node or the session is not in a state that allows the command.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// The member is needed, or would be.
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// A setting that pgraft manages.
    pub const CANT_CHANGE_RUNTIME_PARAM: Self = Self(*b"55P02");
    /// A read on a server without the primary's lease. Poolers drop the connection.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// The command must run on the Raft leader.
    pub const NOT_LEADER: Self = Self(*b"PGR01");
    /// The node id, or the Raft directory under it, cannot be used again.
    pub const NODE_ID_RETIRED: Self = Self(*b"PGR02");
    /// Another membership change has not finished.
    pub const MEMBERSHIP_CHANGE_IN_PROGRESS: Self = Self(*b"PGR03");
    /// No majority confirmed the change in time; it may still be committed.
    pub const NO_QUORUM: Self = Self(*b"PGR04");
    /// The change is committed and continues in the background.
    pub const CHANGE_NOT_COMPLETE: Self = Self(*b"PGR05");
    /// The node's Raft member is not running.
    pub const MEMBER_NOT_RUNNING: Self = Self(*b"PGR06");
    /// A command of the failover protocol for a state that has passed.
    pub const OUTDATED_COMMAND: Self = Self(*b"PGR07");
    /// The primary cannot be changed as requested.
    pub const PRIMARY_CHANGE_REFUSED: Self = Self(*b"PGR08");

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first two characters.
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }

    /// Whether pgraft defines it, not PostgreSQL.
    pub fn is_own(self) -> bool {
        self.0.starts_with(b"PGR")
    }
}

impl FromStr for SqlState {
    type Err = InvalidSqlState;
    fn from_str(text: &str) -> Result<Self, InvalidSqlState> {
        <[u8; 5]>::try_from(text.as_bytes())
            .ok()
            .filter(|code| code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()))
            .map(Self)
            .ok_or_else(|| InvalidSqlState(text.chars().take(16).collect()))
    }
}

impl TryFrom<String> for SqlState {
    type Error = InvalidSqlState;
    fn try_from(text: String) -> Result<Self, InvalidSqlState> {
        text.parse()
    }
}

impl From<SqlState> for String {
    fn from(code: SqlState) -> Self {
        code.as_str().to_owned()
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_five_digits_or_capitals() {
        for code in ["22023", "57P03", "PGR01", "XX000"] {
            assert_eq!(code.parse::<SqlState>().unwrap().to_string(), code);
        }
        for text in ["", "2202", "220233", "pgr01", "22 23", "2202ä"] {
            assert!(text.parse::<SqlState>().is_err(), "{text}");
        }
        assert_eq!("PGR01".parse(), Ok(SqlState::NOT_LEADER));
        assert_eq!(SqlState::OBJECT_IN_USE.class(), "55");
        assert!(SqlState::NO_QUORUM.is_own() && !SqlState::OBJECT_IN_USE.is_own());
    }

    #[test]
    fn json_carries_the_characters() {
        assert_eq!(serde_json::to_string(&SqlState::NOT_LEADER).unwrap(), "\"PGR01\"");
        assert!(serde_json::from_str::<SqlState>("\"no\"").is_err());
    }
}
