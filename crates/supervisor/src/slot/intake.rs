//! Taking in what a worker left: its result and its artifacts, or why they are refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use protocol::atomic_file;
use protocol::disk::{self as fs, Folder};
use protocol::untrusted::{Bounds, Refusal};
use protocol::{
    ENVELOPE_BYTES, FailureKind, Status, TAMPERED_HINT, TaskError, TaskResult, Time, mutant, strict,
};
use rustix::io::Errno;

use super::tree::remove_tree;
use super::{Awaited, Slot, verify};

/// The bounds of what an attempt may leave behind.
const ARTIFACTS: Bounds = Bounds { entries: 4096, depth: 16, bytes: 1 << 30 };

/// How much is told of why a result can't be used. It goes into the journal and the next attempt's prompt.
const MAX_WHY: usize = 2000;

impl Slot {
    /// Takes in the result of an attempt, if it is there: artifacts are copied to where the worker can't
    /// change them any more, synced, and named as they will be published. May be called again, also
    /// after a crash in the middle.
    ///
    /// A result that can't be used becomes a report that says so: the attempt is over either way. Whatever does not
    /// carry the worker's proof is [`FailureKind::Tampered`], a link, a pipe or a folder as well: the worker's own
    /// file appears whole, by one rename, so that there is no half of it to be seen.
    /// The transcript of a session that may go on is kept by then.
    ///
    /// # Errors
    ///
    /// I/O errors on our side, such as a full disk; the result is still in the slot then.
    pub fn take_in(&self, awaited: &Awaited, now: Time) -> io::Result<Option<TaskResult>> {
        let report = self.read_report(awaited, now)?;
        // What its task's own check, or the run, does not take goes back to the session, too.
        let is_over = |report: &TaskResult| {
            report.status == Status::Complete && report.plan.is_none() && awaited.verify.is_none()
        };
        if report.as_ref().is_some_and(|report| !is_over(report)) {
            self.keep_session(awaited)?;
        }
        Ok(report)
    }

    fn read_report(&self, awaited: &Awaited, now: Time) -> io::Result<Option<TaskResult>> {
        let unusable = |why: &dyn fmt::Display| Ok(Some(unusable(awaited, why, now)));
        let tampered = |why: &dyn fmt::Display| Ok(Some(tampered(awaited, why, now)));
        let name = awaited.task.slot_name(awaited.attempt);
        let folder = Folder::open(&self.results())?;
        let file = PathBuf::from(format!("{name}.json"));
        let bytes = match folder.read(&file, (strict::MAX_BYTES + ENVELOPE_BYTES) as u64) {
            Ok(bytes) => bytes,
            Err(refusal) if refusal.is_missing() => return Ok(None),
            Err(refusal) => return tampered(&said(&theirs(refusal)?)),
        };
        let Some(bytes) = self.secret.open(awaited.report_of(), &bytes) else {
            return tampered(&format!("`{}` does not carry the worker's proof", file.display()));
        };
        let mut report: TaskResult = match strict::from_slice(bytes) {
            Ok(report) => report,
            Err(fault) => return unusable(&fault),
        };
        // The scheduler would ignore it, and the attempt would wait for its deadline in vain.
        if let Some(why) = strangeness(&report, awaited) {
            return unusable(&why);
        }
        // What the supervisor knows itself it does not take from a container.
        report.rehearsal = awaited.rehearsal;
        if let Some(error) = &mut report.error {
            // Whose limit it met and when that is lifted, the gateway knows: what a container says of it
            // could hold up everybody.
            error.scope = None;
            error.retry_at = None;
        }
        if awaited.rehearsal {
            // The CLI prices the stand-in's tokens as if they were a model's.
            report.cost_usd = Some(0.0);
        }
        if report.status == Status::Complete {
            let private = self.installation.attempt(report.run, &report.task_id, awaited.attempt);
            match self.copy_artifacts(&folder, &name, &private.join("artifacts"))? {
                Ok(copied) => {
                    if let Some(missing) = report.artifacts.iter().find(|a| !copied.contains(a)) {
                        let why = format!("it names the artifact `{missing}`, which is not there");
                        return unusable(&why);
                    }
                    let wanted = awaited.verify.as_ref();
                    let found = wanted.map_or(Ok(()), |verify| verify::patterns(verify, &copied));
                    if let Err(error) = found {
                        return Ok(Some(verify::refuted(report, Status::Failed, error)));
                    }
                    let target = self.installation.artifacts(&self.worker, &report.task_id);
                    let publish = |path: &String| self.installation.relative(&target.join(path));
                    report.artifacts = copied.iter().map(publish).collect();
                }
                Err(refusal) => return unusable(&said(&theirs(refusal)?)),
            }
        } else {
            report.artifacts.clear();
        }
        Ok(Some(report))
    }

