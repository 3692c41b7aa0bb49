//! One attempt, from its folder to its result.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use protocol::atomic_file;
use protocol::untrusted::Folder;
use protocol::{
    Assignment, Driver, FailureKind, ReportSecret, RunId, SessionId, Status, TaskError, TaskKind,
    TaskResult, Time, Token,
};
use serde_json::Value;

use crate::child::{self, Clocks, Outcome, Pipe, Program, Stop, Watch};
use crate::delivery::Delivery;
use crate::disk::{Bounds, Meter};
use crate::failure::{self, explained};
use crate::paths::Paths;
use crate::process::Processes;
use crate::session::Session;
use crate::signals::Signals;
use crate::slot::Place;
use crate::stream::Stream;
use crate::transcript::Transcript;
use crate::usage::{self, Used};
use crate::{artifacts, claude, command, config, oom, prompt, report, scratch, text};

/// The largest assignment. The supervisor writes it, of parts that are bounded themselves.
const MAX_ASSIGNMENT: u64 = 16 << 20;

/// How long the CLI may take to say its first word. It takes half a second; with the slowest MCP
/// server that anybody should wait for, less than this.
const FIRST_LINE: Duration = Duration::from_secs(120);

/// What all attempts of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) paths: Paths,
    pub(crate) secret: ReportSecret,
    pub(crate) signals: Signals,
    pub(crate) processes: Arc<Processes>,
    pub(crate) disk: Bounds,
}

/// How an attempt ended, for the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its result is there.
    Reported,
    /// Its result is there, and it has filled the disk.
    DiskFull,
    /// That signal came first: there is no result, and the attempt can be gone on with.
    Interrupted(u8),
}

/// Why an attempt has no delivery.
#[derive(Debug)]
enum Broken {
    Failed(TaskError),
    Cancelled(String),
    Interrupted(u8),
}

impl From<TaskError> for Broken {
    fn from(error: TaskError) -> Self {
        Self::Failed(error)
    }
}

/// Runs an attempt and reports it.
pub(crate) fn run(worker: &Worker, place: &Place) -> End {
    let (started, clock) = (now(), Instant::now());
    let read = read(place);
    let mut work = Work::default();
    let ended = match &read {
        Ok(assignment) => work.go(worker, place, assignment, clock),
        Err(unreadable) => Err(Broken::Failed(unreadable.error.clone())),
    };
    if let Err(Broken::Interrupted(signal)) = ended {
        return End::Interrupted(signal);
    }
    // No process of the agent lives any more, and we have not reported yet.
    let ended = report::nothing_in_its_place(&place.result).map_err(Broken::Failed).and(ended);
    let header = match &read {
        Ok(assignment) => Header::of(assignment),
        Err(unreadable) => match &unreadable.header {
            Some(header) => header.clone(),
            None => {
                // There is nobody to whom this could be told but the log: a result has to echo
                // what could not be read.
                tracing::error!(error = %unreadable.error, "The assignment can't be read.");
                return End::Reported;
            }
        },
    };
    let result = header.result(place, ended, work, started, clock.elapsed());
    let kind = result.error.as_ref().map(|error| error.kind);
    let reported = if kind == Some(FailureKind::Disk) { End::DiskFull } else { End::Reported };
    let kind = kind.map(FailureKind::as_str);
    tracing::info!(status = %result.status, kind, seconds = result.execution_time, "Attempt ended.");
    if report::write(&place.result, result, &worker.secret, &worker.signals) {
        reported
    } else {
        End::Interrupted(worker.signals.raised().unwrap_or(15))
    }
}

/// What is known of an attempt's work beside its delivery.
#[derive(Debug, Default)]
struct Work {
    used: Used,
    session: Option<SessionId>,
    /// What is in the artifact folder.
    files: Vec<String>,
}

