//! The journals: one append-only file of events for each run.
//!
//! A line is a [`Record`] as JSON, a tab, a checksum (CRC-32C, of the JSON and of what follows the next
//! tab), a tab, and the line's place: `2/3@128` is the second of three lines of the
//! batch that begins at byte 128. A batch is appended by one write and synced before anything is
//! done about it: so a batch that is not whole was never acted on, and is cut off when the journal is
//! read again. Damage anywhere else is not ours to mend: reading stops with an error.
//!
//! The beginning of a journal may be a snapshot: see [`snapshot`]. Places count the bytes of the journal as
//! it was written, so they stay what they were. What has happened at once in several runs is one commit: see
//! `commit`.

mod commit;
mod read;
pub mod snapshot;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::atomic_file::{self, Durability};
use protocol::disk::{self as fs, File, MetadataExt as _, OpenOptions};
use protocol::{Event, FORMAT_VERSION, RECORD_VERSION, Record, RunId, Time, mutant};
use thiserror::Error;
use tokio::sync::watch;

use crate::clock;
use crate::install::Installation;
use commit::Writing;
#[cfg(feature = "fuzzing")]
pub(crate) use read::read_any;
use read::{Journal, parse, read};
pub use read::{read_run, records};
use snapshot::{Draft, Job};

/// By how much a journal outgrows its snapshot before the next one is made, beyond twice its size: some
/// 40,000 events. What a journal holds of a few days can be looked at as it was.
const GROWTH: u64 = 16 << 20;

/// How long after its last change a journal is on disk whatever happened, in seconds: the kernel writes back
/// what is older than half a minute, and clocks may be set.
const WRITTEN_BACK: i64 = 24 * 60 * 60;

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
    #[error("the journal `{}` is of version {version}, and this supervisor reads up to {RECORD_VERSION}", .path.display())]
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

/// How far a journal is safe on disk, and where in its file that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    /// The bytes of the journal as it was written.
    length: u64,
    /// For how many of them the snapshot stands; 0 when there is none.
    covered: u64,
    /// The bytes of the snapshot, with which the file begins.
    snapshot: u64,
    /// The bytes of the file when somebody last tried to make it shorter.
    tried: u64,
}

impl Extent {
    /// Returns where in the file the byte `offset` of the journal is. What a snapshot took the place of is at
    /// its beginning.
    fn at(self, offset: u64) -> u64 {
        match offset.checked_sub(self.covered) {
            Some(after) => self.snapshot + after,
            None => 0,
        }
    }

    /// Returns the bytes of the file that are safe.
    fn in_file(self) -> u64 {
        self.at(self.length)
    }

    fn is_large(self, growth: u64) -> bool {
        let small = self.snapshot.max(self.tried);
        self.in_file() > small.saturating_mul(2).saturating_add(growth)
    }
}

type Extents = Arc<Mutex<HashMap<RunId, Extent>>>;

/// How far the journals are safe on disk, for whoever reads along.
#[derive(Clone, Debug)]
pub struct Committed {
    extents: Extents,
    commits: watch::Receiver<u64>,
}

impl Committed {
    /// Returns how many bytes of a run's journal are safe.
    pub fn length(&self, run: RunId) -> u64 {
        extent(&self.extents, run).length
    }

