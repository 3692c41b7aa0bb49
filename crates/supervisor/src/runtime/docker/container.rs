//! What the engine is told about a replica.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HealthConfig,
    HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use protocol::{DOOR_FILE, ReportSecret, WorkspaceMode};
use serde_json::json;

use super::engine::Engine;
use crate::runtime::{CheckSpec, ReplicaSpec, RuntimeError, bounds, fingerprint};

/// The label with the installation. What does not have ours is not ours.
pub(super) const INSTALLATION: &str = "supervisor.installation";
/// The label with the worker.
pub(super) const WORKER: &str = "supervisor.worker";
/// The label with the replica.
pub(super) const REPLICA: &str = "supervisor.replica";
/// The label with the fingerprint of all that the engine was told.
pub(super) const SPEC: &str = "supervisor.spec";
/// The label with which folders it was given: one that was removed and made again is another, and a
/// container goes on with the one that is gone.
pub(super) const FOLDERS: &str = "supervisor.folders";

/// The label of a check's container: it has the replica's labels, and is not the replica.
pub(super) const CHECK: &str = "supervisor.check";

/// The label that tells the secret of the reports from others: of a container that has another one, no report counts.
pub(super) const PROOF: &str = "supervisor.proof";

/// Where the worker's program is.
const PROGRAM_DIR: &str = "/opt/supervisor";

/// Where the gateway's folder is.
const GATEWAY_DIR: &str = "/run/gateway";

/// Where the worker's own login is, where it has one.
const LOGIN_DIR: &str = "/login";

/// Where a check finds the artifacts.
const ARTIFACTS_DIR: &str = "/artifacts";

/// An address that is nobody's (RFC 5737).
const NOWHERE: &str = "192.0.2.1";

const MIB: i64 = 1024 * 1024;

/// Returns what the engine is told about a replica, but for the labels.
///
/// With a `network`, that is all that it can reach; without, there is none.
pub(super) fn describe(
    spec: &ReplicaSpec,
    engine: &Engine,
    network: Option<&str>,
) -> ContainerCreateBody {
    let program = Path::new(PROGRAM_DIR).join(spec.program.file_name().unwrap_or_default());
    let mut command = vec![program.to_string_lossy().into_owned()];
    if network.is_some() {
        command.extend(["--door".to_owned(), format!("{GATEWAY_DIR}/{DOOR_FILE}")]);
    }
    if !spec.asks_model {
        command.push("--no-model".to_owned());
    }
    if spec.login.is_some() {
        command.extend(["--login".to_owned(), LOGIN_DIR.to_owned()]);
    }
    command.extend(bounds(spec));
    command.extend(expectations(spec, engine));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: Some(spec.replica.to_string()),
        user: Some(format!("{}:{}", spec.user.uid, spec.user.gid)),
        working_dir: Some("/workspace".to_owned()),
        // With an entrypoint of ours, the image's command is not used either.
        entrypoint: Some(command),
        // The image knows its PATH. Its home is on the read-only root.
        env: Some(vec![
            "HOME=/tmp/home".to_owned(),
            format!("{}={}", ReportSecret::VARIABLE, *spec.secret.to_hex()),
        ]),
        stop_signal: Some("SIGTERM".to_owned()),
        // An image may have one. Podman takes this for a command of that name.
        healthcheck: (!engine.podman).then(|| HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(walls(spec, engine, network)),
        ..ContainerCreateBody::default()
    }
}

/// Returns what the engine is told about a check, but for the labels: what it is told about the replica, without the
/// folders that an agent may write, and without a way out.
pub(super) fn describe_check(check: &CheckSpec, engine: &Engine) -> ContainerCreateBody {
    let spec = &check.replica;
    let name = check.task.file_name().unwrap_or_default().to_string_lossy();
    let task = format!("/tasks/{name}");
    let program = Path::new(PROGRAM_DIR).join(spec.program.file_name().unwrap_or_default());
    let mut command =
        [&*program.to_string_lossy(), "check", "--task", &task].map(str::to_owned).to_vec();
    let mut folders = vec![
        (spec.program.parent().unwrap_or(Path::new("/")), PROGRAM_DIR),
        (&*check.task, &*task),
        (&*spec.workspace, "/workspace"),
    ];
    if let Some(artifacts) = &check.artifacts {
        command.extend(["--artifacts", ARTIFACTS_DIR].map(str::to_owned));
        folders.push((artifacts, ARTIFACTS_DIR));
    }
    let mounts = folders.into_iter().map(|(source, target)| mount(source, target, false)).collect();
    ContainerCreateBody {
        entrypoint: Some(command),
        env: Some(vec!["HOME=/tmp/home".to_owned()]),
        host_config: Some(HostConfig { mounts: Some(mounts), ..walls(spec, engine, None) }),
        ..describe(spec, engine, None)
    }
}

