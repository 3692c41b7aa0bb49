//! Writing what a person finds in `tasks/` and `results/`, now or as soon as there is room.

use protocol::{ReplicaId, RunId, TaskId};
use tracing::warn;

use super::Dispatcher;
use crate::{publish, view};

/// Something that a full disk kept from being written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unwritten {
    Task(TaskId),
    Result(TaskId),
    Run(RunId),
    /// The slot of a replica, without what the last daemon left in it.
    Cleared(ReplicaId),
}

impl Dispatcher {
    /// Writes something, now or as soon as it can be written.
    pub(super) fn write(&mut self, what: Unwritten) {
        let written = match &what {
            Unwritten::Task(task) => match self.scheduler.task(task) {
                Some(entry) if entry.result.is_none() => {
                    publish::task(&self.installation, &entry.task)
                }
                _ => Ok(()),
            },
            Unwritten::Result(task) => {
                match self.scheduler.task(task).and_then(|e| e.result.as_ref()) {
                    Some(result) => publish::result(&self.installation, result),
                    None => Ok(()),
                }
            }
            Unwritten::Cleared(replica) => self.clear_slot(replica),
            Unwritten::Run(run) => {
                let (gateways, now) = (self.gateways(), self.clock.now());
                match view::summary(&self.scheduler, &self.installation, gateways, *run, now) {
                    Some(summary) => {
                        let answer = view::answer(&self.scheduler, *run);
                        publish::run(&self.installation, &summary, answer.as_deref())
                    }
                    None => Ok(()),
                }
            }
        };
        match written {
            Ok(()) => {
                self.unwritten.remove(&what);
                if self.unwritten.is_empty() {
                    self.notices.remove("files");
                }
            }
            Err(error) => {
                warn!(?what, %error, "Can't write; trying again.");
                self.notices.insert("files".to_owned(), format!("can't write files: {error}"));
                protocol::mutant!(UnwrittenForgotten, self.unwritten.insert(what, ()), None);
            }
        }
    }

    pub(super) fn write_again(&mut self) {
        let unwritten: Vec<_> = self.unwritten.keys().cloned().collect();
        for what in unwritten {
            self.write(what);
        }
    }
}
