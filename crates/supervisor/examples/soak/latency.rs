//! How long it takes from a worker's death to the dispatch of the next attempt.

use std::collections::BTreeMap;

use protocol::{Event, RunId, Time};
use supervisor::journal;

use crate::Result;
use crate::place::{Place, Programs};
use crate::plan::{self, REPLICAS, WORKERS};
use crate::tally::Tally;

/// Times in ms, least first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    /// From the worker's death to the journal's word that the attempt is lost.
    pub(crate) noticed: Vec<u64>,
    /// From the worker's death to the next dispatch, without the backoff.
    pub(crate) dispatched: Vec<u64>,
}

impl Latencies {
    /// Returns p50 and p99 of the time until a death is noticed.
    pub(crate) fn noticed_after(&self) -> (u64, u64) {
        (quantile(&self.noticed, 0.5), quantile(&self.noticed, 0.99))
    }

    /// Returns p50 and p99 of the time until the next dispatch.
    pub(crate) fn dispatched_after(&self) -> (u64, u64) {
        (quantile(&self.dispatched, 0.5), quantile(&self.dispatched, 0.99))
    }
}

/// Returns the value below which that share of the values is.
pub(crate) fn quantile(of: &[u64], share: f64) -> u64 {
    let last = of.len().saturating_sub(1);
    of.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// Lets every task's first attempt kill its worker, with as many tasks at once as there are replicas: a
/// task that may go never waits for room.
pub(crate) fn measure(programs: &Programs, deaths: usize, seed: u64) -> Result<Latencies> {
    let mut place = Place::new(programs, 40, 1000, seed)?;
    place.up()?;
    let chains = WORKERS.len() * REPLICAS;
    let plan = plan::of_chains(chains, deaths.div_ceil(chains))?;
    let run = place.submit(&plan)?;
    place.wait("all have died and been done again", |place| Ok(place.has_ended(run)))?;
    let latencies = of(&place, run)?;
    place.down()?;
    Ok(latencies)
}

fn of(place: &Place, run: RunId) -> Result<Latencies> {
    let tally = Tally::read(&place.tally())?;
    let mut latencies = Latencies::default();
    // When each lost attempt was noticed, and until when its task had to wait.
    let mut waits: BTreeMap<String, (u64, Time, Time)> = BTreeMap::new();
    for (_, told) in
        journal::look(&place.installation)?.into_iter().filter(|(found, _)| *found == run)
    {
        for record in told? {
            match record.event {
                Event::AttemptFailed { task, attempt, retry_at, .. } => {
                    let key = (task.to_string(), attempt.get());
                    if let (Some(died), Some(retry_at)) = (tally.died.get(&key), retry_at) {
                        latencies.noticed.push(record.at.as_millis().saturating_sub(*died));
                        waits.insert(task.to_string(), (*died, record.at, retry_at));
                    }
                }
                Event::AttemptDispatched { task, .. } => {
                    if let Some((died, failed, retry_at)) = waits.remove(task.as_str()) {
                        let backoff = u64::try_from(retry_at.since(failed).as_millis())?;
                        let whole = record.at.as_millis().saturating_sub(died);
                        latencies.dispatched.push(whole.saturating_sub(backoff));
                    }
                }
                _ => {}
            }
        }
    }
    latencies.noticed.sort_unstable();
    latencies.dispatched.sort_unstable();
    Ok(latencies)
}