impl Work {
    fn go(
        &mut self,
        worker: &Worker,
        place: &Place,
        assignment: &Assignment,
        clock: Instant,
    ) -> Result<Delivery, Broken> {
        // A workspace that is shared is others' too: who has written what can't be told.
        let disk = Meter::start(&[&worker.paths.results], worker.disk)
            .map_err(|e| local("watch what the attempt writes", &e))?;
        let watch = Watch {
            disk: &disk,
            signals: &worker.signals,
            folder: &place.tasks,
            gateway: &worker.paths.gateway,
        };
        if let Some(stop) = watch.told() {
            return Err(broken(stop, assignment));
        }
        let artifacts = place.artifacts();
        make_folder(&artifacts).map_err(|e| local("make the artifact folder", &e))?;
        // Opened before the agent runs, which may put anything in its place.
        let folder = Folder::open(&artifacts).map_err(|e| local("open the artifact folder", &e))?;
        if assignment.agent.driver == Driver::Claude {
            let paths = &worker.paths;
            let copies = assignment.agent.copy_workspace;
            let cwd = if copies { &paths.workspace_copy() } else { &paths.workspace };
            config::make(place, assignment.session.id, paths.login.as_deref(), cwd)
                .map_err(|e| local("make the agent's configuration folder", &e))?;
        }
        let ran = self.run_agent(worker, place, assignment, clock, watch);
        self.files = artifacts::whatever(&folder);
        let mut delivery = ran?;
        delivery.artifacts = artifacts::collect(&folder, &artifacts, &delivery.artifacts)?;
        artifacts::make_safe(&folder, &delivery.artifacts)
            .and_then(|()| atomic_file::sync_folder(artifacts.parent().unwrap_or(&artifacts)))
            .map_err(|e| local("make the artifacts safe", &e))?;
        if delivery.summary.is_empty() {
            match delivery.artifacts.len() {
                0 => {
                    let message = "the agent handed in nothing: no text and no file";
                    return Err(TaskError::new(FailureKind::BadOutput, message).into());
                }
                1 => delivery.summary = "It left 1 file.".to_owned(),
                n => delivery.summary = format!("It left {n} files."),
            }
        }
        Ok(delivery)
    }

