//! The installation's own files.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use protocol::WorkerId;

use super::Finding;
use crate::cli::text::{count, list};
use crate::cli::{check, strays};
use crate::config::Config;
use crate::failure::Failure;
use crate::install::Installation;
use crate::workers;

/// Checks that the configuration can be read and has no wrong value.
pub(super) fn check_configuration(
    installation: &Installation,
    config: Result<&Config, &Failure>,
) -> Finding {
    match config {
        Ok(_) => {
            Finding::ok("configuration", format!("{} is valid", installation.root().display()))
        }
        Err(failure) => Finding::failed("configuration", failure),
    }
}

/// Checks each worker's folder, and that the orchestrator is among them.
pub(super) fn check_workers(installation: &Installation) -> Vec<Finding> {
    const CHECK: &str = "workers";
    let (all, misnamed) = folders_of_workers(installation);
    let mut findings: Vec<Finding> = all
        .iter()
        .filter_map(|worker| workers::load(installation, worker).err())
        .map(|failure| Finding::failed(CHECK, &failure))
        .collect();
    findings.extend(misnamed.into_iter().map(|(name, why)| {
        let message = format!("the folder `workspaces/{name}` has no name for a worker: {why}");
        Finding::problem(CHECK, message, "Rename it, or take it out of workspaces/.")
    }));
    let orchestrator = |worker: &&WorkerId| worker.as_str() == protocol::ORCHESTRATOR;
    if !all.iter().any(|worker| orchestrator(&worker)) {
        findings.push(Finding::problem(
            CHECK,
            "there is no orchestrator: no request can be split or answered",
            "Bring back workspaces/orchestrator/ from the repository.",
        ));
    } else if all.len() == 1 {
        findings.push(Finding::problem(
            CHECK,
            "there is nobody but the orchestrator",
            "Make a folder in workspaces/ with a `worker.toml`; `supervisor schema worker` prints \
             the format.",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, list(&all)));
    }
    findings
}

/// Returns the names of all folders that `up` takes for workers: those that can be one, and those that
/// can't, with the reason.
fn folders_of_workers(installation: &Installation) -> (Vec<WorkerId>, Vec<(String, String)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let entries = fs::read_dir(installation.workspaces()).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !protocol::atomic_file::is_visible(&name) {
            continue;
        }
        match name.parse::<WorkerId>() {
            Ok(worker) => good.push(worker),
            Err(why) => bad.push((name, why.to_string())),
        }
    }
    good.sort();
    bad.sort();
    (good, bad)
}

/// Looks for dropped files that nobody will take.
pub(super) fn check_drops(installation: &Installation) -> Finding {
    const CHECK: &str = "drops";
    let workers = check::workers(installation);
    let workers: Vec<&str> = workers.iter().map(WorkerId::as_str).collect();
    let strays = strays::find(installation, &workers);
    if strays.is_empty() {
        return Finding::ok(CHECK, "no file was rejected, and none lies in a wrong place");
    }
    let cure = "Mend each by its `.why.json` and `mv` it back, or remove it.";
    Finding::note(CHECK, strays.join("\n"), cure)
}

/// Checks that what runs leave behind can be written.
pub(super) fn check_folders(installation: &Installation) -> Finding {
    const CHECK: &str = "folders";
    let root = installation.root();
    let names = ["tasks", "results", ".supervisor"];
    for name in names {
        let folder = root.join(name);
        // What is not there yet is made, in the folder above.
        let place = if folder.exists() { folder.as_path() } else { root };
        if let Err(error) = writable(place) {
            let cure = match error.kind() {
                io::ErrorKind::ReadOnlyFilesystem => {
                    "The file system is read-only: use a copy elsewhere.".to_owned()
                }
                _ => format!(
                    "Give it to the user who runs the supervisor: chown -R \"$USER\" {name}"
                ),
            };
            let message = format!("{} can't be written: {error}", place.display());
            return Finding::problem(CHECK, message, cure);
        }
    }
    Finding::ok(CHECK, format!("{} can be written", list(names)))
}

/// Tries it: what a file system will do, only it knows.
fn writable(folder: &Path) -> io::Result<()> {
    // Readers of these folders pass over a name like this one.
    let probe = folder.join(format!(".doctor-{}.tmp", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    fs::remove_file(probe)
}

/// Returns how many folders are watched: each worker's drops, and each replica's slot.
pub(super) fn watched(installation: &Installation) -> u64 {
    let slots = |worker: &WorkerId| {
        let replicas =
            workers::load(installation, worker).map_or(1, |w| w.limits().highest_number());
        1 + u64::from(replicas)
    };
    check::workers(installation).iter().map(slots).sum()
}

/// Returns in words what is watched.
pub(super) fn folders(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "folder")
}
