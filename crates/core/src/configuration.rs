//! What a member says about its Postgres configuration: the problems that Postgres found, what
//! waits for a restart, and why its server fails.
//!
//! Written by the instance manager (`/status`, `/configuration`), read by the operator (condition
//! `ConfigurationValid`) and by people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The object `configuration` of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Whether everything that is configured is in force, or waits for nothing but a restart.
    pub valid: bool,
    /// What is not in force, and why.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Settings that are in force with another value than the configured one, for as long as the
    /// WAL needs it. Nothing is wrong with them.
    #[serde(default)]
    pub held: Vec<Problem>,
    /// Settings whose new value takes effect at the next restart.
    #[serde(default)]
    pub pending_restart: Vec<String>,
    /// Why the server does not stay up, while it does not.
    #[serde(default)]
    pub failure: Option<ServerFailure>,
}

impl Default for ConfigurationStatus {
    fn default() -> Self {
        Self { valid: true, problems: vec![], held: vec![], pending_restart: vec![], failure: None }
    }
}

/// One setting or line that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The parameter's name; or `pg_hba`, or `postgresql.auto.conf`.
    pub setting: String,
    /// The number of the line: of the list `pg_hba`, counted from 1, or of the file.
    #[serde(default)]
    pub line: Option<u32>,
    /// What was configured.
    #[serde(default)]
    pub value: Option<String>,
    /// What is wrong with it, and what is used instead.
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

/// A server that ends again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFailure {
    /// How often in a row.
    pub count: u32,
    /// The last error that Postgres wrote before it ended.
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
    fn an_answer_of_another_version_is_read() {
        let read: ConfigurationStatus =
            serde_json::from_str(r#"{"valid": false, "more": 1}"#).unwrap();
        assert!(!read.valid && read.problems.is_empty());
        assert!(ConfigurationStatus::default().valid);
    }
}
