//! `worker check`: runs the command by which a task checks what an attempt left, where no agent ever was.
//!
//! The command's end is our exit code, and what it printed is in what we print: the supervisor has both from whatever runs
//! us, and nothing that the command does changes either.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::{Assignment, CHECK_FAILED_CODE, CHECK_IMPOSSIBLE_CODE, CHECK_SAYS};

use crate::args::CheckArgs;
use crate::attempt;
use crate::child::{self, Clocks, Outcome, Program, Stop, Watch};
use crate::disk::Meter;
use crate::environment;
use crate::gateway::Gateway;
use crate::process::{Ended, Processes};
use crate::signals::Signals;
use crate::{scratch, text};

/// How long the task's command may take: what its format promises.
const LIMIT: Duration = Duration::from_secs(60);

/// How much of the end of the command's output is shown.
const SHOWN: usize = 2000;

/// How a check ended, in words that follow "the task's check `…`".
#[derive(Debug)]
enum Verdict {
    Passed,
    Failed(String),
    /// It could not be made.
    Impossible(String),
    /// That signal came.
    Told(u8),
}

/// Runs the check, says how it ended, and returns the exit code that says the same.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let verdict = check(args).unwrap_or_else(Verdict::Impossible);
    let _ = scratch::remove(&args.scratch.join("artifacts"));
    let (said, code) = match verdict {
        Verdict::Passed => return ExitCode::SUCCESS,
        Verdict::Told(signal) => return ExitCode::from(128 + signal),
        Verdict::Failed(said) => (said, CHECK_FAILED_CODE),
        Verdict::Impossible(said) => (said, CHECK_IMPOSSIBLE_CODE),
    };
    let _ = writeln!(io::stdout(), "{CHECK_SAYS}{said}");
    ExitCode::from(code)
}

/// Makes the check.
///
/// # Errors
///
/// Why it can't be made.
fn check(args: &CheckArgs) -> Result<Verdict, String> {
    let signals = Signals::catch().map_err(|e| format!("can't be run: no signals: {e}"))?;
    let processes = Processes::reap().map_err(|e| format!("can't be run: no reaper: {e}"))?;
    let assignment = attempt::assignment(&args.task.join("task.json"))
        .map_err(|e| format!("can't be run: its assignment can't be read: {e}"))?;
    let Some(command) = assignment.task.verify.as_ref().and_then(|check| check.command.as_deref())
    else {
        return Ok(Verdict::Passed);
    };
    let (artifacts, home) = (args.scratch.join("artifacts"), args.scratch.join("home"));
    make(&artifacts, &home, args.artifacts.as_deref()).map_err(|e| {
        format!(
            "can't be run: its copy of the artifacts can't be made in {}: {e}",
            args.scratch.display()
        )
    })?;
    let program = Program {
        name: "sh".into(),
        args: ["-c", command].map(OsString::from).to_vec(),
        env: environment(args, &assignment, &artifacts, &home),
        cwd: artifacts,
        stdin: Vec::new(),
    };
    let clocks = Clocks {
        deadline: Instant::now() + LIMIT,
        idle: None,
        first_line: None,
        stderr_counts: false,
    };
    // It has none; nobody is asked, since silence is not measured.
    let gateway = Gateway::Socket(PathBuf::new());
    // It writes into memory, which has a bound of its own.
    let disk = Meter::default();
    let watch = Watch { signals: &signals, folder: &args.task, gateway: &gateway, disk: &disk };
    let output = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&output);
    let outcome = child::run(
        &processes,
        &program,
        clocks,
        watch,
        Box::new(move |_, line| {
            let mut output = sink.lock().unwrap_or_else(PoisonError::into_inner);
            let start = line.bytes.len().saturating_sub(SHOWN);
            output.push_str(&String::from_utf8_lossy(&line.bytes[start..]));
            output.push('\n');
            if output.len() > 4 * SHOWN {
                *output = text::tail(&output, SHOWN).to_owned();
            }
            None
        }),
    );
    let outcome = outcome.map_err(|e| format!("can't be started with `sh`: {e}"))?;
    let output = output.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(verdict(&outcome, text::tail(output.trim(), SHOWN)))
}

fn verdict(outcome: &Outcome, output: &str) -> Verdict {
    let output = if output.is_empty() { String::new() } else { format!(": {output}") };
    let failed = |end: String| Verdict::Failed(format!("{end}{output}"));
    match (&outcome.stopped, outcome.ended) {
        (Some(Stop::Timeout), _) => failed(format!("took more than {} s", LIMIT.as_secs())),
        (Some(Stop::Told(signal)), _) => Verdict::Told(*signal),
        (Some(_), _) => failed("was called off".to_owned()),
        (None, Some(Ended::Code(0))) => Verdict::Passed,
        (None, Some(Ended::Code(code))) => failed(format!("ended with code {code}")),
        (None, Some(Ended::Signal(signal))) => failed(format!("was ended by signal {signal}")),
        (None, None) => failed("could not be ended".to_owned()),
    }
}

/// Makes the folders that the command finds: a copy of the artifacts, which it may change, and a home.
fn make(artifacts: &Path, home: &Path, from: Option<&Path>) -> io::Result<()> {
    scratch::remove(artifacts)?;
    fs::create_dir_all(home)?;
    match from {
        Some(from) => copy(from, artifacts),
        None => fs::create_dir_all(artifacts),
    }
}

/// Copies a folder of the supervisor's: files and folders, bounded when they were taken in.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Returns what every program expects, what the worker's configuration adds, and where things are. There is no way out,
/// so there is no proxy either.
fn environment(
    args: &CheckArgs,
    assignment: &Assignment,
    artifacts: &Path,
    home: &Path,
) -> Vec<(OsString, OsString)> {
    let attempt = assignment.attempt.to_string();
    let path = environment::search_path(std::env::var_os("PATH"));
    let own: [(&str, OsString); 10] = [
        ("PATH", path),
        ("LANG", "C.UTF-8".into()),
        ("TERM", "dumb".into()),
        ("HOME", home.into()),
        ("TMPDIR", args.scratch.as_os_str().into()),
        ("SUPERVISOR_TASK", assignment.task.id.as_str().into()),
        ("SUPERVISOR_ATTEMPT", attempt.into()),
        ("SUPERVISOR_ARTIFACTS", artifacts.into()),
        ("SUPERVISOR_WORKSPACE", args.workspace.as_os_str().into()),
        ("SUPERVISOR_INPUTS", args.task.join("inputs").into()),
    ];
    // By this the process runtime finds what outlives us.
    let mark = std::env::var_os("SUPERVISOR_REPLICA").map(|mark| ("SUPERVISOR_REPLICA", mark));
    let configured = assignment.agent.env.iter().map(|(name, value)| (name.as_str(), value.into()));
    // The last of a name counts: only what every program expects may be configured.
    let (common, ours) = own.split_at(3);
    let all = common.iter().cloned().chain(configured).chain(ours.iter().cloned()).chain(mark);
    all.map(|(name, value)| (name.into(), value)).collect()
}
