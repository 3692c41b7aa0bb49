//! Dropped files that nobody takes: rejected ones, and those that lie where no worker looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::atomic_file::is_visible;
use serde_json::Value;

use super::text::{count, one_line};
use crate::install::Installation;

/// How many files are named; the others are only counted.
const SHOWN: usize = 3;

/// The ending of the file that says why another was rejected.
const WHY: &str = ".why.json";

/// Returns what there is to say of such files: a text each, of one or more lines.
pub(crate) fn find(installation: &Installation, workers: &[&str]) -> Vec<String> {
    let tasks = installation.root().join("tasks");
    let mut rejected = Vec::new();
    let mut notes = Vec::new();
    for entry in visible(&tasks) {
        let name = file_name(&entry);
        if entry.is_dir() {
            let why = visible(&entry.join("rejected")).into_iter();
            rejected.extend(why.filter_map(|why| rejection(installation, &why)));
        }
        let lost: Vec<PathBuf> = match entry.is_dir() {
            true if workers.contains(&name.as_str()) => Vec::new(),
            true => visible(&entry).into_iter().filter(|path| is_json(path)).collect(),
            false => Some(entry.clone()).filter(|path| is_json(path)).into_iter().collect(),
        };
        if let Some(first) = lost.first() {
            let first = one_line(&installation.relative(first), 200);
            let more = match lost.len() {
                1 => String::new(),
                more => format!(" (and {} more there)", more - 1),
            };
            notes.push(match entry.is_dir() {
                true => format!("nobody takes {first}{more}: no worker `{name}` is served"),
                false => format!("nobody takes {first}: it belongs in tasks/<worker>/"),
            });
        }
    }
    if !rejected.is_empty() {
        rejected.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        let were = if rejected.len() == 1 { "was" } else { "were" };
        let mut note = format!("{} {were} rejected", count(rejected.len(), "dropped file"));
        for (_, line) in rejected.iter().take(SHOWN) {
            note.push_str(&format!("\n  {line}"));
        }
        if rejected.len() > SHOWN {
            note.push_str(&format!("\n  and {} more", rejected.len() - SHOWN));
        }
        notes.insert(0, note);
    }
    notes
}

/// Returns when and why a file was rejected; nothing, when it has been taken away since.
fn rejection(installation: &Installation, why: &Path) -> Option<(SystemTime, String)> {
    let name = file_name(why);
    let file = why.with_file_name(name.strip_suffix(WHY)?);
    // Not followed: it may have been a link that was rejected.
    file.symlink_metadata().ok()?;
    let when = why.metadata().and_then(|data| data.modified()).ok()?;
    let reason: Option<Value> =
        fs::read(why).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let reason =
        reason.as_ref().and_then(|reason| reason["message"].as_str()).unwrap_or("see there");
    let file = one_line(&installation.relative(&file), 200);
    Some((when, format!("{file}: {}", one_line(reason, 200))))
}

/// Returns what is in a folder and meant to be seen, by name.
fn visible(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| is_visible(&file_name(path))).collect();
    paths.sort();
    paths
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
