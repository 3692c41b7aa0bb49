use protocol::{
    Attempt, FailureKind, Priority, ReplicaId, RunMode, RunState, SessionId, Status, TaskError,
    TaskFile, TaskId, TaskResult, TaskSource, Token, Usage,
};

use super::read::batch;
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
    let (seq, at, snapshot) = (9, Time::ZERO, None);
    let record = Record { version: 3, seq, at, snapshot, event: event(0), commit: None };
    let json = serde_json::to_string(&record).unwrap();
    let line = batch(&[json], fs::metadata(&path).unwrap().len());
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(line.as_bytes()).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Journals::open(&installation).unwrap_err();
    assert!(matches!(error, JournalError::Newer { version: 3, .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// A journal in which tasks fail once and are then done; the last one is out.
struct History {
    _dir: tempfile::TempDir,
    installation: Installation,
    journals: Journals,
    tasks: u64,
}

impl History {
    fn new(tasks: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        fs::create_dir_all(installation.runs()).unwrap();
        let (mut journals, _) = Journals::open(&installation).unwrap();
        journals.set_growth(1 << 10);
        let opened = Event::RunOpened {
            run: RunId::Adhoc,
            short: "adhoc".parse().unwrap(),
            name: None,
            mode: RunMode::Adhoc,
            request: None,
            priority: Priority::Medium,
            budget_usd: None,
            budget_tokens: None,
            rehearsal: true,
        };
        journals.push(RunId::Adhoc, Time::from_millis(1), opened);
        journals.commit().unwrap();
        let mut history = Self { _dir: dir, installation, journals, tasks: 0 };
        history.go_on(tasks);
        history
    }

    fn go_on(&mut self, tasks: u64) {
        for _ in 0..tasks {
            self.tasks += 1;
            let (n, id) = (self.tasks, format!("t{}", self.tasks));
            let at = Time::from_millis(10 * n);
            let json = format!(r#"{{"task_id": "{id}", "worker": "w", "description": "x"}}"#);
            let file: TaskFile = protocol::strict::from_slice(json.as_bytes()).unwrap();
            let task = file.into_task(None).unwrap();
            self.journals.push(
                RunId::Adhoc,
                at,
                Event::TaskAdded { task, source: TaskSource::Api },
            );
            self.dispatched(at, &id, 1);
            self.journals.push(RunId::Adhoc, at, self.failed(&id));
            self.journals.commit().unwrap();
            self.dispatched(at, &id, 2);
            self.journals.commit().unwrap();
            if n.is_multiple_of(5) {
                // It is out, to the end.
                continue;
            }
            let mut result = TaskResult::without_report(
                id.parse().unwrap(),
                RunId::Adhoc,
                "w".parse().unwrap(),
                Attempt::new(2),
                Status::Complete,
                TaskError::new(FailureKind::Invalid, ""),
                at,
            );
            (result.error, result.cost_usd) = (None, Some(0.25));
            let (result, because) = (Box::new(result), Vec::new());
            let ended = Event::TaskEnded { result, because, attempts: None };
            self.journals.push(RunId::Adhoc, at, ended);
            self.journals.commit().unwrap();
        }
    }

    fn dispatched(&mut self, at: Time, task: &str, attempt: u32) {
        let dispatched = Event::AttemptDispatched {
            task: task.parse().unwrap(),
            attempt: Attempt::new(attempt).unwrap(),
            replica: ReplicaId::new(&"w".parse().unwrap(), self.tasks.try_into().unwrap()).unwrap(),
            token: Token::from_random(self.tasks, 0),
            session: SessionId::from_random(self.tasks, 0),
            resume: false,
        };
        self.journals.push(RunId::Adhoc, at, dispatched);
    }

    fn failed(&self, task: &str) -> Event {
        Event::AttemptFailed {
            task: task.parse().unwrap(),
            attempt: Attempt::FIRST,
            error: TaskError::new(FailureKind::Network, "reset"),
            counted: true,
            retry_at: Some(Time::ZERO),
            usage: Usage { output_tokens: 7, ..Usage::default() },
            cost_usd: Some(0.5),
            paused: false,
        }
    }

    fn path(&self) -> PathBuf {
        self.installation.journal(RunId::Adhoc)
    }

    /// What follows from the journal as it is on disk.
    fn state(&self) -> String {
        let (_, records) = Journals::open(&self.installation).unwrap();
        state(&records)
    }
}

fn state(records: &[Record]) -> String {
    let mut scheduler = scheduler::Scheduler::new(scheduler::Config {
        workers: [].into(),
        max_running: 0,
        plan: protocol::PlanLimits { tasks: 0, depth: 0 },
        backoff_base: std::time::Duration::ZERO,
        backoff_max: std::time::Duration::ZERO,
        aging: std::time::Duration::from_secs(1),
        timeout_margin: std::time::Duration::ZERO,
        stop_grace: std::time::Duration::ZERO,
        max_lost: 0,
    });
    for record in records {
        scheduler.replay(record.at, &record.event);
    }
    let tasks: Vec<_> = scheduler.run_tasks(&RunId::Adhoc).collect();
    format!("{tasks:#?} {}", scheduler.running())
}

#[test]
fn snapshot_takes_the_place_of_the_beginning_and_changes_nothing() {
    let mut history = History::new(20);
    let covered = history.journals.committed().length(RunId::Adhoc);
    let long = fs::metadata(history.path()).unwrap().len();
    let job = history.journals.take_large().unwrap();
    assert!(history.journals.take_large().is_none());
    // It goes on meanwhile.
    history.go_on(3);
    let draft = job.make().unwrap().unwrap();
    history.go_on(3);
    let (before, length) = (history.state(), history.journals.committed().length(RunId::Adhoc));
    let tail = history.journals.committed().read(&history.installation, RunId::Adhoc, covered);

    history.journals.adopt(&draft).unwrap();

    assert_eq!(history.state(), before);
    assert!(fs::metadata(history.path()).unwrap().len() < long);
    let committed = history.journals.committed();
    assert_eq!(committed.length(RunId::Adhoc), length, "places are what they were");
    let read = |from| committed.read(&history.installation, RunId::Adhoc, from).unwrap();
    assert_eq!(read(covered), tail.unwrap());
    let (all, _) = read(0);
    assert_eq!((all[0].version, all[0].snapshot.unwrap().bytes), (2, covered));
    assert_eq!(read(5).0, all, "what is gone is at the beginning");
    assert_eq!(state(&all), before);

    // And again, from the snapshot on.
    history.go_on(40);
    let before = history.state();
    let draft = history.journals.take_large().unwrap().make().unwrap().unwrap();
    history.journals.adopt(&draft).unwrap();
    assert_eq!(history.state(), before);
    let (journals, records) = Journals::open(&history.installation).unwrap();
    assert_eq!(journals.latest(), Time::from_millis(10 * 66));
    let last = records.iter().map(|record| record.seq).max().unwrap();
    assert!(journals.next_seq > last);
    assert_eq!(journals.next_seq, history.journals.next_seq, "no number comes twice");
    assert_eq!(journals.committed().length(RunId::Adhoc), committed.length(RunId::Adhoc));
}

#[test]
fn crash_while_a_snapshot_is_made_loses_nothing() {
    let mut history = History::new(20);
    let job = history.journals.take_large().unwrap();
    let draft = job.make().unwrap().unwrap();
    history.go_on(2);
    let before = history.state();
    let file = history.path().with_file_name(snapshot::DRAFT);
    let whole = fs::read(&file).unwrap();
    // While it is written, and while the rest is copied behind it: the journal is what it was.
    for cut in (0..whole.len()).step_by(97) {
        fs::File::create(&file).unwrap().write_all(&whole[..cut]).unwrap();
        assert_eq!(history.state(), before, "cut at {cut}");
    }
    fs::File::create(&file).unwrap().write_all(&whole).unwrap();
    let length = fs::metadata(history.path()).unwrap().len();
    draft.append(&history.path(), job.length, length - job.length).unwrap();
    assert_eq!(history.state(), before);
    // A copy that broke off is made again from its beginning.
    draft.append(&history.path(), job.length, length - job.length).unwrap();
    history.journals.adopt(&draft).unwrap();
    assert_eq!(history.state(), before);
    assert!(!file.exists());
}

#[test]
fn torn_write_behind_a_snapshot_is_cut_off_and_damage_in_it_is_refused() {
    let mut history = History::new(10);
    let draft = history.journals.take_large().unwrap().make().unwrap().unwrap();
    history.journals.adopt(&draft).unwrap();
    let (short, before) = (fs::read(history.path()).unwrap(), history.state());
    history.journals.push(RunId::Adhoc, Time::from_millis(900), event(0));
    history.journals.push(RunId::Adhoc, Time::from_millis(900), event(1));
    history.journals.commit().unwrap();
    let whole = fs::read(history.path()).unwrap();
    for cut in short.len()..whole.len() {
        fs::File::create(history.path()).unwrap().write_all(&whole[..cut]).unwrap();
        assert_eq!(history.state(), before, "cut at {cut}");
        assert_eq!(fs::read(history.path()).unwrap(), short, "cut at {cut}");
    }
    // The snapshot was safe before it was there: nothing of it is ever an unfinished write.
    for at in (0..short.len()).step_by(13).chain([short.len() - 2, short.len() - 1]) {
        let mut bytes = short.clone();
        bytes[at] ^= 1;
        for bytes in [&bytes[..], &short[..at]] {
            if bytes.is_empty() || at < first_line(&short) && bytes.len() == at {
                continue;
            }
            fs::File::create(history.path()).unwrap().write_all(bytes).unwrap();
            let error = Journals::open(&history.installation).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { .. }), "byte {at}: {error:?}");
            assert_eq!(fs::read(history.path()).unwrap(), bytes);
        }
    }
}

fn first_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1
}

#[test]
fn journal_that_gets_no_shorter_is_left_alone_until_it_has_grown_again() {
    let mut history = History::new(0);
    for n in 0..40 {
        let task = format!("x{n}");
        let json = format!(r#"{{"task_id": "{task}", "worker": "w", "description": "x"}}"#);
        let file: TaskFile = protocol::strict::from_slice(json.as_bytes()).unwrap();
        let (task, source) = (file.into_task(None).unwrap(), TaskSource::Api);
        history.journals.push(RunId::Adhoc, Time::ZERO, Event::TaskAdded { task, source });
        history.journals.commit().unwrap();
        if let Some(job) = history.journals.take_large() {
            assert!(job.make().unwrap().is_none());
            history.tasks += 1;
        }
    }
    assert!((2..6).contains(&history.tasks), "{} times", history.tasks);
}
