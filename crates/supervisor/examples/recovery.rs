//! Measures how long a restart takes: from the start of the process to the first dispatch.
//!
//! ```text
//! make bench-recovery
//! cargo run --release -p supervisor --example recovery -- [--tasks N] [--rounds N] [--keep DIR]
//! ```
//!
//! It makes an installation by the code that the daemon runs (the scheduler's steps, the journals, the
//! files that people see), half of its tasks done and some of them out, and then starts the daemon
//! itself, with workers that are processes. `SUPERVISOR_WORKER` names the worker's program.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use protocol::atomic_file::{self, Durability};
use protocol::{
    Event, PlanLimits, Priority, RunId, RunMode, Status, TaskFile, TaskResult, TaskSource, Time,
    Usage,
};
use scheduler::{Config, Input, Scheduler, Step, WorkerLimits};
use supervisor::install::Installation;
use supervisor::journal::Journals;
use supervisor::publish;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const WORKERS: [&str; 2] = ["marie", "emma"];
const REPLICAS: u32 = 4;

/// More than a restart takes on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let (mut tasks, mut rounds, mut kept) = (100_000, 3, None);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or("each option has a value")?;
        match arg.as_str() {
            "--tasks" => tasks = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            "--keep" => kept = Some(PathBuf::from(value)),
            _ => return Err(format!("`{arg}` is not known").into()),
        }
    }
    let dir = tempfile::tempdir()?;
    let root = kept.unwrap_or_else(|| dir.path().to_owned());
    fs::create_dir_all(&root)?;
    let installation = Installation::at(&root)?;
    if !installation.journal(RunId::Adhoc).exists() {
        let begin = Instant::now();
        make(&installation, tasks)?;
        println!("made an installation of {tasks} tasks in {:.1?}", begin.elapsed());
    }
    let size = fs::metadata(installation.journal(RunId::Adhoc))?.len();
    println!("journal: {:.1} MB", size as f64 / 1e6);
    parts(&installation)?;
    for round in 1..=rounds {
        let Restart { ready, dispatched, cpu } = restart(&installation)?;
        let cpu = cpu.map_or_else(String::new, |cpu| format!(" and {cpu:.2} s of processor time"));
        println!(
            "restart {round}: first dispatch after {dispatched:.2?}{cpu}, API after {ready:.2?}"
        );
    }
    Ok(())
}

/// How long a restart took.
struct Restart {
    /// Until the API answered.
    ready: Duration,
    /// Until the first attempt was before a worker.
    dispatched: Duration,
    /// The processor time until then, in seconds: on a busy machine it says more.
    cpu: Option<f64>,
}

/// Measures the parts of a start that grow with the history, in this process.
fn parts(installation: &Installation) -> Result {
    let begin = Instant::now();
    let (_, records) = Journals::open(installation)?;
    println!("  reading {} records: {:.2?}", records.len(), begin.elapsed());
    let begin = Instant::now();
    let mut scheduler = Scheduler::new(config());
    for record in &records {
        scheduler.replay(record.at, &record.event);
    }
    println!("  folding them: {:.2?}", begin.elapsed());
    let begin = Instant::now();
    let step = scheduler.resume(scheduler_time(&records), &mut random);
    println!("  going on ({} commands): {:.2?}", step.commands.len(), begin.elapsed());
    Ok(())
}

fn scheduler_time(records: &[protocol::Record]) -> Time {
    records.last().map_or(Time::ZERO, |record| record.at)
}

