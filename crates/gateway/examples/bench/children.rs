//! The processes of a run. None outlives it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How long a process may take to end when asked.
const GRACE: Duration = Duration::from_secs(10);

/// A process. Ended when dropped, with all that it has started.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Returns the command for a program that is not ours. It is asked to end also when the run is killed.
    pub(crate) fn command(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program);
        command
    }

    /// Starts a command. Its standard input is a pipe that closes when the run ends, however it ends.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name, child })
    }

    /// Starts one of our own processes, and returns with it the line that it says when it is ready.
    pub(crate) fn start_own(name: &'static str, arguments: &[String]) -> Result<(Self, String)> {
        let program = std::env::current_exe()?;
        let mut process =
            Self::spawn(name, Command::new(program).args(arguments).stdout(Stdio::piped()))?;
        let stdout = process.child.stdout.take().ok_or("BUG: standard output should be a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("{name} ended at its start").into());
        }
        Ok((process, line.trim_end().to_owned()))
    }

    /// Waits until `is_ready`, as long as the process lives.
    pub(crate) fn wait_until(
        &mut self,
        limit: Duration,
        is_ready: impl Fn() -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended at its start: {status}", self.name).into());
            }
            if start.elapsed() > limit {
                return Err(format!("{} does not answer", self.name).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the processor time of the process and all below it.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut ticks = 0;
        for pid in family(self.child.id())? {
            // One that has ended meanwhile has no file.
            if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
                // The name in parentheses may have spaces in it; utime and stime are fields 14 and 15.
                let fields: Vec<&str> =
                    stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
                for at in [11, 12] {
                    ticks += fields.get(at).ok_or("no such field in stat")?.parse::<u64>()?;
                }
            }
        }
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// Returns the ids of all threads of the process and of all below it.
    pub(crate) fn threads(&self) -> Result<Vec<u32>> {
        let of = |pid| numbers(&format!("/proc/{pid}/task")).unwrap_or_default();
        Ok(family(self.child.id())?.into_iter().flat_map(of).collect())
    }

    /// Returns a figure of the process's memory in KiB: `VmRSS` is now, `VmHWM` the most ever.
    pub(crate) fn memory(&self, figure: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(figure)).ok_or("no such figure")?;
        let number = line.split_whitespace().nth(1).ok_or("no number")?;
        Ok(number.parse()?)
    }
}

/// Returns the ids of a process and of all below it.
pub(crate) fn family(of: u32) -> Result<Vec<u32>> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for pid in numbers("/proc")? {
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
            && let Some((_, rest)) = stat.rsplit_once(')')
            && let Some(parent) = rest.split_whitespace().nth(1).and_then(|p| p.parse().ok())
        {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![of];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(family)
}

/// Returns the entries of a folder whose names are numbers.
pub(crate) fn numbers(folder: &str) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let family = family(self.child.id()).unwrap_or_default();
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > GRACE {
                for pid in family.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
