//! What the documents say about the code is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}

/// The code of each part, without comments.
fn parts() -> BTreeMap<String, String> {
    let source = root().join("src");
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    for path in sources(&source) {
        let inside = path.strip_prefix(&source).unwrap();
        let part = inside
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        parts
            .entry(part)
            .or_default()
            .extend(code.flat_map(|line| [line, "\n"]));
    }
    parts.remove("lib");
    parts
}

/// The rows of ARCHITECTURE.md's table of parts: what each may import, and which crates stay in it.
fn table() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let text = read("ARCHITECTURE.md");
    let (_, rest) = text.split_once("<!-- imports").expect("the table has its mark");
    let words = |cell: &str| {
        cell.split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    rest.lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (
                cells[1].trim_matches('`').to_owned(),
                (words(cells[3]), words(cells[4])),
            )
        })
        .collect()
}

/// The words that follow `prefix` in the code.
fn words_after<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let end = |text: &'a str| {
        &text[..text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len())]
    };
    let mut words: BTreeSet<&str> = BTreeSet::new();
    for (_, rest) in code
        .match_indices(prefix)
        .map(|(at, _)| code.split_at(at + prefix.len()))
    {
        match rest.strip_prefix('{') {
            // The words of a braced list at its first level.
            Some(list) => {
                let mut depth = 0;
                let mut from = 0;
                for (at, character) in list.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            words.insert(end(list[from..at].trim_start()));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            words.insert(end(list[from..at].trim_start()));
                            from = at + 1;
                        }
                        _ => {}
                    }
                }
            }
            None => {
                words.insert(end(rest));
            }
        }
    }
    words.remove("");
    words
}

#[test]
fn a_part_imports_only_what_the_architecture_allows() {
    let (parts, table) = (parts(), table());
    assert_eq!(
        parts.keys().collect::<Vec<_>>(),
        table.keys().collect::<Vec<_>>(),
        "parts in src and in the table"
    );
    for (part, code) in &parts {
        let prefix = if part == "main" { "ezout::" } else { "crate::" };
        for import in words_after(code, prefix) {
            let allowed = import == part
                || table[part].0.contains(import)
                || import.chars().next().is_some_and(char::is_uppercase);
            assert!(
                allowed,
                "src/{part} imports {import}, which the table in ARCHITECTURE.md does not allow"
            );
        }
        for allowed in &table[part].0 {
            assert!(
                words_after(code, prefix).contains(allowed.as_str()),
                "src/{part} no longer imports {allowed}; take it out of the table"
            );
        }
    }
}

#[test]
fn outside_crates_stay_where_the_architecture_puts_them() {
    let (parts, table) = (parts(), table());
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (part, (_, crates)) in &table {
        for name in crates {
            places.entry(name.clone()).or_default().insert(part.clone());
        }
    }
    let named = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    places.insert(
        "async_nats".to_owned(),
        named(&["journal", "nats", "resgate", "updates", "tools"]),
    );
    places.insert("mongodb".to_owned(), named(&["views", "tools"]));
    for (name, allowed) in places {
        for (part, code) in &parts {
            let uses = code.contains(&format!("{name}::"));
            assert!(
                !uses || allowed.contains(part),
                "src/{part} uses {name}, which ARCHITECTURE.md keeps in {allowed:?}"
            );
            assert!(uses || !allowed.contains(part), "src/{part} no longer uses {name}");
        }
    }
}

#[test]
fn the_core_has_no_clock_and_no_io() {
    for banned in [
        "now_utc",
        "SystemTime::now",
        "Instant::now",
        "std::fs",
        "std::net",
        "tokio",
        "async fn",
    ] {
        assert!(!parts()["core"].contains(banned), "the core uses {banned}");
    }
}

