//! Measures what the meter and the ledger take of each request.
//!
//! ```text
//! cargo run --release -p gateway --example money-speed
//! ```

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use gateway::{Caller, Filter, Ledger, Meter, Scope, Spent, Tokens, Usd, Worst};
use protocol::{Attempt, Priority, RunId, Time};

fn main() -> Result<(), Box<dyn Error>> {
    meter();
    let dir = tempfile::tempdir()?;
    ledger("in memory", None)?;
    ledger("in a file", Some(&dir.path().join("ledger.jsonl")))
}

fn meter() {
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":\
                 {\"type\":\"text_delta\",\"text\":\" and then they went\"}}\n\n";
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\
                 \"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n";
    let stop = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\
                \"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n";
    let text = delta.repeat(1_000);
    for size in [delta.len(), 8 << 10, 100] {
        let begin = Instant::now();
        let rounds = 500;
        for _ in 0..rounds {
            let mut meter = Meter::new("text/event-stream");
            meter.feed(start.as_bytes());
            text.as_bytes().chunks(size).for_each(|chunk| meter.feed(black_box(chunk)));
            meter.feed(stop.as_bytes());
            assert!(meter.reading().complete);
        }
        let (time, events) = (begin.elapsed(), rounds * 1_000);
        let rate = (rounds as usize * text.len()) as f64 / time.as_secs_f64() / 1e9;
        println!("meter, chunks of {size:4} bytes: {:?} an event, {rate:.2} GB/s", time / events);
    }
}

fn ledger(name: &str, path: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let noon = || Time::from_millis(1_800_000_000_000);
    let (ledger, _notices) = Ledger::open(path, noon)?;
    ledger.set_budget(Scope::Day, gateway::Budget { usd: Usd::from_dollars(1e6), tokens: None });
    let requests = 100_000_u32;
    let begin = Instant::now();
    for n in 0..requests {
        let caller = Caller {
            replica: "marie-1".parse()?,
            worker: "marie".parse()?,
            run: RunId::Adhoc,
            task: format!("task-{}", n % 1_000).parse()?,
            attempt: Attempt::FIRST,
            priority: Priority::Medium,
        };
        let worst = Worst { usd: Usd::from_dollars(0.5), tokens: 128_000 };
        let reservation = ledger.reserve(&caller, "claude-opus-5-5", worst)?;
        let tokens = Tokens { input: 7, output: 900, cache_read: 10_000, ..Tokens::default() };
        let cost = Usd::from_dollars(0.02);
        reservation.settle(Spent { tokens, cost, complete: true, ..Spent::default() });
    }
    println!("ledger {name}: {:?} a request", begin.elapsed() / requests);
    if let Some(path) = path {
        let size = path.metadata()?.len();
        let begin = Instant::now();
        let again = Ledger::open(Some(path), noon)?.0;
        println!("ledger of {} MB: opened in {:?}", size >> 20, begin.elapsed());
        assert_eq!(again.totals(&Filter::default()).sums.requests, u64::from(requests));
        let begin = Instant::now();
        again.sync()?;
        println!("ledger of {} MB: synced in {:?}", path.metadata()?.len() >> 20, begin.elapsed());
    }
    Ok(())
}
