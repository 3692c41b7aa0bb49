//! The lines of the ledger's file.

use std::sync::Arc;

use protocol::{Attempt, Priority, ReplicaId, RunId, TaskId, Time, WorkerId};
use serde::{Deserialize, Serialize};

use super::{Day, Entry, Sums, Worst, books::Out};
use crate::{Caller, Usd, number};

/// The version of the file that this build writes. It reads earlier ones, which it writes anew, and refuses newer
/// ones. Version 2 tells what sub-agents asked for.
pub(super) const VERSION: u32 = 2;

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
        match self {
            // Two of them are written for each request.
            Self::Reserved(line) => line.write(to),
            Self::Settled { id, at, agent, used } => {
                to.extend_from_slice(b"{\"settled\":{\"id\":");
                number::put(to, *id);
                put_time(to, *at);
                if let Some(agent) = agent {
                    put_text(to, b",\"agent\":", agent);
                }
                to.extend_from_slice(b",\"used\":");
                put_sums(to, used);
                to.extend_from_slice(b"}}");
            }
            other => put_json(to, other),
        }
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
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"reserved\":{\"id\":");
        number::put(to, self.id);
        put_time(to, self.at);
        put_text(to, b",\"replica\":", self.replica.as_str());
        put_text(to, b",\"worker\":", self.worker.as_str());
        match self.run {
            RunId::Adhoc => to.extend_from_slice(b",\"run\":\"adhoc\""),
            run @ RunId::Submitted(_) => put_text(to, b",\"run\":", &run.to_string()),
        }
        put_text(to, b",\"task\":", self.task.as_str());
        to.extend_from_slice(b",\"attempt\":");
        number::put(to, self.attempt.get().into());
        to.extend_from_slice(match self.priority {
            Priority::Low => b",\"priority\":\"low\"",
            Priority::Medium => b",\"priority\":\"medium\"",
            Priority::High => b",\"priority\":\"high\"",
        });
        put_text(to, b",\"model\":", &self.model);
        match self.worst_nanos {
            Some(nanos) => {
                to.extend_from_slice(b",\"worst_nanos\":");
                number::put(to, nanos);
            }
            None => to.extend_from_slice(b",\"worst_nanos\":null"),
        }
        to.extend_from_slice(b",\"worst_tokens\":");
        number::put(to, self.worst_tokens);
        to.extend_from_slice(b"}}");
    }

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

fn put_json(to: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(to, value)
        .unwrap_or_else(|error| panic!("BUG: a line of the ledger that is not JSON: {error}"));
}

/// Appends what was used; what is zero is left out.
fn put_sums(to: &mut Vec<u8>, sums: &Sums) {
    if !sums.waits.is_empty() {
        return put_json(to, sums);
    }
    let tokens = &sums.tokens;
    to.extend_from_slice(b"{\"requests\":");
    number::put(to, sums.requests);
    put_count(to, b",\"cut_off\":", sums.cut_off);
    put_count(to, b",\"unpriced\":", sums.unpriced);
    to.extend_from_slice(b",\"tokens\":{");
    let begin = to.len();
    put_count(to, b",\"input\":", tokens.input);
    put_count(to, b",\"output\":", tokens.output);
    put_count(to, b",\"cache_read\":", tokens.cache_read);
    put_count(to, b",\"cache_write_5m\":", tokens.cache_write_5m);
    put_count(to, b",\"cache_write_1h\":", tokens.cache_write_1h);
    if to.len() > begin {
        // The first has no comma before it.
        to.remove(begin);
    }
    to.push(b'}');
    put_count(to, b",\"cost_nanos\":", sums.cost.nanos());
    put_count(to, b",\"uncached_nanos\":", sums.uncached.nanos());
    put_count(to, b",\"held_nanos\":", sums.held.nanos());
    put_count(to, b",\"held_tokens\":", sums.held_tokens);
    put_count(to, b",\"of_agents\":", sums.of_agents);
    put_count(to, b",\"of_agents_tokens\":", sums.of_agents_tokens);
    put_count(to, b",\"of_agents_nanos\":", sums.of_agents_cost.nanos());
    to.push(b'}');
}

fn put_count(to: &mut Vec<u8>, field: &[u8], count: u64) {
    if count > 0 {
        to.extend_from_slice(field);
        number::put(to, count);
    }
}

/// Appends a field with a text.
fn put_text(to: &mut Vec<u8>, field: &[u8], text: &str) {
    to.extend_from_slice(field);
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        to.push(b'"');
        to.extend_from_slice(text.as_bytes());
        to.push(b'"');
    } else {
        put_json(to, &text);
    }
}

