//! Holds `docs/faults.md` to the tests that it names: each row has one, and each one exists.
//!
//! The tests are found in the sources, so that nothing needs to be built to look.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How many faults there are.
const FAULTS: usize = 46;

/// A row that is shown by the simulation begins so, and then says which invariant shows it.
const SIMULATION: &str = "simulation:";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of the table's rows.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ");
    // The first two are its head.
    let rows = text.lines().filter(is_row).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn each_fault_has_a_row_and_each_row_names_tests_that_exist() {
    let (rows, tests) = (rows(), all_tests());
    assert!(tests.len() > 800, "only {} tests were found: is the search broken?", tests.len());
    let numbers: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(numbers, (1..=FAULTS).map(|n| n.to_string()).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for row in &rows {
        let [number, fault, response, shown] = &row[..] else {
            panic!("row {} has {} columns, not 4", row[0], row.len());
        };
        assert!(!fault.is_empty() && !response.is_empty(), "row {number} is not filled in");
        let mut shows = 0;
        for place in shown.split("<br>").map(str::trim) {
            if place.starts_with(SIMULATION) {
                shows += 1;
                continue;
            }
            let Some(name) = place.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else {
                wrong.push(format!("{number}: {place:?} is no test's name between backticks"));
                continue;
            };
            shows += 1;
            if !tests.contains(name) {
                wrong.push(format!("{number}: there is no test `{name}`"));
            }
        }
        assert!(shows > 0, "nothing shows fault {number}");
    }
    assert!(wrong.is_empty(), "docs/faults.md\n{}", wrong.join("\n"));
}

/// Returns all tests of the workspace as nextest names them: `supervisor::it drops::a_test`.
fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let unit = match folder.join("src/lib.rs").exists() {
            true => name.clone(),
            false => format!("{name}::bin/{name}"),
        };
        collect(&folder.join("src"), &unit, &mut Vec::new(), &mut tests);
        for entry in fs::read_dir(folder.join("tests")).into_iter().flatten() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() && path.join("main.rs").exists() {
                collect(&path, &format!("{name}::{stem}"), &mut Vec::new(), &mut tests);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                find(&text, &format!("{name}::{stem}"), &[], &mut tests);
            }
        }
    }
    tests
}

/// Adds the tests of a folder that is a module.
fn collect(folder: &Path, unit: &str, module: &mut Vec<String>, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            module.push(stem);
            collect(&path, unit, module, tests);
            module.pop();
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let is_own = matches!(stem.as_str(), "mod" | "lib" | "main");
            module.extend((!is_own).then_some(stem));
            find(&fs::read_to_string(&path).unwrap(), unit, module, tests);
            if !is_own {
                module.pop();
            }
        }
    }
}

/// Adds the tests of a file. It is formatted, so the text says enough: a function is a test if an
/// attribute above it says so, and an indented one is in the module that was opened last.
fn find(text: &str, unit: &str, module: &[String], tests: &mut BTreeSet<String>) {
    let mut inner: Option<&str> = None;
    let mut is_test = false;
    // The modules of what is named in the macro whose arguments these lines are.
    let mut in_macro: Option<&[&str]> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        let mut add = |parts: &[&str]| {
            let path: Vec<_> =
                module.iter().map(String::as_str).chain(parts.iter().copied()).collect();
            tests.insert(format!("{unit} {}", path.join("::")));
        };
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inner = Some(name);
        } else if line == "}" {
            (inner, in_macro) = (None, None);
        } else if line.starts_with("in_both_runtimes! {") {
            in_macro = Some(&["process", "docker"]);
        } else if line.starts_with("targets! {") {
            in_macro = Some(&[]);
        } else if let Some(modules) = in_macro {
            for name in trimmed.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if modules.is_empty() {
                    add(&[name]);
                }
                modules.iter().for_each(|module| add(&[module, name]));
            }
        } else if trimmed.starts_with("#[test]") || trimmed.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = trimmed.split_once("fn ").filter(|_| is_test) {
            let name = rest.split('(').next().unwrap_or(rest);
            let inner = inner.filter(|_| line.starts_with(' '));
            add(&inner.into_iter().chain([name]).collect::<Vec<_>>());
            is_test = false;
        }
    }
}
