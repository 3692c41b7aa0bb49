//! The worker in a container, played: it takes one attempt after another, and may do all that a program can do
//! wrong.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability, is_visible};
use protocol::disk::{self as fs, simulated as disk};
use protocol::{
    Assignment, Attempt, CANCEL_FILE, FailureKind, ReplicaId, ReportOf, Status, TaskError,
    TaskKind, TaskResult, Time,
};

use super::engine::killed;
use super::workload::{Fate, plan};
use super::world::{Happening, World};
use crate::runtime::Exit;

/// What a worker is at.
#[derive(Debug, Default)]
pub(super) struct Player {
    pub(super) work: Option<Work>,
    /// What it has had before it.
    handled: BTreeSet<String>,
    /// What it has handed in last, and whether its keeper had nothing else to do by then.
    pub(super) handed: Option<(protocol::TaskId, u32, bool)>,
}

/// An attempt that a worker executes.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) assignment: Box<Assignment>,
    pub(super) folder: PathBuf,
    ends: Ends,
    began: u64,
    /// Whether it was asked to stop, and does.
    stops: bool,
}

impl Work {
    fn name(&self) -> String {
        self.assignment.task.id.slot_name(self.assignment.attempt)
    }
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// As its task's fate says.
    Properly,
    /// Never.
    Hangs,
    /// By the end of the container.
    Dies,
    /// By the worker's end, with 0 and without a result.
    Silently,
    /// With a result that has another token.
    Forges,
    /// With a result of the attempt before it.
    Repeats,
    /// With what its agent left in the place of the result.
    Tampers,
}

/// What stands in a result that must never be accepted.
pub(super) const FORGED: &str = "FORGED";

impl World {
    /// Has a worker look at its folder in a while.
    pub(super) fn soon_look(&mut self, replica: &ReplicaId) {
        let after = self.rng.below(120);
        self.of(replica, after, |replica, number| Happening::Look { replica, number });
    }

    /// Lets something happen with a container, if it is still that one by then.
    fn of(
        &mut self,
        replica: &ReplicaId,
        after: u64,
        what: impl FnOnce(ReplicaId, u64) -> Happening,
    ) {
        if let Some(number) = self.containers.get(replica).map(|container| container.number) {
            self.after(after, what(replica.clone(), number));
        }
    }

    fn player(&mut self, replica: &ReplicaId) -> Option<&mut Player> {
        let container = self.containers.get_mut(replica).filter(|container| container.runs())?;
        Some(&mut container.player)
    }

    /// The worker looks whether there is something to do.
    pub(super) fn look(&mut self, replica: &ReplicaId) {
        let Some(container) = self.containers.get(replica).filter(|c| c.runs()) else { return };
        if container.player.work.is_some() {
            return;
        }
        let spec = container.spec.clone();
        let names = disk::with(|disk| disk.peek_names(&spec.tasks));
        let is_open = |name: &&String| {
            let result = spec.results.join(format!("{name}.json"));
            is_visible(name)
                && !container.player.handled.contains(*name)
                && disk::with(|disk| disk.peek(&result).is_none())
        };
        let Some(name) = names.iter().find(is_open).cloned() else { return };
        let folder = spec.tasks.join(&name);
        let json = disk::with(|disk| disk.peek(&folder.join("task.json")).map(<[u8]>::to_vec));
        let assignment = json.and_then(|json| serde_json::from_slice::<Assignment>(&json).ok());
        let Some(player) = self.player(replica) else { return };
        player.handled.insert(name.clone());
        let Some(assignment) = assignment else {
            disk::trace(format_args!("{replica} can't read {name}"));
            return self.soon_look(replica);
        };
        disk::trace(format_args!("{replica} begins {name}"));
        if let Some(what) = self.check_begin(replica, &assignment, &folder) {
            return disk::with(|disk| disk.violate(what));
        }
        let ends = self.choose_end(&assignment);
        disk::with(|disk| disk.watch(&folder));
        let work = Work {
            assignment: Box::new(assignment),
            folder,
            ends,
            began: self.time(),
            stops: false,
        };
        let takes = match self.rng.below(10) {
            0..3 => self.rng.below(50),
            3..8 => self.rng.below(10_000),
            _ => self.rng.below(55_000),
        };
        if let Some(player) = self.player(replica) {
            player.work = Some(work);
        }
        self.of(replica, takes, |replica, number| Happening::Finish { replica, number });
        // It may have been called off meanwhile.
        self.look_at_cancel(replica);
    }