    fn run_agent(
        &mut self,
        worker: &Worker,
        place: &Place,
        assignment: &Assignment,
        clock: Instant,
        watch: Watch<'_>,
    ) -> Result<Delivery, Broken> {
        let paths = &worker.paths;
        let transcript = Transcript::open(&place.results.join("transcript.jsonl"))
            .map_err(|e| local("open the transcript", &e))?;
        let session = match assignment.agent.driver {
            Driver::Claude => {
                let session = Session::choose(&assignment.session, &place.config());
                session.note(&place.session()).map_err(|e| local("note the session", &e))?;
                self.session = Some(session.id);
                Some(session)
            }
            Driver::Command(_) => None,
        };
        let home = prepare(paths)?;
        let cwd = workspace(paths, assignment.agent.copy_workspace)?;
        let prompt = prompt::build(assignment, place, session.is_some_and(|s| s.resumed))?;
        let clocks = Clocks {
            deadline: clock + assignment.timeout,
            idle: Some(assignment.idle_timeout),
            first_line: session.map(|_| FIRST_LINE),
            stderr_counts: session.is_none(),
        };
        let start = |program: &Program, sink| {
            tracing::info!(resumed = session.is_some_and(|s| s.resumed), "Attempt begins.");
            child::run(&worker.processes, program, clocks, watch, sink)
                .map_err(|error| not_started(program, &error))
        };
        let kills = oom::kills();
        match (&assignment.agent.driver, session) {
            (Driver::Command(argv), _) => {
                let program = command::program(paths, assignment, place, argv, &home, cwd, prompt)?;
                let said = Arc::new(Mutex::new((command::Said::default(), transcript)));
                let sink = Arc::clone(&said);
                let outcome = start(
                    &program,
                    Box::new(move |pipe, line| {
                        let (said, transcript) = &mut *lock(&sink);
                        said.take(pipe, line);
                        transcript
                            .add_text(if pipe == Pipe::Out { "stdout" } else { "stderr" }, line);
                        None
                    }),
                )?;
                let outcome = survived(outcome, kills, assignment)?;
                let name = program.name.to_string_lossy();
                if let Some(error) = command::failure(&name, outcome.ended, &outcome.stderr) {
                    return Err(error.into());
                }
                let said = &lock(&said).0;
                said.delivery(assignment.task.kind)
                    .map_err(|why| bad_output(&format!("`{name}` handed in no result: {why}")))
            }
            (Driver::Claude, None) => unreachable!("BUG: an attempt of Claude has a session"),
            (Driver::Claude, Some(session)) => {
                let program =
                    claude::program(paths, assignment, place, &session, &home, cwd, prompt)?;
                let seen = Arc::new(Mutex::new((Stream::default(), transcript)));
                let sink = Arc::clone(&seen);
                let outcome = start(
                    &program,
                    Box::new(move |pipe, line| {
                        let (stream, transcript) = &mut *lock(&sink);
                        if pipe == Pipe::Err {
                            transcript.add_text("stderr", line);
                            return None;
                        }
                        transcript.add_json(line).and_then(|object| stream.take(&object))
                    }),
                )?;
                let lost =
                    failure::session_is_lost(&lock(&seen).0, &outcome.stderr) && session.resumed;
                if lost && session.set_aside(&place.config()).is_ok() {
                    tracing::warn!("The session can't be read. It is begun anew.");
                    return self.run_agent(worker, place, assignment, clock, watch);
                }
                let (stream, _) = &*lock(&seen);
                self.used =
                    usage::reckon(stream.result.as_ref(), &stream.own, &stream.answers, &session);
                let outcome = survived(outcome, kills, assignment)?;
                claude_delivery(stream, &outcome, assignment.task.kind).map_err(|broken| {
                    match broken {
                        Broken::Failed(error) => Broken::Failed(failure::or_away(error, || {
                            paths.gateway.connect().is_ok()
                        })),
                        broken => broken,
                    }
                })
            }
        }
    }
}

/// Returns what the CLI handed in, or why it counts for nothing.
fn claude_delivery(stream: &Stream, outcome: &Outcome, kind: TaskKind) -> Result<Delivery, Broken> {
    if let Some(error) = failure::of_cli(stream, outcome.ended, &outcome.stderr) {
        return Err(error.into());
    }
    let result = stream.result.as_ref().unwrap_or(&Value::Null);
    let denials = denials(result);
    if !denials.is_empty() {
        let message = format!("the agent was denied what it asked for: {}", denials.join("; "));
        return Err(TaskError::new(FailureKind::BadOutput, message)
            .with_hint("Do without it, or add the tool to `tools` in worker.toml.")
            .into());
    }
    match result.get("structured_output") {
        None | Some(Value::Null) => {
            Err(bad_output("the agent ended without calling StructuredOutput"))
        }
        Some(output) => Delivery::from_output(kind, output)
            .map_err(|why| bad_output(&format!("the agent's structured output is wrong: {why}"))),
    }
}

fn denials(result: &Value) -> Vec<String> {
    let denials = result["permission_denials"].as_array().into_iter().flatten();
    let mut denials: Vec<String> = denials
        .map(|denial| {
            let tool = denial["tool_name"].as_str().unwrap_or("a tool");
            format!("`{tool}` with {}", text::head(&denial["tool_input"].to_string(), 300))
        })
        .collect();
    denials.dedup();
    denials.truncate(10);
    denials
}

