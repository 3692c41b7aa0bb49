//! The start of a worker.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use protocol::ReportSecret;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::family::{MARKER, Process};
use crate::runtime::{CheckSpec, GATEWAY_SOCKET, ReplicaSpec, bounds};

/// What a worker inherits of the supervisor's environment. No more: there are keys in it.
const INHERITED: [&str; 3] = ["PATH", "LANG", "TZ"];

/// How often a program that is still being written is tried, and how long between.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A child of this daemon; one that an earlier daemon started is nobody's.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// It.
    pub(super) process: Process,
    /// Its exit code, once it has one.
    pub(super) code: watch::Receiver<Option<i64>>,
}

impl Running {
    /// Starts a worker.
    ///
    /// # Errors
    ///
    /// Whatever the system says; nothing runs then.
    pub(super) async fn start(spec: &ReplicaSpec, marker: &str, log: &File) -> io::Result<Self> {
        // Else it would look as if the program were missing.
        fs::read_dir(&spec.workspace).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", spec.workspace.display()))
        })?;
        let mut tries = 0;
        let child = loop {
            match command(spec, marker, log)?.spawn() {
                // A child that was just forked for something else has the file open, as we had
                // while we wrote it, until it becomes another program.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tries += 1;
                    if tries == BUSY_TRIES {
                        return Err(error);
                    }
                    sleep(BUSY_PAUSE).await;
                }
                child => break child?,
            }
        };
        // Not waited for yet, so the number is still its own, even if it has ended.
        let process = child_process(&child)?;
        Ok(Self { process, code: notice_end(child) })
    }
}

/// Returns the worker's command line.
pub(super) fn arguments(spec: &ReplicaSpec) -> Vec<OsString> {
    let socket = spec.gateway.join(GATEWAY_SOCKET);
    let options: [(&str, Option<&Path>); 7] = [
        ("--tasks", Some(&spec.tasks)),
        ("--results", Some(&spec.results)),
        ("--workspace", Some(&spec.workspace)),
        ("--login", spec.login.as_deref()),
        ("--gateway", Some(&socket)),
        ("--claude", spec.claude.as_deref()),
        ("--scratch", Some(&spec.scratch)),
    ];
    options
        .into_iter()
        .filter_map(|(name, path)| Some([name.into(), path?.into()]))
        .flatten()
        .chain(["--no-walls".into()])
        .chain((!spec.asks_model).then(|| "--no-model".into()))
        .chain(bounds(spec).into_iter().map(OsString::from))
        .collect()
}

fn command(spec: &ReplicaSpec, marker: &str, log: &File) -> io::Result<Command> {
    let mut command = Command::new(&spec.program);
    command
        .args(arguments(spec))
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))))
        .env("HOME", spec.scratch.join("home"))
        .env(MARKER, marker)
        .env(ReportSecret::VARIABLE, spec.secret.to_hex().as_str())
        .current_dir(&spec.workspace)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    own_session(&mut command);
    Ok(command)
}

/// Returns the command line of a check. What it prints is piped, and it ends with its handle.
pub(super) fn check(check: &CheckSpec, scratch: &Path, marker: &str) -> Command {
    let spec = &check.replica;
    let mut command = Command::new(&spec.program);
    command.arg("check").arg("--task").arg(&check.task).arg("--workspace").arg(&spec.workspace);
    command.arg("--scratch").arg(scratch);
    if let Some(artifacts) = &check.artifacts {
        command.arg("--artifacts").arg(artifacts);
    }
    command
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))))
        .env(MARKER, marker)
        .current_dir(&spec.workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    own_session(&mut command);
    command
}

/// Has a command run in a session of its own: without a terminal, so that no agent can read from it,
/// write to it, or be stopped by it, and no Ctrl-C reaches it.
#[expect(unsafe_code, reason = "std has no stable way to ask for a session")]
fn own_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe, and
    // nothing is allocated.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(io::Error::from));
    }
}

fn child_process(child: &Child) -> io::Result<Process> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    Process::of_pid(pid.ok_or_else(|| io::Error::other("the child has no number"))?)
}

/// Waits for a child in the background, whether somebody asks or not: else it would stay a zombie.
fn notice_end(mut child: Child) -> watch::Receiver<Option<i64>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                sender.send_replace(code.map(i64::from));
            }
            // Who waits learns that the sender is gone.
            Err(error) => warn!(%error, "Cannot wait for a worker."),
        }
    });
    receiver
}
