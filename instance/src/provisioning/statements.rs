//! The SQL statements of provisioning. Pure. All names and values are quoted here.

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// Creates the extension in `pg_catalog`, like PL/pgSQL, so it is found with any `search_path` and
/// does not depend on the schema `public`. Views there need `allow_system_table_mods`. One simple
/// query is one transaction.
pub const CREATE_EXTENSION: &str = "SET LOCAL allow_system_table_mods = on; CREATE EXTENSION IF NOT EXISTS pgraft SCHEMA pg_catalog";

/// Updates the extension to the version of the installed files.
pub const UPDATE_EXTENSION: &str =
    "SET LOCAL allow_system_table_mods = on; ALTER EXTENSION pgraft UPDATE";

/// Removes the connection limit of the database `postgres`.
pub const UNLIMITED: &str = "ALTER DATABASE postgres CONNECTION LIMIT -1";

/// Creates a role.
pub fn create_role(name: &str) -> String {
    format!("CREATE ROLE {};", escape_identifier(name))
}

/// Sets a role's attributes.
pub fn alter_role(name: &str, attributes: &[&str]) -> String {
    format!("ALTER ROLE {} {};", escape_identifier(name), attributes.join(" "))
}

/// Sets a role's password to a verifier, so neither the server nor a log sees the password. None
/// disables password authentication.
pub fn set_password(name: &str, verifier: Option<&str>) -> String {
    format!("ALTER ROLE {} PASSWORD {};", escape_identifier(name), literal(verifier))
}

/// Creates the application's database.
pub fn create_database(name: &str, owner: &str) -> String {
    format!("CREATE DATABASE {} OWNER {}", escape_identifier(name), escape_identifier(owner))
}

/// Records what was applied.
pub fn keep_record(
    kind: &str,
    name: &str,
    digest: Option<&str>,
    verifier: Option<&str>,
    changed: i64,
) -> String {
    format!(
        "INSERT INTO pgraft.applied VALUES ({}, {}, {}, {}, {changed}) \
         ON CONFLICT (kind, name) DO UPDATE SET digest = excluded.digest, verifier = excluded.verifier, changed = excluded.changed;",
        escape_literal(kind),
        escape_literal(name),
        literal(digest),
        literal(verifier),
    )
}

/// Grants membership in a role.
pub fn grant_membership(granted: &str, member: &str) -> String {
    format!("GRANT {} TO {}", escape_identifier(granted), escape_identifier(member))
}

/// Grants connections to the database `postgres`.
pub fn grant_connect(role: &str) -> String {
    format!("GRANT CONNECT ON DATABASE postgres TO {}", escape_identifier(role))
}

/// Grants usage of a schema.
pub fn grant_usage(schema: &str, role: &str) -> String {
    format!("GRANT USAGE ON SCHEMA {} TO {}", escape_identifier(schema), escape_identifier(role))
}

/// Grants execution of a function, given as `regprocedure`.
pub fn grant_execute(function: &str, role: &str) -> String {
    format!("GRANT EXECUTE ON FUNCTION {function} TO {}", escape_identifier(role))
}

fn literal(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), escape_literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and values of an attacker.
    const HOSTILE: [&str; 8] = [
        "a\"b",
        "it's",
        "back\\slash",
        "new\nline",
        "$$x$$",
        "; DROP ROLE postgres; --",
        "\"; DROP ROLE postgres; --",
        "' || evil() || '",
    ];

    /// Takes a text apart as the server's scanner does: what is left when quoted names and strings
    /// are one letter each.
    fn skeleton(statement: &str) -> String {
        let (mut out, mut rest) = (String::new(), statement.chars().peekable());
        while let Some(c) = rest.next() {
            let escapes = c == '\'' && out.ends_with('E');
            if c != '"' && c != '\'' {
                out.push(c);
                continue;
            }
            while let Some(inner) = rest.next() {
                if inner == '\\' && escapes {
                    rest.next();
                } else if inner == c && rest.next_if_eq(&c).is_none() {
                    break;
                }
            }
            out.push(if c == '"' { 'N' } else { 'V' });
        }
        out.replace("EV", "V").replace("  V", "V").replace(" V", "V").replace('V', " V")
    }

    #[test]
    fn names_and_values_stay_quoted() {
        for text in HOSTILE {
            for (statement, wanted) in [
                (create_role(text), "CREATE ROLE N;"),
                (alter_role(text, &["LOGIN"]), "ALTER ROLE N LOGIN;"),
                (set_password(text, Some(text)), "ALTER ROLE N PASSWORD V;"),
                (create_database(text, text), "CREATE DATABASE N OWNER N"),
                (grant_membership(text, text), "GRANT N TO N"),
                (grant_connect(text), "GRANT CONNECT ON DATABASE postgres TO N"),
                (grant_usage(text, text), "GRANT USAGE ON SCHEMA N TO N"),
                (grant_execute("f()", text), "GRANT EXECUTE ON FUNCTION f() TO N"),
            ] {
                assert_eq!(skeleton(&statement), wanted, "{statement}");
            }
            let kept = skeleton(&keep_record("role", text, Some(text), Some(text), 7));
            assert!(
                kept.starts_with("INSERT INTO pgraft.applied VALUES ( V, V, V, V, 7) ON CONFLICT"),
                "{kept}"
            );
        }
        assert_eq!(set_password("app", None), "ALTER ROLE \"app\" PASSWORD NULL;");
    }
}
