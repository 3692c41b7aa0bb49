//! Processes: starting them, reaping them, and leaving none behind.
//!
//! Everything that our children leave behind becomes our child: as process 1 by nature, otherwise
//! as a "child subreaper". So one thread waits for all of them, and whoever started one learns its
//! end from that thread. No other code waits.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process,
    kill_process_group, set_child_subreaper, set_dumpable_behavior, setpriority_process, wait,
    waitid,
};

/// The lowest priority ("nice") that the kernel has: about a 70th of the share of process 1, which has 0.
const LOWEST: i32 = 19;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// Closes process 1 to all other processes of its user: it can't be traced, and `/proc/1/{mem,environ,fd,maps}` are
/// nobody's. What it starts is open again by its `exec`.
///
/// Outside of a container there is no such wall: an agent may read the daemon's own files there, and the daemon has to
/// find us by our environment.
pub(crate) fn close_to_others() -> io::Result<()> {
    if getpid() != Pid::INIT {
        return Ok(());
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

type OnEnd = Box<dyn FnOnce(Ended) + Send>;

/// The processes of this worker.
#[derive(Default)]
pub(crate) struct Processes {
    /// What is to be told of the end of those that we started. It is locked while one is started,
    /// so that the end of a process is never seen before its start is known.
    started: Mutex<HashMap<Pid, OnEnd>>,
    any: Condvar,
}

impl Processes {
    /// Begins to adopt and to reap.
    pub(crate) fn reap() -> io::Result<Arc<Self>> {
        if getpid() != Pid::INIT {
            set_child_subreaper(Some(getpid()))?;
        }
        let processes = Arc::new(Self::default());
        let reaper = Arc::clone(&processes);
        thread::Builder::new().name("reaper".to_owned()).spawn(move || reaper.reap_for_ever())?;
        Ok(processes)
    }

    /// Starts a process in a group of its own; `on_end` is called once, from the reaper's thread.
    pub(crate) fn start(&self, command: &mut Command, on_end: OnEnd) -> io::Result<(Child, Pid)> {
        use std::os::unix::process::CommandExt;
        let mut started = self.lock();
        command.process_group(0);
        let child =
            if getpid() == Pid::INIT { spawn_behind_us(command)? } else { command.spawn()? };
        let pid = Pid::from_child(&child);
        prefer_to_kill(pid);
        started.insert(pid, on_end);
        self.any.notify_all();
        Ok((child, pid))
    }

    /// Sends a signal to the group of a process that we started, while that process lives.
    pub(crate) fn signal(&self, leader: Pid, signal: Signal) {
        // Not reaped yet, so that its number can't be another's.
        if self.lock().contains_key(&leader) {
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Kills every process that descends from us, and returns how many are left after `patience`
    /// (which only those are that the kernel can't end).
    ///
    /// As process 1, kills all others at once first: processes that multiply faster than they are looked up have no
    /// moment to do so then.
    pub(crate) fn kill_descendants(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        // What has ended counts until it is reaped.
        while getpid() == Pid::INIT && kill_all_others() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let mut pause = Duration::from_millis(1);
        loop {
            let alive = descendants(getpid());
            if alive.is_empty() || Instant::now() >= deadline {
                return alive.len();
            }
            for pid in alive {
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, OnEnd>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_for_ever(&self) {
        loop {
            // Only a look: which process it was is taken up under the lock.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => {
                    let mut started = self.lock();
                    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                        let ended = match (status.exit_status(), status.terminating_signal()) {
                            (Some(code), _) => Ended::Code(code),
                            (None, Some(signal)) => Ended::Signal(signal),
                            (None, None) => continue,
                        };
                        if let Some(on_end) = started.remove(&pid) {
                            on_end(ended);
                        }
                    }
                }
                Err(Errno::CHILD) => {
                    let started = self.lock();
                    // Without children of our own there is nothing to inherit, except for process
                    // 1 from processes that were put into its container; so not for ever.
                    let wait = if started.is_empty() { 1000 } else { 10 };
                    let _ = self.any.wait_timeout(started, Duration::from_millis(wait));
                }
                Err(_) => {}
            }
        }
    }
}

/// Starts a process with the lowest priority, which its descendants inherit and can't raise. Hundreds of processes that
/// never sleep then leave process 1 enough of the container's processors to end them. A child gets the priority of the
/// thread that starts it, and that thread can't raise its own again. So a thread is made for the start alone.
fn spawn_behind_us(command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let spawn = || {
            setpriority_process(None, LOWEST)?;
            command.spawn()
        };
        let spawner =
            thread::Builder::new().name("spawner".to_owned()).spawn_scoped(scope, spawn)?;
        spawner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Kills all processes but us, in one step of the kernel. Returns whether there were any.
fn kill_all_others() -> bool {
    // The group of process 1 is `kill(-1)`, which means all processes that can be seen but the caller.
    kill_process_group(Pid::INIT, Signal::KILL).is_ok()
}

/// Lets the kernel choose this process and its descendants before ourselves when memory runs out,
/// so that somebody is left to report it.
fn prefer_to_kill(pid: Pid) {
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    // Where this is not allowed, the largest process is chosen, which is not us either.
    let _ = fs::OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(b"500"));
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

/// Returns the processes that have `mark` in their environment, except for ourselves.
///
/// That is how a worker that was killed finds what its predecessor left: outside of a container
/// nobody else ends it.
pub(crate) fn marked(mark: &str) -> Vec<Pid> {
    let own = getpid();
    let has_mark = |pid: &Pid| {
        let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
        fs::read(path).is_ok_and(|env| env.split(|b| *b == 0).any(|var| var == mark.as_bytes()))
    };
    all().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != own && has_mark(pid)).collect()
}

/// Kills what a predecessor left and waits until it is gone, at most `patience`. Returns how many
/// are left.
pub(crate) fn kill_marked(mark: &str, patience: Duration) -> usize {
    let deadline = Instant::now() + patience;
    loop {
        let alive = marked(mark);
        if alive.is_empty() || Instant::now() >= deadline {
            return alive.len();
        }
        for pid in alive {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns all processes below `root` that have not ended.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<Pid>> = HashMap::new();
    for (pid, parent) in all() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid.as_raw_nonzero().get()).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

/// Returns every process that has not ended, with its parent's number.
fn all() -> Vec<(Pid, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            Some((pid, parent(&entry.path())?))
        })
        .collect()
}

/// Returns the parent's number; `None` when the process has ended.
fn parent(folder: &Path) -> Option<i32> {
    let stat = fs::read(folder.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // "pid (name) state parent …", and the name may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    match fields.next()? {
        // A zombie with living threads is rare, and its threads die with the kill of the group.
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}
