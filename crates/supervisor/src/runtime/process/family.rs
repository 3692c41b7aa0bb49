//! The processes of a replica, found in `/proc`.
//!
//! An agent starts shells, those start builds, and some of these leave their parent, their group or
//! their session on purpose. So a process belongs to a replica when one of these holds:
//!
//! * its environment says so ([`MARKER`]), as of the moment when it was started;
//! * its parent belongs to it;
//! * it is in the session of one that belongs to it, unless somebody else leads that.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The environment variable that names a process's replica. What a worker starts has to inherit it,
/// or else it is not found once the worker itself was killed.
pub(super) const MARKER: &str = "SUPERVISOR_REPLICA";

/// A process. Its number is given again one day; its number and the time of its start are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: i32,
    /// When it was started, in clock ticks since the system was.
    pub(super) started: u64,
}

impl Process {
    /// Returns the process that has this number now.
    pub(super) fn of_pid(pid: i32) -> io::Result<Self> {
        Ok(Stat::read(pid)?.process)
    }

    /// Returns whether it runs. What has ended and only waits to be noticed does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.process == self && !stat.ended)
    }

    /// Sends it a signal. `Ok` when it is gone.
    pub(super) fn signal(self, signal: Signal) -> io::Result<()> {
        match self.open()?.map(|fd| pidfd_send_signal(fd, signal)) {
            None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Waits until it does not run.
    #[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor of ours")]
    pub(super) async fn ended(self) -> io::Result<()> {
        let Some(fd) = self.open()? else { return Ok(()) };
        // SAFETY: an `OwnedFd` that is moved in stays open, and the same, until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        fd.readable().await.map(|_| ())
    }

    /// Returns a handle that stays with this process, `None` when it is gone.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Only now is it sure whom the number stands for.
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug)]
struct Stat {
    process: Process,
    parent: i32,
    session: i32,
    ended: bool,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(pid, &String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as proc(5) has it")))
    }

    fn parse(pid: i32, text: &str) -> Option<Self> {
        // The name may hold anything, also spaces and parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            process: Process { pid, started: fields.get(19)?.parse().ok()? },
        })
    }
}

/// The processes that run.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Stat>,
}

impl Table {
    /// Reads them. What starts or ends meanwhile may be missing.
    pub(super) fn read() -> io::Result<Self> {
        let pids = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let rows = pids.filter_map(|pid| Stat::read(pid).ok()).filter(|stat| !stat.ended);
        Ok(Self { rows: rows.collect() })
    }

    /// Returns what [`MARKER`] says, for each process that has it and that we may ask.
    pub(super) fn marked(&self) -> HashMap<Process, String> {
        self.rows.iter().filter_map(|row| Some((row.process, marker(row.process.pid)?))).collect()
    }

    /// Returns all that belong together with the ones of `seeds` that run.
    pub(super) fn family(&self, seeds: &BTreeSet<Process>) -> BTreeSet<Process> {
        let pids: BTreeSet<i32> = self.rows.iter().map(|row| row.process.pid).collect();
        let mut family = BTreeSet::new();
        let (mut parents, mut sessions) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let before = family.len();
            for row in &self.rows {
                let belongs = seeds.contains(&row.process)
                    || parents.contains(&row.parent)
                    || sessions.contains(&row.session);
                if belongs && family.insert(row.process) {
                    parents.insert(row.process.pid);
                }
                // One that somebody else leads is somebody else's: never to be killed with ours.
                let is_led = pids.contains(&row.session) && !parents.contains(&row.session);
                if family.contains(&row.process) && !is_led && row.session != 0 {
                    sessions.insert(row.session);
                }
            }
            if family.len() == before {
                return family;
            }
        }
    }
}

fn marker(pid: i32) -> Option<String> {
    let environ = fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
    environ.split(|&byte| byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_program_may_look_like_the_end_of_it() {
        let mut text = "7 (a) S 1 b) R 3 4 5".to_owned();
        text.push_str(&" 0".repeat(15));
        text.push_str(" 4711 0 0");
        let stat = Stat::parse(7, &text).unwrap();
        assert_eq!((stat.parent, stat.session, stat.process.started), (3, 5, 4711));
        assert!(!stat.ended && Stat::parse(7, &text.replace(") R", ") Z")).unwrap().ended);
        assert!(Stat::parse(7, "7 (a) R").is_none());
    }

    fn row(pid: i32, parent: i32, session: i32) -> Stat {
        Stat { process: Process { pid, started: 1 }, parent, session, ended: false }
    }

    #[test]
    fn family_is_found_through_parents_and_sessions_and_nobody_else_is() {
        let table = Table {
            rows: vec![
                row(1, 0, 1),
                row(9, 6, 9),
                row(10, 1, 10),
                row(5, 10, 10),
                row(6, 5, 6),
                // Its parent has ended, its session is the agent's.
                row(7, 1, 6),
                row(8, 1, 8),
                // Ours, in the session of somebody else.
                row(11, 10, 8),
            ],
        };
        let seeds = BTreeSet::from([Process { pid: 10, started: 1 }]);
        let pids: Vec<i32> = table.family(&seeds).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [5, 6, 7, 9, 10, 11]);
        // A number that was given again is somebody else.
        let seeds = BTreeSet::from([Process { pid: 10, started: 0 }]);
        assert!(table.family(&seeds).is_empty());
    }
}