    /// Reads what is safe of a run's journal from the byte `from` on, and returns how far that goes. Where a
    /// snapshot took the place of that byte, it is read from its beginning.
    ///
    /// # Errors
    ///
    /// Any I/O error, and a line that is damaged.
    pub fn read(
        &self,
        installation: &Installation,
        run: RunId,
        from: u64,
    ) -> io::Result<(Vec<Record>, u64)> {
        // Under the lock: the file must be the one that the extent is of.
        let (extent, mut file) = {
            let extents = lock(&self.extents);
            let extent = extents.get(&run).copied().unwrap_or_default();
            (extent, File::open(installation.journal(run))?)
        };
        let at = extent.at(from);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(extent.in_file().saturating_sub(at)).read_to_end(&mut bytes)?;
        Ok((records(&bytes).map_err(io::Error::other)?, extent.length))
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

/// A run, and what has happened in it, or why that can't be read.
pub type Told = (RunId, Result<Vec<Record>, JournalError>);

/// Reads all journals and changes nothing, so that a daemon may be at work on them: what is not
/// whole is left out.
///
/// # Errors
///
/// [`JournalError::Io`] when it can't be found out which runs there are.
pub fn look(installation: &Installation) -> Result<Vec<Told>, JournalError> {
    let (mut found, mut told) = (BTreeMap::new(), Vec::new());
    for run in runs(installation)? {
        match read(&installation.journal(run)) {
            Ok(Some(journal)) => drop(found.insert(run, journal)),
            Ok(None) => {}
            Err(error) => told.push((run, Err(error))),
        }
    }
    for run in commit::unfinished(&found) {
        found.entry(run).and_modify(Journal::leave_out_last);
    }
    told.extend(found.into_iter().map(|(run, journal)| (run, Ok(journal.records))));
    told.sort_by_key(|(run, _)| *run);
    Ok(told)
}

/// Returns the runs that have a folder, in the order of their ids, which is that of their opening.
fn runs(installation: &Installation) -> Result<Vec<RunId>, JournalError> {
    let folder = installation.runs();
    let failed = |source| JournalError::Io { path: folder.clone(), source };
    let mut runs = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        runs.extend(name.to_str().and_then(|name| name.parse::<RunId>().ok()));
    }
    runs.sort_unstable();
    Ok(runs)
}

/// The journals of an installation.
#[derive(Debug)]
pub struct Journals {
    installation: Installation,
    next_seq: u64,
    files: HashMap<RunId, File>,
    /// What has happened since the last commit was made.
    pending: BTreeMap<RunId, Vec<Record>>,
    /// A commit for which there was no room so far.
    writing: Option<Writing>,
    extents: Extents,
    /// Those that are worth to be made shorter.
    large: BTreeSet<RunId>,
    /// See [`GROWTH`].
    growth: u64,
    /// When the last event happened.
    latest: Time,
    commits: watch::Sender<u64>,
}

impl Journals {
    /// Reads all journals of an installation and cuts off what was never acted on: writes, and commits, that
    /// were not finished.
    ///
    /// Returns the records of all runs in the order in which they happened.
    ///
    /// # Errors
    ///
    /// See [`JournalError`]. Nothing was changed then.
    pub fn open(installation: &Installation) -> Result<(Self, Vec<Record>), JournalError> {
        let mut found = BTreeMap::new();
        for run in runs(installation)? {
            if let Some(journal) = read(&installation.journal(run))? {
                found.insert(run, journal);
            }
        }
        for run in mutant!(HalfCommitStays, commit::unfinished(&found), Vec::new()) {
            if let Some(journal) = found.get_mut(&run) {
                take_back(&installation.journal(run), journal)?;
            }
        }
        let mut extents = HashMap::new();
        let (mut seq, mut latest) = (0, Time::ZERO);
        let mut records = Vec::new();
        for (run, journal) in found {
            let path = installation.journal(run);
            let Journal { extent, torn, .. } = &journal;
            if let Some(torn) = torn {
                set_tail_aside(&path, extent.in_file(), torn)
                    .map_err(|source| JournalError::Io { path: path.clone(), source })?;
            }
            mutant!(UnsyncedBatchTrusted, make_safe(&path, &journal), Ok(()))
                .map_err(|source| JournalError::Io { path: path.clone(), source })?;
            extents.insert(run, journal.extent);
            seq = seq.max(journal.seq);
            latest = latest.max(journal.at);
            if records.is_empty() {
                records = journal.records;
            } else {
                records.extend(journal.records);
            }
        }
        records.sort_by_key(|record| record.seq);
        let (commits, _) = watch::channel(0);
        let large = extents.iter().filter(|(_, extent)| extent.is_large(GROWTH));
        let journals = Self {
            installation: installation.clone(),
            next_seq: mutant!(SequenceRestarts, seq + 1, 1),
            files: HashMap::new(),
            pending: BTreeMap::new(),
            writing: None,
            large: large.map(|(run, _)| *run).collect(),
            growth: GROWTH,
            latest,
            extents: Arc::new(Mutex::new(extents)),
            commits,
        };
        Ok((journals, records))
    }

