//! The installation: where everything lies.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability};
use protocol::{Attempt, ReplicaId, RunId, TaskId, WorkerId};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// The folder that one daemon serves. Every path in it is made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    root: PathBuf,
    id: String,
}

impl Installation {
    /// The configuration's file name.
    pub const CONFIG: &'static str = "supervisor.toml";

    /// Finds the installation: the given folder, or else the nearest one at or above the current
    /// folder that has a `supervisor.toml` or a `workspaces/`.
    ///
    /// # Errors
    ///
    /// Bad input when there is none, with what makes a folder an installation.
    pub fn find(given: Option<&Path>) -> Result<Self, Failure> {
        let is_one =
            |dir: &Path| dir.join(Self::CONFIG).is_file() || dir.join("workspaces").is_dir();
        let hint = "Give the folder with `--dir`; it has `supervisor.toml` or `workspaces/` in it.";
        if let Some(dir) = given {
            if !is_one(dir) {
                let message = format!("`{}` is not an installation", dir.display());
                return Err(Failure::bad_input(message).hint(hint));
            }
            return Self::at(dir);
        }
        let here = std::env::current_dir()
            .map_err(|e| Failure::bad_input("the current folder can't be found").because(e))?;
        match here.ancestors().find(|dir| is_one(dir)) {
            Some(dir) => Self::at(dir),
            None => {
                let message = format!("`{}` is not in an installation", here.display());
                Err(Failure::bad_input(message).hint(hint))
            }
        }
    }