    fn choose_end(&mut self, assignment: &Assignment) -> Ends {
        let second = assignment.attempt.get() > 1;
        let ends = match self.rng.below(100) {
            0..4 if self.mischief(1000) && self.counted() => Ends::Hangs,
            4..8 if self.may_lose() => Ends::Dies,
            8..11 if self.may_lose() => Ends::Silently,
            11..15 if self.mischief(1000) && self.counted() => Ends::Forges,
            25..27 if !self.workload.fair && self.mischief(1000) => Ends::Tampers,
            15..25 if second && self.mischief(1000) && self.counted() => Ends::Repeats,
            _ => Ends::Properly,
        };
        self.saw(match ends {
            Ends::Properly => "attempt ends properly",
            Ends::Hangs => "attempt hangs",
            Ends::Dies => "container dies at work",
            Ends::Silently => "worker ends without a result",
            Ends::Forges => "result with a wrong token",
            Ends::Repeats => "result of the attempt before",
            Ends::Tampers => "result without a proof",
        });
        ends
    }

    /// The attempt comes to its end.
    pub(super) fn finish(&mut self, replica: &ReplicaId) {
        let Some(container) = self.containers.get(replica).filter(|c| c.runs()) else { return };
        let Some(work) = &container.player.work else { return };
        match work.ends {
            Ends::Hangs => {}
            Ends::Dies => self.end(replica, killed()),
            Ends::Silently => {
                self.end(replica, Exit { code: Some(0), oom: false, output: String::new() });
            }
            Ends::Properly | Ends::Forges | Ends::Repeats | Ends::Tampers => self.hand_in(replica),
        }
    }

    /// The worker hands in what there is.
    fn hand_in(&mut self, replica: &ReplicaId) {
        let Some(player) = self.player(replica) else { return };
        let Some(work) = player.work.take() else { return };
        let Some(results) = self.containers.get(replica).map(|c| c.spec.results.clone()) else {
            return;
        };
        let report = self.report(&work);
        let file = results.join(format!("{}.json", work.name()));
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        let bytes = match self.containers.get(replica) {
            Some(container) if work.ends != Ends::Tampers => {
                container.spec.secret.seal(ReportOf::assignment(&work.assignment), &bytes)
            }
            _ => bytes,
        };
        disk::as_world(|| {
            if report.status == Status::Complete {
                let text = artifact(&work.assignment.task.id, work.assignment.attempt);
                let left = results.join(work.name());
                // What a result names is safe before it.
                for name in &report.artifacts {
                    leave(&left.join("artifacts").join(name), &text, Durability::Synced);
                }
                for folder in [&left.join("artifacts"), &left, &results] {
                    let _ = atomic_file::sync_folder(folder);
                }
                leave(&left.join("transcript.jsonl"), "{}\n", Durability::Volatile);
            }
            // Nobody may have made the folder again that somebody removed.
            // Half a report would be taken for somebody else's: what is in it is safe before it is seen.
            let _ = atomic_file::replace(&file, &bytes, Durability::Synced);
        });
        disk::trace(format_args!("{replica} hands in {}", work.name()));
        // What is checked lies in its slot until that is done.
        let at_once = work.assignment.task.verify.is_none();
        let idle = at_once && work.began + 20_000 < self.time() && !work.stops;
        if let Some(player) = self.player(replica) {
            let task = work.assignment.task.id.clone();
            player.handed = Some((task, work.assignment.attempt.get(), idle));
        }
        // Some forget what they have had: that its result is there has to be enough.
        if self.rng.per_mille(400)
            && let Some(player) = self.player(replica)
        {
            player.handled.clear();
        }
        self.handed_in(&work.assignment, &report, work.ends == Ends::Properly);
        if self.mischief(100) {
            // Once more, and a moment later.
            let after = self.rng.below(3000);
            let (file, bytes) = (file.clone(), bytes.clone());
            self.saw("result handed in twice");
            self.of(replica, after, |replica, number| Happening::Again {
                replica,
                number,
                file,
                bytes,
            });
        }
        if !self.workload.fair && !self.kind && self.people.per_mille(50) {
            // Somebody who can't wait cancels it just then.
            let after = self.people.below(300);
            self.after(after, Happening::CallOff(work.assignment.task.id.clone()));
        }
        let number = self.containers.get(replica).map(|c| c.number);
        if let Some(number) = number {
            self.expect_taken(replica, number, &work.assignment);
        }
        self.soon_look(replica);
    }

