//! One program that runs under clocks: its pipes, its end, and how it is stopped.

use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::TaskError;
use rustix::process::{Pid, Signal};

use crate::disk::Meter;
use crate::gateway::Gateway;
use crate::lines::{self, Line, MAX_LINE};
use crate::process::{Ended, Processes};
use crate::signals::Signals;
use crate::text;

/// How long a program has to end after SIGINT, and again after SIGTERM. Both together and what
/// follows must fit into the ten seconds that an engine waits before it kills a container.
const GRACE: Duration = Duration::from_secs(3);

/// How long the kernel has to end what was killed, and a pipe to come to its end after that.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the clocks, the signals and the `cancel` file are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How much of the end of standard error is kept.
const STDERR_TAIL: usize = 16 << 10;

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name or path.
    pub(crate) name: OsString,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Its whole environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub(crate) cwd: PathBuf,
    /// What it reads.
    pub(crate) stdin: Vec<u8>,
}

/// The clocks of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// When it must have ended.
    pub(crate) deadline: Instant,
    /// How long it may be silent.
    pub(crate) idle: Option<Duration>,
    /// How long the first line may take.
    pub(crate) first_line: Option<Duration>,
    /// Whether a line on standard error is a sign of life too.
    pub(crate) stderr_counts: bool,
}

/// Which pipe a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    Out,
    Err,
}

/// Takes the lines of a program, as they come. What it returns ends the program: there is no use in
/// going on.
pub(crate) type Sink = Box<dyn FnMut(Pipe, &Line) -> Option<TaskError> + Send>;

/// Why a program was stopped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// Somebody cancelled the attempt, and said why.
    Cancelled(String),
    /// It took too long.
    Timeout,
    /// It has written more than it may.
    Disk(String),
    /// It was silent for that long.
    Idle(Duration),
    /// It said nothing at all for that long.
    NeverSpoke(Duration),
    /// We were told to end, by that signal.
    Told(u8),
    /// It said something after which there is no use in going on.
    Useless(TaskError),
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its end; `None` when the kernel could not end it.
    pub(crate) ended: Option<Ended>,
    /// Why we stopped it, if we did.
    pub(crate) stopped: Option<Stop>,
    /// The end of what it wrote to standard error.
    pub(crate) stderr: String,
}

/// Whom to ask whether to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch<'a> {
    /// The signals to this worker.
    pub(crate) signals: &'a Signals,
    /// The attempt's folder in `/tasks`.
    pub(crate) folder: &'a Path,
    /// The way to the model, which may be why a program is silent.
    pub(crate) gateway: &'a Gateway,
    /// What the attempt writes.
    pub(crate) disk: &'a Meter,
}

impl Watch<'_> {
    /// Returns why the attempt should end, if it should.
    pub(crate) fn told(&self) -> Option<Stop> {
        if let Some(reason) = self.cancelled() {
            return Some(Stop::Cancelled(reason));
        }
        self.signals.raised().map(Stop::Told).or_else(|| self.disk.passed().map(Stop::Disk))
    }

    fn cancelled(&self) -> Option<String> {
        let mut reason = String::new();
        match std::fs::File::open(self.folder.join(protocol::CANCEL_FILE)) {
            Ok(file) => {
                let _ = file.take(4096).read_to_string(&mut reason);
                let reason = reason.trim();
                Some(if reason.is_empty() { "cancelled" } else { reason }.to_owned())
            }
            // The attempt is no longer ours when its folder is gone: it must not spend more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = matches!(self.folder.try_exists(), Ok(false));
                gone.then(|| "the attempt's folder was taken away".to_owned())
            }
            Err(_) => None,
        }
    }
}

enum Event {
    Ended(Ended),
    Useless(TaskError),
    PipeClosed,
}

/// Runs a program to its end and leaves no process behind, neither its own nor those that it
/// started.
///
/// # Errors
///
/// That it can't be started.
pub(crate) fn run(
    processes: &Processes,
    program: &Program,
    clocks: Clocks,
    watch: Watch<'_>,
    sink: Sink,
) -> io::Result<Outcome> {
    let mut command = Command::new(&program.name);
    command.args(&program.args).env_clear().envs(program.env.iter().cloned());
    command.current_dir(&program.cwd);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (events, inbox) = mpsc::channel();
    let on_end = events.clone();
    let on_end = Box::new(move |ended| drop(on_end.send(Event::Ended(ended))));
    let started = Instant::now();
    let (mut child, pid) = processes.start(&mut command, on_end)?;

    let shared = Arc::new(Shared {
        sink: Mutex::new(sink),
        stderr: Mutex::new(String::new()),
        started,
        last_line: AtomicU64::new(0),
    });
    if let Some(mut stdin) = child.stdin.take() {
        let text = program.stdin.clone();
        // A program may end without reading it all.
        thread::spawn(move || drop(stdin.write_all(&text)));
    }
    if let Some(out) = child.stdout.take() {
        shared.read(Pipe::Out, out, true, events.clone());
    }
    if let Some(err) = child.stderr.take() {
        shared.read(Pipe::Err, err, clocks.stderr_counts, events.clone());
    }
    let mut run = Running { processes, pid, inbox, shared: &shared, open_pipes: 2, ended: None };
    let stopped = run.until_end(clocks, watch);
    if stopped.is_some() {
        run.stop();
    }
    run.clear_away();
    let stderr = lock(&shared.stderr).clone();
    Ok(Outcome { ended: run.ended, stopped, stderr })
}