/// Returns the outcome of an agent that ran as long as it liked and was not killed for memory.
fn survived(
    outcome: Outcome,
    kills_before: Option<u64>,
    assignment: &Assignment,
) -> Result<Outcome, Broken> {
    if let Some(stop) = outcome.stopped {
        return Err(broken(stop, assignment));
    }
    if failure::hit_file_size(outcome.ended) {
        return Err(too_much("a file that is larger than all of an attempt may be"));
    }
    let killed = match (kills_before, oom::kills()) {
        (Some(before), Some(after)) => after > before,
        _ => false,
    };
    if killed && failure::looks_killed(outcome.ended) {
        let message = "the agent was killed: the container's memory is used up";
        return Err(explained(FailureKind::Oom, message).into());
    }
    Ok(outcome)
}

fn broken(stop: Stop, assignment: &Assignment) -> Broken {
    let failed = |kind, message: String| Broken::Failed(explained(kind, message));
    match stop {
        Stop::Cancelled(reason) => Broken::Cancelled(reason),
        Stop::Told(signal) => Broken::Interrupted(signal),
        Stop::Useless(error) => Broken::Failed(error),
        Stop::Disk(what) => too_much(&what),
        Stop::Timeout => failed(
            FailureKind::Timeout,
            format!("the attempt took longer than its timeout of {:?}", assignment.timeout),
        ),
        Stop::Idle(limit) => {
            failed(FailureKind::IdleTimeout, format!("the agent was silent for {limit:?}"))
        }
        Stop::NeverSpoke(limit) => Broken::Failed(
            TaskError::new(
                FailureKind::IdleTimeout,
                format!("the agent said nothing in the first {limit:?}"),
            )
            .with_hint("An MCP server that does not start may hold it up; look at the transcript."),
        ),
    }
}

fn too_much(what: &str) -> Broken {
    let message = format!("the attempt has written {what}: it was stopped");
    Broken::Failed(explained(FailureKind::Disk, message))
}

fn bad_output(message: &str) -> Broken {
    Broken::Failed(TaskError::new(FailureKind::BadOutput, message))
}

/// Something of this container, not of the task: another container may do better.
fn local(what: &str, error: &io::Error) -> TaskError {
    TaskError::new(FailureKind::WorkerLost, format!("the worker can't {what}: {error}"))
}

fn not_started(program: &Program, error: &io::Error) -> TaskError {
    let name = program.name.to_string_lossy();
    match error.kind() {
        // Missing memory or too many processes are the container's, and pass.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            local(&format!("start `{name}`"), error)
        }
        _ => TaskError::new(FailureKind::Invalid, format!("`{name}` can't be started: {error}"))
            .with_hint(
                "Use an image that has the program on its PATH, or correct `command` in \
                 worker.toml.",
            ),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes what is expected in the scratch folder. Returns the agent's HOME.
fn prepare(paths: &Paths) -> Result<PathBuf, TaskError> {
    // Anew where the session was begun anew.
    scratch::empty(&paths.scratch);
    let home = home(paths);
    for folder in [&home, &paths.start_files()] {
        fs::create_dir_all(folder).map_err(|e| local("make a folder for the agent", &e))?;
    }
    Ok(home)
}

/// Makes a folder in the place of whatever an interrupted agent may have put there.
fn make_folder(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|stat| !stat.is_dir()) {
        fs::remove_file(path)?;
    }
    fs::create_dir_all(path)
}

fn home(paths: &Paths) -> PathBuf {
    paths.home.clone().unwrap_or_else(|| paths.scratch.join("home"))
}