/// Starts the daemon, and ends it once the first attempt is before a worker.
fn restart(installation: &Installation) -> Result<Restart> {
    let slots: Vec<_> = WORKERS.iter().map(|w| installation.root().join("tasks").join(w)).collect();
    // What was out stays out: its folders are gone, as after a loss of the machine.
    for slot in &slots {
        let _ = fs::remove_dir_all(slot.join(".slots"));
    }
    let log = fs::File::create(installation.root().join("daemon.log"))?;
    let program = std::env::current_exe()?;
    let program = program.parent().and_then(Path::parent).ok_or("no build folder")?;
    let sockets = tempfile::tempdir()?;
    let begin = Instant::now();
    let mut daemon = Command::new(program.join("supervisor"))
        .args(["up", "--runtime", "process", "--rehearsal"])
        .env("SUPERVISOR_DIR", installation.root())
        .env("XDG_RUNTIME_DIR", sockets.path())
        // No worker runs it: they have commands.
        .env("SUPERVISOR_CLAUDE", std::env::current_exe()?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let (mut ready, mut dispatched, mut cpu) = (None, None, None);
    let result = loop {
        let is_up = || installation.sockets().is_ok_and(|dir| dir.join("api.sock").exists());
        if ready.is_none() && is_up() {
            ready = Some(begin.elapsed());
        }
        if dispatched.is_none() && slots.iter().any(|slot| has_attempt(slot)) {
            dispatched = Some(begin.elapsed());
            cpu = processor_time(daemon.id());
        }
        if let (Some(ready), Some(dispatched)) = (ready, dispatched) {
            break Ok(Restart { ready, dispatched, cpu });
        }
        if daemon.try_wait()?.is_some() || begin.elapsed() > PATIENCE {
            let log = fs::read_to_string(installation.root().join("daemon.log"))?;
            break Err(format!("no attempt was dispatched:\n{log}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    // It may be at its work still; nothing of that is needed. Its workers end with `down`.
    daemon.kill()?;
    daemon.wait()?;
    Command::new(program.join("supervisor"))
        .arg("down")
        .env("SUPERVISOR_DIR", installation.root())
        .env("XDG_RUNTIME_DIR", sockets.path())
        .stderr(Stdio::null())
        .status()?;
    result
}

/// Returns the processor time of a process in seconds, where the system tells.
fn processor_time(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // Linux counts in hundredths of a second for all who ask.
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

fn has_attempt(tasks: &Path) -> bool {
    let slots = fs::read_dir(tasks.join(".slots")).into_iter().flatten().flatten();
    let mut attempts = slots.flat_map(|slot| fs::read_dir(slot.path()).into_iter().flatten());
    attempts.any(|entry| entry.is_ok_and(|e| !e.file_name().to_string_lossy().starts_with('.')))
}

fn config() -> Config {
    let limits = WorkerLimits {
        replicas: REPLICAS,
        per_task: false,
        timeout: Duration::from_secs(600),
        retries: 2,
        resumes: false,
    };
    let workers = WORKERS.iter().chain([&"orchestrator"]);
    Config {
        workers: workers.map(|id| (id.parse().expect("an id"), limits.clone())).collect(),
        max_running: 8,
        plan: PlanLimits { tasks: 1_000, depth: 20 },
        backoff_base: Duration::from_secs(5),
        backoff_max: Duration::from_secs(300),
        aging: Duration::from_secs(600),
        timeout_margin: Duration::from_secs(30),
        stop_grace: Duration::from_secs(15),
        max_lost: 5,
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(1)
}

/// What makes an installation as a daemon would have left it.
struct Maker<'a> {
    installation: &'a Installation,
    scheduler: Scheduler,
    journals: Journals,
    now: Time,
    live: BTreeMap<protocol::TaskId, protocol::Token>,
    done: usize,
}

fn make(installation: &Installation, tasks: usize) -> Result {
    for worker in WORKERS.iter().chain([&"orchestrator"]) {
        let folder = installation.workspace(&worker.parse()?);
        fs::create_dir_all(&folder)?;
        let text = format!(
            "description = \"Does things.\"\ncommand = [\"sleep\", \"600\"]\nreplicas = {REPLICAS}\n"
        );
        atomic_file::replace(&folder.join("worker.toml"), text.as_bytes(), Durability::Volatile)?;
    }
    fs::create_dir_all(installation.runs())?;
    fs::create_dir_all(installation.results())?;
    let (journals, _) = Journals::open(installation)?;
    let mut maker = Maker {
        installation,
        scheduler: Scheduler::new(config()),
        journals,
        now: Time::from_millis(1_790_000_000_000),
        live: BTreeMap::new(),
        done: 0,
    };
    maker.step(Input::OpenRun {
        run: RunId::Adhoc,
        short: "adhoc".parse()?,
        name: None,
        mode: RunMode::Adhoc,
        request: None,
        plan: None,
        priority: Priority::Medium,
        budget_usd: None,
        budget_tokens: None,
        rehearsal: true,
    })?;
    for n in 0..tasks {
        let worker = WORKERS[n % WORKERS.len()];
        let after = if n % 10 == 9 { format!("\"student-{:06}\"", n - 9) } else { String::new() };
        let text = format!(
            r#"{{"task_id": "student-{n:06}", "worker": "{worker}", "dependencies": [{after}],
                "description": "Review the progress of student {n} in this term and write a detailed evaluation, {}"}}"#,
            "with regard to what was agreed upon in the last conversation."
        );
        let file: TaskFile = protocol::strict::from_slice(text.as_bytes())?;
        let task = file.into_task(None)?;
        publish::task(installation, &task)?;
        maker.step(Input::AddTask { task, source: TaskSource::Drop })?;
        if n.is_multiple_of(500) {
            maker.journals.commit()?;
        }
    }
    while maker.done < tasks / 2 {
        let Some((task, token)) = maker.live.pop_first() else { break };
        maker.report(task, token)?;
        if maker.done.is_multiple_of(500) {
            maker.journals.commit()?;
        }
    }
    maker.journals.commit()?;
    Ok(())
}

impl Maker<'_> {
    fn step(&mut self, input: Input) -> Result {
        self.now = self.now + Duration::from_millis(20);
        let Step { events, .. } = self
            .scheduler
            .step(self.now, &mut random, input)
            .map_err(|refusal| format!("{refusal:?}"))?;
        for event in events {
            match &event {
                Event::AttemptDispatched { task, token, .. } => {
                    self.live.insert(task.clone(), *token);
                }
                Event::TaskEnded { result, .. } => {
                    self.done += 1;
                    publish::result(self.installation, result)?;
                }
                _ => {}
            }
            self.journals.push(RunId::Adhoc, self.now, event);
        }
        Ok(())
    }

    fn report(&mut self, task: protocol::TaskId, token: protocol::Token) -> Result {
        let entry = self.scheduler.task(&task).ok_or("it was added")?;
        let live = entry.live().ok_or("it is out")?;
        let (attempt, worker) = (live.attempt, entry.task.worker.clone());
        self.step(Input::AttemptStarted { task: task.clone(), attempt })?;
        let error = protocol::TaskError::new(protocol::FailureKind::Invalid, "");
        let result = TaskResult::without_report(
            task,
            RunId::Adhoc,
            worker,
            Some(attempt),
            Status::Complete,
            error,
            self.now,
        );
        let report = TaskResult {
            token: Some(token),
            error: None,
            summary: "The student has made good progress in all areas that were agreed upon; the \
                      evaluation is in the artifact, with examples from each piece of work."
                .to_owned(),
            findings: vec!["Reads fluently and asks good questions.".to_owned(); 3],
            recommendations: vec!["Practise writing in longer forms.".to_owned(); 2],
            usage: Usage { input_tokens: 900, output_tokens: 1_800, ..Usage::default() },
            cost_usd: Some(0.02),
            model: Some("claude-opus-5-5".to_owned()),
            execution_time: 45.2,
            ..result
        };
        self.step(Input::AttemptReported { report })
    }
}
