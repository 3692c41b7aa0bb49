//! A key that a command prints.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{MAX_BYTES, handover, text_of, without_keys};
use crate::failure::Failure;

/// How long a command may take. Password managers ask a server; a person that has to be asked is not there.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// How much of the end of its complaints is shown, in bytes.
const SHOWN: usize = 1000;

/// How long its complaints may take to arrive once it has ended: something that it started may have kept
/// the pipe.
const REST: Duration = Duration::from_secs(1);

/// Why a command gave no key.
#[derive(Debug)]
pub(super) enum Fault {
    /// It can't be started.
    Start(io::Error),
    /// It took longer than [`LIMIT`], and complained of this.
    Slow(String),
    /// It ended with a failure, and complained of this.
    Failed(ExitStatus, String),
    /// It printed more than a key.
    Long,
    /// It can't be listened to.
    Read(io::Error),
}

impl Fault {
    /// Returns it as a failure, with its place. What the command printed is not in it.
    pub(super) fn failure(self, program: &str, refused: impl Fn(String) -> Failure) -> Failure {
        let by_hand = "Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing \
                       else.";
        let complaint = |failure: Failure, said: String| match said.is_empty() {
            true => failure.hint(by_hand),
            false => failure.because(said).hint(by_hand),
        };
        match self {
            Self::Start(error) => refused(format!("the key command `{program}` can't be started"))
                .because(error)
                .hint("Name the program with its whole path; check that it is installed."),
            Self::Slow(said) => {
                let seconds = LIMIT.as_secs();
                let what = format!(
                    "the key command `{program}` was killed: it was not done after {seconds} s"
                );
                complaint(refused(what), said)
            }
            Self::Failed(status, said) => {
                complaint(refused(format!("the key command `{program}` failed ({status})")), said)
            }
            Self::Long => {
                let what =
                    format!("what the command `{program}` printed is no key: it is too much");
                refused(what).hint(by_hand)
            }
            Self::Read(error) => {
                let what = format!("what the command `{program}` prints can't be read");
                refused(what).because(error).hint(by_hand)
            }
        }
    }
}

/// Runs a command in `folder`, without a shell, and returns what it printed, without white space around
/// it.
///
/// It has the environment of the supervisor, but for the key in it, and nothing on its standard
/// input. All that it starts has to close its standard output. When `over` ends before that, it is killed
/// with its process group.
///
/// # Cancel safety
///
/// Dropped before its end, it kills the command with its group.
pub(super) async fn run(
    folder: &Path,
    command: &[String],
    over: impl Future<Output = ()>,
) -> Result<String, Fault> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(folder)
        .env_remove(handover::VARIABLE)
        .env_remove(handover::ON_STDIN)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Fault::Start)?;
    let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("BUG: both were asked for");
    };
    let group = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    let mut group = Group(group);
    let (mut printed, mut said) = (Printed::new(), Said::default());
    let (ended, is_all) = {
        let (mut over, mut heard) = (pin!(over), false);
        let mut listening = pin!(said.listen(stderr));
        let ended = {
            let mut work = pin!(async {
                printed.listen(&mut stdout).await.map_err(Fault::Read)?;
                if printed.is_too_long() {
                    return Err(Fault::Long);
                }
                // Only now: until it is waited for, its number can't be given to another group.
                child.wait().await.map_err(Fault::Read)
            });
            loop {
                tokio::select! {
                    ended = &mut work => break Some(ended),
                    () = &mut over => break None,
                    () = &mut listening, if !heard => heard = true,
                }
            }
        };
        match &ended {
            Some(Ok(_)) => group.0 = None,
            _ => group.kill(),
        }
        let is_all = match &ended {
            Some(Ok(status)) if status.success() => true,
            _ => {
                let rest = async {
                    if !heard {
                        listening.await;
                    }
                    let _ = printed.listen(&mut stdout).await;
                };
                timeout(REST, rest).await.is_ok()
            }
        };
        (ended, is_all)
    };
    // What it complained of is shown without what it printed, so both have to be known. Something outside
    // of its group may hold the pipes, and go on.
    if !is_all {
        said = Said::default();
    }
    match ended {
        None => Err(Fault::Slow(said.without(printed.bytes()))),
        Some(Err(fault)) => Err(fault),
        Some(Ok(status)) => {
            if !status.success() {
                return Err(Fault::Failed(status, said.without(printed.bytes())));
            }
            text_of(printed.bytes()).ok_or(Fault::Long)
        }
    }
}

/// What a command printed: the key, if all is well.
struct Printed {
    /// It does not grow: a buffer that grows leaves copies behind.
    buffer: Zeroizing<Vec<u8>>,
    len: usize,
}

impl Printed {
    fn new() -> Self {
        Self { buffer: Zeroizing::new(vec![0; MAX_BYTES + 1]), len: 0 }
    }

    /// Reads to the end, or until it is too long. Dropped before that, it goes on when it is called
    /// again.
    async fn listen(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        while !self.is_too_long() {
            match from.read(&mut self.buffer[self.len..]).await? {
                0 => break,
                more => self.len += more,
            }
        }
        Ok(())
    }

    fn is_too_long(&self) -> bool {
        self.len > MAX_BYTES
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// A process group that is killed when this is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what a command complained of.
#[derive(Debug, Default)]
struct Said(Vec<u8>);

impl Said {
    /// Takes in all that comes; keeps the end.
    async fn listen(&mut self, mut from: impl AsyncRead + Unpin) {
        let mut part = [0; 512];
        while let Ok(len @ 1..) = from.read(&mut part).await {
            self.0.extend_from_slice(&part[..len]);
            let old = self.0.len().saturating_sub(SHOWN);
            self.0.drain(..old);
        }
    }

    /// Returns it, without what may be a secret: each line of what was printed (a shell with `-x` says it
    /// all again), and each word that begins as the keys of this API do.
    fn without(&self, printed: &[u8]) -> String {
        let mut said = String::from_utf8_lossy(&self.0).trim().to_owned();
        let printed = Zeroizing::new(String::from_utf8_lossy(printed).into_owned());
        // What is shorter is no key, and would be found everywhere.
        for line in printed.lines().map(str::trim).filter(|line| line.len() >= 8) {
            said = said.replace(line, "…");
        }
        without_keys(said)
    }
}
