//! The lines of the ledger's file.

use std::sync::Arc;

use protocol::{Attempt, Priority, ReplicaId, RunId, TaskId, Time, WorkerId};
use serde::{Deserialize, Serialize};

use super::{Day, Entry, Sums, Worst, books::Out};
use crate::{Caller, Usd};

/// The version of the file that this build writes. It reads this one and refuses newer ones.
pub(super) const VERSION: u32 = 1;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    Ledger { version: u32 },
    /// What was used, of many requests that have ended.
    Sum(SumLine),
    /// A request goes out.
    Reserved(ReservedLine),
    /// It came to its end, or broke off.
    Settled {
        id: u64,
        at: Time,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        used: Sums,
    },
    /// It used nothing.
    Released { id: u64 },
    /// Nobody will know what it used.
    Lost { id: u64 },
}

/// The first line, of whatever version.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnyFirst {
    Ledger { version: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReservedLine {
    id: u64,
    at: Time,
    replica: ReplicaId,
    worker: WorkerId,
    run: RunId,
    task: TaskId,
    attempt: Attempt,
    priority: Priority,
    model: Arc<str>,
    /// Billionths of a dollar.
    worst_nanos: Option<u64>,
    worst_tokens: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SumLine {
    /// When the day begins.
    day: Time,
    worker: WorkerId,
    run: RunId,
    task: TaskId,
    attempt: Attempt,
    model: Arc<str>,
    used: Sums,
}

impl Line {
    pub(super) fn reserved(id: u64, at: Time, out: &Out) -> Self {
        let caller = &out.caller;
        Self::Reserved(ReservedLine {
            id,
            at,
            replica: caller.replica.clone(),
            worker: caller.worker.clone(),
            run: caller.run,
            task: caller.task.clone(),
            attempt: caller.attempt,
            priority: caller.priority,
            model: Arc::clone(&out.model),
            worst_nanos: out.worst.usd.map(Usd::nanos),
            worst_tokens: out.worst.tokens,
        })
    }

    pub(super) fn sum(entry: &Entry) -> Self {
        Self::Sum(SumLine {
            day: entry.day.begin(),
            worker: entry.worker.clone(),
            run: entry.run,
            task: entry.task.clone(),
            attempt: entry.attempt,
            model: Arc::clone(&entry.model),
            used: entry.sums.clone(),
        })
    }

    /// Appends the line: JSON, a tab, a checksum (CRC-32C, as in the journals).
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let begin = to.len();
        serde_json::to_writer(&mut *to, self)
            .unwrap_or_else(|error| panic!("BUG: a line of the ledger that is not JSON: {error}"));
        let sum = crc32c::crc32c(&to[begin..]);
        to.push(b'\t');
        to.extend(
            (0..8).rev().map(|digit| b"0123456789abcdef"[(sum >> (4 * digit)) as usize & 15]),
        );
        to.push(b'\n');
    }

    /// Reads a line.
    pub(super) fn read(line: &[u8]) -> Result<Self, BadLine> {
        let bad = |why: &str| BadLine::Damaged(why.to_owned());
        let text = line.strip_suffix(b"\n").ok_or_else(|| bad("it has no end"))?;
        let tab = memchr::memrchr(b'\t', text).ok_or_else(|| bad("it has no checksum"))?;
        let (json, sum) = (&text[..tab], &text[tab + 1..]);
        if sum != format!("{:08x}", crc32c::crc32c(json)).as_bytes() {
            return Err(bad("its checksum is wrong"));
        }
        serde_json::from_slice(json).map_err(|error| match serde_json::from_slice(json) {
            Ok(AnyFirst::Ledger { version }) if version > VERSION => BadLine::Newer(version),
            _ => BadLine::Damaged(error.to_string()),
        })
    }
}

impl ReservedLine {
    pub(super) fn into_out(self) -> (u64, Out) {
        let caller = Caller {
            replica: self.replica,
            worker: self.worker,
            run: self.run,
            task: self.task,
            attempt: self.attempt,
            priority: self.priority,
        };
        let worst = Worst { usd: self.worst_nanos.map(Usd::from_nanos), tokens: self.worst_tokens };
        (self.id, Out { caller, day: Day::of(self.at), model: self.model, worst })
    }
}

impl From<SumLine> for Entry {
    fn from(line: SumLine) -> Self {
        Self {
            run: line.run,
            task: line.task,
            attempt: line.attempt,
            worker: line.worker,
            day: Day::of(line.day),
            model: line.model,
            sums: line.used,
        }
    }
}

/// Why a line can't be taken.
#[derive(Debug)]
pub(super) enum BadLine {
    Damaged(String),
    Newer(u32),
}
