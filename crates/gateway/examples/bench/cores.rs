//! Who runs on which core while latencies are measured: the load on the first, the contender on the others, the upstream
//! wherever there is room.
//!
//! Left to the system, load and contender take turns on one core for tens of milliseconds while the other idles, or don't, as it
//! happens. (Seen in traces of the scheduler. In turns of which others took next to nothing, the gateway's p99 was
//! 0.5 to 3.0 ms that way, and is 0.4 to 0.7 ms this way.)

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{Result, children::Process};

/// Some of the cores that this process may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cores {
    All,
    First,
    /// All but the first; also that one, if there is no other.
    Rest,
}

impl Cores {
    /// Does something on these cores.
    pub(crate) fn run<T>(self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let all = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.of(&all))?;
        let done = what();
        sched_setaffinity(None, &all)?;
        done
    }

    /// Puts a process and all below it on these cores.
    pub(crate) fn keep(self, process: &Process) -> Result<()> {
        let cores = self.of(&sched_getaffinity(None)?);
        for thread in process.threads()? {
            // One that has ended meanwhile runs nowhere.
            let _ = sched_setaffinity(Pid::from_raw(thread.cast_signed()), &cores);
        }
        Ok(())
    }

    fn of(self, all: &CpuSet) -> CpuSet {
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let first: Vec<usize> = cores.by_ref().take(1).collect();
        let rest: Vec<usize> = cores.collect();
        let wanted = match self {
            Self::All => return *all,
            Self::Rest if !rest.is_empty() => rest,
            Self::First | Self::Rest => first,
        };
        let mut set = CpuSet::new();
        wanted.into_iter().for_each(|core| set.set(core));
        set
    }
}
