//! Lines, and what is read of them.

use std::io;
use std::path::Path;

use protocol::disk as fs;
use protocol::{Commit, RECORD_VERSION, Record, RunId, Time, mutant};

use super::{Extent, JournalError};
use crate::install::Installation;

/// From how many bytes on a journal is read by several threads.
const MANY: usize = 1 << 20;

/// A journal, as far as it is whole.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) records: Vec<Record>,
    /// The last whole batch behind the snapshot, as it stands in the file.
    pub(super) last: Vec<u8>,
    /// How many records that are.
    last_lines: usize,
    /// What else belongs to that batch, where it is the first part of a commit over several journals.
    pub(super) commit: Option<Commit>,
    /// Up to the end of the last whole batch.
    pub(super) extent: Extent,
    /// The number of the last event, and when it happened: a snapshot may not have it any more.
    pub(super) seq: u64,
    pub(super) at: Time,
    /// What follows.
    pub(super) torn: Option<Vec<u8>>,
}

impl Journal {
    /// Returns the byte of the journal at which its last whole batch begins.
    pub(super) fn last_begins(&self) -> u64 {
        self.extent.length - self.last.len() as u64
    }

    /// Leaves out its last whole batch.
    pub(super) fn leave_out_last(&mut self) {
        self.records.truncate(self.records.len() - self.last_lines);
    }
}

/// Reads a journal; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Journal>, JournalError> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::Io { path: path.to_owned(), source }),
    }
}

/// Reads the journal of a run as it is, and leaves it so: what is not whole at its end is left out. `None`
/// where there is none. It may end with a part of a commit that the next start takes back, since another
/// journal lacks the rest.
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

/// Reads the bytes of a journal.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Journal, JournalError> {
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
                    let is_behind = snapshot.is_none_or(|head| head.lines < number as u64);
                    last = is_behind.then_some(journal.extent.in_file());
                    journal.last_lines = if is_behind { batch.len() } else { 0 };
                    journal.commit = batch[0].commit.take().filter(|_| is_behind);
                    journal.records.append(&mut batch);
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

/// Returns the lines of a batch that begins at that byte of its journal.
pub(super) fn batch(lines: &[String], start: u64) -> String {
    use std::fmt::Write;
    let mut batch = String::new();
    for (i, json) in lines.iter().enumerate() {
        let place = format!("{}/{}@{start}", i + 1, lines.len());
        let sum = checksum(json, &place);
        let _ = writeln!(batch, "{json}\t{}\t{place}", sum.escape_ascii());
    }
    batch
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
    let record = |line| {
        // What belongs to a commit is a matter of the journals alone.
        parse_line(line).map(|line| Record { commit: None, ..line.record })
    };
    bytes.split_inclusive(|byte| *byte == b'\n').map(record).collect()
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
