use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use protocol::{Attempt, Event, RunId, Time};
use uuid::Uuid;

use super::*;
use crate::install::Installation;
use crate::journal::{Journals, look};

/// Three journals with a batch each, and a commit over all of them.
struct Three {
    _dir: tempfile::TempDir,
    installation: Installation,
    runs: [RunId; 3],
    /// What the files held before the commit, and after it.
    before: [Vec<u8>; 3],
    after: [Vec<u8>; 3],
}

fn event(n: u32) -> Event {
    let attempt = Attempt::new(n).expect("it should not be 0");
    Event::AttemptStarted { task: "a".parse().expect("it should be an id"), attempt }
}

impl Three {
    /// Of the first `old` journals there is something before the commit; it makes the others.
    fn new(old: usize) -> Self {
        let dir = tempfile::tempdir().expect("there should be room");
        let installation = Installation::at(dir.path()).expect("it should be a folder");
        fs::create_dir_all(installation.runs()).expect("there should be room");
        let runs = [RunId::Adhoc, RunId::Submitted(Uuid::from_u128(1)), run(2)];
        let (mut journals, _) = Journals::open(&installation).expect("nothing is there");
        for &run in &runs[..old] {
            push(&mut journals, run, 1);
            journals.commit().expect("there should be room");
        }
        let files = |runs: [RunId; 3]| runs.map(|run| read_or_empty(&installation.journal(run)));
        let before = files(runs);
        for n in 1..=2 {
            for run in runs {
                push(&mut journals, run, n);
            }
        }
        journals.commit().expect("there should be room");
        let after = files(runs);
        Self { _dir: dir, installation, runs, before, after }
    }

    fn path(&self, at: usize) -> PathBuf {
        self.installation.journal(self.runs[at])
    }

    /// Leaves of the commit these parts, each a share of it in thousandths.
    fn leave(&self, shares: [usize; 3]) {
        for (at, share) in shares.into_iter().enumerate() {
            let (before, after) = (self.before[at].len(), self.after[at].len());
            let cut = before + (after - before) * share / 1000;
            put(&self.path(at), &self.after[at][..cut]);
        }
    }

    fn files(&self) -> [Vec<u8>; 3] {
        [0, 1, 2].map(|at| read_or_empty(&self.path(at)))
    }

    fn open(&self) -> usize {
        let (_, records) = Journals::open(&self.installation).expect("nothing is damaged");
        let told = look(&self.installation).expect("it should be readable");
        let looked = told.into_iter().map(|(_, told)| told.expect("nothing is damaged").len());
        assert_eq!(looked.sum::<usize>(), records.len());
        records.len()
    }
}

fn run(n: u128) -> RunId {
    RunId::Submitted(Uuid::from_u128(n))
}

fn push(journals: &mut Journals, run: RunId, n: u32) {
    journals.push(run, Time::from_millis(5), event(n));
}

fn put(path: &Path, bytes: &[u8]) {
    let written = fs::File::create(path).and_then(|mut file| file.write_all(bytes));
    written.expect("there should be room");
}

fn read_or_empty(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

#[test]
fn commit_of_which_a_part_is_missing_is_taken_back() {
    for old in 1..=3 {
        let three = Three::new(old);
        // They are written one after the other, and the last one may be torn.
        for shares in
            [[500, 0, 0], [1000, 0, 0], [1000, 300, 0], [1000, 1000, 0], [1000, 1000, 999]]
        {
            three.leave(shares);
            let told = look(&three.installation).expect("it should be readable");
            let looked = told.into_iter().map(|(_, told)| told.expect("nothing is damaged").len());
            assert_eq!(looked.sum::<usize>(), old, "{shares:?}: it is left out, and left there");
            assert_eq!(three.open(), old, "{shares:?}");
            assert_eq!(three.files(), three.before, "{shares:?}");
        }
        three.leave([1000; 3]);
        assert_eq!(three.open(), old + 6);
        assert_eq!(three.files(), three.after);
    }
}

#[test]
fn crash_while_a_commit_is_taken_back_changes_nothing() {
    let three = Three::new(3);
    // The first part goes last.
    for shares in [[1000, 1000, 0], [1000, 0, 0]] {
        three.leave(shares);
        let mut found = BTreeMap::new();
        for at in 0..3 {
            let journal = crate::journal::read(&three.path(at)).expect("nothing is damaged");
            found.insert(three.runs[at], journal.expect("it should be there"));
        }
        let order = unfinished(&found);
        assert_eq!(order.last(), Some(&three.runs[0]));
        assert_eq!(order.len(), if shares[1] == 0 { 1 } else { 2 });
    }
    assert_eq!(three.open(), 3);
    assert_eq!(three.files(), three.before);
}

#[test]
fn journal_that_somebody_removed_lacks_nothing() {
    for old in 1..=3 {
        for gone in 0..3 {
            let three = Three::new(old);
            let folder = three.path(gone);
            let folder = folder.parent().expect("it should be in a folder");
            fs::remove_dir_all(folder).expect("it should be there");
            let mut files = three.after.clone();
            files[gone].clear();
            three.open();
            assert_eq!(three.files(), files, "{old} {gone}");
        }
    }
}

#[test]
fn commit_that_others_came_after_was_whole() {
    let three = Three::new(3);
    let (mut journals, _) = Journals::open(&three.installation).expect("nothing is damaged");
    push(&mut journals, run(3), 1);
    journals.commit().expect("there should be room");
    // From an older copy, say.
    three.leave([1000, 1000, 0]);
    assert_eq!(three.open(), 3 + 4 + 1);

    // In one of its own journals, too.
    let three = Three::new(3);
    let (mut journals, _) = Journals::open(&three.installation).expect("nothing is damaged");
    push(&mut journals, three.runs[1], 3);
    journals.commit().expect("there should be room");
    put(&three.path(2), &three.before[2]);
    assert_eq!(three.open(), 3 + 4 + 1);
}

#[test]
fn numbers_of_what_was_taken_back_are_given_again() {
    let three = Three::new(3);
    three.leave([1000, 1000, 0]);
    let (mut journals, records) = Journals::open(&three.installation).expect("nothing is damaged");
    assert_eq!(records.last().map(|record| record.seq), Some(3));
    for run in three.runs {
        push(&mut journals, run, 7);
    }
    journals.commit().expect("there should be room");
    let (_, records) = Journals::open(&three.installation).expect("nothing is damaged");
    let numbers: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn no_part_is_written_while_a_journal_of_the_commit_cannot_be_made() {
    let three = Three::new(2);
    three.leave([0; 3]);
    let (mut journals, _) = Journals::open(&three.installation).expect("nothing is damaged");
    fs::remove_file(three.path(2)).expect("it should be there");
    fs::create_dir(three.path(2)).expect("there should be room");
    for run in three.runs {
        push(&mut journals, run, 1);
    }
    let error = journals.commit().expect_err("a folder is in the way");
    assert!(!error.is_fatal());
    assert_eq!(read_or_empty(&three.path(0)), three.before[0]);

    // As it was made, and what has happened since comes after it.
    push(&mut journals, RunId::Adhoc, 2);
    fs::remove_dir(three.path(2)).expect("it should be there");
    journals.commit().expect("nothing is in the way");
    let (_, records) = Journals::open(&three.installation).expect("nothing is damaged");
    let numbers: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}