/// Returns how many processors a container may use: no engine gives more than it has.
fn cpus(spec: &ReplicaSpec, engine: &Engine) -> f64 {
    engine.cpus.map_or(spec.resources.cpus, |most| spec.resources.cpus.min(f64::from(most)))
}

/// Returns the options by which the worker finds out whether it got what was asked for.
fn expectations(spec: &ReplicaSpec, engine: &Engine) -> Vec<String> {
    let mut options = vec![
        format!("--memory-mib={}", spec.resources.memory_mib),
        format!("--pids={}", spec.resources.pids),
        format!("--cpus={}", cpus(spec, engine)),
    ];
    if spec.workspace_mode == WorkspaceMode::Shared {
        options.push("--shared-workspace".to_owned());
    }
    if !spec.accepted.is_empty() {
        let names: Vec<_> = spec.accepted.iter().map(|wall| wall.as_str()).collect();
        options.push(format!("--unsafe={}", names.join(",")));
    }
    options
}

/// What keeps an agent from its neighbours and its host.
fn walls(spec: &ReplicaSpec, engine: &Engine, network: Option<&str>) -> HostConfig {
    let resources = spec.resources;
    let memory = i64::from(resources.memory_mib) * MIB;
    let cpus = cpus(spec, engine);
    HostConfig {
        network_mode: Some(network.unwrap_or("none").to_owned()),
        // An engine's own name server asks this one what it does not know, some of them from outside of
        // the container.
        dns: network.map(|_| vec![NOWHERE.to_owned()]),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // The worker is process 1 and reaps.
        init: Some(false),
        mounts: Some(mounts(spec)),
        // `exec`, since tools build and run programs in /tmp; engines forbid it by default.
        tmpfs: Some(HashMap::from([(
            "/tmp".to_owned(),
            format!("rw,exec,nosuid,nodev,mode=1777,size={}m", resources.tmp_mib),
        )])),
        shm_size: Some(i64::from(resources.shm_mib) * MIB),
        memory: Some(memory),
        // Memory and swap together: so there is no swap.
        memory_swap: Some(memory),
        nano_cpus: Some((cpus * 1e9) as i64),
        pids_limit: Some(i64::from(resources.pids)),
        // The tail is for people, the transcript has the rest.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "1m".to_owned()),
                ("max-file".to_owned(), "1".to_owned()),
            ])),
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // It would take the exit code with it.
        auto_remove: Some(false),
        // So that files in the slot belong to whoever runs the engine, not to a number made up.
        userns_mode: (engine.podman && engine.rootless).then(|| "keep-id".to_owned()),
        ..HostConfig::default()
    }
}

/// Returns the folders that are mounted: where they are, where they are seen, whether they may be
/// written. No files: a mounted file goes stale when it is replaced.
fn folders(spec: &ReplicaSpec) -> Vec<(&Path, &'static str, bool)> {
    let shared = spec.workspace_mode == WorkspaceMode::Shared;
    let mut folders = vec![
        (spec.program.parent().unwrap_or(Path::new("/")), PROGRAM_DIR, false),
        (spec.tasks.as_path(), "/tasks", false),
        (&spec.results, "/results", true),
        (&spec.workspace, "/workspace", shared),
        (&spec.gateway, GATEWAY_DIR, false),
    ];
    folders.extend(spec.login.as_deref().map(|login| (login, LOGIN_DIR, false)));
    folders
}

