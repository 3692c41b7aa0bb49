//! What several have to write at once.

use std::os::fd::OwnedFd;

use futures_util::future::join_all;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{runtime::Builder, task::yield_now};

use super::*;

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let name = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    text.lines().map(name).collect()
}

fn forever() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Puts a pipe in the place of the file, and returns its other end: what is written at once can be read at once.
fn pipe_instead(ledger: &Ledger) -> (Arc<fs::File>, fs::File) {
    let (read, write): (OwnedFd, OwnedFd) =
        pipe_with(PipeFlags::DIRECT | PipeFlags::NONBLOCK).unwrap();
    let file = ledger.0.lock().lines.log().swap_file(fs::File::from(write));
    (file, read.into())
}

/// Returns how many writes there were.
fn writes(mut pipe: &fs::File) -> usize {
    std::iter::from_fn(|| io::Read::read(&mut pipe, &mut [0; 8192]).ok()).count()
}

#[tokio::test]
async fn what_is_to_be_written_at_one_moment_is_one_write() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let ledger = open(&dir.path().join("ledger.jsonl"), &hands);
    let (_file, pipe) = pipe_instead(&ledger);
    // A pipe takes 4096 bytes at once.
    let tasks = (0..8).map(|_| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            ledger.reserve_when_free(&emma(), "m", worst(1, 1), forever()).await.unwrap()
        })
    });
    let outs = join_all(tasks.collect::<Vec<_>>()).await;
    assert_eq!(writes(&pipe), 1);

    outs.into_iter().for_each(|out| out.unwrap().settle(spent(1, 1)));
    assert_eq!(writes(&pipe), 0);
    while ledger.0.lock().lines.is_due() {
        yield_now().await;
    }
    assert_eq!(writes(&pipe), 1);
}

#[test]
fn what_was_spent_is_written_though_its_runtime_ends() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        ledger.reserve(&emma(), "m", worst(1, 1)).unwrap().settle(spent(1, 1));
    });
    assert_eq!(lines(&path), ["ledger", "reserved"]);
    drop(runtime);
    assert_eq!(lines(&path), ["ledger", "reserved", "settled"]);
}

#[tokio::test]
async fn who_gives_up_before_it_is_written_holds_nothing() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    ledger.set_budget(Scope::Day, usd(100));
    {
        let emma = emma();
        let reserving = ledger.reserve_when_free(&emma, "m", worst(60, 1), forever());
        tokio::pin!(reserving);
        assert!(futures_util::poll!(reserving.as_mut()).is_pending());
        assert_eq!(standing(&ledger, &Scope::Day), [(0, 0), (60, 1)]);
    }
    assert_eq!(standing(&ledger, &Scope::Day), [(0, 0), (0, 0)]);
    ledger.sync().unwrap();
    assert_eq!(lines(&path), ["ledger", "reserved", "released"]);
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn nothing_goes_out_that_could_not_be_written_and_all_is_written_when_there_is_room() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    ledger.set_budget(Scope::Day, usd(100));
    let out = ledger.reserve(&emma(), "m", worst(40, 1)).unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = ledger.0.lock().lines.log().swap_file(full);

    let emma = emma();
    let reserve = || ledger.reserve_when_free(&emma, "m", worst(10, 1), Instant::now());
    for refused in join_all((0..3).map(|_| reserve())).await {
        assert!(matches!(refused.unwrap_err(), Refused::Unwritable { .. }));
    }
    out.settle(spent(20, 1));
    assert_eq!(standing(&ledger, &Scope::Day), [(20, 1), (0, 0)]);
    assert!(ledger.sync().is_err());
    // Who asks again and again does not fill our memory.
    let queued = ledger.0.lock().lines.len();
    for _ in 0..100 {
        assert!(matches!(reserve().await.unwrap_err(), Refused::Unwritable { .. }));
    }
    assert_eq!(ledger.0.lock().lines.len(), queued);

    ledger.0.lock().lines.log().swap_file(good);
    reserve().await.unwrap().release();
    ledger.sync().unwrap();
    let [mut reserved, mut ended] = [0, 0];
    for line in lines(&path).iter().skip(1) {
        *(if line == "reserved" { &mut reserved } else { &mut ended }) += 1;
    }
    assert_eq!((reserved, ended), (5, 5));
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(20, 1), (0, 0)]);
}

#[test]
fn what_could_not_be_written_comes_before_what_was_queued_since() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let ledger = open(&dir.path().join("ledger.jsonl"), &hands);
    let mut state = ledger.0.lock();
    let first = state.lines.push(&Line::Lost { id: 1 });
    let (log, lines, upto) = state.lines.take().unwrap();
    let second = state.lines.push(&Line::Lost { id: 2 });
    assert!(state.lines.fate(first).is_none() && state.lines.take().is_none());
    state.lines.wrote(log, lines, upto, Err(io::ErrorKind::StorageFull.into()));
    assert!(
        state.lines.fate(first).unwrap().is_err() && state.lines.fate(second).unwrap().is_err()
    );

    let (log, lines, upto) = state.lines.take().unwrap();
    let text = String::from_utf8(lines.clone()).unwrap();
    assert!(text.find("\"id\":1").unwrap() < text.find("\"id\":2").unwrap());
    state.lines.wrote(log, lines, upto, Ok(()));
    assert!(state.lines.fate(first).unwrap().is_ok() && state.lines.fate(second).unwrap().is_ok());
}

#[test]
fn threads_that_write_at_the_same_time_lose_no_line() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    const EACH: u64 = 200;
    std::thread::scope(|scope| {
        // Two without a runtime, which wait, and two with one, which do not.
        for with_runtime in [false, false, true, true] {
            let ledger = ledger.clone();
            scope.spawn(move || {
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                for _ in 0..EACH {
                    if with_runtime {
                        runtime.block_on(async {
                            let emma = emma();
                            let out = ledger.reserve_when_free(&emma, "m", worst(2, 2), forever());
                            out.await.unwrap().settle(spent(1, 1));
                        });
                    } else {
                        ledger.reserve(&emma(), "m", worst(2, 2)).unwrap().settle(spent(1, 1));
                    }
                }
            });
        }
        for _ in 0..10 {
            ledger.0.with_log(State::make_small).unwrap();
        }
    });
    let all = 4 * EACH;
    assert_eq!(standing(&ledger, &Scope::Day), [(all, all), (0, 0)]);
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(all, all), (0, 0)]);
}
