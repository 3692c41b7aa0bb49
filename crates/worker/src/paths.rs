//! Where things are for this worker.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, getpid};

use crate::args::Args;
use crate::gateway::Gateway;

/// The folders and files of a worker; absolute.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) tasks: PathBuf,
    pub(crate) results: PathBuf,
    pub(crate) workspace: PathBuf,
    /// The worker's own login, where it has one.
    pub(crate) login: Option<PathBuf>,
    pub(crate) gateway: Gateway,
    /// The port of the way to other hosts, on the loopback.
    pub(crate) proxy: u16,
    pub(crate) claude: PathBuf,
    pub(crate) home: Option<PathBuf>,
    /// Ours alone: what is in it goes with each attempt.
    pub(crate) scratch: PathBuf,
}

impl Paths {
    /// Returns the paths of that command line, and makes a scratch folder where there is none.
    pub(crate) fn new(args: &Args, gateway: Gateway, proxy: u16) -> io::Result<Self> {
        // The agent runs in another folder than we do, and gets these paths.
        let absolute = |path: &Path| std::path::absolute(path);
        // A bare name is looked for in the PATH.
        let is_name = args.claude.components().count() == 1 && !args.claude.is_absolute();
        Ok(Self {
            tasks: absolute(&args.tasks)?,
            results: absolute(&args.results)?,
            workspace: absolute(&args.workspace)?,
            login: args.login.as_deref().map(absolute).transpose()?,
            gateway,
            proxy,
            claude: if is_name { args.claude.clone() } else { absolute(&args.claude)? },
            home: args.home.as_deref().map(absolute).transpose()?,
            scratch: scratch(args.scratch.as_deref())?,
        })
    }

    /// Returns the mark that every process of this slot has in its environment.
    pub(crate) fn mark(&self) -> (&'static str, &Path) {
        ("SUPERVISOR_SLOT", &self.results)
    }

    /// Returns the folder for the files that the agent is started with.
    pub(crate) fn start_files(&self) -> PathBuf {
        self.scratch.join(".worker")
    }

    /// Returns where an attempt's own copy of the workspace is.
    pub(crate) fn workspace_copy(&self) -> PathBuf {
        self.scratch.join("workspace")
    }
}

/// Returns the folder that we may empty. `/tmp` is ours in a container, and nowhere else.
fn scratch(given: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(given) = given {
        fs::create_dir_all(given)?;
        return std::path::absolute(given);
    }
    let shared = std::env::temp_dir();
    if getpid() == Pid::INIT {
        fs::create_dir_all(&shared)?;
        return Ok(shared);
    }
    let own = tempfile::Builder::new()
        .prefix("worker-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(shared)?;
    Ok(own.keep())
}