    fn report(&mut self, work: &Work) -> TaskResult {
        let assignment = &work.assignment;
        let (task, attempt) = (&assignment.task, assignment.attempt);
        let fate = match work.stops {
            true => None,
            false => Some(self.workload.fate(&task.id, task.kind)),
        };
        let failures = self.flaked.entry(task.id.clone()).or_default();
        let error = match fate {
            Some(Fate::Complete) => None,
            Some(Fate::Flaky(times)) if *failures >= times => None,
            Some(Fate::Flaky(_)) => {
                *failures += 1;
                Some(TaskError::new(FailureKind::Network, "the line broke"))
            }
            Some(Fate::Refused) => Some(TaskError::new(FailureKind::Refused, "it won't")),
            None => Some(TaskError::new(FailureKind::WorkerLost, "it was stopped")),
        };
        let at = Time::from_millis(self.wall().as_millis());
        let base = TaskResult::without_report(
            task.id.clone(),
            task.run,
            task.worker.clone(),
            Some(attempt),
            Status::Failed,
            error.clone().unwrap_or_else(|| TaskError::new(FailureKind::Refused, "")),
            at,
        );
        let mut report = TaskResult { token: Some(assignment.token), ..base };
        if error.is_none() {
            report.status = Status::Complete;
            report.error = None;
            report.summary = format!("{} is done by {attempt}", task.id);
            report.artifacts = (0..self.rng.index(3)).map(|i| format!("a{i}/x.md")).collect();
            match task.kind {
                TaskKind::Work => {}
                TaskKind::Plan => {
                    report.plan = serde_json::to_value(plan(&mut self.rng)).ok();
                }
                TaskKind::Synthesize => report.report = Some("So it is.".to_owned()),
            }
        }
        match work.ends {
            Ends::Forges => {
                report.token = Some(protocol::Token::from_random(1, self.rng.next_u64()));
                report.summary = FORGED.to_owned();
            }
            Ends::Repeats => {
                let before = attempt.get() - 1;
                report.attempt = before;
                if self.rng.per_mille(500) {
                    report.token = self.tokens.get(&(task.id.clone(), before)).copied();
                }
                report.summary = FORGED.to_owned();
            }
            Ends::Tampers => report.summary = FORGED.to_owned(),
            _ => {}
        }
        report
    }

    /// Somebody writes into the folder of a replica's results once more.
    pub(super) fn hand_in_again(&mut self, replica: &ReplicaId, file: &Path, bytes: &[u8]) {
        if self.containers.get(replica).is_some_and(|container| container.runs()) {
            let _ = disk::as_world(|| atomic_file::replace(file, bytes, Durability::Synced));
            self.strays.insert(file.to_owned());
        }
    }

    /// The worker looks whether it is to stop.
    pub(super) fn look_at_cancel(&mut self, replica: &ReplicaId) {
        let ignores = self.rng.per_mille(if self.kind { 0 } else { 300 });
        let Some(work) = self.player(replica).and_then(|player| player.work.as_mut()) else {
            return;
        };
        let asked = disk::with(|disk| disk.peek(&work.folder.join(CANCEL_FILE)).is_some());
        if !asked || work.stops || ignores {
            return;
        }
        work.stops = true;
        work.ends = Ends::Properly;
        let after = self.rng.below(3000);
        self.of(replica, after, |replica, number| Happening::Finish { replica, number });
    }

    /// A container is asked to end. Returns whether it does not care. It may hand in something first.
    pub(super) fn asked_to_end(&mut self, replica: &ReplicaId) -> bool {
        if self.engine_away {
            return false;
        }
        match self.rng.below(10) {
            0 | 1 => {
                let hangs = self
                    .player(replica)
                    .and_then(|player| player.work.as_ref())
                    .is_none_or(|work| work.ends != Ends::Properly);
                if !hangs {
                    self.saw("result at the last moment");
                    self.hand_in(replica);
                }
                false
            }
            2..5 => true,
            _ => false,
        }
    }
}

/// Returns what an artifact of an attempt holds.
pub(super) fn artifact(task: &protocol::TaskId, attempt: Attempt) -> String {
    format!("{task} by {attempt}\n").repeat(3)
}

/// Writes a file as a worker does.
fn leave(path: &Path, text: &str, durability: Durability) {
    if let Some(folder) = path.parent()
        && fs::create_dir_all(folder).is_ok()
    {
        let _ = atomic_file::replace(path, text.as_bytes(), durability);
    }
}
