//! Workers as child processes, for a machine without a container engine.
//!
//! There are no walls: a worker runs as the supervisor's user, sees what that user sees, may write
//! where a container's mounts would be read-only, and has the network. Limits on memory, processors
//! and processes are not held. What its worker has it has, too: that a report carries its worker's proof keeps out
//! mistakes here, not an agent that means harm. It is kept from the supervisor's environment, and from its terminal.
//!
//! A worker outlives the daemon. A later daemon finds it by its record, and what is
//! without one (the daemon was killed between starting a worker and writing that down) by an
//! environment variable; such a one has not taken any work yet, and is replaced.

mod child;
mod family;
mod log;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use protocol::{ReplicaId, atomic_file};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

use self::child::{Running, arguments};
use self::family::{Process, Table};
use self::record::{Record, boot_id};
use super::fingerprint::{self, Programs, check_program};
use super::{CHECK_TIMEOUT, CheckSpec, Exit, Found, ReplicaSpec, Runtime, RuntimeError, output};

/// How long a worker that is replaced may take to stop.
const REPLACE_GRACE: Duration = Duration::from_secs(10);

/// How often the processes of a replica are looked up while it stops.
const STOP_LOOK: Duration = Duration::from_millis(200);

/// How long a killed process may take to be gone; only one that the kernel holds takes this long.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait before killed processes are looked at again.
const KILL_LOOK: Duration = Duration::from_millis(5);

/// Workers as child processes.
#[derive(Debug)]
pub struct ProcessRuntime {
    state: PathBuf,
    programs: Programs,
    children: Mutex<HashMap<ReplicaId, Running>>,
}

impl ProcessRuntime {
    /// Returns a runtime that keeps its records and logs in `state`, an absolute path that is this
    /// installation's own.
    pub fn new(state: PathBuf) -> Self {
        Self { state, programs: Programs::default(), children: Mutex::default() }
    }

    /// Returns the file with what a replica printed.
    pub fn log_path(&self, replica: &ReplicaId) -> PathBuf {
        self.state.join(format!("{replica}.log"))
    }

    fn record_path(&self, replica: &ReplicaId) -> PathBuf {
        self.state.join(format!("{replica}.json"))
    }

    /// Returns the value of [`MARKER`] for a replica, in this installation only.
    fn marker(&self, replica: &ReplicaId) -> String {
        self.state.join(replica.as_str()).to_string_lossy().into_owned()
    }

    /// Returns the value of [`MARKER`] for a replica's check.
    fn check_marker(&self, replica: &ReplicaId) -> String {
        self.checks().join(replica.as_str()).to_string_lossy().into_owned()
    }

    /// Returns the folder by which checks are marked. It need not be there.
    fn checks(&self) -> PathBuf {
        self.state.join("check")
    }

    /// Returns the folder of a replica's check, which is made for it and removed after it.
    fn check_scratch(spec: &ReplicaSpec) -> PathBuf {
        spec.scratch.with_file_name(format!("{}.check", spec.replica))
    }