fn workspace(paths: &Paths, copy: bool) -> Result<PathBuf, TaskError> {
    if !paths.workspace.is_dir() {
        let message = format!("the workspace {} is not there", paths.workspace.display());
        return Err(TaskError::new(FailureKind::WorkerLost, message));
    }
    if !copy {
        return Ok(paths.workspace.clone());
    }
    let to = paths.workspace_copy();
    // It is there when it could not be removed.
    scratch::remove(&to).map_err(|e| local("remove the last copy of the workspace", &e))?;
    scratch::copy(&paths.workspace, &to)?;
    Ok(to)
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An assignment that can't be taken.
#[derive(Debug)]
struct Unreadable {
    error: TaskError,
    /// What is needed to say so, if that much can be read.
    header: Option<Header>,
}

fn read(place: &Place) -> Result<Assignment, Box<Unreadable>> {
    let path = place.tasks.join("task.json");
    let unreadable = |error, header| Box::new(Unreadable { error, header });
    let invalid = |message: String, header| {
        let hint = "The worker and the supervisor may be of different versions: build both again.";
        unreadable(TaskError::new(FailureKind::Invalid, message).with_hint(hint), header)
    };
    let bytes =
        contents(&path).map_err(|error| unreadable(local("read its assignment", &error), None))?;
    let assignment: Assignment = serde_json::from_slice(&bytes).map_err(|error| {
        invalid(format!("the assignment can't be understood: {error}"), Header::guess(&bytes))
    })?;
    if (&assignment.task.id, assignment.attempt) != (&place.task, place.attempt) {
        let name = assignment.task.id.slot_name(assignment.attempt);
        let message = format!("the assignment is for `{name}`, not for the folder that it is in");
        return Err(invalid(message, Some(Header::of(&assignment))));
    }
    Ok(assignment)
}

/// Returns the assignment in a file.
pub(crate) fn assignment(path: &Path) -> io::Result<Assignment> {
    serde_json::from_slice(&contents(path)?).map_err(io::Error::other)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_ASSIGNMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_ASSIGNMENT {
        return Err(io::Error::other(format!("it is larger than {MAX_ASSIGNMENT} bytes")));
    }
    Ok(bytes)
}

/// What a result says of the attempt that it is about.
#[derive(Clone, Debug)]
struct Header {
    run: RunId,
    worker: protocol::WorkerId,
    token: Token,
    rehearsal: bool,
}

impl Header {
    fn of(assignment: &Assignment) -> Self {
        Self {
            run: assignment.task.run,
            worker: assignment.task.worker.clone(),
            token: assignment.token,
            rehearsal: assignment.rehearsal,
        }
    }

    /// Returns what can be read of an assignment of another version.
    fn guess(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            run: serde_json::from_value(value["task"]["run"].clone()).ok()?,
            worker: serde_json::from_value(value["task"]["worker"].clone()).ok()?,
            token: serde_json::from_value(value["token"].clone()).ok()?,
            rehearsal: value["rehearsal"].as_bool().unwrap_or(false),
        })
    }

    fn result(
        self,
        place: &Place,
        ended: Result<Delivery, Broken>,
        work: Work,
        started_at: Time,
        took: Duration,
    ) -> TaskResult {
        let (status, delivery, error) = match ended {
            Ok(delivery) => (Status::Complete, delivery, None),
            Err(broken) => {
                let (status, error) = match broken {
                    Broken::Failed(error) => (Status::Failed, error),
                    Broken::Cancelled(reason) => {
                        (Status::Cancelled, TaskError::new(FailureKind::Cancelled, reason))
                    }
                    Broken::Interrupted(_) => unreachable!("BUG: an interruption has no result"),
                };
                let (summary, artifacts) = (error.message.clone(), work.files);
                (status, Delivery { summary, artifacts, ..Delivery::default() }, Some(error))
            }
        };
        TaskResult {
            version: protocol::FORMAT_VERSION,
            task_id: place.task.clone(),
            run: self.run,
            worker: self.worker,
            attempt: place.attempt.get(),
            token: Some(self.token),
            status,
            summary: delivery.summary,
            findings: delivery.findings,
            recommendations: delivery.recommendations,
            artifacts: delivery.artifacts,
            execution_time: took.as_secs_f64(),
            error,
            usage: work.used.usage,
            cost_usd: Some(work.used.cost_usd),
            model: work.used.model,
            session_id: work.session,
            rehearsal: self.rehearsal,
            started_at,
            finished_at: started_at + took,
            plan: delivery.plan,
            report: delivery.report,
        }
    }
}
