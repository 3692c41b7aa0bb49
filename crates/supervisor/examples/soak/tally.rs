//! What the tasks themselves write down, apart from all that the supervisor does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;

/// The file's name.
pub(crate) const FILE: &str = "tally";

/// What became of each attempt, by the word of its own process.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The attempts that began, with how often.
    pub(crate) begun: BTreeMap<(String, u32), usize>,
    /// The attempts that came to their end.
    pub(crate) ended: BTreeSet<(String, u32)>,
    /// Each end, in order.
    pub(crate) ends: Vec<(String, u32)>,
    /// When an attempt killed its own worker, in ms since 1970.
    pub(crate) died: BTreeMap<(String, u32), u64>,
    /// Attempts that began while another process was at the same task.
    pub(crate) beside: usize,
    /// Attempts that began without a result that they depend on.
    pub(crate) blind: usize,
}

/// Returns ms since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a line. One write of few bytes to a file that is open for appending is whole or not there.
pub(crate) fn note(folder: &Path, what: &str, task: &str, attempt: u32) -> Result<()> {
    let line = format!("{} {what} {task} {attempt} {}\n", now(), std::process::id());
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join(FILE))?;
    Ok(file.write_all(line.as_bytes())?)
}

impl Tally {
    /// Reads what was written down.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut tally = Self::default();
        for line in fs::read_to_string(folder.join(FILE))?.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [at, what, task, attempt, _] = fields[..] else {
                return Err(format!("the tally has a line that is none: {line:?}").into());
            };
            let key = (task.to_owned(), attempt.parse()?);
            match what {
                "begins" => *tally.begun.entry(key).or_default() += 1,
                "ends" => {
                    tally.ends.push(key.clone());
                    tally.ended.insert(key);
                }
                "dies" => {
                    tally.died.insert(key, at.parse()?);
                }
                "beside" => tally.beside += 1,
                "blind" => tally.blind += 1,
                _ => return Err(format!("the tally has a line that is none: {line:?}").into()),
            }
        }
        Ok(tally)
    }
}
