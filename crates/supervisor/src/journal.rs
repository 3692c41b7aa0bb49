//! The journals: one append-only file of events for each run.
//!
//! A line is a [`Record`] as JSON, a tab, a checksum (CRC-32C, of the JSON and of what follows the next
//! tab), a tab, and the line's place: `2/3@128` is the second of three lines of the
//! batch that begins at byte 128. A batch is appended by one write and synced before anything is
//! done about it: so a batch that is not whole was never acted on, and is cut off when the journal is
//! read again. Damage anywhere else is not ours to mend: reading stops with an error.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::atomic_file::{self, Durability};
use protocol::{Event, FORMAT_VERSION, Record, RunId, Time};
use thiserror::Error;
use tokio::sync::watch;

use crate::install::Installation;

/// Why a journal can't be read.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The system does not let us.
    #[error("the journal `{}` can't be read", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line that had been written for good is damaged.
    #[error("line {line} of the journal `{}` is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// It was written by a later version.
    #[error("the journal `{}` is of version {version}, and this supervisor reads up to {FORMAT_VERSION}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version.
        version: u32,
    },
}

impl JournalError {
    /// Returns what to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "Mend the permissions or the disk, and start again.".to_owned(),
            Self::Damaged { path, .. } => {
                let run = path.parent().unwrap_or(path).display();
                format!(
                    "Nothing was changed. Restore the file from a backup, or move `{run}` away."
                )
            }
            Self::Newer { .. } => "Nothing was changed. Use that version.".to_owned(),
        }
    }
}

/// How far the journals are safe on disk, for whoever reads along.
#[derive(Clone, Debug)]
pub struct Committed {
    lengths: Arc<Mutex<HashMap<RunId, u64>>>,
    commits: watch::Receiver<u64>,
}

impl Committed {
    /// Returns how many bytes of a run's journal are safe.
    pub fn length(&self, run: RunId) -> u64 {
        let lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.get(&run).copied().unwrap_or(0)
    }

    /// Says that what is safe now has been seen.
    pub fn mark_seen(&mut self) {
        self.commits.mark_unchanged();
    }

    /// Waits until more is safe than was seen. Returns false when the daemon ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) -> bool {
        self.commits.changed().await.is_ok()
    }
}

/// The journals of an installation.
#[derive(Debug)]
pub struct Journals {
    installation: Installation,
    next_seq: u64,
    files: HashMap<RunId, File>,
    /// Lines that are made but not yet safe.
    pending: BTreeMap<RunId, Vec<String>>,
    lengths: Arc<Mutex<HashMap<RunId, u64>>>,
    commits: watch::Sender<u64>,
}

impl Journals {
    /// Reads all journals of an installation and cuts off what was never acted on.
    ///
    /// Returns the records of all runs in the order in which they happened.
    ///
    /// # Errors
    ///
    /// See [`JournalError`]. Nothing was changed then.
    pub fn open(installation: &Installation) -> Result<(Self, Vec<Record>), JournalError> {
        let runs = installation.runs();
        let failed = |source| JournalError::Io { path: runs.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&runs).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(run) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) {
                let path = installation.journal(run);
                if let Some(journal) = read(&path)? {
                    found.push((run, path, journal));
                }
            }
        }
        let mut lengths = HashMap::new();
        let mut records = Vec::new();
        for (run, path, journal) in found {
            if let Some(torn) = &journal.torn {
                set_tail_aside(&path, journal.length, torn)
                    .map_err(|source| JournalError::Io { path: path.clone(), source })?;
            }
            lengths.insert(run, journal.length);
            records.extend(journal.records);
        }
        records.sort_by_key(|record| record.seq);
        let (commits, _) = watch::channel(0);
        let journals = Self {
            installation: installation.clone(),
            next_seq: records.last().map_or(1, |record| record.seq + 1),
            files: HashMap::new(),
            pending: BTreeMap::new(),
            lengths: Arc::new(Mutex::new(lengths)),
            commits,
        };
        Ok((journals, records))
    }

    /// Returns how far the journals are safe.
    pub fn committed(&self) -> Committed {
        Committed { lengths: Arc::clone(&self.lengths), commits: self.commits.subscribe() }
    }

    /// Adds an event to what the next [`commit`](Self::commit) writes.
    pub fn push(&mut self, run: RunId, at: Time, event: Event) {
        let record = Record { version: FORMAT_VERSION, seq: self.next_seq, at, event };
        self.next_seq += 1;
        let json = serde_json::to_string(&record).unwrap_or_else(|error| {
            panic!("BUG: an event that is not JSON: {error}");
        });
        self.pending.entry(run).or_default().push(json);
    }

    /// Makes everything that was pushed safe: one append and one sync for each run that is concerned.
    ///
    /// # Errors
    ///
    /// Any I/O error. What was not safe then stays pending; it is right to call again after an error
    /// of the appending (a full disk), and wrong after one of the syncing, when nothing is known any
    /// more about what is on disk. [`CommitError::is_fatal`] tells them apart.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        while let Some((&run, lines)) = self.pending.first_key_value() {
            let length = lock(&self.lengths).get(&run).copied().unwrap_or(0);
            let batch = batch(lines, length);
            let file = match self.files.entry(run) {
                std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    let file =
                        open(&self.installation.journal(run)).map_err(CommitError::Append)?;
                    place.insert(file)
                }
            };
            if let Err(error) = file.write_all(batch.as_bytes()) {
                // Half a batch may be there; the next try begins where this one did.
                file.set_len(length).map_err(CommitError::Sync)?;
                return Err(CommitError::Append(error));
            }
            file.sync_data().map_err(CommitError::Sync)?;
            lock(&self.lengths).insert(run, length + batch.len() as u64);
            self.pending.remove(&run);
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Closes the file of a run that has ended. It is opened again when it is needed.
    pub fn close(&mut self, run: RunId) {
        self.files.remove(&run);
    }
}

