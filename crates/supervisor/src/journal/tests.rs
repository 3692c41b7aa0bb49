use protocol::{Attempt, RunState, TaskId};

use super::*;

fn event(n: u32) -> Event {
    Event::AttemptStarted {
        task: "a".parse::<TaskId>().unwrap(),
        attempt: Attempt::new(n + 1).unwrap(),
    }
}

/// A journal of three batches: one line, two lines, three lines.
fn three_batches() -> (tempfile::TempDir, Installation, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let installation = Installation::at(dir.path()).unwrap();
    fs::create_dir_all(installation.runs()).unwrap();
    let (mut journals, records) = Journals::open(&installation).unwrap();
    assert!(records.is_empty());
    for batch in 1..=3 {
        for n in 0..batch {
            journals.push(RunId::Adhoc, Time::from_millis(5), event(n));
        }
        journals.commit().unwrap();
    }
    let path = installation.journal(RunId::Adhoc);
    (dir, installation, path)
}

fn numbers(installation: &Installation) -> Vec<u64> {
    let (_, records) = Journals::open(installation).unwrap();
    records.iter().map(|record| record.seq).collect()
}

#[test]
fn what_was_committed_is_read_again_and_numbers_go_on() {
    let (_dir, installation, path) = three_batches();
    assert_eq!(numbers(&installation), [1, 2, 3, 4, 5, 6]);

    let (mut journals, _) = Journals::open(&installation).unwrap();
    journals.push(
        RunId::Adhoc,
        Time::ZERO,
        Event::RunEnded { run: RunId::Adhoc, state: RunState::Complete },
    );
    journals.commit().unwrap();

    assert_eq!(numbers(&installation), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(journals.committed().length(RunId::Adhoc), fs::metadata(path).unwrap().len());
}

#[test]
fn a_journal_cut_anywhere_in_its_last_batch_loses_that_batch_and_nothing_else() {
    let (_dir, installation, path) = three_batches();
    let whole = fs::read(&path).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|b| *b == b'\n').collect();
    let safe: usize = lines[..3].iter().map(|line| line.len()).sum();
    for cut in safe..whole.len() {
        fs::File::create(&path).unwrap().write_all(&whole[..cut]).unwrap();
        assert_eq!(numbers(&installation), [1, 2, 3], "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), &whole[..safe], "cut at {cut}");
    }
}

#[test]
fn a_hole_in_the_last_batch_is_an_unfinished_write() {
    let (_dir, installation, path) = three_batches();
    let mut bytes = fs::read(&path).unwrap();
    let starts: Vec<_> = std::iter::once(0)
        .chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
        .collect();
    bytes[starts[3]..starts[4] - 1].fill(0);
    fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
    assert_eq!(numbers(&installation), [1, 2, 3]);
    assert!(path.with_extension("torn").exists());
}

#[test]
fn damage_before_the_last_batch_is_refused_and_nothing_is_changed() {
    let (_dir, installation, path) = three_batches();
    let whole = fs::read(&path).unwrap();
    let last: usize = whole.split_inclusive(|b| *b == b'\n').take(3).map(<[u8]>::len).sum();
    for at in 0..last {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let error = Journals::open(&installation).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "byte {at}: {error:?}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_journal_of_a_later_version_is_left_alone() {
    let (_dir, installation, path) = three_batches();
    let record = Record { version: 2, seq: 9, at: Time::ZERO, event: event(0) };
    let json = serde_json::to_string(&record).unwrap();
    let line = batch(&[json], fs::metadata(&path).unwrap().len());
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(line.as_bytes()).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Journals::open(&installation).unwrap_err();
    assert!(matches!(error, JournalError::Newer { version: 2, .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}
