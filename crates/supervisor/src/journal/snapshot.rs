//! Snapshots: the beginning of a journal, made shorter.
//!
//! A journal that has grown large is read again, in a thread of its own, and what is worth to be kept of it is
//! written beside it: records that lead to the same state ([`scheduler::shorten`]), each a batch of its own.
//! The first says for how many bytes of the journal they stand. What has happened meanwhile is copied behind
//! them, as it is, and then the new file takes the name of the old one. At any moment there is one journal:
//! the old one, or the new one, which is safe by then.
//!
//! Its first line is of version 2, so that a supervisor that knows no snapshots leaves it alone.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability};
use protocol::disk::{File, OpenOptions};
use protocol::{RECORD_VERSION, Record, RunId, Snapshot};

use super::read::{batch, parse};
use super::{CommitError, JournalError};

/// The name of a snapshot that is being made, beside its journal.
pub const DRAFT: &str = ".journal.jsonl.tmp";

/// A journal to make a snapshot of.
#[derive(Debug)]
pub struct Job {
    pub(super) run: RunId,
    pub(super) path: PathBuf,
    /// How much of the file is safe.
    pub(super) length: u64,
}

/// A snapshot that is safe on disk and not yet in its place.
#[derive(Debug)]
pub struct Draft {
    pub(super) run: RunId,
    path: PathBuf,
    /// For how many bytes of the journal it stands.
    pub(super) covered: u64,
    /// Its own bytes.
    pub(super) length: u64,
}

impl Job {
    /// Returns the run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Makes the snapshot. It takes as long as to read the journal some times, so it is for a thread of its
    /// own. `None` where there is nothing to gain.
    ///
    /// # Errors
    ///
    /// See [`JournalError`]; the journal is what it was.
    pub fn make(&self) -> Result<Option<Draft>, JournalError> {
        let failed = |source| JournalError::Io { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        let file = File::open(&self.path).map_err(failed)?;
        file.take(self.length).read_to_end(&mut bytes).map_err(failed)?;
        let journal = parse(&self.path, &bytes)?;
        drop(bytes);
        let Some(records) = scheduler::shorten(&journal.records) else {
            tracing::warn!(run = %self.run, "BUG: a shorter journal would say something else.");
            return Ok(None);
        };
        let head = Snapshot {
            lines: records.len() as u64,
            bytes: journal.extent.length,
            seq: journal.seq,
            at: journal.at,
        };
        let text = text(records, head);
        // A tenth, or it is not worth the writing.
        if text.len() as u64 > self.length - self.length / 10 {
            return Ok(None);
        }
        let path = self.path.with_file_name(DRAFT);
        atomic_file::replace(&path, text.as_bytes(), Durability::Synced).map_err(failed)?;
        let (covered, length) = (head.bytes, text.len() as u64);
        Ok(Some(Draft { run: self.run, path, covered, length }))
    }
}

fn text(records: Vec<Record>, head: Snapshot) -> String {
    let mut text = String::new();
    for (at, mut record) in records.into_iter().enumerate() {
        // It was whole before it came to be in a snapshot.
        record.commit = None;
        if at == 0 {
            record.version = RECORD_VERSION;
            record.snapshot = Some(head);
        }
        let json = serde_json::to_string(&record)
            .unwrap_or_else(|error| panic!("BUG: an event that is not JSON: {error}"));
        text.push_str(&batch(&[json], text.len() as u64));
    }
    text
}

impl Draft {
    /// Copies a part of the journal behind the snapshot, and makes that safe. It may be called again.
    pub(super) fn append(&self, journal: &Path, from: u64, length: u64) -> io::Result<()> {
        let mut old = File::open(journal)?;
        old.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        old.take(length).read_to_end(&mut tail)?;
        if tail.len() as u64 != length {
            return Err(io::Error::other("it has become shorter"));
        }
        let mut new = OpenOptions::new().write(true).open(&self.path)?;
        new.set_len(self.length)?;
        new.seek(SeekFrom::Start(self.length))?;
        new.write_all(&tail)?;
        new.sync_all()
    }

    /// Gives it the name of the journal.
    pub(super) fn put_at(&self, journal: &Path) -> Result<(), CommitError> {
        atomic_file::move_to(&self.path, journal, Durability::Volatile)
            .map_err(CommitError::Append)?;
        // From here on nobody knows which of the two a power cut would leave.
        let folder = journal.parent().unwrap_or(journal);
        atomic_file::sync_folder(folder).map_err(CommitError::Sync)
    }

    /// Removes it.
    pub fn discard(&self) {
        // What stays is overwritten by the next one.
        let _ = atomic_file::remove(&self.path);
    }
}