    /// Returns the installation at that folder.
    ///
    /// # Errors
    ///
    /// Bad input when there is no such folder.
    pub fn at(dir: &Path) -> Result<Self, Failure> {
        let root = fs::canonicalize(dir).map_err(|e| {
            Failure::bad_input(format!("`{}` can't be opened", dir.display())).because(e)
        })?;
        let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
        let id = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { root, id })
    }

    /// Returns the installation on a simulated disk.
    #[cfg(feature = "simulate")]
    pub(crate) fn simulated() -> Self {
        Self { root: "/i".into(), id: "simulated".to_owned() }
    }

    /// Returns the folder, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns eight characters that name this installation among others on the machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns `path` relative to the installation, as it is shown and written into files.
    pub fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// `supervisor.toml`
    pub fn config(&self) -> PathBuf {
        self.root.join(Self::CONFIG)
    }

    /// `workspaces/`
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("workspaces")
    }

    /// `workspaces/<worker>/`
    pub fn workspace(&self, worker: &WorkerId) -> PathBuf {
        self.workspaces().join(worker.as_str())
    }

    /// `auth-homes/<worker>/`
    pub fn auth_home(&self, worker: &WorkerId) -> PathBuf {
        self.root.join("auth-homes").join(worker.as_str())
    }

    /// `tasks/<worker>/`
    pub fn tasks(&self, worker: &WorkerId) -> PathBuf {
        self.root.join("tasks").join(worker.as_str())
    }

    /// `tasks/<worker>/rejected/`
    pub fn rejected(&self, worker: &WorkerId) -> PathBuf {
        self.tasks(worker).join("rejected")
    }

    /// `tasks/<worker>/<task>.json`
    pub fn task_file(&self, worker: &WorkerId, task: &TaskId) -> PathBuf {
        self.tasks(worker).join(format!("{task}.json"))
    }

    /// `tasks/<worker>/.slots/<replica>/`: `/tasks` in the container.
    pub fn task_slot(&self, worker: &WorkerId, replica: &ReplicaId) -> PathBuf {
        self.tasks(worker).join(".slots").join(replica.as_str())
    }

    /// `results/`
    pub fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    /// `results/<worker>/`
    pub fn worker_results(&self, worker: &WorkerId) -> PathBuf {
        self.results().join(worker.as_str())
    }

    /// `results/<worker>/.slots/<replica>/`: `/results` in the container.
    pub fn result_slot(&self, worker: &WorkerId, replica: &ReplicaId) -> PathBuf {
        self.worker_results(worker).join(".slots").join(replica.as_str())
    }

    /// `results/<worker>/<task>.json`
    pub fn result_file(&self, worker: &WorkerId, task: &TaskId) -> PathBuf {
        self.worker_results(worker).join(format!("{task}.json"))
    }

    /// `results/<worker>/<task>/`
    pub fn artifacts(&self, worker: &WorkerId, task: &TaskId) -> PathBuf {
        self.worker_results(worker).join(task.as_str())
    }

    /// `results/<run>.md`
    pub fn answer(&self, run: RunId) -> PathBuf {
        self.results().join(format!("{run}.md"))
    }

    /// `results/<run>.json`
    pub fn summary(&self, run: RunId) -> PathBuf {
        self.results().join(format!("{run}.json"))
    }

    /// `.supervisor/`
    pub fn state(&self) -> PathBuf {
        self.root.join(".supervisor")
    }

    /// `.supervisor/lock`
    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// `.supervisor/report-key`: of which the secrets of workers are made. No container sees it.
    pub fn report_key(&self) -> PathBuf {
        self.state().join("report-key")
    }

    /// `.supervisor/supervisor.log`
    pub fn log(&self) -> PathBuf {
        self.state().join("supervisor.log")
    }

    /// `.supervisor/runs/`
    pub fn runs(&self) -> PathBuf {
        self.state().join("runs")
    }

    /// `.supervisor/runs/<run>/journal.jsonl`
    pub fn journal(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string()).join("journal.jsonl")
    }

    /// Returns the file with what left the containers in a run, or was kept from it.
    pub fn egress_log(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string()).join("egress.jsonl")
    }

    /// `.supervisor/runs/<run>/attempts/<task>.<attempt>/`: transcripts of attempts that are over,
    /// and artifacts that were taken in and are not published yet.
    pub fn attempt(&self, run: RunId, task: &TaskId, attempt: Attempt) -> PathBuf {
        self.runs().join(run.to_string()).join("attempts").join(task.slot_name(attempt))
    }

    /// `.supervisor/runs/<run>/sessions/`: the transcripts with which attempts go on where earlier ones of
    /// their tasks stopped, by session.
    pub fn sessions(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string()).join("sessions")
    }

    /// `.supervisor/config/`: where earlier versions kept the agents' configuration. Containers could write
    /// there.
    pub fn old_agent_config(&self) -> PathBuf {
        self.state().join("config")
    }

    /// `.supervisor/bin/`: the programs that are handed to the workers.
    pub fn bin(&self) -> PathBuf {
        self.state().join("bin")
    }

    /// `.supervisor/processes/`: notes of the process runtime.
    pub fn processes(&self) -> PathBuf {
        self.state().join("processes")
    }

    /// `.supervisor/runtime`: what ran the workers last.
    pub fn runtime_file(&self) -> PathBuf {
        self.state().join("runtime")
    }

    /// `.supervisor/scratch/<replica>/`: the process runtime's `/tmp`.
    pub fn scratch(&self, replica: &ReplicaId) -> PathBuf {
        self.state().join("scratch").join(replica.as_str())
    }

    /// `.supervisor/run`: the file that names the folder of the sockets.
    pub fn run_file(&self) -> PathBuf {
        self.state().join("run")
    }

    /// Returns the file that says what was spent; a rehearsal has one of its own.
    pub fn ledger(&self, rehearsal: bool) -> PathBuf {
        let name = if rehearsal { "ledger-rehearsal.jsonl" } else { "ledger.jsonl" };
        self.state().join(name)
    }

    /// Returns the folder of the sockets that a daemon of this installation made.
    ///
    /// # Errors
    ///
    /// Unavailable when there was none yet, also where the file came here with a copy of another installation: whoever
    /// serves that is not to be told what is meant for this one.
    pub fn sockets(&self) -> Result<PathBuf, Failure> {
        let none = Failure::unavailable("no supervisor runs here")
            .hint("Start it with `supervisor up --detach`, or `make up`.");
        let path = match fs::read_to_string(self.run_file()) {
            Ok(path) => PathBuf::from(path.trim_end()),
            Err(error) => return Err(none.because(error)),
        };
        if path.file_name().is_none_or(|name| *name != *self.sockets_name()) {
            let why =
                "this folder is a copy of the one in which a supervisor was started, or was moved";
            return Err(none.because(std::io::Error::other(why)));
        }
        Ok(path)
    }

    fn sockets_name(&self) -> String {
        format!("supervisor-{}", self.id)
    }

    /// Makes the private folder of the sockets, short enough for their paths, and notes it down.
    ///
    /// It lies under `$XDG_RUNTIME_DIR`, else `/run`, else `/tmp`, and is the user's alone.
    ///
    /// # Errors
    ///
    /// Unavailable when no place can be written to, or somebody else's folder is in the way.
    pub fn make_sockets(&self) -> Result<PathBuf, Failure> {
        let uid = rustix::process::geteuid().as_raw();
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places = named.into_iter().chain(["/run".into(), "/tmp".into()]);
        let mut last = None;
        for place in places {
            let dir = place.join(self.sockets_name());
            match private_folder(&dir, uid) {
                Ok(()) => {
                    let text = format!("{}\n", dir.display());
                    atomic_file::replace(&self.run_file(), text.as_bytes(), Durability::Volatile)
                        .map_err(|e| cant_write(&self.run_file(), e))?;
                    return Ok(dir);
                }
                Err(error) => last = Some(cant_write(&dir, error)),
            }
        }
        Err(last.unwrap_or_else(|| Failure::unavailable("there is no place for sockets")))
    }
}

/// Returns the failure to write a file or folder.
pub fn cant_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::unavailable(format!("`{}` can't be written", path.display())).because(error)
}

/// Makes a folder that is the user's alone, or makes sure that what is there is that.
///
/// # Errors
///
/// Any I/O error; and that it is somebody else's.
pub(crate) fn private_folder(dir: &Path, uid: u32) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // In `/tmp` anybody could have made it first, to listen in.
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != uid {
        return Err(std::io::Error::other("it is there, and belongs to somebody else"));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_of_an_installation_does_not_reach_whoever_serves_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir_all(dir.path().join(name).join(".supervisor")).unwrap();
            Installation::at(&dir.path().join(name)).unwrap()
        };
        let (original, copy) = (make("original"), make("copy"));
        assert!(original.sockets().is_err());
        let sockets = format!("/run/supervisor-{}\n", original.id());
        let volatile = Durability::Volatile;
        atomic_file::replace(&original.run_file(), sockets.as_bytes(), volatile).unwrap();
        fs::copy(original.run_file(), copy.run_file()).unwrap();

        assert_eq!(original.sockets().unwrap(), Path::new(sockets.trim_end()));
        let failure = copy.sockets().unwrap_err();
        assert!(failure.causes().join(" ").contains("is a copy"), "{failure:?}");
        assert!(failure.cure().unwrap().contains("supervisor up"));
    }
}
