//! Who runs on which core while latencies are measured: the load on the first, the contender on the others, the upstream
//! wherever there is room.
//!
//! The system puts whoever is woken beside its waker, all the more on machines that save cores. Load and contender
//! then take turns on one core for tens of milliseconds while the other idles, or don't, as it happens. (Seen in traces of the
//! scheduler; a turn's p99 was 0.4 ms or 2 ms by that alone.)

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
    Others,
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
        let others: Vec<usize> = cores.collect();
        let wanted = match self {
            Self::All => return *all,
            Self::Others if !others.is_empty() => others,
            Self::First | Self::Others => first,
        };
        let mut set = CpuSet::new();
        wanted.into_iter().for_each(|core| set.set(core));
        set
    }
}
