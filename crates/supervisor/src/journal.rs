//! The journals: one append-only file of events for each run.
//!
//! A line is a [`Record`] as JSON, a tab, a checksum (CRC-32C, of the JSON and of what follows the next
//! tab), a tab, and the line's place: `2/3@128` is the second of three lines of the
//! batch that begins at byte 128. A batch is appended by one write and synced before anything is
//! done about it: so a batch that is not whole was never acted on, and is cut off when the journal is
//! read again. Damage anywhere else is not ours to mend: reading stops with an error.
//!
//! The beginning of a journal may be a snapshot: see [`snapshot`]. Places count the bytes of the journal as
//! it was written, so they stay what they were.

pub mod snapshot;

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
use snapshot::{Draft, Job};

/// By how much a journal outgrows its snapshot before the next one is made, beyond twice its size: some
/// 40,000 events. What a journal holds of a few days can be looked at as it was.
const GROWTH: u64 = 16 << 20;

/// From how many bytes on a journal is read by several threads.
const MANY: usize = 1 << 20;

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
    let mut found = Vec::new();
    for run in runs(installation)? {
        match read(&installation.journal(run)) {
            Ok(Some(journal)) => found.push((run, Ok(journal.records))),
            Ok(None) => {}
            Err(error) => found.push((run, Err(error))),
        }
    }
    Ok(found)
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
    /// Lines that are made but not yet safe.
    pending: BTreeMap<RunId, Vec<String>>,
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
    /// Reads all journals of an installation and cuts off what was never acted on.
    ///
    /// Returns the records of all runs in the order in which they happened.
    ///
    /// # Errors
    ///
    /// See [`JournalError`]. Nothing was changed then.
    pub fn open(installation: &Installation) -> Result<(Self, Vec<Record>), JournalError> {
        let mut found = Vec::new();
        for run in runs(installation)? {
            let path = installation.journal(run);
            if let Some(journal) = read(&path)? {
                found.push((run, path, journal));
            }
        }
        let mut extents = HashMap::new();
        let (mut seq, mut latest) = (0, Time::ZERO);
        let mut records = Vec::new();
        for (run, path, journal) in found {
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
        let record = Record { version, seq, at, snapshot: None, event };
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
            let mut extent = extent(&self.extents, run);
            let batch = batch(lines, extent.length);
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
                mutant!(HalfBatchStays, file.set_len(extent.in_file()), Ok(()))
                    .map_err(CommitError::Sync)?;
                return Err(CommitError::Append(error));
            }
            mutant!(JournalNotSynced, file.sync_data(), Ok(())).map_err(CommitError::Sync)?;
            extent.length += batch.len() as u64;
            lock(&self.extents).insert(run, extent);
            if extent.is_large(self.growth) {
                self.large.insert(run);
            }
            self.pending.remove(&run);
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
        mutant!(FailedSyncRetried, matches!(self, Self::Sync(_)), false)
    }
}

fn lock(extents: &Extents) -> std::sync::MutexGuard<'_, HashMap<RunId, Extent>> {
    extents.lock().unwrap_or_else(PoisonError::into_inner)
}

fn extent(extents: &Extents, run: RunId) -> Extent {
    lock(extents).get(&run).copied().unwrap_or_default()
}

