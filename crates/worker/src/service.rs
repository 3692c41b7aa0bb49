//! The worker's life: one attempt after the other.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use protocol::{ReportSecret, UNFIT, UNFIT_CODE, UNREACHABLE, UNREACHABLE_CODE};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use zeroize::Zeroizing;

use crate::args::Args;
use crate::attempt::{self, Worker};
use crate::disk::Bounds;
use crate::forward::Forwarder;
use crate::gateway::Gateway;
use crate::paths::Paths;
use crate::process::{self, Processes};
use crate::signals::Signals;
use crate::slot::{Alarm, Slot};
use crate::{leftovers, scratch, self_test, walls};

/// Held by the worker that serves the slot; it goes with its process.
const LOCK: &str = ".worker.lock";

/// How long to wait after the slot could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was started for one attempt, which is over.
    Once,
    /// That signal came.
    Signal(u8),
}

impl End {
    /// Returns the exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Once => 0,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Why the worker does not serve, for the person who starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Something is missing that may be there the next time.
    Missing(String),
    /// The model's API does not answer.
    Unreachable(String),
    /// What attempts left can't be removed: another worker, in a container that is new, may go on.
    Spent(String),
    /// It is not to serve, and every start would end so until somebody does something.
    Unfit(String),
}

impl Fault {
    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Missing(_) | Self::Spent(_) => 1,
            Self::Unreachable(_) => UNREACHABLE_CODE,
            Self::Unfit(_) => UNFIT_CODE,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "worker: {what}"),
            Self::Spent(what) => {
                write!(f, "worker: takes no further attempt in this container: {what}")
            }
            Self::Unreachable(why) => write!(f, "{UNREACHABLE}{why}"),
            Self::Unfit(why) => write!(f, "{UNFIT}{why}"),
        }
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Missing(what)
    }
}

/// Serves a slot until a signal comes, or for one attempt. `filter` says whether system calls are denied.
///
/// # Errors
///
/// See [`Fault`].
pub(crate) fn run(args: &Args, filter: &Result<(), String>) -> Result<End, Fault> {
    // The variable stays where the kernel has put it, which only we can read; no child gets it.
    let secret = std::env::var(ReportSecret::VARIABLE).map(Zeroizing::new);
    let secret = secret.ok().and_then(|text| ReportSecret::from_hex(&text)).ok_or_else(|| {
        format!("{} is not set: only the supervisor starts workers", ReportSecret::VARIABLE)
    })?;
    let gateway = Gateway::new(args).map_err(|e| format!("can't find its gateway: {e}"))?;
    let way_out = Forwarder::bind(gateway.clone(), args.no_walls)
        .map_err(|e| Fault::Unfit(format!("it has no loopback for its way out: {e}")))?;
    let paths = Paths::new(args, gateway, way_out.port())
        .map_err(|e| format!("can't make the scratch folder: {e}"))?;
    let signals = Signals::catch().map_err(|e| format!("can't catch signals: {e}"))?;
    let processes = Processes::reap().map_err(|e| format!("can't reap processes: {e}"))?;
    let _lock = lock(&paths.results)?;
    clear_away(&paths)?;
    if !args.no_walls {
        walls::check(args, &paths, filter)?;
    }
    way_out.start().map_err(|e| format!("can't begin to carry to the gateway: {e}"))?;
    let disk = Bounds { bytes: args.disk_mib << 20, files: args.files };
    disk.limit_files().map_err(|e| format!("can't bound the size of files: {e}"))?;
    let worker = Worker { paths, secret, signals, processes, disk };
    let end = match self_test::run(&worker.paths, args, &worker.signals) {
        Ok(()) => serve(&worker, args.once),
        Err(self_test::Failure::Fault(fault)) => Err(fault),
        Err(self_test::Failure::Signal(signal)) => Ok(End::Signal(signal)),
    };
    if args.scratch.is_none() && getpid() != Pid::INIT {
        let _ = scratch::remove(&worker.paths.scratch);
    }
    end
}

fn serve(worker: &Worker, once: bool) -> Result<End, Fault> {
    let Worker { paths, signals, processes, .. } = worker;
    // First the watch, then the scan: nothing appears in between unseen.
    let alarm = Alarm::watch(&paths.tasks);
    let mut slot = Slot::new(&paths.tasks, &paths.results);
    slot.next().map_err(|e| format!("can't read {}: {e}", paths.tasks.display()))?;
    tracing::info!(slot = %paths.results.display(), version = env!("CARGO_PKG_VERSION"), "Ready.");
    loop {
        if let Some(signal) = signals.raised() {
            return Ok(End::Signal(signal));
        }
        let place = match slot.next() {
            Ok(Some(place)) => place,
            Ok(None) => {
                alarm.wait(signals);
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "The slot can't be read.");
                thread::sleep(PAUSE);
                continue;
            }
        };
        let span = tracing::info_span!("attempt", task = %place.task, attempt = %place.attempt);
        // Also before it: an attempt may have been interrupted, and somebody may have been in the container since.
        leftovers::clear(paths, processes).map_err(Fault::Spent)?;
        let end = span.in_scope(|| attempt::run(worker, &place));
        let mut cleared = leftovers::clear(paths, processes).map_err(Fault::Spent);
        match end {
            attempt::End::Interrupted(signal) => return Ok(End::Signal(signal)),
            attempt::End::Reported => slot.handled(&place),
            attempt::End::DiskFull => {
                cleared = Err(Fault::Spent("the attempt passed its bound on disk".to_owned()));
            }
        }
        cleared?;
        if once {
            return Ok(End::Once);
        }
    }
}

fn lock(results: &Path) -> Result<File, String> {
    let path = results.join(LOCK);
    // An agent of before may have put a pipe there, which would be waited for, or a link.
    if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
        scratch::remove(&path).map_err(|e| format!("can't remove {}: {e}", path.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|e| format!("can't write into {}: {e}", results.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(format!("another worker serves this slot: {} is locked", path.display()))
        }
        Err(error) => Err(format!("can't lock {}: {}", path.display(), io::Error::from(error))),
    }
}

/// Ends what an earlier worker of this slot left when it was killed. In a container there is
/// nothing: it ends with its first process.
fn clear_away(paths: &Paths) -> Result<(), String> {
    if getpid() == Pid::INIT {
        return Ok(());
    }
    let (name, value) = paths.mark();
    let mark = format!("{name}={}", value.display());
    match process::kill_marked(&mark, Duration::from_secs(5)) {
        0 => Ok(()),
        left => Err(format!("{left} processes of an earlier worker of this slot can't be ended")),
    }
}
