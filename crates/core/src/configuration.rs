//! The state of a member's Postgres configuration: problems that Postgres found, settings that
//! require a restart, and the reason why the server fails.
//!
//! Written by the instance manager (`/status`, `/configuration`), read by the operator (condition
//! `ConfigurationValid`) and by administrators.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The object `configuration` of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Whether the whole configuration is in force, or only requires a restart.
    pub valid: bool,
    /// Settings that are not in force, and why.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Settings that keep another value than the configured one for as long as the WAL requires it.
    /// This is not an error.
    #[serde(default)]
    pub held: Vec<Problem>,
    /// Settings whose new value takes effect at the next restart.
    #[serde(default)]
    pub pending_restart: Vec<String>,
    /// Why the server fails repeatedly, if it does.
    #[serde(default)]
    pub failure: Option<ServerFailure>,
}

impl Default for ConfigurationStatus {
    fn default() -> Self {
        Self { valid: true, problems: vec![], held: vec![], pending_restart: vec![], failure: None }
    }
}

/// A setting or a line that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The parameter's name; or `pg_hba`, or `postgresql.auto.conf`.
    pub setting: String,
    /// The number of the line in the list `pg_hba` or in the file, from 1.
    #[serde(default)]
    pub line: Option<u32>,
    /// The configured value.
    #[serde(default)]
    pub value: Option<String>,
    /// What is wrong, and what is used instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.setting)?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        if let Some(value) = &self.value {
            write!(f, " \"{value}\"")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A server that fails repeatedly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFailure {
    /// The number of consecutive failures.
    pub count: u32,
    /// The last error that Postgres logged.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_setting_line_and_value() {
        let problem = Problem {
            setting: "pg_hba".into(),
            line: Some(2),
            value: Some("host all all 10.0.0.0/8 scram".into()),
            message: "invalid authentication method \"scram\"".into(),
        };
        assert_eq!(
            problem.to_string(),
            "pg_hba line 2 \"host all all 10.0.0.0/8 scram\": invalid authentication method \"scram\""
        );
        let bare = Problem {
            setting: "work_mem".into(),
            line: None,
            value: None,
            message: "unknown".into(),
        };
        assert_eq!(bare.to_string(), "work_mem: unknown");
    }

    #[test]
    fn reads_the_response_of_another_version() {
        let read: ConfigurationStatus =
            serde_json::from_str(r#"{"valid": false, "more": 1}"#).unwrap();
        assert!(!read.valid && read.problems.is_empty());
        assert!(ConfigurationStatus::default().valid);
    }
}
