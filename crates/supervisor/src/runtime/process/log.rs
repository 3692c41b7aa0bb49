//! What workers print: one file per replica, over all its starts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::runtime::output;

/// How large a log may be before the next start empties it.
const MAX_BYTES: u64 = 1024 * 1024;

/// Opens a log for appending and returns where it will go on.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    let len = log.metadata()?.len();
    if len <= MAX_BYTES {
        return Ok((log, len));
    }
    log.set_len(0)?;
    Ok((log, 0))
}

/// Returns the end of a log, of what was written from `from` on; empty when that can't be had.
pub(super) fn read_tail(path: &Path, from: u64) -> String {
    let read = || {
        let mut log = File::open(path)?;
        let start = log.metadata()?.len().saturating_sub(output::BYTES as u64).max(from);
        log.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        log.take(2 * output::BYTES as u64).read_to_end(&mut text)?;
        Ok::<_, io::Error>(output::tail(&text))
    };
    read().unwrap_or_default()
}
