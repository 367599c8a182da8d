//! Checks licences, sources and version requirements of all dependencies against `deny.toml`, as
//! `cargo deny check licenses bans sources` does, without the tool. Advisories come from a database
//! on the network and are not checked here.

use std::process::Command;

use serde_json::Value;

/// How Cargo names a registry as the source; only the Rust registry is configured.
const REGISTRY: &str = "registry+";

/// Returns one message for each problem.
pub fn check() -> Vec<String> {
    facts().map_or_else(|why| vec![why], |(deny, packages)| troubles(&deny, &packages))
}

fn facts() -> Result<(String, Vec<Value>), String> {
    let deny = std::fs::read_to_string("deny.toml").map_err(|e| format!("deny.toml: {e}"))?;
    let metadata =
        Command::new("cargo").args(["metadata", "--locked", "--format-version=1"]).output();
    let output = metadata.map_err(|e| format!("cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    if packages.is_empty() {
        Err("cargo metadata shows no packages".into())
    } else {
        Ok((deny, packages))
    }
}

fn troubles(deny: &str, packages: &[Value]) -> Vec<String> {
    let allowed = allowed(deny);
    let mut troubles = Vec::new();
    for package in packages {
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or_default(),
            package["version"].as_str().unwrap_or_default()
        );
        match package["source"].as_str() {
            Some(source) if source.starts_with(REGISTRY) => {
                let licence = package["license"].as_str().unwrap_or("not declared");
                if !is_allowed(licence, &allowed) {
                    troubles.push(format!(
                        "{name}: the licence is {licence}, which deny.toml does not allow"
                    ));
                }
            }
            Some(other) => {
                troubles.push(format!("{name}: the source is {other}, not the Rust registry"));
            }
            None => {
                let any = package["dependencies"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|d| d["req"] == "*" && d["path"].is_null());
                troubles
                    .extend(any.map(|d| format!("{name}: accepts any version of {}", d["name"])));
            }
        }
    }
    troubles
}

/// `licenses.allow`.
fn allowed(deny: &str) -> Vec<&str> {
    let list = deny
        .split_once("[licenses]")
        .and_then(|(_, rest)| rest.split_once("allow = ["))
        .and_then(|(_, rest)| rest.split_once(']'));
    list.map(|(list, _)| list.split('"').skip(1).step_by(2).collect()).unwrap_or_default()
}

/// Whether an SPDX expression can be satisfied with these licences. AND binds closer than OR; `/`
/// is the old form of OR.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(" WITH ", "+WITH+");
    let words: Vec<String> =
        spaced.split_whitespace().map(|word| word.replace("+WITH+", " WITH ")).collect();
    let mut rest = words.iter().map(String::as_str).peekable();
    any_of(&mut rest, allowed) && rest.next().is_none()
}

type LicenseText<'a, I> = std::iter::Peekable<I>;

fn any_of<'a, I: Iterator<Item = &'a str>>(
    words: &mut LicenseText<'a, I>,
    allowed: &[&str],
) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of<'a, I: Iterator<Item = &'a str>>(
    words: &mut LicenseText<'a, I>,
    allowed: &[&str],
) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one<'a, I: Iterator<Item = &'a str>>(words: &mut LicenseText<'a, I>, allowed: &[&str]) -> bool {
    match words.next() {
        Some("(") => any_of(words, allowed) & words.next_if_eq(&")").is_some(),
        Some(licence) => allowed.contains(&licence),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DENY: &str = "[licenses]\nallow = [\n    \"MIT\",\n    \"Apache-2.0\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n";

    #[test]
    fn licences_that_are_allowed_and_not() {
        let allowed = allowed(DENY);
        assert_eq!(allowed, ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
        for fine in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "MIT AND Apache-2.0",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(fine, &allowed), "{fine}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR GPL-3.0) AND GPL-3.0",
            "OR MIT",
            "(MIT",
            "MIT MIT",
            "",
            "MIT WITH LLVM-exception",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
        assert!(!is_allowed("MIT", &super::allowed("[licenses]\n")));
    }

    #[test]
    fn each_trouble_is_named() {
        let packages = [
            json!({"name": "ours", "version": "1.0.0", "source": null, "dependencies": [
                {"name": "free", "req": "*", "path": null}, {"name": "near", "req": "*", "path": "/near"}, {"name": "bound", "req": "^1", "path": null}]}),
            json!({"name": "good", "version": "1.0.0", "source": REGISTRY, "license": "MIT"}),
            json!({"name": "viral", "version": "1.0.0", "source": REGISTRY, "license": "GPL-3.0"}),
            json!({"name": "silent", "version": "1.0.0", "source": REGISTRY, "license": null}),
            json!({"name": "fork", "version": "1.0.0", "source": "git+https://example.org/fork", "license": "MIT"}),
        ];
        let said = troubles(DENY, &packages);
        let wanted = [
            "any version of \"free\"",
            "the licence is GPL-3.0",
            "the licence is not declared",
            "the source is git+",
        ];
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        assert!(said.iter().zip(wanted).all(|(said, wanted)| said.contains(wanted)), "{said:?}");
    }
}