/// Why a commit failed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Nothing was appended.
    #[error("the journal can't be written")]
    Append(#[source] io::Error),
    /// It is not known what was written.
    #[error("the journal can't be synced")]
    Sync(#[source] io::Error),
}

impl CommitError {
    /// Returns whether there is nothing to do but to end, and to read the journals again.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Sync(_))
    }
}

fn lock(lengths: &Mutex<HashMap<RunId, u64>>) -> std::sync::MutexGuard<'_, HashMap<RunId, u64>> {
    lengths.lock().unwrap_or_else(PoisonError::into_inner)
}

fn batch(lines: &[String], start: u64) -> String {
    use std::fmt::Write;
    let mut batch = String::new();
    for (i, json) in lines.iter().enumerate() {
        let place = format!("{}/{}@{start}", i + 1, lines.len());
        let _ = writeln!(batch, "{json}\t{}\t{place}", checksum(json, &place));
    }
    batch
}

/// Opens a journal for appending; makes it, and its name safe, if it is not there.
fn open(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // Also one that is there already: whoever made it may not have come to this.
    if file.metadata()?.len() == 0 {
        atomic_file::sync_folder(dir)?;
        if let Some(runs) = dir.parent() {
            atomic_file::sync_folder(runs)?;
        }
    }
    Ok(file)
}

/// Keeps what is cut off beside the journal, for whoever wants to know.
fn set_tail_aside(path: &Path, length: u64, torn: &[u8]) -> io::Result<()> {
    tracing::warn!(journal = %path.display(), bytes = torn.len(), "Cut off an unfinished write.");
    atomic_file::replace(&path.with_extension("torn"), torn, Durability::Synced)?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

#[derive(Debug)]
struct Journal {
    records: Vec<Record>,
    /// Bytes up to the end of the last whole batch.
    length: u64,
    /// What follows.
    torn: Option<Vec<u8>>,
}

fn read(path: &Path) -> Result<Option<Journal>, JournalError> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::Io { path: path.to_owned(), source }),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Journal, JournalError> {
    let mut journal = Journal { records: Vec::new(), length: 0, torn: None };
    let damaged = |line, why| JournalError::Damaged { path: path.to_owned(), line, why };
    let mut batch = Vec::new();
    // The first line that is damaged: its number, the byte where it begins, and what is wrong.
    let mut first_bad: Option<(usize, usize, String)> = None;
    let mut at = 0;
    for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let begin = at;
        at += line.len();
        match (parse_line(line), &first_bad) {
            (Ok(line), _) if line.record.version > FORMAT_VERSION => {
                let (path, version) = (path.to_owned(), line.record.version);
                return Err(JournalError::Newer { path, version });
            }
            // This line's batch began after the damage: so what is damaged was not the last batch.
            (Ok(line), Some((bad, from, why))) if line.start > *from => {
                return Err(damaged(*bad, why.clone()));
            }
            (Ok(_), Some(_)) => {}
            (Ok(line), None) => {
                if line.index != batch.len() + 1 || line.start as u64 != journal.length {
                    return Err(damaged(number, "lines are missing before it".to_owned()));
                }
                batch.push(line.record);
                if line.index == line.total {
                    journal.records.append(&mut batch);
                    journal.length = at as u64;
                }
            }
            (Err(why), None) => first_bad = Some((number, begin, why)),
            (Err(_), Some(_)) => {}
        }
    }
    let whole = usize::try_from(journal.length).unwrap_or(0);
    journal.torn = bytes.get(whole..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec);
    Ok(journal)
}

#[derive(Debug)]
struct Line {
    record: Record,
    /// Its place in its batch, from 1.
    index: usize,
    /// The lines of its batch.
    total: usize,
    /// The byte where its batch begins.
    start: usize,
}

fn parse_line(line: &[u8]) -> Result<Line, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').ok_or("it has no end")?;
    let (rest, place) = text.rsplit_once('\t').ok_or("it has no place in a batch")?;
    let (json, crc) = rest.rsplit_once('\t').ok_or("it has no checksum")?;
    // The place is checked too: it decides what is cut off.
    if crc != checksum(json, place) {
        return Err("its checksum is wrong".to_owned());
    }
    let (index, total, start) = split_place(place).ok_or("its place in its batch is no number")?;
    let record = serde_json::from_str(json).map_err(|error| error.to_string())?;
    Ok(Line { record, index, total, start })
}

fn split_place(place: &str) -> Option<(usize, usize, usize)> {
    let (lines, start) = place.split_once('@')?;
    let (index, total) = lines.split_once('/')?;
    Some((index.parse().ok()?, total.parse().ok()?, start.parse().ok()?))
}

fn checksum(json: &str, place: &str) -> String {
    format!("{:08x}", crc32c::crc32c_append(crc32c::crc32c(json.as_bytes()), place.as_bytes()))
}

/// Returns the records of a part of a journal that is known to be safe, for whoever reads along.
///
/// # Errors
///
/// What is wrong with a line.
pub fn records(bytes: &[u8]) -> Result<Vec<Record>, String> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(|line| Ok(parse_line(line)?.record)).collect()
}

#[cfg(test)]
mod tests;
