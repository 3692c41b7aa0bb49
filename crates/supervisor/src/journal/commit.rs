//! Commits over several journals: all of it counts, or nothing.
//!
//! The events of a commit go into the journals of the runs that they are about, one journal after the other. A
//! crash between two of them would keep one side only: the dispatch of an attempt, and not the end of the one
//! that made room for it. So the first of them says, in the first of its lines, where in the others the rest
//! begins. At a start it is seen whether each of them goes on from there; where one does not, the commit is
//! taken back from those that do. Nobody has acted on it: that is for when all of it is safe.
//!
//! It is enough to look at the last commit, and at the first of its journals, because
//!
//! - a commit is begun when the one before it is safe, and one that found no room is ended before the next, with
//!   the lines that it had;
//! - a part is written when the one before it is safe: so where there is one, there is the first;
//! - all its journals have their names before the first part is written: one that is not there at all was
//!   removed by somebody since, and lacks nothing;
//! - lengths count the journal as it was written, and a snapshot is put in its place between two commits;
//! - the first part is the last to be taken back, each safely before the next: a crash meanwhile leaves what
//!   says that the rest has to follow.

use std::collections::{BTreeMap, VecDeque};

use protocol::{Commit, CommitPart, Record, RunId};

use super::read::{Journal, batch};

/// A commit that is made and not yet safe.
#[derive(Debug)]
pub(super) struct Writing {
    /// What is yet to be appended, and to which journal.
    pub(super) left: VecDeque<(RunId, String)>,
    /// The new lengths of the journals that have their part.
    pub(super) done: Vec<(RunId, u64)>,
}

impl Writing {
    /// Puts in lines what has happened, by run. `last` is the number of the last event, and `length` that of
    /// a journal as far as it is safe.
    pub(super) fn new(
        mut events: BTreeMap<RunId, Vec<Record>>,
        last: u64,
        length: impl Fn(RunId) -> u64,
    ) -> Self {
        let parts = events.keys().map(|&run| CommitPart { run, at: length(run) });
        let others: Vec<_> = parts.skip(1).collect();
        if !others.is_empty()
            && let Some(first) = events.values_mut().next().and_then(|part| part.first_mut())
        {
            first.commit = Some(Commit { last, others });
        }
        let text = |(run, part): (RunId, Vec<Record>)| {
            let json = |record: &Record| {
                serde_json::to_string(record)
                    .unwrap_or_else(|error| panic!("BUG: an event that is not JSON: {error}"))
            };
            let lines: Vec<_> = part.iter().map(json).collect();
            (run, batch(&lines, length(run)))
        };
        Self { left: events.into_iter().map(text).collect(), done: Vec::new() }
    }
}

/// Returns the journals that have a part of a commit of which another part is missing: that part is the last
/// batch of each. They are in the order in which it has to be taken back.
pub(super) fn unfinished(found: &BTreeMap<RunId, Journal>) -> Vec<RunId> {
    let newest = found.values().map(|journal| journal.seq).max();
    let last = found.iter().find_map(|(run, journal)| {
        let commit = journal.commit.as_ref()?;
        (newest <= Some(commit.last)).then_some((*run, commit))
    });
    let Some((first, commit)) = last else { return Vec::new() };
    let (mut there, mut is_missing) = (Vec::new(), false);
    for part in &commit.others {
        match found.get(&part.run) {
            None => {}
            Some(journal) if journal.extent.length <= part.at => is_missing = true,
            Some(journal) if journal.last_begins() == part.at => there.push(part.run),
            // More has happened since, or a snapshot stands for it: it was whole.
            Some(_) => return Vec::new(),
        }
    }
    if !is_missing {
        return Vec::new();
    }
    there.push(first);
    there
}

#[cfg(test)]
mod tests;