/// Appends the field `at`.
fn put_time(to: &mut Vec<u8>, at: Time) {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    /// From here on the year has five digits.
    const YEAR_10000: u64 = 253_402_300_800_000;
    to.extend_from_slice(b",\"at\":\"");
    let millis = at.as_millis();
    if millis >= YEAR_10000 {
        to.extend_from_slice(at.to_string().as_bytes());
    } else {
        // Days since 1 March of the year 0, in eras of 400 years, which are all alike; a year that begins in March
        // has its odd day at its end.
        let days = millis / DAY + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let of_day = millis % DAY;
        let (minute, milli) = (of_day / 60_000, of_day % 60_000);
        let mut put = |number: u64, width: u32, behind: u8| {
            for place in (0..width).rev() {
                to.push(b'0' + (number / 10_u64.pow(place) % 10) as u8);
            }
            to.push(behind);
        };
        put(year, 4, b'-');
        put(month, 2, b'-');
        put(day, 2, b'T');
        put(minute / 60, 2, b':');
        put(minute % 60, 2, b':');
        put(milli / 1000, 2, b'.');
        put(milli % 1000, 3, b'Z');
    }
    to.push(b'"');
}

/// Why a line can't be taken.
#[derive(Debug)]
pub(super) enum BadLine {
    Damaged(String),
    Newer(u32),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Time> {
        // Days of all kinds, and the last that there is.
        let most = 253_402_300_800_000_u64 + 400 * 86_400_000;
        prop_oneof![0..most, Just(u64::MAX), Just(951_782_400_000), Just(4_107_542_399_999)]
            .prop_map(Time::from_millis)
    }

    fn line() -> impl Strategy<Value = Line> {
        let text = || prop_oneof!["[a-z0-9.-]{1,20}", any::<String>()];
        let run = prop_oneof![Just("adhoc"), Just("0199a3c4-5a3c-7000-8000-000000000000")];
        let priority =
            prop_oneof![Just(Priority::Low), Just(Priority::Medium), Just(Priority::High)];
        let reserved = (
            any::<u64>(),
            time(),
            run,
            1..u32::MAX,
            priority,
            text(),
            any::<[u64; 2]>(),
            any::<bool>(),
        );
        let counts = prop::collection::vec(prop_oneof![Just(0), any::<u64>()], 15);
        let waits = prop::collection::btree_map("[a-z_]{1,9}", any::<u64>(), 0..2);
        let settled = (any::<u64>(), time(), prop::option::of(text()), counts, waits);
        prop_oneof![
            reserved.prop_map(
                |(id, at, run, attempt, priority, model, [nanos, tokens], priced)| {
                    Line::Reserved(ReservedLine {
                        id,
                        at,
                        replica: "marie-1".parse().unwrap(),
                        worker: "marie".parse().unwrap(),
                        run: run.parse().unwrap(),
                        task: "task".parse().unwrap(),
                        attempt: Attempt::new(attempt).unwrap(),
                        priority,
                        model: model.into(),
                        worst_nanos: priced.then_some(nanos),
                        worst_tokens: tokens,
                    })
                }
            ),
            settled.prop_map(|(id, at, agent, counts, waits)| {
                let tokens = crate::Tokens {
                    input: counts[0],
                    output: counts[1],
                    cache_read: counts[2],
                    cache_write_5m: counts[3],
                    cache_write_1h: counts[4],
                };
                let [cost, uncached, held, of_agents_cost] =
                    [5, 6, 7, 12].map(|at| Usd::from_nanos(counts[at]));
                let [requests, cut_off, unpriced, held_tokens, of_agents, of_agents_tokens] =
                    [8, 9, 10, 11, 13, 14].map(|at| counts[at]);
                let used = Sums {
                    requests,
                    cut_off,
                    unpriced,
                    tokens,
                    cost,
                    uncached,
                    held,
                    held_tokens,
                    of_agents,
                    of_agents_tokens,
                    of_agents_cost,
                    waits,
                };
                Line::Settled { id, at, agent, used }
            }),
        ]
    }

    #[test]
    fn every_day_is_called_what_it_is() {
        let days = (0..80_000).chain(2_900_000..2_932_896);
        for at in days.map(|day| Time::from_millis(day * 86_400_000 + day % 86_400_000)) {
            let mut written = Vec::new();
            put_time(&mut written, at);
            assert_eq!(written, format!(",\"at\":\"{at}\"").as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_by_hand_is_what_serde_writes(line in line()) {
            let mut written = Vec::new();
            line.write(&mut written);
            let json = &written[..written.len() - "\t00000000\n".len()];
            prop_assert_eq!(
                String::from_utf8_lossy(json),
                serde_json::to_string(&line).unwrap()
            );
            let read = Line::read(&written).map(|line| format!("{line:?}"));
            let at = match &line {
                Line::Reserved(line) => line.at,
                Line::Settled { at, .. } => *at,
                _ => Time::ZERO,
            };
            // Nobody reads years of five digits.
            let is_same = read.is_ok_and(|read| read == format!("{:?}", line));
            prop_assert!(is_same || at.as_millis() >= 253_402_300_800_000);
        }
    }
}