fn batch(lines: &[String], start: u64) -> String {
    use std::fmt::Write;
    let mut batch = String::new();
    for (i, json) in lines.iter().enumerate() {
        let place = format!("{}/{}@{start}", i + 1, lines.len());
        let sum = checksum(json, &place);
        let _ = writeln!(batch, "{json}\t{}\t{place}", sum.escape_ascii());
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

#[derive(Debug, Default)]
struct Journal {
    records: Vec<Record>,
    /// The last whole batch behind the snapshot, as it stands in the file.
    last: Vec<u8>,
    /// Up to the end of the last whole batch.
    extent: Extent,
    /// The number of the last event, and when it happened: a snapshot may not have it any more.
    seq: u64,
    at: Time,
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

/// Reads the journal of a run as it is, and leaves it so: what is not whole at its end is left out. `None`
/// where there is none.
///
/// # Errors
///
/// See [`JournalError`].
pub fn read_run(
    installation: &Installation,
    run: RunId,
) -> Result<Option<Vec<Record>>, JournalError> {
    Ok(read(&installation.journal(run))?.map(|journal| journal.records))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Journal, JournalError> {
    let mut journal = Journal::default();
    // Where the last whole batch behind the snapshot begins in the file.
    let mut last = None;
    let damaged = |line, why| JournalError::Damaged { path: path.to_owned(), line, why };
    let mut batch = Vec::new();
    // The first line that is damaged: its number, its place in the journal, and what is wrong.
    let mut first_bad: Option<(usize, u64, String)> = None;
    let mut snapshot = None;
    // How many bytes of the journal are not in the file.
    let mut left_out = 0;
    let mut at = 0;
    for (number, (length, line)) in (1..).zip(parse_lines(bytes)) {
        let begin = at;
        at += length;
        match (line, &first_bad) {
            (Ok(line), _) if line.record.version > RECORD_VERSION => {
                let (path, version) = (path.to_owned(), line.record.version);
                return Err(JournalError::Newer { path, version });
            }
            // This line's batch began after the damage: so what is damaged was not the last batch.
            (Ok(line), Some((bad, from, why))) if line.start > *from => {
                return Err(damaged(*bad, why.clone()));
            }
            (Ok(_), Some(_)) => {}
            (Ok(line), None) => {
                if line.index != batch.len() + 1 || line.start != journal.extent.length {
                    return Err(damaged(number, "lines are missing before it".to_owned()));
                }
                if number == 1 {
                    snapshot = line.record.snapshot;
                }
                batch.push(line.record);
                if line.index == line.total {
                    journal.records.append(&mut batch);
                    last = snapshot
                        .is_none_or(|head| head.lines < number as u64)
                        .then_some(journal.extent.in_file());
                    journal.extent.length = at + left_out;
                }
                if let Some(head) = snapshot.filter(|head| head.lines == number as u64) {
                    left_out = head.bytes.checked_sub(at).ok_or_else(|| {
                        damaged(number, "the snapshot stands for less than it is".to_owned())
                    })?;
                    let (length, covered) = (head.bytes, head.bytes);
                    journal.extent = Extent { length, covered, snapshot: at, tried: 0 };
                    (journal.seq, journal.at) = (head.seq, head.at);
                }
            }
            (Err(why), None) => first_bad = Some((number, begin + left_out, why)),
            (Err(_), Some(_)) => {}
        }
    }
    // It was safe before it was put there: an end that is missing was no unfinished write.
    if snapshot.is_some() && journal.extent.snapshot == 0 {
        let (line, why) = match first_bad {
            Some((line, _, why)) => (line, why),
            None => (journal.records.len() + 1, "the rest of the snapshot is missing".to_owned()),
        };
        return Err(damaged(line, why));
    }
    if let Some(last) = journal.records.last() {
        journal.seq = journal.seq.max(last.seq);
        journal.at = journal.at.max(last.at);
    }
    let whole = usize::try_from(journal.extent.in_file()).unwrap_or(0);
    mutant!(JournalTailLost, {
        if whole < bytes.len() {
            journal.records.pop();
        }
    });
    if let Some(last) = last.and_then(|last| usize::try_from(last).ok()) {
        journal.last = bytes.get(last..whole).unwrap_or_default().to_vec();
    }
    journal.torn = bytes.get(whole..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec);
    Ok(journal)
}

/// Returns the length of each line and what is in it. Of many, each processor reads a part.
fn parse_lines(bytes: &[u8]) -> Vec<(u64, Result<Line, String>)> {
    let lines = |bytes: &[u8]| -> Vec<_> {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| (line.len() as u64, parse_line(line))).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    if bytes.len() < MANY || threads == 1 {
        return lines(bytes);
    }
    let mut parts = Vec::new();
    let mut rest = bytes;
    for left in (1..=threads).rev() {
        let middle = rest.len() / left;
        let end = rest[middle..].iter().position(|byte| *byte == b'\n');
        let (part, others) = rest.split_at(end.map_or(rest.len(), |end| middle + end + 1));
        parts.push(part);
        rest = others;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(move || lines(part))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<_>>| match thread.join() {
            Ok(lines) => lines,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    })
}

#[derive(Debug)]
struct Line {
    record: Record,
    /// Its place in its batch, from 1.
    index: usize,
    /// The lines of its batch.
    total: usize,
    /// The byte of the journal where its batch begins.
    start: u64,
}

fn parse_line(line: &[u8]) -> Result<Line, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').ok_or("it has no end")?;
    let (rest, place) = text.rsplit_once('\t').ok_or("it has no place in a batch")?;
    let (json, crc) = rest.rsplit_once('\t').ok_or("it has no checksum")?;
    // The place is checked too: it decides what is cut off.
    if crc.as_bytes() != checksum(json, place) {
        return Err("its checksum is wrong".to_owned());
    }
    let (index, total, start) = split_place(place).ok_or("its place in its batch is no number")?;
    let record = serde_json::from_str(json).map_err(|error| error.to_string())?;
    Ok(Line { record, index, total, start })
}

fn split_place(place: &str) -> Option<(usize, usize, u64)> {
    let (lines, start) = place.split_once('@')?;
    let (index, total) = lines.split_once('/')?;
    Some((index.parse().ok()?, total.parse().ok()?, start.parse().ok()?))
}

/// Returns the checksum in hexadecimal digits.
fn checksum(json: &str, place: &str) -> [u8; 8] {
    let sum = crc32c::crc32c_append(crc32c::crc32c(json.as_bytes()), place.as_bytes());
    std::array::from_fn(|digit| b"0123456789abcdef"[(sum >> (28 - 4 * digit)) as usize & 15])
}

/// Returns the records of a part of a journal that is known to be safe, for whoever reads along.
///
/// # Errors
///
/// What is wrong with a line.
pub fn records(bytes: &[u8]) -> Result<Vec<Record>, String> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(|line| Ok(parse_line(line)?.record)).collect()
}

/// Reads any bytes as a journal.
///
/// # Panics
///
/// When what is whole and what is torn are not all of it.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(path: &Path, bytes: &[u8]) {
    let lines: Vec<_> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    read_any_bytes(path, batch(&lines, 0).as_bytes());
    read_any_bytes(path, bytes);
}

#[cfg(feature = "fuzzing")]
fn read_any_bytes(path: &Path, bytes: &[u8]) {
    match parse(path, bytes) {
        Ok(journal) => {
            let torn = journal.torn.map_or(0, |torn| torn.len());
            assert_eq!(journal.extent.length, (bytes.len() - torn) as u64);
            let whole = &bytes[..bytes.len() - torn];
            // What is whole is read again without what is torn.
            match parse(path, whole) {
                Ok(again) => {
                    assert_eq!(again.records, journal.records);
                    assert!(again.torn.is_none());
                }
                Err(error) => panic!("BUG: what is whole is not read: {error}"),
            }
        }
        Err(error) => drop((error.to_string(), error.hint())),
    }
}

#[cfg(test)]
mod tests;