/// Checks that all folders are there that a container is to see. Docker would refuse; Podman would
/// make them, as root.
///
/// # Errors
///
/// [`RuntimeError::Refused`] with the folder's name.
pub(super) fn check_folders(spec: &ReplicaSpec) -> Result<(), RuntimeError> {
    folders(spec).into_iter().try_for_each(|(source, ..)| match fs::read_dir(source) {
        // Not being allowed to list it does not keep the engine from mounting it.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            let name = source.display().to_string();
            Err(RuntimeError::Refused { action: "mount", name, source: error.into() })
        }
        _ => Ok(()),
    })
}

/// Returns what tells the folders of a replica from others in their places. The program's is not among
/// them: it is told by its contents, and a worker that runs needs it no more.
pub(super) fn identity(spec: &ReplicaSpec) -> String {
    let own = folders(spec).into_iter().filter(|(_, target, _)| *target != PROGRAM_DIR);
    fingerprint::of(json!(own.map(|(source, ..)| number(source)).collect::<Vec<_>>()))
}

/// Returns what tells a file or folder from others in its place.
fn number(path: &Path) -> String {
    let number = fs::metadata(path).ok().map(|meta| {
        // With its birth, where that is known: numbers are given again.
        let birth = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        (meta.dev(), meta.ino(), birth.map(|birth| birth.as_nanos()))
    });
    format!("{number:?}")
}

/// Returns the worker's settings, where an agent may write all around them: it is no agent's business what it
/// may spend, and where it may go.
fn settings(spec: &ReplicaSpec) -> Option<PathBuf> {
    let path = spec.workspace.join("worker.toml");
    let is_file = || fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    (spec.workspace_mode == WorkspaceMode::Shared && is_file()).then_some(path)
}

/// Returns what tells the settings of a worker from others in their place. What is mounted over a file is gone
/// once the file is replaced, as editors do; so a container of before is, as soon as it has nothing to do.
pub(super) fn settings_identity(spec: &ReplicaSpec) -> Option<String> {
    settings(spec).map(|path| number(&path))
}

/// Mounts, not `binds`, which make a missing folder on every engine.
fn mounts(spec: &ReplicaSpec) -> Vec<Mount> {
    let settings = settings(spec);
    let settings = settings.iter().map(|path| (path.as_path(), "/workspace/worker.toml", false));
    let all = folders(spec).into_iter().chain(settings);
    all.map(|(source, target, writable)| mount(source, target, writable)).collect()
}

fn mount(source: &Path, target: &str, writable: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(!writable),
        ..Mount::default()
    }
}

/// A container that is there.
#[derive(Debug)]
pub(super) struct Container {
    /// Its id, which no other container ever gets.
    pub(super) id: String,
    /// Where it is in its life.
    pub(super) stage: Stage,
    /// Its exit code, once it has ended.
    pub(super) code: Option<i64>,
    /// Whether it, or a process in it, hit its memory limit. Podman does not say.
    pub(super) oom: bool,
    labels: HashMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It never ran.
    Created,
    /// Processes of it run, or are paused.
    Running,
    /// It ran.
    Ended,
}

impl Container {
    /// Reads the engine's answer.
    pub(super) fn new(answer: ContainerInspectResponse) -> Self {
        use ContainerStateStatusEnum as Status;
        let state = answer.state.unwrap_or_default();
        let stage = match state.status {
            Some(Status::CREATED) => Stage::Created,
            // Podman says `stopping`, and not `running`, as long as the grace period lasts.
            Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => {
                Stage::Running
            }
            _ if state.running == Some(true) => Stage::Running,
            _ => Stage::Ended,
        };
        Self {
            id: answer.id.unwrap_or_default(),
            stage,
            code: state.exit_code.filter(|_| stage == Stage::Ended),
            oom: state.oom_killed == Some(true),
            labels: answer.config.and_then(|config| config.labels).unwrap_or_default(),
        }
    }

    /// Returns one of our labels.
    pub(super) fn label(&self, label: &str) -> Option<&str> {
        self.labels.get(label).map(String::as_str)
    }

    /// Returns whether it has work that a replacement would lose.
    ///
    /// Nothing comes of one whose folders are gone, or whose reports would not count.
    pub(super) fn is_kept_while_busy(&self, spec: &ReplicaSpec) -> bool {
        self.label(FOLDERS).is_none_or(|folders| folders == identity(spec))
            && self.label(PROOF) == Some(&spec.secret.print())
    }
}