    /// Returns when the last event happened that was read.
    pub fn latest(&self) -> Time {
        self.latest
    }

    /// Returns how far the journals are safe.
    pub fn committed(&self) -> Committed {
        Committed { extents: Arc::clone(&self.extents), commits: self.commits.subscribe() }
    }

    /// Adds an event to what the next [`commit`](Self::commit) writes.
    pub fn push(&mut self, run: RunId, at: Time, event: Event) {
        let (version, seq) = (FORMAT_VERSION, self.next_seq);
        let record = Record { version, seq, at, snapshot: None, event, commit: None };
        self.next_seq += 1;
        self.pending.entry(run).or_default().push(record);
    }

    /// Makes everything that was pushed safe, and that as a whole: one append and one sync for each run that is
    /// concerned.
    ///
    /// # Errors
    ///
    /// Any I/O error. What was not safe then stays pending; it is right to call again after an error
    /// of the appending (a full disk), and wrong after one of the syncing, when nothing is known any
    /// more about what is on disk. [`CommitError::is_fatal`] tells them apart.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        loop {
            // What is in some journals by now belongs to what is left of the same commit, and to nothing else.
            let writing = match self.writing.take() {
                Some(writing) => writing,
                None if self.pending.is_empty() => break,
                None => {
                    let events = std::mem::take(&mut self.pending);
                    Writing::new(events, self.next_seq - 1, |run| extent(&self.extents, run).length)
                }
            };
            let writing = self.writing.insert(writing);
            write(&self.installation, &mut self.files, &self.extents, writing)?;
            let mut extents = lock(&self.extents);
            for (run, length) in self.writing.take().into_iter().flat_map(|writing| writing.done) {
                let extent = extents.entry(run).or_default();
                extent.length = length;
                if extent.is_large(self.growth) {
                    self.large.insert(run);
                }
            }
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Closes the file of a run that has ended. It is opened again when it is needed.
    pub fn close(&mut self, run: RunId) {
        self.files.remove(&run);
    }

    /// Forgets a run that has ended, and whose journal is being removed.
    pub fn forget(&mut self, run: RunId) {
        self.files.remove(&run);
        self.large.remove(&run);
        lock(&self.extents).remove(&run);
    }

    /// Returns what there is to do to make a journal shorter that has grown large, if there is one. The same
    /// one comes again when it has grown as much once more.
    pub fn take_large(&mut self) -> Option<Job> {
        let run = self.large.pop_first()?;
        let mut extent = extent(&self.extents, run);
        let length = extent.in_file();
        extent.tried = length;
        lock(&self.extents).insert(run, extent);
        Some(Job { run, path: self.installation.journal(run), length })
    }

    /// Puts a snapshot in the place of the beginning of a journal. What has happened since it was made is
    /// copied behind it.
    ///
    /// # Errors
    ///
    /// Any I/O error. The journal is what it was then, unless [`CommitError::is_fatal`] says otherwise.
    pub fn adopt(&mut self, draft: &Draft) -> Result<(), CommitError> {
        let path = self.installation.journal(draft.run);
        let Some(old) = lock(&self.extents).get(&draft.run).copied() else {
            // The run was removed meanwhile.
            draft.discard();
            return Ok(());
        };
        let (covered, snapshot) = (draft.covered, draft.length);
        let new = Extent { length: old.length, covered, snapshot, tried: 0 };
        let tail = old.at(draft.covered);
        draft.append(&path, tail, old.in_file() - tail).map_err(CommitError::Append)?;
        // Whoever reads along opens a file only under the lock.
        let mut extents = lock(&self.extents);
        draft.put_at(&path)?;
        extents.insert(draft.run, new);
        drop(extents);
        // It is the file that was replaced.
        self.files.remove(&draft.run);
        Ok(())
    }

