//! `supervisor logs`: what agents say and do.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use protocol::untrusted::{Folder, Refusal};
use protocol::{Attempt, TaskId};
use tokio::time::sleep;

use super::args::LogsArgs;
use super::context::Context;
use super::interrupt::unless_interrupted;
use super::text::{BOLD, DIM, paint};
use super::{Outcome, Stop, target, transcript};
use crate::api::types::{RunSummary, TaskView, Transcript};
use crate::client::Client;
use crate::failure::Failure;

/// How often the files are looked at. They are local: it costs a few system calls.
const LOOK: Duration = Duration::from_millis(200);

/// After how many looks the daemon is asked for new attempts.
const ASK_EVERY: u32 = 5;

/// The longest line that is shown, in bytes.
const MAX_LINE: usize = 4 << 20;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &LogsArgs) -> Result<Outcome, Stop> {
    let id = target::name(&args.id)?.to_owned();
    let client = context.client().await?;
    let mut logs = Logs { id, client, open: Vec::new(), last: None };
    if !args.follow {
        logs.ask().await?;
        logs.show(context)?;
        if logs.open.is_empty() {
            context.screen.err("No agent has said anything here yet.\n");
        }
        return Ok(Outcome::Done);
    }
    let watch = async {
        loop {
            // In that order: what is written before the end is shown after it is known.
            let ended = logs.has_ended().await?;
            logs.ask().await?;
            for _ in 0..ASK_EVERY {
                logs.show(context)?;
                if ended {
                    return Ok(Outcome::Done);
                }
                sleep(LOOK).await;
            }
        }
    };
    unless_interrupted(watch).await.unwrap_or(Ok(Outcome::Interrupted))
}

/// The transcripts of a run, a task or a worker.
#[derive(Debug)]
struct Logs {
    id: String,
    client: Client,
    open: Vec<Tail>,
    /// Whose line was shown last.
    last: Option<usize>,
}

/// A transcript that is read to its end, and on.
#[derive(Debug)]
struct Tail {
    task: TaskId,
    attempt: Attempt,
    heading: String,
    path: String,
    /// Open from the first sight of it: when the attempt ends the file is moved, and stays the same.
    file: Option<File>,
    lines: Splitter,
}

impl Logs {
    /// Asks for the attempts that there are.
    async fn ask(&mut self) -> Result<(), Failure> {
        let found: Vec<Transcript> = self.client.get(&format!("/v1/logs/{}", self.id)).await?;
        for Transcript { task_id, worker, attempt, path, .. } in found {
            let known = |tail: &&mut Tail| tail.task == task_id && tail.attempt == attempt;
            match self.open.iter_mut().find(known) {
                Some(tail) => tail.path = path,
                None => self.open.push(Tail {
                    heading: format!("{task_id} by {worker}, attempt {attempt}"),
                    task: task_id,
                    attempt,
                    path,
                    file: None,
                    lines: Splitter::default(),
                }),
            }
        }
        Ok(())
    }

    /// Shows what is new in the files.
    fn show(&mut self, context: &mut Context) -> Result<(), Stop> {
        for (at, tail) in self.open.iter_mut().enumerate() {
            loop {
                let text = match tail.read() {
                    Ok(Some(text)) => text,
                    Ok(None) => break,
                    // What can't be read now may be there at the next look; the others go on.
                    Err(error) => {
                        tracing::debug!(path = tail.path, %error, "A transcript can't be read.");
                        break;
                    }
                };
                if text.is_empty() {
                    continue;
                }
                if self.last != Some(at) {
                    let gap = if self.last.is_some() { "\n" } else { "" };
                    context.screen.out(&format!("{gap}{}\n", paint(BOLD, &tail.heading)))?;
                    self.last = Some(at);
                }
                context.screen.out(&text)?;
            }
        }
        Ok(())
    }

    /// Returns whether nothing more can come: the run or task has ended. A worker never has.
    async fn has_ended(&self) -> Result<bool, Failure> {
        let id = &self.id;
        if let Some(run) = self.client.find::<RunSummary>(&format!("/v1/runs/{id}")).await? {
            return Ok(run.state.has_ended());
        }
        let task = self.client.find::<TaskView>(&format!("/v1/tasks/{id}")).await?;
        Ok(task.is_some_and(|task| task.status.has_ended()))
    }
}

impl Tail {
    /// Returns what the next piece of the file says, or `None` when there is nothing new.
    fn read(&mut self) -> io::Result<Option<String>> {
        if self.file.is_none() {
            self.file = open(Path::new(&self.path))?;
        }
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        let mut piece = vec![0; 256 << 10];
        let len = file.read(&mut piece)?;
        if len == 0 {
            return Ok(None);
        }
        let mut text = String::new();
        self.lines.add(&piece[..len], |line| text.push_str(&line.render()));
        Ok(Some(text))
    }
}

/// Opens a transcript; `None` while it is not there.
fn open(path: &Path) -> io::Result<Option<File>> {
    // The agent may put a link or a pipe in its place, also in place of the attempt's folder; what
    // is above that is the supervisor's.
    let attempt = path.parent();
    let Some(slot) = attempt.and_then(Path::parent) else {
        return Ok(None);
    };
    let folder = match Folder::open(slot) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match folder.open_file(path.strip_prefix(slot).unwrap_or(path), u64::MAX) {
        Ok((file, _)) => Ok(Some(file)),
        Err(refusal) if refusal.is_missing() => Ok(None),
        Err(Refusal::Io { source, .. }) => Err(source),
        Err(refusal) => Err(io::Error::other(refusal)),
    }
}

/// Puts lines together of what comes in pieces.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    /// How many bytes of this line were left out.
    left_out: usize,
}

/// A line, or what is left of one that is too long.
#[derive(Debug, PartialEq)]
enum Line {
    Whole(String),
    TooLong(usize),
}

impl Splitter {
    fn add(&mut self, bytes: &[u8], mut take: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            let kept = piece.len().min(room);
            self.line.extend_from_slice(&piece[..kept]);
            self.left_out += piece.len() - kept;
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                match std::mem::take(&mut self.left_out) {
                    0 => take(Line::Whole(String::from_utf8_lossy(&line).trim_end().to_owned())),
                    more => take(Line::TooLong(line.len() + more)),
                }
            }
        }
    }
}

impl Line {
    fn render(&self) -> String {
        match self {
            Self::Whole(line) => transcript::render(line),
            Self::TooLong(len) => {
                paint(DIM, format!("[a line of {len} bytes is left out here]")) + "\n"
            }
        }
    }
}
