//! Holds `docs/walls.md` to the attacks: each row has a test that exists, and somebody who tries it.
//!
//! That a test tries just the rows that name it, it sees itself when it has tried them.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How many rows there are at least: one for each thing that was tried when the walls were made, with its kind.
const ROWS: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of the tables' rows.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/walls.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// All Rust sources below a folder, in one text.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    text
}

#[test]
fn each_wall_has_a_row_and_each_row_names_a_test_that_exists_and_an_attack() {
    let (rows, tests) = (rows(), root().join("crates/supervisor/tests/it/attack"));
    assert!(rows.len() >= ROWS, "docs/walls.md has only {} rows", rows.len());
    let attacks = sources(&root().join("crates/hostile/src")) + &sources(&tests);
    let (mut names, mut wrong) = (BTreeSet::new(), Vec::new());
    for row in &rows {
        let [name, tries, stops, tried] = &row[..] else {
            panic!("row {} has {} columns, not 4", row[0], row.len());
        };
        let name = name.trim_matches('`');
        if !names.insert(name) {
            wrong.push(format!("{name}: it is there twice"));
        }
        if tries.is_empty() || stops.is_empty() {
            wrong.push(format!("{name}: it is not filled in"));
        }
        // Of some only the ends differ.
        let stem = name.replace("-count-", "-");
        let stem =
            ["-link", "-fifo"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(&stem);
        if !attacks.contains(stem) {
            wrong.push(format!("{name}: nobody tries it"));
        }
        for place in tried.split("<br>").map(|place| place.trim().trim_matches('`')) {
            let found = place.strip_prefix("supervisor::it attack::").and_then(|path| {
                let (module, test) = path.split_once("::")?;
                let text = fs::read_to_string(tests.join(format!("{module}.rs"))).ok()?;
                text.contains(&format!("#[test]\nfn {test}(")).then_some(())
            });
            if found.is_none() {
                wrong.push(format!("{name}: there is no test `{place}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/walls.md\n{}", wrong.join("\n"));
}
