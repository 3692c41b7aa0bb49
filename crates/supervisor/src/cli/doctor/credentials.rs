//! Keys and logins: whether there is one, and whether git would give it away.

use std::path::Path;
use std::process::Command;

use protocol::{Auth, WorkerConfig};

use super::Finding;
use crate::cli::check;
use crate::config::Config;
use crate::failure::Failure;
use crate::install::Installation;

/// How to mend a repository that has logins in it.
pub(crate) const UNTRACK: &str = "\
Take them out of git, and take away what they are worth:
  git rm -r --cached auth-homes
  git add auth-homes/.gitignore auth-homes/README.md
  git commit -m 'Stop tracking logins'
  supervisor auth login WORKER     for each worker of which a login was tracked
and revoke the old logins at claude.ai: whoever has a clone has them.";

/// How to mend a repository that has a key in it.
pub(crate) const UNTRACK_KEY: &str = "\
Take it out of git (git rm --cached, and a line in .gitignore), or move it out of the folder; and have the key \
replaced: whoever has a clone has it.";

/// Returns the files with logins that git tracks: all beneath `auth-homes/` but its `.gitignore` and
/// `README.md`. Empty where there is no git, or no repository.
///
/// # Errors
///
/// Unavailable when there is a repository and git can't say what it tracks.
pub fn tracked_credentials(installation: &Installation) -> Result<Vec<String>, Failure> {
    let harmless = ["auth-homes/.gitignore", "auth-homes/README.md"];
    let mut tracked = tracked(installation.root(), &["auth-homes"])?;
    tracked.retain(|path| !harmless.contains(&path.as_str()));
    Ok(tracked)
}

/// Returns the key files that git tracks.
///
/// # Errors
///
/// As [`tracked_credentials`].
pub(crate) fn tracked_keys(
    installation: &Installation,
    config: &Config,
) -> Result<Vec<String>, Failure> {
    let root = installation.root();
    let inside = config.keys.files().filter_map(|path| {
        let path = std::fs::canonicalize(root.join(path)).ok()?;
        Some(path.strip_prefix(root).ok()?.to_string_lossy().into_owned())
    });
    let inside: Vec<String> = inside.collect();
    if inside.is_empty() {
        return Ok(Vec::new());
    }
    tracked(root, &inside.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns the files beneath these folders that git tracks.
fn tracked(root: &Path, folders: &[&str]) -> Result<Vec<String>, Failure> {
    let failed = || Failure::unavailable("git can't say what it tracks here");
    let output = Command::new("git")
        // The repository may be another user's; nothing of it is run.
        .args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "ls-files", "-z", "--"])
        .args(folders)
        .current_dir(root)
        .env("LC_ALL", "C")
        // Inside of a hook these name another repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed().because(error)),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return match said.contains("not a git repository") {
            true => Ok(Vec::new()),
            false => Err(failed().because(said.trim().to_owned())),
        };
    }
    let paths = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| String::from_utf8_lossy(path).into_owned()).collect())
}

/// Checks that git has neither logins nor what runs leave behind.
pub(super) fn check_tracked(installation: &Installation, config: Option<&Config>) -> Finding {
    const CHECK: &str = "git";
    match config.map_or(Ok(Vec::new()), |config| tracked_keys(installation, config)) {
        Err(failure) => return Finding::failed(CHECK, &failure),
        Ok(paths) if !paths.is_empty() => {
            let paths = paths.join(", ");
            return Finding::problem(CHECK, format!("keys are tracked: {paths}"), UNTRACK_KEY);
        }
        Ok(_) => {}
    }
    match tracked_credentials(installation) {
        Err(failure) => return Finding::failed(CHECK, &failure),
        Ok(paths) if !paths.is_empty() => {
            let paths = paths.join(", ");
            return Finding::problem(CHECK, format!("logins are tracked: {paths}"), UNTRACK);
        }
        Ok(_) => {}
    }
    let own = |path: &String| !path.ends_with("/.gitignore") && !path.ends_with("/README.md");
    let others = tracked(installation.root(), &["tasks", "results", ".supervisor"]);
    match others.unwrap_or_default().into_iter().filter(own).collect::<Vec<_>>().as_slice() {
        [] => Finding::ok(CHECK, "tracks no login, task, result or journal"),
        [first, rest @ ..] => Finding::note(
            CHECK,
            format!("{first} and {} more files of runs are tracked", rest.len()),
            "git rm -r --cached tasks results .supervisor",
        ),
    }
}

/// Checks how the model is asked: with a key, with logins, or not at all.
pub(super) fn check_key(installation: &Installation, config: &Config) -> Finding {
    const CHECK: &str = "model";
    let (signed_in, missing) = logins(installation);
    if let Some(worker) = missing.first() {
        let cure = format!("supervisor auth login {worker}");
        return Finding::problem(CHECK, format!("{worker} has auth = \"home\" and no login"), cure);
    }
    if config.is_rehearsal(!signed_in.is_empty()) {
        let why = if config.rehearsal.value { "it is asked for" } else { "there is no key" };
        return Finding::note(
            CHECK,
            format!("a rehearsal, since {why}: no model is asked; all else is real"),
            "export ANTHROPIC_API_KEY=…; supervisor down; make up",
        );
    }
    let key = match (config.has_key(), signed_in.as_slice()) {
        (true, []) => "with a key".to_owned(),
        (true, workers) => format!("with a key, and the logins of {}", workers.join(", ")),
        (false, []) => "without a key".to_owned(),
        (false, workers) => format!("with the logins of {}", workers.join(", ")),
    };
    Finding::ok(CHECK, format!("{} {key}", config.base_url.value))
}

/// Returns the workers that have a login of their own, and those that lack theirs.
fn logins(installation: &Installation) -> (Vec<String>, Vec<String>) {
    let own_login = |worker: &protocol::WorkerId| {
        let path = installation.workspace(worker).join("worker.toml");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        WorkerConfig::from_toml(&text).is_ok_and(|config| config.auth == Auth::Home)
    };
    let workers = check::workers(installation).into_iter().filter(own_login);
    let (signed_in, missing): (Vec<_>, Vec<_>) = workers
        .partition(|worker| installation.auth_home(worker).join(".credentials.json").is_file());
    let names =
        |workers: Vec<protocol::WorkerId>| workers.iter().map(ToString::to_string).collect();
    (names(signed_in), names(missing))
}
