//! The ledger's file: appended to, and made small again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::atomic_file::{self, Durability};

use super::{
    LedgerError,
    line::{BadLine, Line, VERSION},
};

/// How much the file grows before it is made small again: some 60,000 requests, so that this, which
/// holds everybody up for some milliseconds, is rare; read again in half a second (measured).
const GROWTH: u64 = if cfg!(test) { 32 << 10 } else { 32 << 20 };

/// An append-only file of lines. Without a path it is nowhere.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    /// Opened again when there is none.
    file: Option<Arc<File>>,
    /// Bytes that are whole lines.
    length: u64,
    /// Half a line may follow.
    torn: bool,
    /// What it was when it was last small.
    small: u64,
}

impl Log {
    /// Returns a log that keeps nothing.
    pub(super) fn nowhere() -> Self {
        Self { path: None, file: None, length: 0, torn: false, small: 0 }
    }

    /// Reads the lines of a file that another process may be writing, and leaves it as it is.
    pub(super) fn read(path: &Path) -> Result<Vec<Line>, LedgerError> {
        Ok(parse(path, &contents(path)?)?.lines)
    }

    /// Reads the file and opens it for more; makes it where there is none. A line that is not whole at the
    /// end is cut off and kept beside it, as `.torn`.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Line>), LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let bytes = contents(path)?;
        let Parsed { lines, whole, small } = parse(path, &bytes)?;
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        if whole < bytes.len() {
            let torn = &bytes[whole..];
            tracing::warn!(ledger = %path.display(), bytes = torn.len(), "Cut off an unfinished line.");
            // For whoever wants to know. It may be a full disk that tore the line.
            let _ = atomic_file::replace(&path.with_extension("torn"), torn, Durability::Volatile);
            file.set_len(whole as u64).map_err(failed)?;
        }
        let mut log = Self {
            path: Some(path.to_owned()),
            file: Some(Arc::new(file)),
            length: whole as u64,
            small: small as u64,
            ..Self::nowhere()
        };
        if lines.is_empty() {
            let mut first = Vec::new();
            Line::Ledger { version: VERSION }.write(&mut first);
            log.append(&first).map_err(failed)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            atomic_file::sync_folder(folder.unwrap_or(Path::new("."))).map_err(failed)?;
        }
        Ok((log, lines))
    }

    /// Returns whether there is a file.
    pub(super) fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Writes whole lines. After an error none of them counts as written.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        if self.torn {
            file.set_len(self.length)?;
            self.torn = false;
        }
        if let Err(error) = (&*file).write_all(lines) {
            self.torn = true;
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    fn file(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().append(true).open(self.path())?);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Returns whether it is worth it to write the file anew.
    pub(super) fn is_large(&self) -> bool {
        self.path.is_some() && self.length > self.small.saturating_mul(2).saturating_add(GROWTH)
    }

    /// Writes the file anew. It is safe when this returns.
    pub(super) fn rewrite(&mut self, lines: impl Iterator<Item = Line>) -> io::Result<()> {
        self.file()?;
        let mut bytes = Vec::new();
        lines.for_each(|line| line.write(&mut bytes));
        let replaced = atomic_file::replace(self.path(), &bytes, Durability::Synced);
        // An error does not say whether the name is the new file's already.
        if replaced.is_ok() || !self.is_at_its_path() {
            self.file = None;
            self.torn = false;
            self.length = bytes.len() as u64;
            self.small = self.length;
        }
        replaced?;
        self.file().map(drop)
    }

    fn is_at_its_path(&self) -> bool {
        let Some(file) = &self.file else { return false };
        match (file.metadata(), fs::metadata(self.path())) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => true,
        }
    }

    /// Returns the file, to be synced without holding anybody up.
    pub(super) fn to_sync(&self) -> Option<Arc<File>> {
        self.file.clone()
    }
}

/// Returns what is in a file; nothing where there is none.
fn contents(path: &Path) -> Result<Vec<u8>, LedgerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(LedgerError::Io { path: path.to_owned(), source }),
    }
}

#[derive(Debug, Default)]
struct Parsed {
    lines: Vec<Line>,
    /// The bytes of the lines. What follows is an unfinished write.
    whole: usize,
    /// The bytes of those that the file began with when it was last small.
    small: usize,
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, LedgerError> {
    let (mut parsed, mut at) = (Parsed::default(), 0);
    let mut first_bad = None;
    for (number, text) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let before = at;
        at += text.len();
        match (Line::read(text), &first_bad) {
            (Err(BadLine::Newer(version)), _) => {
                return Err(LedgerError::Newer { path: path.to_owned(), version });
            }
            (Err(BadLine::Damaged(why)), None) => first_bad = Some((number, why)),
            (Err(_), Some(_)) => {}
            (Ok(line), None) => {
                let is_first = matches!(line, Line::Ledger { .. });
                if is_first != (number == 1) {
                    let why = "it is not where it belongs".to_owned();
                    return Err(LedgerError::Damaged { path: path.to_owned(), line: number, why });
                }
                // What was waited for in vain is a sum further on.
                if is_first || before == parsed.small && matches!(line, Line::Sum(_)) {
                    parsed.small = at;
                }
                parsed.lines.push(line);
                parsed.whole = at;
            }
            // A later write is whole, so this was no unfinished one.
            (Ok(_), Some((line, why))) => {
                let (path, line, why) = (path.to_owned(), *line, why.clone());
                return Err(LedgerError::Damaged { path, line, why });
            }
        }
    }
    Ok(parsed)
}

/// Reads any bytes, as they are and with their lines sealed.
///
/// # Panics
///
/// When what is whole is not read again.
#[cfg(feature = "fuzzing")]
pub(super) fn read_any(path: &Path, bytes: &[u8]) {
    let mut sealed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        sealed.extend_from_slice(line);
        sealed.extend_from_slice(format!("\t{:08x}\n", crc32c::crc32c(line)).as_bytes());
    }
    for bytes in [bytes, &sealed] {
        match parse(path, bytes) {
            Ok(parsed) => {
                let again = parse(path, &bytes[..parsed.whole]);
                assert!(again.is_ok_and(|again| again.lines.len() == parsed.lines.len()));
                assert!(parsed.small <= parsed.whole && parsed.whole <= bytes.len());
            }
            Err(error) => drop(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
