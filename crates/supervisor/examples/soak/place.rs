//! An installation in a temporary folder, and the real daemon that serves it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::atomic_file::{self, Durability};
use protocol::{Plan, RunId};
use serde_json::Value;
use supervisor::install::Installation;
use tempfile::TempDir;

use crate::Result;
use crate::plan::{DEPTH, REPLICAS, WORKERS};
use crate::task::Manner;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// The programs that are tried.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) supervisor: PathBuf,
    pub(crate) worker: PathBuf,
}

/// An installation, and its daemon while it runs.
#[derive(Debug)]
pub(crate) struct Place {
    programs: Programs,
    pub(crate) installation: Installation,
    dir: TempDir,
    /// What else the daemon finds in its environment.
    env: Vec<(&'static str, String)>,
    daemon: Option<Child>,
    pub(crate) starts: usize,
}

impl Place {
    /// Makes an installation without workers and without a configuration.
    pub(crate) fn empty(programs: &Programs, env: Vec<(&'static str, String)>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("soak").tempdir()?;
        // Agents in containers are another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        for folder in ["tally/locks", "s", "workspaces"] {
            fs::create_dir_all(dir.path().join(folder))?;
        }
        Ok(Self {
            programs: programs.clone(),
            installation: Installation::at(dir.path()).map_err(|failure| failure.to_string())?,
            dir,
            env,
            daemon: None,
            starts: 0,
        })
    }

    /// Makes an installation whose workers run our tasks in this manner.
    pub(crate) fn new(programs: &Programs, millis: u64, deaths: u64, seed: u64) -> Result<Self> {
        let place = Self::empty(programs, Vec::new())?;
        let manner = Manner { folder: place.tally(), millis, deaths, seed };
        for worker in WORKERS {
            place.worker(worker, REPLICAS, &manner)?;
        }
        // The answers are no part of the storm's aim: their workers do not die by themselves.
        place.worker("orchestrator", 1, &Manner { deaths: 0, ..manner })?;
        let most = WORKERS.len() * REPLICAS + 1;
        let config = format!(
            "runtime = \"process\"\nbackoff_base = 0.05\nstop_grace = 1\nmax_running = {most}\n\
             plan_max_tasks = 100000\nplan_max_depth = {DEPTH}0\n"
        );
        place.write("supervisor.toml", &config)?;
        Ok(place)
    }

    fn worker(&self, name: &str, replicas: usize, manner: &Manner) -> Result<()> {
        let Manner { folder, millis, deaths, seed } = manner;
        let program = std::env::current_exe()?;
        let command = [
            program.display().to_string(),
            "task".to_owned(),
            folder.display().to_string(),
            millis.to_string(),
            deaths.to_string(),
            seed.to_string(),
        ];
        let text = format!(
            "description = \"Does what is to be done.\"\ncommand = {command:?}\nreplicas = {replicas}\n\
             retries = 5\ntimeout = 120\n"
        );
        self.write(&format!("workspaces/{name}/worker.toml"), &text)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        Ok(atomic_file::replace(&path, text.as_bytes(), Durability::Volatile)?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn tally(&self) -> PathBuf {
        self.path("tally")
    }

    /// Returns a command of the supervisor with nothing of our own environment but the `PATH`.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.programs.supervisor);
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", self.dir.path())
            .env("XDG_RUNTIME_DIR", self.path("s"))
            .env("SUPERVISOR_DIR", self.dir.path())
            .env("SUPERVISOR_WORKER", &self.programs.worker)
            // No agent is asked; it only has to be a program.
            .env("SUPERVISOR_CLAUDE", &self.programs.worker)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the supervisor to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command().args(arguments).output()?)
    }

    /// Starts the daemon and returns at once.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = self.path("daemon.log");
        let log: File = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = self.command();
        command.arg("up").stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(command.spawn()?);
        self.starts += 1;
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn up(&mut self) -> Result<()> {
        self.start()?;
        self.answers()
    }

    /// Waits until the daemon answers.
    pub(crate) fn answers(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.run(&["status", "--json"])?.status.success() {
            if let Some(status) = self.ended()? {
                return Err(format!("the daemon ended with {status}:\n{}", self.log()).into());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the daemon does not answer:\n{}", self.log()).into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Returns how the daemon ended by itself, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// Kills the daemon as `kill -9` does. An end of its own is an error.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            return Err(format!("the daemon ended by itself with {status}:\n{}", self.log()).into());
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Stops the daemon and its workers, as a person does.
    pub(crate) fn down(&mut self) -> Result<()> {
        let output = self.run(&["down"])?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("`down` failed: {said}").into());
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait()?;
        }
        Ok(())
    }

    /// Hands in a plan and returns the run. The daemon must be up.
    pub(crate) fn submit(&self, plan: &Plan) -> Result<RunId> {
        self.write("plan.json", &serde_json::to_string(plan)?)?;
        let output = self.run(&["submit", "--plan", "plan.json", "--detach", "--json"])?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("the plan was not taken: {said}").into());
        }
        let opened: Value = serde_json::from_slice(&output.stdout)?;
        Ok(opened["run"].as_str().ok_or("no run was opened")?.parse()?)
    }

    /// Drops a task file into a worker's folder, as `mv` does.
    pub(crate) fn drop_file(&self, worker: &str, id: &str, text: &str) -> Result<()> {
        self.write(&format!("tasks/{worker}/{id}.json"), text)
    }

    /// Returns whether a run has ended: its figures are there.
    pub(crate) fn has_ended(&self, run: RunId) -> bool {
        self.installation.summary(run).is_file()
    }

    /// Waits until something holds while the daemon runs.
    pub(crate) fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let mut start = Instant::now();
        let mut seen = 0;
        while !holds(self)? {
            if let Some(status) = self.ended()? {
                return Err(format!("the daemon ended with {status}:\n{}", self.log()).into());
            }
            // As long as something happens, it may still come.
            let size = fs::metadata(self.tally().join(crate::tally::FILE)).map_or(0, |m| m.len());
            if size != seen {
                (start, seen) = (Instant::now(), size);
            }
            if start.elapsed() > PATIENCE {
                let status = self.run(&["status"])?.stdout;
                let status = String::from_utf8_lossy(&status).into_owned();
                return Err(
                    format!("waited too long until {what}:\n{status}\n{}", self.log()).into()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the processes that belong to this installation: its workers and what they have started.
    pub(crate) fn processes(&self) -> Result<Vec<(i32, String)>> {
        let mark = format!("SUPERVISOR_REPLICA={}/", self.installation.processes().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Who has ended meanwhile, or is somebody else's, has nothing to tell.
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let is_ours =
                environment.split(|byte| *byte == 0).any(|var| var.starts_with(mark.as_bytes()));
            if is_ours {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                found.push((pid, line));
            }
        }
        Ok(found)
    }

    /// Returns the processes of the workers, as the process runtime has them in its records.
    pub(crate) fn workers(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        let Ok(records) = fs::read_dir(self.installation.processes()) else { return Ok(found) };
        for record in records {
            let path = record?.path();
            // One that is just being replaced is not there for a moment.
            let record = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let record: Value = record.unwrap_or_default();
            found.extend(record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()));
        }
        Ok(found)
    }

    /// Returns the end of the daemon's log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Keeps the folder for whoever wants to see what went wrong, and says where it is.
    pub(crate) fn keep(mut self) -> Result<PathBuf> {
        self.dir.disable_cleanup(true);
        Ok(self.dir.path().to_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also where something failed: nothing outlives us.
        let _ = self.kill();
        let _ = self.run(&["down"]);
    }
}