/// What the threads share that serve the pipes.
struct Shared {
    sink: Mutex<Sink>,
    stderr: Mutex<String>,
    started: Instant,
    /// When the last line came, in milliseconds after the start, and 1; 0 before the first.
    last_line: AtomicU64,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn read(
        self: &Arc<Self>,
        pipe: Pipe,
        from: impl Read + Send + 'static,
        counts: bool,
        events: Sender<Event>,
    ) {
        let shared = Arc::clone(self);
        thread::spawn(move || {
            // Sent also when this thread panics.
            let events = OnClose(events);
            let mut from = BufReader::with_capacity(64 << 10, from);
            while let Ok(Some(line)) = lines::read(&mut from, MAX_LINE) {
                if counts {
                    shared.heard(Duration::ZERO);
                }
                if pipe == Pipe::Err {
                    shared.keep_stderr(&line);
                }
                let useless = (lock(&shared.sink))(pipe, &line);
                if let Some(error) = useless {
                    let _ = events.0.send(Event::Useless(error));
                }
            }
        });
    }

    /// Notes a sign of life, that long ago.
    fn heard(&self, ago: Duration) {
        let at = self.started.elapsed().saturating_sub(ago).as_millis();
        self.last_line.fetch_max(u64::try_from(at).unwrap_or(0) + 1, Ordering::SeqCst);
    }

    fn keep_stderr(&self, line: &Line) {
        let mut kept = lock(&self.stderr);
        let start = line.bytes.len().saturating_sub(STDERR_TAIL);
        kept.push_str(&String::from_utf8_lossy(&line.bytes[start..]));
        kept.push('\n');
        if kept.len() > 2 * STDERR_TAIL {
            *kept = text::tail(&kept, STDERR_TAIL).to_owned();
        }
    }

    fn last_line(&self) -> Option<Instant> {
        let millis = self.last_line.load(Ordering::SeqCst).checked_sub(1)?;
        Some(self.started + Duration::from_millis(millis))
    }
}

struct OnClose(Sender<Event>);

impl Drop for OnClose {
    fn drop(&mut self) {
        let _ = self.0.send(Event::PipeClosed);
    }
}

struct Running<'a> {
    processes: &'a Processes,
    pid: Pid,
    inbox: Receiver<Event>,
    shared: &'a Shared,
    open_pipes: u8,
    ended: Option<Ended>,
}

impl Running<'_> {
    /// Waits until the program ends or should end; returns why it should.
    fn until_end(&mut self, clocks: Clocks, watch: Watch<'_>) -> Option<Stop> {
        while self.ended.is_none() {
            let stop = watch.told().or_else(|| self.expired(clocks));
            match stop {
                Some(Stop::Idle(limit)) => match watch.gateway.waited() {
                    // Up to there the silence was not the program's.
                    Some(ago) if ago < limit => self.shared.heard(ago),
                    _ => return stop,
                },
                Some(_) => return stop,
                None => {}
            }
            if let Some(error) = self.take(Instant::now() + TICK) {
                return Some(Stop::Useless(error));
            }
        }
        None
    }

    fn expired(&self, clocks: Clocks) -> Option<Stop> {
        let now = Instant::now();
        if now >= clocks.deadline {
            return Some(Stop::Timeout);
        }
        let last = self.shared.last_line();
        if let (None, Some(limit)) = (last, clocks.first_line)
            && now.duration_since(self.shared.started) >= limit
        {
            return Some(Stop::NeverSpoke(limit));
        }
        let limit = clocks.idle?;
        let last = last.unwrap_or(self.shared.started);
        (now.saturating_duration_since(last) >= limit).then_some(Stop::Idle(limit))
    }

    /// Takes in the next event, if one comes in time.
    fn take(&mut self, until: Instant) -> Option<TaskError> {
        match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Ended(ended)) => self.ended = Some(ended),
            Ok(Event::PipeClosed) => self.open_pipes = self.open_pipes.saturating_sub(1),
            Ok(Event::Useless(error)) => return Some(error),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        None
    }

    /// Asks the program to end, ever more firmly.
    fn stop(&mut self) {
        for (signal, grace) in
            [(Signal::INT, GRACE), (Signal::TERM, GRACE), (Signal::KILL, PATIENCE)]
        {
            if self.ended.is_some() {
                return;
            }
            self.processes.signal(self.pid, signal);
            let until = Instant::now() + grace;
            while self.ended.is_none() && Instant::now() < until {
                self.take(until);
            }
        }
    }

    /// Kills what the program left, and lets its pipes run empty.
    fn clear_away(&mut self) {
        let left = self.processes.kill_descendants(PATIENCE);
        if left > 0 {
            tracing::error!(left, "Processes of the attempt can't be killed.");
        }
        let until = Instant::now() + PATIENCE;
        while self.open_pipes > 0 && Instant::now() < until {
            self.take(until);
        }
    }
}
