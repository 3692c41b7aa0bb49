//! How long it takes from a container's death to the dispatch of the next attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Event, FailureKind, ReplicaId, TaskId, Time};
use supervisor::journal;

use crate::Result;
use crate::engine::Engine;
use crate::place::Place;

/// When a container died, by the engine's word.
#[derive(Clone, Debug)]
pub(super) struct Death {
    replica: ReplicaId,
    at: Time,
}

impl Death {
    /// Kills a container with what is given, and returns when it died; None when it was gone already.
    pub(super) fn of(
        engine: &Engine,
        container: &str,
        kill: impl FnOnce() -> Result<bool>,
    ) -> Result<Option<Self>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        if !kill()? {
            return Ok(None);
        }
        // The engine notes it a moment later.
        for _ in 0..40 {
            let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let (since, until) = (format!("--since={since:.6}"), format!("--until={until:.6}"));
            let output = engine
                .command()
                .args(["events", &since, &until, "--filter", "event=die", "--filter"])
                .arg(format!("container={container}"))
                .args([
                    "--format",
                    "{{.TimeNano}} {{index .Actor.Attributes \"supervisor.replica\"}}",
                ])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some((nanos, replica)) = text.trim().split_once(' ') {
                let at = Time::from_millis(nanos.parse::<u64>()? / 1_000_000);
                return Ok(Some(Self { replica: replica.parse()?, at }));
            }
            sleep(Duration::from_millis(25));
        }
        Ok(None)
    }
}

/// Returns how many ms after each death the next attempt was dispatched, without the backoff, least first. A
/// death that cost no attempt is left out, and one after which there was no room for the next.
pub(super) fn dispatched_after(place: &Place, deaths: &[Death]) -> Result<Vec<u64>> {
    let mut dispatched: BTreeMap<(TaskId, u32), (ReplicaId, Time)> = BTreeMap::new();
    let mut lost: Vec<(TaskId, u32, Time, Time)> = Vec::new();
    for (_, told) in journal::look(&place.installation)? {
        for record in told? {
            match record.event {
                Event::AttemptDispatched { task, attempt, replica, .. } => {
                    dispatched.insert((task, attempt.get()), (replica, record.at));
                }
                Event::AttemptFailed { task, attempt, error, retry_at: Some(retry_at), .. }
                    if error.kind == FailureKind::WorkerLost =>
                {
                    lost.push((task, attempt.get(), record.at, retry_at));
                }
                _ => {}
            }
        }
    }
    let begun: BTreeSet<(&ReplicaId, Time)> =
        dispatched.values().map(|(replica, at)| (replica, *at)).collect();
    let mut all = Vec::new();
    for (task, attempt, failed, retry_at) in lost {
        let Some((replica, from)) = dispatched.get(&(task.clone(), attempt)) else { continue };
        let Some((next_on, next)) = dispatched.get(&(task, attempt + 1)) else { continue };
        let during =
            |death: &&Death| death.replica == *replica && (*from..=failed).contains(&death.at);
        let Some(death) = deaths.iter().find(during) else { continue };
        let has_room = !begun.iter().any(|(on, at)| *on == next_on && (failed..*next).contains(at));
        if has_room {
            let beyond = next.since(death.at).saturating_sub(retry_at.since(failed));
            all.push(u64::try_from(beyond.as_millis())?);
        }
    }
    all.sort_unstable();
    Ok(all)
}
