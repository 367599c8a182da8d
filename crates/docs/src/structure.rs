//! Checks the structure of the sources: no cycles between the modules of a crate, each type name
//! defined once in the workspace, and no file above [`MAX_LINES`]. Exceptions are listed below; a
//! listed exception that is no longer needed is an error as well, so that the lists only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::links::{SOURCES, files, read};

/// The maximum length of a source file, tests included.
const MAX_LINES: usize = 500;

/// Files above [`MAX_LINES`].
const LONG_FILES: &[&str] = &[
    "operator/src/cluster/plan/mod.rs",
    "operator/src/cluster/plan/simulation.rs",
    "operator/src/cluster/status/mod.rs",
    "operator/src/cluster/tests/fake.rs",
];

/// Crates whose top-level modules still depend on each other in a cycle.
const CYCLIC_CRATES: &[&str] = &["crates/raft", "instance"];

/// Type names that several crates define.
const SHARED_TYPE_NAMES: &[&str] = &[];

/// Returns one message for each violation in the sources below `root`.
pub fn check(root: &Path) -> Vec<String> {
    let sources = sources(root);
    let mut problems = long_files(&sources, LONG_FILES);
    problems.extend(shared_type_names(&sources, SHARED_TYPE_NAMES));
    problems.extend(cyclic_crates(&sources, CYCLIC_CRATES));
    problems
}

/// All source files, by their path relative to `root`.
fn sources(root: &Path) -> BTreeMap<String, String> {
    let folders = SOURCES.iter().flat_map(|folder| files(&root.join(folder), "rs"));
    let relative = |path: &PathBuf| {
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    };
    folders.flatten().map(|path| (relative(&path), read(&path))).collect()
}

fn long_files(sources: &BTreeMap<String, String>, allowed: &[&str]) -> Vec<String> {
    let long: BTreeMap<&str, usize> = sources
        .iter()
        .map(|(file, text)| (file.as_str(), text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    let new = long
        .iter()
        .filter(|(file, _)| !allowed.contains(file))
        .map(|(file, lines)| format!("{file} has {lines} lines; the maximum is {MAX_LINES}"));
    new.chain(obsolete("LONG_FILES", allowed, |file| long.contains_key(file))).collect()
}

fn shared_type_names(sources: &BTreeMap<String, String>, allowed: &[&str]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, text) in sources {
        for name in text.lines().filter_map(type_name) {
            places.entry(name).or_default().push(file);
        }
    }
    places.retain(|_, files| files.len() > 1);
    let new = places.iter().filter(|(name, _)| !allowed.contains(name)).map(|(name, files)| {
        format!("the type name {name} is defined more than once: {}", files.join(", "))
    });
    new.chain(obsolete("SHARED_TYPE_NAMES", allowed, |name| places.contains_key(name))).collect()
}

/// The type that a line defines. Associated types and type parameters of functions are no
/// definitions of their own, so a `type` counts at the beginning of a line only.
fn type_name(line: &str) -> Option<&str> {
    let nested = line.starts_with(char::is_whitespace);
    let mut words = line.split_whitespace().filter(|word| *word != "unsafe").peekable();
    if words.peek().is_some_and(|word| word.starts_with("pub")) {
        words.next();
    }
    let keyword = words.next()?;
    let defines =
        matches!(keyword, "struct" | "enum" | "trait" | "union") || (keyword == "type" && !nested);
    let name = words.next().filter(|_| defines)?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    name.get(..end).filter(|name| name.starts_with(char::is_uppercase))
}

fn cyclic_crates(sources: &BTreeMap<String, String>, allowed: &[&str]) -> Vec<String> {
    let crates: BTreeSet<&str> =
        sources.keys().filter_map(|file| Some(file.split_once("/src/")?.0)).collect();
    let cycles: BTreeMap<&str, Vec<String>> = crates
        .into_iter()
        .filter_map(|name| Some((name, cycle(&dependencies(sources, name))?)))
        .collect();
    let new = cycles.iter().filter(|(name, _)| !allowed.contains(name)).map(|(name, cycle)| {
        format!("the modules of {name} depend on each other in a cycle: {}", cycle.join(" -> "))
    });
    new.chain(obsolete("CYCLIC_CRATES", allowed, |name| cycles.contains_key(name))).collect()
}

fn obsolete(
    list: &str,
    allowed: &[&str],
    is_needed: impl Fn(&str) -> bool,
) -> impl Iterator<Item = String> {
    let gone: Vec<_> = allowed.iter().filter(|entry| !is_needed(entry)).collect();
    gone.into_iter()
        .map(|entry| format!("crates/docs/src/structure.rs: remove \"{entry}\" from {list}"))
        .collect::<Vec<_>>()
        .into_iter()
}

/// For each top-level module of a crate, the other ones that it names by `crate::`.
fn dependencies(
    sources: &BTreeMap<String, String>,
    name: &str,
) -> BTreeMap<String, BTreeSet<String>> {
    let prefix = format!("{name}/src/");
    let of_crate: Vec<(String, &str)> = sources
        .iter()
        .filter_map(|(file, text)| Some((module(file.strip_prefix(&prefix)?), text.as_str())))
        .collect();
    let modules: BTreeSet<&str> = of_crate.iter().map(|(module, _)| module.as_str()).collect();
    let exports = of_crate
        .iter()
        .filter(|(module, _)| module == ROOT)
        .flat_map(|(_, text)| exports(text, &modules))
        .collect::<BTreeMap<_, _>>();
    let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in of_crate.iter().filter(|(module, _)| module != ROOT) {
        let others = dependencies.entry(module.clone()).or_default();
        for named in crate_paths(text) {
            let other = exports.get(&named).cloned().unwrap_or(named);
            if other != *module && modules.contains(other.as_str()) {
                others.insert(other);
            }
        }
    }
    dependencies
}

/// `lib.rs` and `main.rs`, which may name all modules.
const ROOT: &str = "";

/// The top-level module that a file of `src` belongs to.
fn module(file: &str) -> String {
    let first = file.split('/').next().unwrap_or_default();
    match first.strip_suffix(".rs").unwrap_or(first) {
        "lib" | "main" | "bin" => ROOT.to_owned(),
        module => module.to_owned(),
    }
}

/// The code without tests at the end of a file and without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    let mut is_test = false;
    lines
        .take_while(move |line| {
            let ends = is_test && line.starts_with("mod ") && line.ends_with('{');
            is_test = *line == "#[cfg(test)]";
            !ends
        })
        .filter(|line| !line.starts_with("//"))
}