    /// Copies all artifacts to where only we can write, and returns their paths; or why they are
    /// refused.
    fn copy_artifacts(
        &self,
        folder: &Folder,
        name: &str,
        to: &Path,
    ) -> io::Result<Result<Vec<String>, Refusal>> {
        // What an earlier try has copied.
        remove_tree(to)?;
        let from = match folder.folder(&Path::new(name).join("artifacts")) {
            Ok(from) => from,
            Err(refusal) if refusal.is_missing() => return Ok(Ok(Vec::new())),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let files = match from.files(ARTIFACTS) {
            Ok(files) => files,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if files.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let mut folders = std::collections::BTreeSet::from([to.to_owned()]);
        let mut paths = Vec::with_capacity(files.len());
        // Files may have grown since they were counted.
        let mut room = ARTIFACTS.bytes;
        for file in files {
            let target = to.join(&file.path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
                folders.extend(
                    parent.ancestors().take_while(|p| p.starts_with(to)).map(Path::to_owned),
                );
            }
            let (source, len) = match from.open_file(Path::new(&file.path), room) {
                Ok(opened) => opened,
                Err(refusal) => return Ok(Err(refusal)),
            };
            room -= len;
            let mut copy = fs::File::create(&target)?;
            // The file may grow while it is read; what was counted is what is taken.
            io::copy(&mut io::Read::take(source, len), &mut copy)?;
            mutant!(ArtifactNotSynced, copy.sync_all()?, ());
            paths.push(file.path);
        }
        for folder in folders.iter().rev() {
            atomic_file::sync_folder(folder)?;
        }
        // Up to the run's folder, which is safe since its journal was made: what is safe in a folder is
        // lost with it.
        for folder in to.ancestors().skip(1).take(3) {
            mutant!(ArtifactFolderNotSynced, atomic_file::sync_folder(folder)?, ());
        }
        Ok(Ok(paths))
    }
}

/// Returns in what a report is not one of this attempt, if it is not.
fn strangeness(report: &TaskResult, of: &Awaited) -> Option<&'static str> {
    if report.task_id != of.task || report.run != of.run || report.worker != of.worker {
        Some("it is about another task")
    } else if mutant!(OldAttemptCounts, report.attempt != of.attempt.get(), false) {
        Some("it is about another attempt")
    } else if mutant!(TokenIgnored, report.token != Some(of.token), false) {
        Some("its token is not the attempt's")
    } else {
        None
    }
}

/// Returns the refusal of a worker's file, where it is not the system that lacks something.
///
/// # Errors
///
/// What the system lacks: another try may succeed with nothing changed by the worker.
pub(super) fn theirs(refusal: Refusal) -> io::Result<Refusal> {
    match refusal {
        Refusal::Io { source, .. } if is_ours(&source) => Err(source),
        refusal => Ok(refusal),
    }
}

/// Returns why a file is refused, with what the system says.
pub(super) fn said(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Io { source, .. } => format!("{refusal}: {source}"),
        refusal => refusal.to_string(),
    }
}

fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::INTR, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

fn unusable(awaited: &Awaited, why: &dyn fmt::Display, now: Time) -> TaskResult {
    let message = format!("the result can't be used: {}", cut(why));
    failed(awaited, TaskError::new(FailureKind::BadOutput, message), now)
}

fn tampered(awaited: &Awaited, why: &dyn fmt::Display, now: Time) -> TaskResult {
    let message = format!("what lies in the place of the report is not the worker's: {}", cut(why));
    let error = TaskError::new(FailureKind::Tampered, message).with_hint(TAMPERED_HINT);
    failed(awaited, error, now)
}

fn cut(why: &dyn fmt::Display) -> String {
    // It may quote a name of a megabyte.
    let mut why = why.to_string();
    why.truncate(why.floor_char_boundary(MAX_WHY));
    why
}

fn failed(awaited: &Awaited, error: TaskError, now: Time) -> TaskResult {
    let mut report = TaskResult::without_report(
        awaited.task.clone(),
        awaited.run,
        awaited.worker.clone(),
        Some(awaited.attempt),
        Status::Failed,
        error,
        now,
    );
    report.token = Some(awaited.token);
    report.rehearsal = awaited.rehearsal;
    report
}
