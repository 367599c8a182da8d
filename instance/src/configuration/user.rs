//! The user's part of the configuration, and the checks that do not need Postgres. Pure.

use pgraft_core::configuration::Problem;
use pgraft_core::instance_config::{
    INCLUDE_DIRECTIVES, PostgresqlConfig, is_parameter_name, reserved_parameter,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The end of a truncated `pg_hba.conf`, because the missing lines may have rejected clients.
pub const REJECT_THE_REST: &str = "host all all all reject";

/// The user's part of the server's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserConfig {
    /// By name, in lower case.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
}

/// A problem with a parameter.
pub fn of_parameter(name: &str, value: Option<&str>, message: impl Into<String>) -> Problem {
    Problem {
        setting: name.to_owned(),
        line: None,
        value: value.map(str::to_owned),
        message: message.into(),
    }
}

/// A problem with a line of `pg_hba`; `index` counts from 0.
pub fn of_hba_line(index: usize, line: &str, message: impl Into<String>) -> Problem {
    let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
    Problem {
        setting: "pg_hba".into(),
        line: Some(number),
        value: Some(without_secrets(line)),
        message: message.into(),
    }
}

/// The line without secrets, for `/status` and conditions.
fn without_secrets(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let secret = ["ldapbindpasswd", "radiussecrets", "ldapurl"]
        .iter()
        .filter_map(|option| lower.find(option))
        .min();
    secret.map_or_else(
        || line.to_owned(),
        |at| line.get(..at).map_or_else(|| "...".to_owned(), |shown| format!("{shown}...")),
    )
}

/// Removes settings that must not reach Postgres: those that pgraft manages, and those that would
/// change the meaning of the rest of the file. After a refused line of `pg_hba` the last valid list is
/// used. Without one the list ends there, because later lines may depend on it.
pub fn screen(config: &PostgresqlConfig, good: Option<&UserConfig>) -> (UserConfig, Vec<Problem>) {
    let (mut user, mut problems) = (UserConfig::default(), vec![]);
    for (name, value) in &config.parameters {
        if let Some(why) = refuse_parameter(name, value) {
            problems.push(of_parameter(name, Some(value), why));
        } else if user.parameters.insert(name.to_ascii_lowercase(), value.clone()).is_some() {
            problems.push(of_parameter(
                name,
                Some(value),
                "the parameter is set twice, in different case; this value is used",
            ));
        }
    }
    for (index, line) in config.pg_hba.iter().enumerate() {
        let Some(why) = refuse_hba_line(line) else {
            user.hba.push(line.trim().to_owned());
            continue;
        };
        let used = if let Some(good) = good {
            user.hba.clone_from(&good.hba);
            "the last valid lines are used"
        } else {
            user.hba.push(REJECT_THE_REST.into());
            "connections that no earlier line matches are rejected"
        };
        problems.push(of_hba_line(index, line, format!("{why}; {used}")));
        break;
    }
    (user, problems)
}

fn refuse_parameter(name: &str, value: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if INCLUDE_DIRECTIVES.contains(&lower.as_str()) {
        Some("include directives are not allowed".into())
    } else if !is_parameter_name(name) {
        Some("not a valid parameter name".into())
    } else if reserved_parameter([name]).is_some() {
        Some("managed by pgraft; the configured value is ignored".into())
    } else if value.contains('\0') {
        Some("the value contains a zero byte".into())
    } else {
        None
    }
}

fn refuse_hba_line(line: &str) -> Option<&'static str> {
    let first = line.split_whitespace().next().unwrap_or_default().trim_matches('"');
    if line.contains(['\n', '\r', '\0']) {
        Some("a line must not contain a line break or a zero byte")
    } else if line.trim_end().ends_with('\\') {
        Some("a line must not continue on the next one")
    } else if INCLUDE_DIRECTIVES.contains(&first.to_ascii_lowercase().as_str()) {
        Some("include directives are not allowed")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(parameters: &[(&str, &str)], hba: &[&str]) -> PostgresqlConfig {
        PostgresqlConfig {
            port: 5432,
            listen_addresses: "*".into(),
            parameters: parameters
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            pg_hba: hba.iter().map(|l| (*l).to_owned()).collect(),
        }
    }

    #[test]
    fn invalid_parameters_are_refused_by_name() {
        let parameters = [
            ("work_mem", "8MB"),
            ("a b", "1"),
            ("include", "/etc/passwd"),
            ("Include_If_Exists", "x"),
            ("WAL_LEVEL", "logical"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("data_sync_retry", "on"),
            ("pgraft.node_id", "7"),
            ("x\ny", "1"),
            ("log_line_prefiX", "1"),
        ];
        let (user, problems) = screen(&config(&parameters, &[]), None);
        assert_eq!(user.parameters, [("work_mem".to_owned(), "8MB".to_owned())].into());
        assert_eq!(problems.len(), parameters.len() - 1);
        let include = problems.iter().find(|p| p.setting == "include").unwrap();
        assert_eq!(
            include.to_string(),
            "include \"/etc/passwd\": include directives are not allowed"
        );
        let fsync = problems.iter().find(|p| p.setting == "fsync").unwrap();
        assert_eq!(
            fsync.to_string(),
            "fsync \"off\": managed by pgraft; the configured value is ignored"
        );
    }

    #[test]
    fn a_parameter_that_is_set_twice_is_reported() {
        let (user, problems) =
            screen(&config(&[("Work_Mem", "1MB"), ("work_mem", "2MB")], &[]), None);
        assert_eq!(user.parameters["work_mem"], "2MB");
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_line_is_reported_without_its_secrets() {
        let line = "host all all all ldap ldapserver=x ldapbinddn=\"cn=a\" LDAPBindPasswd=\"s3cret\" ldapbasedn=y";
        let shown = of_hba_line(0, line, "").value.unwrap();
        assert_eq!(shown, "host all all all ldap ldapserver=x ldapbinddn=\"cn=a\" ...");
        assert_eq!(of_hba_line(0, "host a a all md5", "").value.unwrap(), "host a a all md5");
        assert!(
            !of_hba_line(0, "host all all all radius radiussecrets=s3cret", "")
                .value
                .unwrap()
                .contains("s3cret")
        );
    }

    #[test]
    fn a_refused_line_of_pg_hba_ends_the_list() {
        for bad in [
            "host all all all trust\nlocal all all trust",
            "host all all 10.0.0.0/8 \\",
            "include /etc/passwd",
            "\"include_dir\" x",
        ] {
            let (user, problems) =
                screen(&config(&[], &["host a a all md5", bad, "host b b all trust"]), None);
            assert_eq!(user.hba, ["host a a all md5", REJECT_THE_REST], "{bad}");
            assert_eq!((problems.len(), problems[0].line), (1, Some(2)), "{bad}");
            let good = UserConfig { hba: vec!["host c c all md5".into()], ..UserConfig::default() };
            let (user, _) = screen(&config(&[], &["host a a all md5", bad]), Some(&good));
            assert_eq!(user.hba, good.hba, "{bad}");
        }
    }
}