    /// Kills all that has a marker, and what that started, until nothing of it is left.
    async fn kill_marked(&self, marker: &str) -> io::Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            let marker = marker.to_owned();
            let look = move || {
                let table = Table::read()?;
                let marked = table.marked().into_iter().filter(|(_, value)| *value == marker);
                io::Result::Ok(table.family(&marked.map(|(process, _)| process).collect()))
            };
            let left = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("processes of a check are still running"));
            }
            for process in &left {
                process.signal(Signal::KILL)?;
            }
            sleep(KILL_LOOK).await;
        }
    }

    fn children(&self) -> MutexGuard<'_, HashMap<ReplicaId, Running>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fingerprint(&self, spec: &ReplicaSpec) -> Result<String, RuntimeError> {
        let program = self.programs.hash(&spec.program).await?;
        if let Some(claude) = &spec.claude {
            check_program(claude)?;
        }
        let arguments: Vec<_> = arguments(spec)
            .into_iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        Ok(fingerprint::of(json!({
            "path": spec.program, "program": program, "arguments": arguments,
            "proof": spec.secret.print(),
        })))
    }

    /// Starts a worker and writes down that it runs.
    async fn launch(&self, spec: &ReplicaSpec, fingerprint: String) -> io::Result<()> {
        fs::create_dir_all(&self.state)?;
        let (log, log_from) = log::open(&self.log_path(&spec.replica))?;
        let running = Running::start(spec, &self.marker(&spec.replica), &log).await?;
        let process = running.process;
        let record = Record {
            replica: spec.replica.clone(),
            pid: process.pid,
            started: process.started,
            boot: boot_id(),
            spec: fingerprint,
            proof: spec.secret.print(),
            log_from,
        };
        if let Err(error) = record.write(&self.record_path(&spec.replica)) {
            process.signal(Signal::KILL)?;
            return Err(error);
        }
        self.children().insert(spec.replica.clone(), running);
        info!(replica = %spec.replica, pid = process.pid, "Worker started.");
        Ok(())
    }

    /// Returns all processes of a replica that run.
    ///
    /// `known` are processes that belonged to it a moment ago. Whose parent has ended meanwhile may
    /// not be found in another way.
    async fn family(
        &self,
        replica: &ReplicaId,
        known: &BTreeSet<Process>,
    ) -> io::Result<BTreeSet<Process>> {
        let marker = self.marker(replica);
        let mut seeds = known.clone();
        seeds.extend(Record::read(&self.record_path(replica)).and_then(|record| record.process()));
        let look = move || {
            let table = Table::read()?;
            let marked = table.marked().into_iter().filter(|(_, value)| *value == marker);
            seeds.extend(marked.map(|(process, _)| process));
            Ok(table.family(&seeds))
        };
        tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
    }

    /// Stops all of a replica. See [`Runtime::stop`].
    async fn end(&self, replica: &ReplicaId, grace: Duration) -> io::Result<()> {
        let mut known = self.family(replica, &BTreeSet::new()).await?;
        let worker = Record::read(&self.record_path(replica)).and_then(|record| record.process());
        if let Some(worker) = worker.filter(|_| !grace.is_zero()) {
            worker.signal(Signal::TERM)?;
            let mut ended = pin!(worker.ended());
            let deadline = Instant::now() + grace;
            loop {
                match timeout_at(deadline.min(Instant::now() + STOP_LOOK), &mut ended).await {
                    Ok(ended) => break ended?,
                    Err(_) if Instant::now() >= deadline => break,
                    // What it starts while it stops is part of it.
                    Err(_) => known = self.family(replica, &known).await?,
                }
            }
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            known = self.family(replica, &known).await?;
            if known.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                let pids: Vec<_> = known.iter().map(|process| process.pid.to_string()).collect();
                return Err(io::Error::other(format!("still running: {}", pids.join(", "))));
            }
            for process in &known {
                process.signal(Signal::KILL)?;
            }
            sleep(KILL_LOOK).await;
        }
        atomic_file::remove(&self.record_path(replica))?;
        self.children().remove(replica);
        Ok(())
    }
}

