//! The environment of what we start: made from nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use protocol::{Assignment, FailureKind, TaskError};

use crate::paths::Paths;
use crate::slot::Place;

/// Where programs are in any image.
const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The hosts that are reached without a proxy: what an agent started itself.
const LOCAL: &str = "127.0.0.1,localhost,::1";

/// Environment variables by name.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// Returns the environment of a program of this attempt: what every program expects, what the
/// worker's configuration adds, and what says which attempt it is.
///
/// The configuration may change `defaults`, but neither `fixed` nor the rest that is ours.
///
/// # Errors
///
/// [`FailureKind::Invalid`] when the configuration has a name that can't be one.
pub(crate) fn of(
    paths: &Paths,
    assignment: &Assignment,
    place: &Place,
    home: &Path,
    defaults: &[(&str, &str)],
    fixed: &[(&str, &OsStr)],
) -> Result<Environment, TaskError> {
    let mut env = Environment::new();
    let mut set = |name: &str, value: &OsStr| {
        env.insert(name.into(), value.to_owned());
    };
    set("PATH", &search_path(std::env::var_os("PATH")));
    set("LANG", OsStr::new("C.UTF-8"));
    set("TERM", OsStr::new("dumb"));
    for (name, value) in defaults {
        set(name, OsStr::new(value));
    }
    for (name, value) in &assignment.agent.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let message = format!(
                "the environment of worker `{}` has a variable {name:?} that can't be set",
                assignment.agent.worker
            );
            return Err(TaskError::new(FailureKind::Invalid, message)
                .with_hint("Correct `env` in the worker's worker.toml."));
        }
        set(name, OsStr::new(value));
    }
    for (name, value) in fixed {
        set(name, value);
    }
    // In both spellings: curl reads only the small `http_proxy`, others only the large names. The CLI's
    // own requests go to its socket all the same.
    let proxy = paths.gateway.proxy_url(paths.proxy);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        set(name, OsStr::new(&proxy));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        set(name, OsStr::new(LOCAL));
    }
    set("HOME", home.as_os_str());
    set("TMPDIR", paths.scratch.as_os_str());
    set("SUPERVISOR_TASK", OsStr::new(place.task.as_str()));
    set("SUPERVISOR_ATTEMPT", OsStr::new(&place.attempt.to_string()));
    set("SUPERVISOR_ARTIFACTS", place.artifacts().as_os_str());
    let (mark, value) = paths.mark();
    set(mark, value.as_os_str());
    // By this the process runtime finds what outlives us.
    if let Some(replica) = std::env::var_os("SUPERVISOR_REPLICA") {
        set("SUPERVISOR_REPLICA", &replica);
    }
    Ok(env)
}

/// Returns the search path that we have, with what it lacks of the standard one.
pub(crate) fn search_path(ours: Option<OsString>) -> OsString {
    let ours = ours.unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&ours).filter(|folder| folder.is_absolute()).collect();
    for folder in std::env::split_paths(STANDARD_PATH) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // Only a folder with a colon in its name can't be joined, and splitting made none.
    std::env::join_paths(folders).unwrap_or_else(|_| STANDARD_PATH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_path_keeps_ours_first_and_lacks_nothing() {
        assert_eq!(search_path(None), STANDARD_PATH);
        assert_eq!(
            search_path(Some("/opt/agent:.::/bin".into())),
            "/opt/agent:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin"
        );
    }
}