/// The first names after `crate::`, also of a group: `use crate::{a, b::C};`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code = code(text).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.extend(identifier(rest)),
        }
    }
    names
}

/// The first names of the elements of a group, without those of groups within it.
fn group_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut element) = (0_usize, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(identifier(&std::mem::take(&mut element))),
            _ if depth == 0 => element.push(c),
            _ => {}
        }
    }
    names.extend(identifier(&element));
    names
}

fn identifier(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// What a crate's root re-exports by `pub use module::{A, B};`, and from which module.
fn exports(root: &str, modules: &BTreeSet<&str>) -> Vec<(String, String)> {
    let code = code(root).collect::<Vec<_>>().join(" ");
    let statements = code.split(';').filter_map(|statement| {
        let (_, path) = statement.split_once("use ")?;
        let (module, rest) = path.trim().split_once("::")?;
        modules.contains(module).then(|| (module.to_owned(), rest.to_owned()))
    });
    statements
        .flat_map(|(module, rest)| {
            let last = rest.rsplit("::").next().unwrap_or_default().to_owned();
            let names = match rest.split_once('{') {
                Some((_, group)) => group_names(group),
                None => identifier(&last).into_iter().collect(),
            };
            names.into_iter().map(move |name| (name, module.clone()))
        })
        .collect()
}

/// A cycle, if there is one: the modules in the order of their dependencies, the first one again at
/// the end.
fn cycle(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut finished = BTreeSet::new();
    dependencies.keys().find_map(|start| visit(start, dependencies, &mut vec![], &mut finished))
}

fn visit(
    module: &str,
    dependencies: &BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<String>,
    finished: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|earlier| earlier == module) {
        let cycle = path.get(start..).unwrap_or_default();
        return Some(cycle.iter().cloned().chain([module.to_owned()]).collect());
    }
    if finished.contains(module) {
        return None;
    }
    path.push(module.to_owned());
    let found = dependencies
        .get(module)
        .into_iter()
        .flatten()
        .find_map(|other| visit(other, dependencies, path, finished));
    path.pop();
    finished.insert(module.to_owned());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn reports_a_cycle_between_modules() {
        let files = sources(&[
            ("a/src/lib.rs", "mod x;\nmod y;\nmod z;\npub use y::{Y, Why};\n"),
            ("a/src/x.rs", "use crate::{Y, z::{Z, ZZ}};\n"),
            ("a/src/y/mod.rs", "// crate::x\nfn f() { crate::z::f() }\n"),
            ("a/src/y/deep.rs", "use crate::y::Why;\n"),
            ("a/src/z.rs", "#[cfg(test)]\nmod tests {\n    use crate::x::X;\n}\n"),
            ("a/src/z/part.rs", "use super::Z;\n"),
        ]);
        assert_eq!(cyclic_crates(&files, &[]), Vec::<String>::new());
        let mut cyclic = files;
        cyclic.insert("a/src/z/part.rs".to_owned(), "use crate::Why;\n".to_owned());
        assert_eq!(
            cyclic_crates(&cyclic, &[]),
            ["the modules of a depend on each other in a cycle: y -> z -> y"]
        );
        assert_eq!(cyclic_crates(&cyclic, &["a"]), Vec::<String>::new());
        assert_eq!(
            cyclic_crates(&cyclic, &["a", "b"]),
            ["crates/docs/src/structure.rs: remove \"b\" from CYCLIC_CRATES"]
        );
    }

    #[test]
    fn reports_a_type_name_that_is_defined_twice() {
        let files = sources(&[
            ("a/src/lib.rs", "pub struct One<T>(T);\n    type Error = E;\n"),
            ("b/src/lib.rs", "    pub(crate) enum One {\n    type Error = F;\n"),
            ("b/src/two.rs", "unsafe trait Two: One {}\n// struct Two\ntype Alias = Two;\n"),
        ]);
        assert_eq!(
            shared_type_names(&files, &[]),
            ["the type name One is defined more than once: a/src/lib.rs, b/src/lib.rs"]
        );
        assert_eq!(shared_type_names(&files, &["One"]), Vec::<String>::new());
    }

    #[test]
    fn reports_a_long_file() {
        let files = sources(&[
            ("a/src/lib.rs", &"\n".repeat(MAX_LINES)),
            ("a/src/long.rs", &"\n".repeat(MAX_LINES + 1)),
        ]);
        assert_eq!(long_files(&files, &[]), ["a/src/long.rs has 501 lines; the maximum is 500"]);
        assert_eq!(
            long_files(&files, &["a/src/long.rs", "a/src/lib.rs"]),
            ["crates/docs/src/structure.rs: remove \"a/src/lib.rs\" from LONG_FILES"]
        );
    }
}