fn refused(action: &'static str, replica: &ReplicaId, error: io::Error) -> RuntimeError {
    RuntimeError::Refused { action, name: replica.to_string(), source: error.into() }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn check(&self, _images: &[String]) -> Result<(), RuntimeError> {
        let usable = fs::create_dir_all(&self.state).and_then(|()| Table::read());
        usable.map(|_| ()).map_err(|source| RuntimeError::Refused {
            action: "use",
            name: self.state.display().to_string(),
            source: source.into(),
        })
    }

    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        let replica = &spec.replica;
        let running = Record::read(&self.record_path(replica))
            .filter(|record| record.process().is_some() && record.replica == *replica);
        if let Some(running) = running.as_ref().filter(|_| busy)
            && running.proof == spec.secret.print()
        {
            debug!(%replica, pid = running.pid, "Busy worker adopted.");
            return Ok(());
        }
        // Before anything is stopped: it may not be possible to start another.
        let fingerprint = self.fingerprint(spec).await?;
        if running.as_ref().is_some_and(|running| running.spec == fingerprint) {
            debug!(%replica, "Worker adopted.");
            return Ok(());
        }
        // Also when no worker runs: something that it started may.
        self.end(replica, REPLACE_GRACE).await.map_err(|e| refused("stop", replica, e))?;
        self.launch(spec, fingerprint).await.map_err(|e| refused("start", replica, e))
    }

    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError> {
        let Some(record) = Record::read(&self.record_path(replica)) else {
            return Ok(Exit::unknown());
        };
        let process = Process { pid: record.pid, started: record.started };
        let child = self.children().get(replica).cloned().filter(|child| child.process == process);
        let code = if let Some(mut child) = child {
            match child.code.wait_for(Option::is_some).await {
                Ok(code) => *code,
                Err(_) => None,
            }
        } else if record.process().is_some() {
            // Not our child: how it ended is told to its parent only.
            process.ended().await.map_err(|e| refused("wait for", replica, e))?;
            None
        } else {
            None
        };
        let output = log::read_tail(&self.log_path(replica), record.log_from);
        Ok(Exit { code, oom: false, output })
    }

    async fn stop(&self, replica: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        self.end(replica, grace).await.map_err(|e| refused("stop", replica, e))?;
        self.end_check(replica).await
    }

    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError> {
        let spec = &check.replica;
        let failed = |error| refused("check the work of", &spec.replica, error);
        self.end_check(&spec.replica).await?;
        check_program(&spec.program)?;
        let scratch = Self::check_scratch(spec);
        let remove = || match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        remove().and_then(|()| fs::create_dir_all(&scratch)).map_err(failed)?;
        let marker = self.check_marker(&spec.replica);
        let child = child::check(check, &scratch, &marker).spawn().map_err(failed)?;
        let exit = match timeout(CHECK_TIMEOUT, child.wait_with_output()).await {
            Err(_) => Exit::unknown(),
            Ok(output) => {
                let output = output.map_err(failed)?;
                let code = output.status.code().map(i64::from);
                let output = output::tail_of(&output.stdout, output::CHECK_LINES);
                Exit { code, oom: false, output }
            }
        };
        self.end_check(&spec.replica).await?;
        remove().map_err(failed)?;
        Ok(exit)
    }

    async fn end_check(&self, replica: &ReplicaId) -> Result<(), RuntimeError> {
        let marker = self.check_marker(replica);
        self.kill_marked(&marker).await.map_err(|e| refused("end the check of", replica, e))
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let failed = |source: io::Error| RuntimeError::Refused {
            action: "list",
            name: self.state.display().to_string(),
            source: source.into(),
        };
        let mut found = BTreeMap::new();
        let files = match fs::read_dir(&self.state) {
            Ok(files) => files.collect::<io::Result<Vec<_>>>().map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        for file in files {
            if file.path().extension().is_some_and(|extension| extension == "json")
                && let Some(record) = Record::read(&file.path())
            {
                let running = record.process().is_some();
                found.insert(record.replica, running);
            }
        }
        let marked = tokio::task::spawn_blocking(|| Ok(Table::read()?.marked()))
            .await
            .map_err(io::Error::other)
            .and_then(|marked| marked)
            .map_err(failed)?;
        for marker in marked.values() {
            let marker = Path::new(marker);
            let name = marker.file_name().and_then(|name| name.to_str());
            if let Some(replica) = name.and_then(|name| name.parse().ok())
                && [Some(&*self.state), Some(&*self.checks())].contains(&marker.parent())
            {
                found.insert(replica, true);
            }
        }
        Ok(found.into_iter().map(|(replica, running)| Found { replica, running }).collect())
    }
}
