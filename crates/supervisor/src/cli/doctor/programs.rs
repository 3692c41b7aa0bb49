//! What the supervisor runs: the engine with its images, the CLI, the worker's program; and itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::{Finding, with_causes};
use crate::api::types::Health;
use crate::cli::args::RuntimeChoice;
use crate::cli::check;
use crate::client::Client;
use crate::config::{CLI_VERSION, Config};
use crate::install::Installation;
use crate::programs;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::{Runtime, RuntimeError};
use crate::{walls, workers};

/// How long the CLI may take to say its version. It reads 350 MiB from disk the first time.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// How much is needed of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it nothing runs.
    Must,
    /// Without it another way is taken.
    Better,
    /// It is not used.
    Not,
}

/// Checks what runs the workers.
pub(super) async fn check_programs(installation: &Installation, config: &Config) -> Vec<Finding> {
    let live = super::credentials::check_key(installation, config).state == super::State::Ok;
    let need =
        engine_need(config.runtime.value, live, running_runtime(installation).await.as_deref());
    let endpoint = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let images = images(installation, config);
    let engine = check_engine(installation, endpoint.as_deref(), &images, need).await;
    let has_engine = need != Need::Not && engine.state == super::State::Ok;
    let cli = if has_engine { Need::Better } else { Need::Must };
    let cli = check_cli(programs::claude(installation, config).ok().as_deref(), cli).await;
    let worker = check_worker(&programs::worker_places(installation, config));
    vec![engine, cli, worker]
}

/// Returns how much a container engine is needed, where the daemon that runs, if one does, has that runtime.
pub(super) fn engine_need(runtime: RuntimeChoice, live: bool, running: Option<&str>) -> Need {
    match runtime {
        RuntimeChoice::Process => Need::Not,
        // Asked for on the command line of `up`: the daemon that runs does without an engine.
        _ if running == Some("process") && live => Need::Not,
        RuntimeChoice::Docker => Need::Must,
        // With a real key, agents are let out of containers only where somebody asks for it.
        RuntimeChoice::Auto if live => Need::Must,
        RuntimeChoice::Auto => Need::Better,
    }
}

/// Returns the runtime of the daemon that runs here, if one does.
async fn running_runtime(installation: &Installation) -> Option<String> {
    let client = Client::connect(installation).await.ok()?;
    client.get::<Health>("/v1/health").await.ok().map(|health| health.runtime)
}

/// Returns the images that the workers need.
fn images(installation: &Installation, config: &Config) -> Vec<String> {
    let image = |worker| workers::load(installation, &worker).ok()?.config.image;
    let own = check::workers(installation).into_iter().filter_map(image);
    let all: BTreeSet<String> = own.chain([config.image.value.clone()]).collect();
    all.into_iter().collect()
}

/// Checks that a container engine answers that is not too old, and has the images.
pub(super) async fn check_engine(
    installation: &Installation,
    endpoint: Option<&str>,
    images: &[String],
    need: Need,
) -> Finding {
    const CHECK: &str = "engine";
    if need == Need::Not {
        return Finding::ok(CHECK, "not used: the runtime is `process`");
    }
    let connected = match endpoint {
        Some(endpoint) => DockerRuntime::connect_to(endpoint, installation.id()).await,
        None => DockerRuntime::connect(installation.id()).await,
    };
    let error = match connected {
        Ok(runtime) => match runtime.check(images).await {
            Ok(()) if !runtime.unkept().is_empty() => {
                let unkept = runtime.unkept();
                let message =
                    format!("{} does not keep: {}", runtime.endpoint(), walls::names(&unkept));
                let cures: Vec<_> = unkept.iter().map(|wall| wall.cure()).collect();
                return Finding::note(CHECK, message, cures.join("\n"));
            }
            Ok(()) => {
                let images = images.join(", ");
                return Finding::ok(CHECK, format!("{} has {images}", runtime.endpoint()));
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    without_engine(CHECK, &error, need)
}

fn without_engine(check: &str, error: &RuntimeError, need: Need) -> Finding {
    let cure = error.hint().unwrap_or_else(|| "Look at the engine's own log.".to_owned());
    let message = with_causes(error);
    // An engine that answers is used; then it must have what is needed.
    if need == Need::Better && error.is_transient() {
        let message =
            format!("{message}\nworkers run as plain processes, without a container's walls");
        return Finding::note(check, message, cure);
    }
    Finding::problem(check, message, cure)
}

/// Returns the Claude Code CLI for a person's own use: as configured, or as fetched, or on the PATH.
pub(crate) fn find_claude(installation: &Installation, config: &Config) -> Option<PathBuf> {
    if let Ok(path) = programs::claude(installation, config) {
        return Some(path);
    }
    if config.claude.value.is_some() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("claude")).find(|path| path.is_file())
}

/// Checks that the CLI is there and runs.
pub(super) async fn check_cli(claude: Option<&Path>, need: Need) -> Finding {
    const CHECK: &str = "CLI";
    let cure = "compose/fetch-cli     fetches it; `make up` does so by itself";
    let Some(claude) = claude else {
        let message = format!("Claude Code {CLI_VERSION} is not here");
        return match need {
            Need::Must => Finding::problem(CHECK, message, cure),
            Need::Better | Need::Not => {
                Finding::note(CHECK, format!("{message}; the image has its own"), cure)
            }
        };
    };
    let name = claude.display();
    let Ok(home) = tempfile_dir() else {
        return Finding::problem(CHECK, "there is no room in /tmp to try it", "Make room in /tmp.");
    };
    // Clean, as it runs for a worker: no settings or key of the user's are touched.
    let run = tokio::process::Command::new(claude)
        .arg("--version")
        .env_clear()
        .env("HOME", &home)
        .env("CLAUDE_CONFIG_DIR", &home)
        .env("PATH", "/usr/bin:/bin")
        .env("DISABLE_AUTOUPDATER", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(VERSION_LIMIT, run).await;
    let _ = std::fs::remove_dir_all(&home);
    match ran {
        Ok(Ok(output)) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            match version.starts_with(CLI_VERSION) {
                true => Finding::ok(CHECK, format!("{name} is {version}")),
                false => Finding::note(
                    CHECK,
                    format!("{name} is {version}; {CLI_VERSION} is what was tested"),
                    cure,
                ),
            }
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Finding::problem(CHECK, format!("{name} ended with {}: {said}", output.status), cure)
        }
        Ok(Err(error)) => Finding::problem(CHECK, format!("{name} can't be run: {error}"), cure),
        Err(_) => Finding::problem(CHECK, format!("{name} --version does not end"), cure),
    }
}

fn tempfile_dir() -> std::io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("supervisor-doctor-{}", std::process::id()));
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// Checks that the worker's program is there.
pub(super) fn check_worker(places: &[PathBuf]) -> Finding {
    const CHECK: &str = "worker program";
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Finding::ok(CHECK, place.display().to_string()),
        None => {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            let message = format!("it is not at {}", places.join(" or "));
            Finding::problem(CHECK, message, "make install     builds it and puts it there")
        }
    }
}

/// Says whether a daemon runs.
pub(super) async fn check_daemon(installation: &Installation) -> Finding {
    const CHECK: &str = "daemon";
    let health = match Client::connect(installation).await {
        Ok(client) => client.get::<Health>("/v1/health").await,
        Err(error) => Err(error),
    };
    match health {
        Ok(health) => Finding::ok(
            CHECK,
            format!("process {} runs, with the {} runtime", health.pid, health.runtime),
        ),
        Err(failure) => {
            Finding::note(CHECK, with_causes(&failure), "supervisor up --detach     starts it")
        }
    }
}
