//! Which walls held, and whether these are the rows of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// What a test has seen.
pub(super) struct Verdicts {
    test: &'static str,
    rows: BTreeMap<String, (bool, String)>,
}

impl Verdicts {
    /// Returns none, for that test.
    pub(super) fn of(test: &'static str) -> Self {
        Self { test, rows: BTreeMap::new() }
    }

    /// Takes note of whether a wall held. One that did not once did not.
    pub(super) fn say(&mut self, row: &str, held: bool, saw: &str) {
        let saw: String = saw.replace('\n', " ").chars().take(300).collect();
        let before = self.rows.entry(row.to_owned()).or_insert((true, String::new()));
        if before.0 {
            *before = (held, saw);
        }
    }

    /// Returns whether a wall has held up to now.
    pub(super) fn holds(&self, row: &str) -> bool {
        self.rows.get(row).is_none_or(|(held, _)| *held)
    }

    /// Ends the test: every row of the table that names it was tried and held, and no other was tried.
    pub(super) fn finish(self) {
        let mut report = String::new();
        for (row, (held, saw)) in &self.rows {
            let verdict = if *held { "held" } else { "did not hold" };
            writeln!(report, "{verdict}\t{row}\t{}\t{saw}", self.test).unwrap();
        }
        println!("{report}");
        if let Some(path) = std::env::var_os("ATTACK_ROWS") {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(report.as_bytes()).unwrap();
        }
        let expected = self.expected();
        let tried: BTreeSet<_> = self.rows.keys().cloned().collect();
        let open: Vec<_> = self.rows.iter().filter(|(_, (held, _))| !held).collect();
        assert!(open.is_empty(), "these walls did not hold: {open:#?}");
        let not_tried: Vec<_> = expected.difference(&tried).collect();
        assert!(not_tried.is_empty(), "docs/walls.md has rows that were not tried: {not_tried:?}");
        let unknown: Vec<_> = tried.difference(&expected).collect();
        assert!(unknown.is_empty(), "docs/walls.md has no rows for: {unknown:?}");
    }

    /// Returns the rows of the table that name this test.
    fn expected(&self) -> BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/walls.md");
        let table = fs::read_to_string(path).unwrap();
        let name = format!("::{}`", self.test);
        let rows = table.lines().filter(|line| line.starts_with("| `") && line.contains(&name));
        rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
    }
}
