//! What others take of the machine while a turn runs.
//!
//! A service that wakes up for 3 ms takes as long from the load, the upstream or the contender, and all that was due
//! meanwhile comes at once afterwards. A contender that is half busy needs as long again to catch up, a direct connection
//! next to nothing: two such moments in a turn are its p99. (Measured: in turns of 0.6 s at 15,000/s, the p99 of gateway
//! and nginx followed what others took, from 0.3 ms with 5 ms of it to more than 3 ms with 12 ms.)

use std::{collections::HashMap, fs, time::Duration};

use crate::{
    Result,
    children::{family, numbers},
};

/// Threads of the kernel that work for whoever is measured, too: they write back what was written, and hand on what was sent.
const FOR_ALL: [&str; 3] = ["kworker/", "ksoftirqd/", "jbd2/"];

/// How long each thread that has no part in the run has had a processor, by its number.
pub(crate) struct Others(HashMap<u32, Duration>);

impl Others {
    /// Looks at all threads of the machine.
    ///
    /// # Errors
    ///
    /// If the kernel does not say how long they ran: nothing taken would then be nothing seen.
    pub(crate) fn now() -> Result<Self> {
        fs::read_to_string("/proc/self/schedstat")
            .map_err(|error| format!("cannot read /proc/self/schedstat: {error}"))?;
        let own = family(std::process::id())?;
        let mut times = HashMap::new();
        for pid in numbers("/proc")?.into_iter().filter(|pid| !own.contains(pid)) {
            // One that has ended meanwhile has no files.
            for thread in numbers(&format!("/proc/{pid}/task")).unwrap_or_default() {
                let read = |file| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{file}"));
                if let (Ok(name), Ok(times_of)) = (read("comm"), read("schedstat"))
                    && !FOR_ALL.iter().any(|prefix| name.starts_with(prefix))
                {
                    // Nanoseconds on a processor, those of waiting for one, and how often (`man 5 proc`).
                    let ran = times_of.split(' ').next().ok_or("no field in schedstat")?;
                    times.insert(thread, Duration::from_nanos(ran.parse()?));
                }
            }
        }
        Ok(Self(times))
    }

    /// Returns how much processor time they have had since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let had = |thread| before.0.get(thread).copied().unwrap_or_default();
        self.0.iter().map(|(thread, now)| now.saturating_sub(had(thread))).sum()
    }
}
