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

/// How soon after an attempt was lost another task has its replica, in ms, if it had waited for one.
const AT_ONCE: u64 = 20;

/// Returns how many ms after each death an attempt was dispatched for it, least first: the task's next one, without the
/// backoff; or one of another task, which had waited for the replica. A death that cost no attempt is left out, and
/// one after which the replica was given away before the backoff was over.
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
    let millis = |duration: Duration| u64::try_from(duration.as_millis());
    let mut all = Vec::new();
    for (task, attempt, failed, retry_at) in lost {
        let Some((replica, from)) = dispatched.get(&(task.clone(), attempt)) else { continue };
        let during =
            |death: &&Death| death.replica == *replica && (*from..=failed).contains(&death.at);
        let Some(death) = deaths.iter().find(during) else { continue };
        let next = begun.iter().find(|(on, at)| *on == replica && *at >= failed);
        let own = dispatched.get(&(task, attempt + 1)).map(|(on, at)| (on, *at));
        if next.copied() == own
            && let Some((_, at)) = own
        {
            let beyond = at.since(death.at).saturating_sub(retry_at.since(failed));
            all.push(millis(beyond)?);
        } else if let Some((_, at)) = next
            && millis(at.since(failed))? <= AT_ONCE
        {
            all.push(millis(at.since(death.at))?);
        }
    }
    all.sort_unstable();
    Ok(all)
}
