//! The ledger of a process that is killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use gateway::{Caller, Ledger, Scope, Spent, Standing, Tokens, Usd, Worst};
use protocol::{Attempt, Priority, RunId, Time};

const WORST: u64 = 10;
const COST: u64 = 3;
const THREADS: u64 = 4;

fn open(path: &Path) -> Ledger {
    Ledger::open(Some(path), || Time::from_millis(0)).unwrap().0
}

/// Is run by the test below, as a process of its own, until it is killed.
#[test]
fn child_that_spends() {
    let Some(path) = std::env::var_os("SPEND_IN") else { return };
    let ledger = open(Path::new(&path));
    let out = Mutex::new(std::io::stdout());
    let say = |what: &str| writeln!(out.lock().unwrap(), "\n{what}").unwrap();
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (ledger, say) = (&ledger, &say);
            scope.spawn(move || {
                let caller = Caller {
                    replica: format!("w-{n}").parse().unwrap(),
                    worker: "w".parse().unwrap(),
                    run: RunId::Adhoc,
                    task: format!("t{n}").parse().unwrap(),
                    attempt: Attempt::FIRST,
                    priority: Priority::Medium,
                };
                let worst = Worst { usd: Some(Usd::from_nanos(WORST)), tokens: WORST };
                loop {
                    let reservation = ledger.reserve(&caller, "m", worst).unwrap();
                    say("goes out");
                    reservation.settle(Spent {
                        tokens: Tokens { output: COST, ..Tokens::default() },
                        cost: Some(Usd::from_nanos(COST)),
                        complete: true,
                        ..Spent::default()
                    });
                    say("is settled");
                }
            });
        }
    });
}

#[test]
fn a_process_that_is_killed_has_written_down_all_that_went_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let (mut went_out, mut settled) = (0, 0);
    for life in 1..=5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["ledger::child_that_spends", "--exact", "--nocapture"])
            .env("SPEND_IN", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = |line: String| {
            went_out += u64::from(line == "goes out");
            settled += u64::from(line == "is settled");
        };
        lines.by_ref().take(200 * life as usize).for_each(|line| count(line.unwrap()));
        child.kill().unwrap();
        lines.for_each(|line| count(line.unwrap()));
        child.wait().unwrap();

        let Standing { spent, held, .. } = open(&path).standing(&Scope::Run(RunId::Adhoc));
        let [spent, held] = [spent, held].map(|worst| worst.usd.unwrap().nanos());
        assert_eq!((spent % COST, held % WORST), (0, 0));
        let (ended, lost) = (spent / COST, held / WORST);
        // What was done, but not said: one step of each thread and life.
        let unsaid = THREADS * life;
        assert!((settled..=settled + unsaid).contains(&ended), "{settled} settled, {ended} booked");
        assert!((went_out..=went_out + unsaid).contains(&(ended + lost)), "{went_out} went out");
        assert!(lost <= unsaid, "{lost} lost");
    }
}
