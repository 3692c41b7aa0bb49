//! The file of each run that says what left, and what was kept from it.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::SystemTime;

use gateway::{Audit, AuditRecords};
use protocol::disk::OpenOptions;
use protocol::{EgressRecord, EgressVerdict, RunId, Time};
use tracing::warn;

use crate::install::Installation;

/// The most that the file of a run may have: some 200,000 lines.
const MAX_BYTES: u64 = 64 << 20;

/// Returns what takes note of each way out, and writes it on a thread of its own until the gateway is gone.
///
/// # Errors
///
/// When the system gives no thread.
pub(super) fn start(installation: &Installation) -> io::Result<Audit> {
    let (audit, mut records) = Audit::new();
    let mut writer = Writer::new(installation.clone(), MAX_BYTES);
    thread::Builder::new()
        .name("egress-audit".to_owned())
        .spawn(move || writer.run(&mut records))?;
    Ok(audit)
}

#[derive(Debug)]
struct Writer {
    installation: Installation,
    limit: u64,
    /// How many refusals of each run were left out since its last line.
    left_out: BTreeMap<RunId, u64>,
}

impl Writer {
    fn new(installation: Installation, limit: u64) -> Self {
        Self { installation, limit, left_out: BTreeMap::new() }
    }

    fn run(&mut self, records: &mut AuditRecords) {
        let mut is_told = false;
        loop {
            let batch = records.wait();
            if batch.is_empty() {
                return;
            }
            match self.write(batch) {
                Ok(()) => is_told = false,
                // A full disk is told elsewhere, too.
                Err(error) if !is_told => {
                    warn!(%error, "What leaves can't be written down.");
                    is_told = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Appends records to the files of their runs. Nothing is synced: it is no promise.
    fn write(&mut self, batch: Vec<(RunId, EgressRecord)>) -> io::Result<()> {
        let mut runs: BTreeMap<RunId, Vec<EgressRecord>> = BTreeMap::new();
        for (run, record) in batch {
            runs.entry(run).or_default().push(record);
        }
        let mut result = Ok(());
        for (run, records) in runs {
            match self.append(run, self.installation.egress_log(run), &records) {
                // The run was cleared away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => result = Err(error),
                Ok(()) => {}
            }
        }
        result
    }

    fn append(&mut self, run: RunId, path: PathBuf, records: &[EgressRecord]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let mut length = file.metadata()?.len();
        let mut lines = Vec::new();
        let time = Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        for record in records {
            if length >= self.limit {
                break;
            }
            // An agent can be refused as quickly as it asks. What it gets out by afterwards has to find room.
            if length >= self.limit / 2 && is_refusal(record) {
                *self.left_out.entry(run).or_default() += 1;
                continue;
            }
            let begin = lines.len();
            if let Some(dropped) = self.left_out.remove(&run) {
                put(&mut lines, &EgressRecord::Dropped { time, dropped })?;
            }
            put(&mut lines, record)?;
            length += (lines.len() - begin) as u64;
            if length >= self.limit {
                put(&mut lines, &EgressRecord::Full { time, full: self.limit })?;
            }
        }
        // In one write: a line is whole, or cut by a full disk.
        file.write_all(&lines)
    }
}

fn put(lines: &mut Vec<u8>, record: &EgressRecord) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, record)?;
    lines.push(b'\n');
    Ok(())
}

fn is_refusal(record: &EgressRecord) -> bool {
    matches!(record, EgressRecord::Try(tried) if tried.verdict == EgressVerdict::Refused)
}

#[cfg(test)]
mod tests {
    use protocol::disk as fs;

    use super::*;

    #[test]
    fn file_of_a_run_is_bounded_and_says_when_it_is_full() {
        let root = tempfile::tempdir().unwrap();
        let installation = Installation::at(root.path()).unwrap();
        let path = installation.egress_log(RunId::Adhoc);
        let record = EgressRecord::Dropped { time: Time::ZERO, dropped: 7 };
        let line = serde_json::to_string(&record).unwrap();
        let limit = 3 * (line.len() as u64 + 1) - 1;
        let mut writer = Writer::new(installation, limit);
        let mut write = || writer.write(vec![(RunId::Adhoc, record.clone()); 2]).unwrap();
        // A run that is not there any more gets no folder.
        write();
        assert!(!path.parent().unwrap().exists());

        fs::create_dir_all(path.parent().unwrap()).unwrap();
        (0..4).for_each(|_| write());
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..3], [line.as_str(); 3]);
        let last: EgressRecord = serde_json::from_str(lines[3]).unwrap();
        assert!(matches!(last, EgressRecord::Full { full, .. } if full == limit), "{last:?}");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn refusals_leave_room_for_what_gets_out_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let installation = Installation::at(root.path()).unwrap();
        let path = installation.egress_log(RunId::Adhoc);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tried = |verdict: &str| -> EgressRecord {
            let line = serde_json::json!({
                "time": Time::ZERO, "task": "a", "attempt": 1, "replica": "m-1", "worker": "m",
                "kind": "connect", "bytes_up": 0, "bytes_down": 0, "verdict": verdict,
            });
            serde_json::from_value(line).unwrap()
        };
        let mut writer = Writer::new(installation, 4_000);
        for _ in 0..100 {
            writer.write(vec![(RunId::Adhoc, tried("refused"))]).unwrap();
        }
        writer.write(vec![(RunId::Adhoc, tried("allowed"))]).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<EgressRecord> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [refused @ .., EgressRecord::Dropped { dropped, .. }, last] = &lines[..] else {
            panic!("{text}")
        };
        assert_eq!(*last, tried("allowed"));
        assert!(refused.iter().all(is_refusal));
        assert_eq!(refused.len() as u64 + dropped, 100);
    }
}
