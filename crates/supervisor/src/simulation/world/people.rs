//! People: they submit, drop files, cancel, and want things done again.

use protocol::disk::{self as fs, simulated as disk};
use scheduler::{Input, Target};

use super::{Deed, Happening, World};
use crate::simulation::checks::State;
use crate::simulation::target;
use crate::simulation::workload::What;

impl World {
    pub(super) fn submit(&mut self, number: usize, daemon: bool) -> Option<Deed> {
        if self.answered[number] {
            return None;
        }
        // Until somebody says that it is there.
        let again = 500 + self.rng.below(4000);
        self.after(again, Happening::Submit(number));
        if let (_, What::Drop(task)) = &self.workload.wants[number] {
            let task = task.clone();
            self.drop_file(number, &task);
            return None;
        }
        if !daemon || std::mem::replace(&mut self.asked[number], true) {
            return None;
        }
        Some(Deed::Submit(number))
    }

    /// Somebody drops a file, and again when it is neither there nor done.
    fn drop_file(&mut self, number: usize, task: &protocol::Task) {
        let Some(installation) = self.installation.clone() else { return };
        let result = installation.result_file(&task.worker, &task.id);
        let file = installation.task_file(&task.worker, &task.id);
        if disk::with(|disk| disk.peek(&result).is_some_and(|bytes| !bytes.is_empty())) {
            self.answered[number] = true;
            self.wants_more();
            return;
        }
        // Our own, or one that the daemon has made again.
        if disk::with(|disk| disk.peek(&file).is_some()) {
            return;
        }
        let bytes = serde_json::to_vec_pretty(task).unwrap_or_default();
        disk::as_world(|| {
            let folder = installation.tasks(&task.worker);
            // By `cp`: in its place, in no hurry to be safe.
            let _ = fs::create_dir_all(folder).and_then(|()| {
                use std::io::Write;
                fs::File::create(&file)?.write_all(&bytes)
            });
        });
        self.saw("file dropped");
    }

    /// Returns what somebody wants.
    pub(in crate::simulation) fn what(&self, number: usize) -> What {
        self.workload.wants[number].1.clone()
    }

    /// Takes in what became of a submission.
    pub(in crate::simulation) fn answered(&mut self, number: usize, acknowledged: Option<bool>) {
        self.asked[number] = false;
        if acknowledged == Some(true) && !self.answered[number] {
            self.answered[number] = true;
            self.wants_more();
            self.saw("acknowledged");
            if let Some(what) = self.acknowledged(&self.what(number)) {
                disk::with(|disk| disk.violate(what));
            }
        }
    }

    /// A person cancels something, or wants it done again.
    pub(super) fn meddle(&mut self, daemon: bool) -> Option<Deed> {
        if !daemon || self.kind {
            return None;
        }
        let wants = &self.workload.wants;
        let target = match &wants[self.rng.index(wants.len())].1 {
            What::Task(task) | What::Drop(task) => target(None, &task.id),
            What::Run(open) => match &**open {
                Input::OpenRun { run, .. } => Target::Run(*run),
                _ => return None,
            },
        };
        self.wants_more();
        if self.rng.per_mille(600) {
            self.saw("cancel");
            Some(Deed::Cancel(target))
        } else {
            self.saw("retry");
            Some(Deed::Retry(target))
        }
    }

    /// Somebody has wanted something: how far the daemon said it was is no longer true.
    pub(super) fn wants_more(&mut self) {
        self.wanted += 1;
        self.state = None;
    }

    /// Returns how often that was.
    pub(in crate::simulation) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Takes in how far the daemon is, unless it was asked before somebody wanted something.
    pub(in crate::simulation) fn told(&mut self, wanted: u64, state: State) {
        if wanted == self.wanted {
            self.state = Some(state);
        }
    }
}