    /// Has journals made shorter from that size on.
    #[cfg(any(test, feature = "simulate"))]
    pub(crate) fn set_growth(&mut self, growth: u64) {
        self.growth = growth;
    }
}

/// Appends what is left of a commit, one journal after the other, each safe before the next.
fn write(
    installation: &Installation,
    files: &mut HashMap<RunId, File>,
    extents: &Extents,
    writing: &mut Writing,
) -> Result<(), CommitError> {
    // All have their names before any has its part: one that is missing later was removed.
    for (run, _) in &writing.left {
        appending(installation, files, *run)?;
    }
    while let Some((run, part)) = writing.left.front() {
        let file = appending(installation, files, *run)?;
        let safe = extent(extents, *run);
        if let Err(error) = file.write_all(part.as_bytes()) {
            // Half a batch may be there; the next try begins where this one did.
            mutant!(HalfBatchStays, file.set_len(safe.in_file()), Ok(()))
                .map_err(CommitError::Sync)?;
            return Err(CommitError::Append(error));
        }
        mutant!(JournalNotSynced, file.sync_data(), Ok(())).map_err(CommitError::Sync)?;
        writing.done.push((*run, safe.length + part.len() as u64));
        writing.left.pop_front();
    }
    Ok(())
}

/// Returns the file of a run, for appending.
fn appending<'a>(
    installation: &Installation,
    files: &'a mut HashMap<RunId, File>,
    run: RunId,
) -> Result<&'a mut File, CommitError> {
    match files.entry(run) {
        Entry::Occupied(file) => Ok(file.into_mut()),
        Entry::Vacant(place) => {
            let file = open(&installation.journal(run)).map_err(CommitError::Append)?;
            Ok(place.insert(file))
        }
    }
}

/// Why a commit failed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Not all was appended.
    #[error("the journal can't be written")]
    Append(#[source] io::Error),
    /// It is not known what was written.
    #[error("the journal can't be synced")]
    Sync(#[source] io::Error),
}

impl CommitError {
    /// Returns whether there is nothing to do but to end, and to read the journals again.
    pub fn is_fatal(&self) -> bool {
        mutant!(FailedSyncRetried, matches!(self, Self::Sync(_)), false)
    }
}

fn lock(extents: &Extents) -> std::sync::MutexGuard<'_, HashMap<RunId, Extent>> {
    extents.lock().unwrap_or_else(PoisonError::into_inner)
}

fn extent(extents: &Extents, run: RunId) -> Extent {
    lock(extents).get(&run).copied().unwrap_or_default()
}

/// Opens a journal for appending; makes it, and its name safe, if it is not there.
fn open(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // Also one that is there already: whoever made it may not have come to this.
    if file.metadata()?.len() == 0 {
        mutant!(JournalFolderNotSynced, atomic_file::sync_folder(dir)?, ());
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
    mutant!(TornTailStays, file.set_len(length)?, ());
    file.sync_all()
}

/// Cuts off the last batch of a journal: other journals lack what belongs to it.
fn take_back(path: &Path, journal: &mut Journal) -> Result<(), JournalError> {
    let failed = |source| JournalError::Io { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
    let keep = journal.extent.in_file() - journal.last.len() as u64;
    let (whole, rest) =
        bytes.split_at(usize::try_from(keep).unwrap_or(bytes.len()).min(bytes.len()));
    set_tail_aside(path, keep, rest).map_err(failed)?;
    *journal = parse(path, whole)?;
    Ok(())
}

/// Makes sure that what was read is on disk, and not only in memory: the last daemon may have been killed
/// before it had synced its last batch, or because it could not. A sync that failed is not made good by
/// another one, so the batch is written again. And the name may still be the old file's on disk, where a
/// snapshot took its place: what is appended from here on would be lost with the new one.
fn make_safe(path: &Path, journal: &Journal) -> io::Result<()> {
    let modified = fs::metadata(path)?.mtime();
    let now = clock::wall().as_millis() / 1000;
    if journal.extent.length == 0 || modified.saturating_add(WRITTEN_BACK) < now.cast_signed() {
        return Ok(());
    }
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(journal.extent.in_file() - journal.last.len() as u64))?;
    file.write_all(&journal.last)?;
    file.sync_data()?;
    atomic_file::sync_folder(path.parent().unwrap_or(path))
}

#[cfg(test)]
mod tests;
