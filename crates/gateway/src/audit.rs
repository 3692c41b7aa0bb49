//! What left, and what was kept from it, for a file of each run.
//!
//! A request never waits for the file: what finds no room on the way there is counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use protocol::{EgressKind, EgressRecord, EgressTry, EgressVerdict, RunId, Time};
use tokio::sync::mpsc;

use crate::{caller::Caller, desk::Case};

/// How many records may be on the way to their files: some seconds of a busy daemon.
const ON_THE_WAY: usize = 4_096;

/// How much of a reason is kept. It may quote what an agent sent.
const REASON_CHARS: usize = 300;

/// Takes note of each way out that was tried in an attempt.
#[derive(Clone, Debug)]
pub struct Audit {
    sender: mpsc::Sender<(RunId, EgressRecord)>,
    dropped: Arc<Mutex<BTreeMap<RunId, u64>>>,
}

/// Where the records come out.
#[derive(Debug)]
pub struct AuditRecords {
    receiver: mpsc::Receiver<(RunId, EgressRecord)>,
    dropped: Arc<Mutex<BTreeMap<RunId, u64>>>,
}

impl Audit {
    /// Returns one, and where its records come out.
    pub fn new() -> (Self, AuditRecords) {
        let (sender, receiver) = mpsc::channel(ON_THE_WAY);
        let dropped = Arc::<Mutex<_>>::default();
        (Self { sender, dropped: Arc::clone(&dropped) }, AuditRecords { receiver, dropped })
    }

    fn note(&self, run: RunId, record: EgressRecord) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send((run, record)) {
            *lock(&self.dropped).entry(run).or_default() += 1;
        }
    }
}

impl AuditRecords {
    /// Waits for records, and returns those that are there, up to some hundred; none when the gateway is gone.
    /// What was dropped in the meantime is among them.
    ///
    /// # Panics
    ///
    /// Within a tokio runtime: it blocks the thread.
    pub fn wait(&mut self) -> Vec<(RunId, EgressRecord)> {
        let mut records = Vec::new();
        self.receiver.blocking_recv_many(&mut records, 256);
        let time = now();
        let dropped = std::mem::take(&mut *lock(&self.dropped));
        let dropped = dropped.into_iter();
        records
            .extend(dropped.map(|(run, dropped)| (run, EgressRecord::Dropped { time, dropped })));
        records
    }
}

fn lock(dropped: &Mutex<BTreeMap<RunId, u64>>) -> MutexGuard<'_, BTreeMap<RunId, u64>> {
    dropped.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Time {
    Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// The attempt that a try belongs to, and where that is noted.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    audit: Audit,
    case: Arc<Case>,
}

/// What was tried.
#[derive(Debug)]
pub(crate) struct Tried<'a> {
    pub(crate) kind: EgressKind,
    pub(crate) host: Option<&'a str>,
    pub(crate) port: Option<u16>,
    pub(crate) method: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    pub(crate) model: Option<&'a str>,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    /// Why it was refused, if it was.
    pub(crate) refused: Option<&'a str>,
}

impl Trail {
    pub(crate) fn new(audit: Audit, case: Arc<Case>) -> Self {
        Self { audit, case }
    }

    pub(crate) fn note(&self, tried: &Tried<'_>) {
        let Caller { replica, worker, run, task, attempt, priority: _ } = &self.case.caller;
        let record = EgressTry {
            time: now(),
            task: task.clone(),
            attempt: *attempt,
            replica: replica.clone(),
            worker: worker.clone(),
            kind: tried.kind,
            host: tried.host.map(str::to_owned),
            port: tried.port,
            method: tried.method.map(str::to_owned),
            path: tried.path.map(|path| path.chars().take(REASON_CHARS).collect()),
            model: tried.model.map(str::to_owned),
            bytes_up: tried.bytes_up,
            bytes_down: tried.bytes_down,
            verdict: match tried.refused {
                Some(_) => EgressVerdict::Refused,
                None => EgressVerdict::Allowed,
            },
            reason: tried.refused.map(|why| why.chars().take(REASON_CHARS).collect()),
        };
        self.audit.note(*run, EgressRecord::Try(Box::new(record)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_that_finds_no_room_is_counted_and_nobody_waits() {
        let (audit, mut records) = Audit::new();
        let record = EgressRecord::Full { time: Time::ZERO, full: 1 };
        for _ in 0..ON_THE_WAY + 3 {
            audit.note(RunId::Adhoc, record.clone());
        }
        drop(audit);
        let mut all = Vec::new();
        loop {
            match records.wait() {
                none if none.is_empty() => break,
                some => all.extend(some),
            }
        }
        assert_eq!(all.len(), ON_THE_WAY + 1);
        let dropped = all.iter().find_map(|(run, record)| match record {
            EgressRecord::Dropped { dropped, .. } => Some((*run, *dropped)),
            _ => None,
        });
        assert_eq!(dropped, Some((RunId::Adhoc, 3)));
    }
}