#[test]
fn the_readme_lists_every_option_as_it_is() {
    let readme = read("README.md");
    let mut expected = Vec::new();
    let command = ezout::config::Cli::command();
    let commands: Vec<_> = command.get_subcommands().chain([&command]).collect();
    let mut seen = BTreeSet::new();
    for command in commands {
        for argument in command.get_arguments() {
            let Some(variable) = argument.get_env().and_then(|name| name.to_str()) else {
                continue;
            };
            if !seen.insert(variable.to_owned()) {
                continue;
            }
            let flag = argument.get_long().unwrap_or_default();
            let defaults: Vec<_> = argument
                .get_default_values()
                .iter()
                .filter_map(|value| value.to_str())
                .collect();
            let default = if defaults.is_empty() {
                String::new()
            } else {
                format!("`{}`", defaults.join(","))
            };
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            expected.push(format!("| `{variable}` | `--{flag}` | {default} | {help} |"));
        }
    }
    expected.sort();
    for row in &expected {
        assert!(
            readme.contains(row),
            "README.md lacks or misstates an option; the whole table is:\n\n{}\n",
            expected.join("\n")
        );
    }
    let listed = readme.lines().filter(|line| line.starts_with("| `EZOUT_")).count();
    assert_eq!(listed, expected.len(), "README.md lists an option that does not exist");
}

#[test]
fn no_route_is_made_but_with_its_door() {
    let mut made = Vec::new();
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        // Tests make routes of their own.
        let code = text.split("#[cfg(test)]").next().unwrap();
        let is_test = path.ends_with("tests.rs");
        let count = if is_test { 0 } else { code.matches(".route(").count() };
        if count > 0 {
            made.push((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), count));
        }
    }
    made.sort();
    // Those of the second address have a guard of their own.
    made.retain(|(path, _)| path != "src/http/health.rs");
    assert_eq!(
        made,
        [("src/http.rs".to_owned(), 1)],
        "a route is made by the table in src/http.rs"
    );
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = read("Cargo.toml");
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .take_while(|line| *line != "[lints.rust]");
    for line in dependencies.filter(|line| line.contains(" = ")) {
        assert!(line.contains("# "), "no reason beside {line}");
    }
}

#[test]
fn files_open_with_what_they_are() {
    for folder in ["src", "tests"] {
        for path in sources(&root().join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} has no module documentation",
                path.display()
            );
        }
    }
}

/// What the head of a mutation says under a name.
fn says<'a>(mutation: &'a str, name: &str) -> Option<&'a str> {
    let head = mutation.lines().take_while(|line| !line.starts_with("--- "));
    let mut found = head.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.next().map(str::trim).filter(|text| !text.is_empty())
}

/// Whether there is a test of this name, as `cargo test` lists it.
fn is_test(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").unwrap_or(("main", name));
    let path = root().join("tests/it").join(module.replace("::", "/") + ".rs");
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).any(|pair| {
        let declared = pair[1]
            .trim_start_matches("async ")
            .starts_with(&format!("fn {function}()"));
        declared && (pair[0].starts_with("#[test]") || pair[0].starts_with("#[tokio::test"))
    })
}

#[test]
fn every_mutation_applies_and_names_the_test_that_sees_it() {
    let folder = root().join("tests/mutations");
    let mut patches: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.sort();
    assert!(patches.len() >= 10, "{patches:?}");
    for (number, path) in (1..).zip(&patches) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{number:02}-")), "{name} is number {number}");
        let mutation = fs::read_to_string(path).unwrap();
        for what in ["Breaks", "Caught by", "Says"] {
            assert!(says(&mutation, what).is_some(), "{name} does not say {what:?}");
        }
        let test = says(&mutation, "Caught by").unwrap();
        assert!(is_test(test), "{name} names {test}, which is no test");
        let changed = mutation.lines().filter_map(|line| line.strip_prefix("+++ "));
        assert!(changed.clone().all(|file| file.starts_with("b/src/")), "{name}");
        assert!(changed.count() > 0, "{name} changes nothing");
        let checked = std::process::Command::new("git")
            .args(["apply", "--check"])
            .arg(path)
            // Within the work tree of another project its paths would be those of that one.
            .env("GIT_CEILING_DIRECTORIES", root().parent().unwrap())
            .current_dir(root())
            .output()
            .expect("git");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{name} no longer applies: {said}");
    }
}
