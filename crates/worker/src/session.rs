//! The Claude session of an attempt: begun, or gone on with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability};
use protocol::{SessionId, SessionPlan, Usage};

/// A session, as the CLI is to be told of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: SessionId,
    /// Whether there is something to go on from.
    pub(crate) resumed: bool,
    /// What it had used before this attempt: zero when it is begun anew.
    pub(crate) used: Usage,
    /// What it had cost before this attempt, in US dollars.
    pub(crate) cost_usd: f64,
}

impl Session {
    /// Returns how the planned session is used.
    ///
    /// What decides is whether its file is there, whatever the plan says: the CLI refuses to begin
    /// a session that exists and to resume one that does not. It exists unexpectedly when this
    /// attempt was interrupted, and is missing when it was never written or has been cleared away.
    pub(crate) fn choose(plan: &SessionPlan, config_dir: &Path) -> Self {
        let resumed = exists(config_dir, plan.id);
        if resumed != plan.resume {
            tracing::info!(session = %plan.id, resumed, "The session is not as it was planned.");
        }
        let used = if resumed { plan.used } else { Usage::default() };
        let cost_usd = if resumed { plan.cost_usd } else { 0.0 };
        Self { id: plan.id, resumed, used, cost_usd }
    }

    /// Puts a session aside that the CLI can't read, so that it can be begun anew: of a name for which there
    /// is a file, the CLI begins none.
    pub(crate) fn set_aside(&self, config_dir: &Path) -> io::Result<()> {
        for file in files(config_dir, self.id) {
            let aside = file.with_extension("jsonl.damaged");
            atomic_file::move_to(&file, &aside, Durability::Volatile)?;
        }
        Ok(())
    }

    /// Writes down the id, before the session can begin.
    pub(crate) fn note(&self, path: &Path) -> io::Result<()> {
        atomic_file::replace(path, format!("{}\n", self.id).as_bytes(), Durability::Synced)
    }
}

/// Returns whether there is something to go on from. An empty file is what a full disk or a power cut leaves.
fn exists(config_dir: &Path, id: SessionId) -> bool {
    let has_text = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.len() > 0);
    files(config_dir, id).iter().any(has_text)
}

/// Returns the files that the CLI has of a session: `projects/<folder>/<id>.jsonl`.
fn files(config_dir: &Path, id: SessionId) -> Vec<PathBuf> {
    let name = format!("{id}.jsonl");
    let Ok(folders) = fs::read_dir(config_dir.join("projects")) else {
        return Vec::new();
    };
    let paths = folders.flatten().map(|folder| folder.path().join(&name));
    paths.filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_is_resumed_exactly_when_its_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let used = Usage { output_tokens: 7, ..Usage::default() };
        let plan =
            |resume| SessionPlan { id: SessionId::from_random(1, 2), resume, used, cost_usd: 0.5 };
        let lost = Session::choose(&plan(true), dir.path());
        assert!(!lost.resumed && lost.used == Usage::default() && lost.cost_usd == 0.0);

        let project = dir.path().join("projects/-workspace");
        fs::create_dir_all(&project).unwrap();
        let file = project.join(format!("{}.jsonl", plan(true).id));
        fs::File::create(&file).unwrap();
        assert!(!Session::choose(&plan(true), dir.path()).resumed, "an empty file is no session");

        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        fs::write(&file, "{}\n").unwrap();
        let interrupted = Session::choose(&plan(false), dir.path());
        assert!(interrupted.resumed && interrupted.used == used && interrupted.cost_usd == 0.5);
    }
}
