//! The Docker runtime against a real engine.
//!
//! Containers run shell scripts in place of the worker, in the image of worker containers.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

#[path = "support/janitor.rs"]
mod janitor;

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use protocol::atomic_file::{self, Durability};
use protocol::{Auth, ReplicaId, Resources, Time, WorkspaceMode};
use supervisor::api::types::{GcItem, GcKind};
use supervisor::runtime::docker::DockerRuntime;
use supervisor::runtime::{Exit, Found, Owner, ReplicaSpec, Runtime, RuntimeError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

use janitor::Janitor;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A script that writes down that it runs, and stops when it is told to.
const RESIDENT: &str =
    "trap 'exit 143' TERM\necho started >>/results/starts\nwhile :; do sleep 0.05; done";

/// An installation of its own, gone with everything it made when it is dropped.
struct World {
    dir: TempDir,
    installation: String,
    image: String,
    docker: Docker,
    runtime: DockerRuntime,
    _janitor: Janitor,
}

impl World {
    /// Returns `None`, and says so, where there is no engine or no image to test with.
    async fn new(test: &str) -> Option<Self> {
        static WORLDS: AtomicUsize = AtomicUsize::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let installation = format!("t{}-{number}", std::process::id());
        let runtime = match DockerRuntime::connect(&installation).await {
            Ok(runtime) => runtime,
            Err(error) => return skip(test, &error.to_string()),
        };
        let docker = Docker::connect_with_unix(
            runtime.endpoint().trim_start_matches("unix://"),
            120,
            bollard::API_DEFAULT_VERSION,
        );
        let Ok(docker) = docker else { return skip(test, "the engine is not on this host") };
        let Some(image) = worker_image(&docker).await else {
            return skip(test, "there is no image of worker containers: `make image`");
        };
        let dir = tempfile::Builder::new().prefix(test).tempdir().unwrap();
        let janitor = Janitor::new(Some(&installation), &[dir.path()]);
        Some(Self { dir, installation, image, docker, runtime, _janitor: janitor })
    }

    /// Returns the spec of a replica that runs a script.
    fn spec(&self, replica: &str, script: &str) -> ReplicaSpec {
        let owner = owner();
        let folder = |name: &str| {
            let path = self.dir.path().join(replica).join(name);
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
            path
        };
        let program = folder("bin").join("worker");
        install(&program, script);
        ReplicaSpec {
            replica: replica.parse().unwrap(),
            worker: replica.rsplit_once('-').unwrap().0.parse().unwrap(),
            image: self.image.clone(),
            program,
            claude: None,
            secret: protocol::ReportKey::new([7; 32]).secret(&replica.parse().unwrap()),
            tasks: folder("tasks"),
            results: folder("results"),
            workspace: folder("workspace"),
            workspace_mode: WorkspaceMode::ReadOnly,
            login: Some(folder("login")),
            auth: Auth::Gateway,
            scratch: folder("scratch"),
            gateway: folder("gateway"),
            egress: Vec::new(),
            requests: Default::default(),
            resources: Resources {
                memory_mib: 64,
                cpus: 1.0,
                pids: 32,
                tmp_mib: 8,
                ..Resources::default()
            },
            user: owner,
            asks_model: true,
            container: protocol::ContainerMode::Resident,
            accepted: Vec::new(),
        }
    }

    async fn container_id(&self, replica: &ReplicaId) -> Option<String> {
        let name = self.runtime.container_name(replica);
        let found = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
        found.ok().and_then(|found| found.id)
    }

    async fn remove_by_hand(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        self.docker.remove_container(name, Some(options)).await.unwrap();
    }

    async fn stop(&self, replica: &ReplicaId) {
        self.runtime.stop(replica, Duration::ZERO).await.unwrap();
    }

    async fn wait(&self, replica: &ReplicaId) -> Exit {
        timeout(PATIENCE, self.runtime.wait(replica)).await.unwrap().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails leaves its containers to this. It is not async, so it asks the CLI.
        let docker = |args: &[&str]| {
            let output = std::process::Command::new("docker").args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let filter = format!("label=supervisor.installation={}", self.installation);
        let left = docker(&["ps", "--all", "--quiet", "--filter", &filter]).unwrap_or_default();
        for id in left.lines() {
            let _gone_already = docker(&["rm", "--force", id]);
        }
    }
}

fn skip<T>(test: &str, why: &str) -> Option<T> {
    let line = format!("SKIPPED: {test}: {why}");
    assert!(env::var_os("REQUIRE_DOCKER").is_none_or(|value| value != "1"), "{line}");
    eprintln!("{line}");
    if let Some(path) = env::var_os("TEST_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    None
}

async fn worker_image(docker: &Docker) -> Option<String> {
    let filters = HashMap::from([("reference", vec!["supervisor-worker"])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = docker.list_images(Some(options)).await.ok()?;
    images.into_iter().flat_map(|image| image.repo_tags).next()
}

/// Root may not run agents, and only root can give files away.
fn owner() -> Owner {
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return Owner { uid: 1000, gid: 1000 };
    }
    Owner { uid: uid.as_raw(), gid: rustix::process::getgid().as_raw() }
}

/// Puts a program where it is run from, in place of one that may be running.
fn install(program: &Path, script: &str) {
    let mut file = tempfile::NamedTempFile::new_in(program.parent().unwrap()).unwrap();
    file.write_all(format!("#!/bin/bash\n{script}\n").as_bytes()).unwrap();
    file.as_file().set_permissions(Permissions::from_mode(0o755)).unwrap();
    file.persist(program).unwrap();
}

/// Waits until a file has that many lines, and returns them.
async fn lines(path: PathBuf, count: usize) -> Vec<String> {
    let read = async {
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.matches('\n').count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

#[tokio::test]
async fn second_ensure_adopts_also_after_a_restart() {
    let Some(world) = World::new("second_ensure_adopts_also_after_a_restart").await else { return };
    let spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();
    let id = world.container_id(&spec.replica).await;
    world.runtime.ensure(&spec, false).await.unwrap();

    let restarted = DockerRuntime::connect(&world.installation).await.unwrap();
    restarted.ensure(&spec, false).await.unwrap();

    assert_eq!(world.container_id(&spec.replica).await, id);
    let running = Found { replica: spec.replica.clone(), running: true };
    assert_eq!(restarted.list().await.unwrap(), [running]);
    assert_eq!(lines(spec.results.join("starts"), 1).await.len(), 1);
    world.stop(&spec.replica).await;
    assert!(restarted.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn other_spec_replaces_a_container_unless_it_is_busy() {
    let Some(world) = World::new("other_spec_replaces_a_container_unless_it_is_busy").await else {
        return;
    };
    let first = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&first, false).await.unwrap();
    lines(first.results.join("starts"), 1).await;
    let id = world.container_id(&first.replica).await;

    let mut second = first.clone();
    second.resources.memory_mib = 80;
    world.runtime.ensure(&second, true).await.unwrap();
    assert_eq!(world.container_id(&first.replica).await, id);
    world.runtime.ensure(&second, false).await.unwrap();
    assert_ne!(world.container_id(&first.replica).await, id);
    assert_eq!(lines(first.results.join("starts"), 2).await.len(), 2);
    world.stop(&first.replica).await;
}

#[tokio::test]
async fn container_whose_folder_was_made_again_is_replaced_even_if_busy() {
    let Some(world) = World::new("container_whose_folder_was_made_again").await else { return };
    let spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();
    let first = world.container_id(&spec.replica).await;
    for busy in [false, true] {
        world.runtime.ensure(&spec, busy).await.unwrap();
        assert_eq!(world.container_id(&spec.replica).await, first);
    }
    // As at a logout, when the folder of all sockets goes.
    fs::remove_dir(&spec.gateway).unwrap();
    fs::create_dir(&spec.gateway).unwrap();
    world.runtime.ensure(&spec, true).await.unwrap();
    assert_ne!(world.container_id(&spec.replica).await, first);
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn program_with_other_contents_replaces_a_container() {
    let Some(world) = World::new("program_with_other_contents_replaces_a_container").await else {
        return;
    };
    let spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();
    lines(spec.results.join("starts"), 1).await;
    let id = world.container_id(&spec.replica).await;
    install(&spec.program, &format!("{RESIDENT} # new"));
    world.runtime.ensure(&spec, false).await.unwrap();
    assert_ne!(world.container_id(&spec.replica).await, id);
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn exit_code_and_last_words_are_seen_during_and_after_the_end() {
    let Some(world) =
        World::new("exit_code_and_last_words_are_seen_during_and_after_the_end").await
    else {
        return;
    };
    let script = "until [ -e /tasks/go ]; do sleep 0.05; done; echo good; echo bye >&2; exit 7";
    let spec = world.spec("marie-1", script);
    world.runtime.ensure(&spec, false).await.unwrap();
    let (during, ()) = tokio::join!(world.wait(&spec.replica), async {
        fs::create_dir(spec.tasks.join("go")).unwrap();
    });
    assert_eq!((during.code, during.oom), (Some(7), false));
    // They come through two pipes: the engine decides which was first.
    let mut words: Vec<&str> = during.output.lines().collect();
    let last = words.last().copied().unwrap_or_default();
    assert_eq!(during.to_string(), format!("it ended with 7 (its last words: {last})"));
    words.sort_unstable();
    assert_eq!(words, ["bye", "good"]);
    assert_eq!(world.wait(&spec.replica).await, during);

    let ended = Found { replica: spec.replica.clone(), running: false };
    assert_eq!(world.runtime.list().await.unwrap(), [ended]);
    // It is started again when it is wanted again.
    let id = world.container_id(&spec.replica).await;
    world.runtime.ensure(&spec, false).await.unwrap();
    assert_ne!(world.container_id(&spec.replica).await, id);
    world.stop(&spec.replica).await;
    assert_eq!(world.wait(&spec.replica).await, Exit::unknown());
}

#[tokio::test]
async fn container_that_hits_its_memory_limit_is_seen_to() {
    let Some(world) = World::new("container_that_hits_its_memory_limit_is_seen_to").await else {
        return;
    };
    let spec = world.spec("marie-1", "exec tail /dev/zero");
    world.runtime.ensure(&spec, false).await.unwrap();
    let exit = world.wait(&spec.replica).await;
    assert_eq!((exit.code, exit.oom), (Some(137), true));
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn container_that_was_removed_by_hand_has_ended() {
    let Some(world) = World::new("container_that_was_removed_by_hand_has_ended").await else {
        return;
    };
    let spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();
    let name = world.runtime.container_name(&spec.replica);
    lines(spec.results.join("starts"), 1).await;
    let (exit, ()) = tokio::join!(world.wait(&spec.replica), world.remove_by_hand(&name));
    // By how far the removal has come.
    assert!(matches!(exit.code, None | Some(137)), "{exit:?}");
    assert!(world.runtime.list().await.unwrap().is_empty());
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn stop_asks_then_kills_and_leaves_nothing() {
    let Some(world) = World::new("stop_asks_then_kills_and_leaves_nothing").await else { return };
    let polite = world.spec("polite-1", "trap 'echo asked >/results/asked; exit 0' TERM\necho started >>/results/starts\nwhile :; do sleep 0.05; done");
    let deaf = world
        .spec("deaf-1", "trap '' TERM\necho started >>/results/starts\nwhile :; do sleep 1; done");
    for spec in [&polite, &deaf] {
        world.runtime.ensure(spec, false).await.unwrap();
        lines(spec.results.join("starts"), 1).await;
    }
    let grace = Duration::from_secs(1);
    let (exit, stopped) =
        tokio::join!(world.wait(&deaf.replica), world.runtime.stop(&deaf.replica, grace));
    stopped.unwrap();
    assert!(matches!(exit.code, None | Some(137)), "{exit:?}");
    world.runtime.stop(&polite.replica, PATIENCE).await.unwrap();
    assert_eq!(lines(polite.results.join("asked"), 1).await, ["asked"]);
    assert!(world.runtime.list().await.unwrap().is_empty());
    // Again, for what is gone.
    world.runtime.stop(&polite.replica, grace).await.unwrap();
}

#[tokio::test]
async fn container_of_somebody_else_is_left_alone() {
    let Some(world) = World::new("container_of_somebody_else_is_left_alone").await else { return };
    let spec = world.spec("marie-1", RESIDENT);
    let name = world.runtime.container_name(&spec.replica);
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    let body = ContainerCreateBody { image: Some(world.image.clone()), ..Default::default() };
    let foreign = world.docker.create_container(Some(options), body).await.unwrap().id;

    let refused = world.runtime.ensure(&spec, false).await;
    let stopped = world.runtime.stop(&spec.replica, Duration::ZERO).await;
    let waited = world.wait(&spec.replica).await;

    assert_eq!(world.container_id(&spec.replica).await, Some(foreign));
    world.remove_by_hand(&name).await;
    assert!(matches!(refused, Err(RuntimeError::NotOurs { name: found }) if found == name));
    stopped.unwrap();
    assert_eq!(waited, Exit::unknown());
}

#[tokio::test]
async fn missing_image_is_named_and_nothing_is_stopped_for_it() {
    let Some(world) = World::new("missing_image_is_named_and_nothing_is_stopped_for_it").await
    else {
        return;
    };
    let mut spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();
    let id = world.container_id(&spec.replica).await;
    world.runtime.check(std::slice::from_ref(&spec.image)).await.unwrap();

    spec.image = "supervisor-test/no-such-image:1".to_owned();
    for error in [
        world.runtime.ensure(&spec, false).await.unwrap_err(),
        world.runtime.check(std::slice::from_ref(&spec.image)).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, RuntimeError::ImageMissing { image } if *image == spec.image),
            "{error:?}"
        );
    }
    assert_eq!(world.container_id(&spec.replica).await, id);
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn what_the_engine_refuses_is_told_and_leaves_nothing() {
    let Some(world) = World::new("what_the_engine_refuses_is_told_and_leaves_nothing").await else {
        return;
    };
    let mut spec = world.spec("marie-1", RESIDENT);
    let tasks = std::mem::replace(&mut spec.tasks, "/nowhere/tasks".into());
    let error = world.runtime.ensure(&spec, false).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot mount `/nowhere/tasks`");
    assert!(!error.is_transient());

    // No engine gives so little memory.
    spec.tasks = tasks;
    let resources =
        std::mem::replace(&mut spec.resources, Resources { memory_mib: 1, ..Resources::default() });
    let error = world.runtime.ensure(&spec, false).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { action: "create" | "start", .. }), "{error:?}");

    // May be run, but not by whom it is run.
    spec.resources = resources;
    fs::set_permissions(&spec.program, Permissions::from_mode(0o010)).unwrap();
    let error = world.runtime.ensure(&spec, false).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot start `supervisor-"), "{error}");
    assert!(world.runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn walls_hold_as_seen_from_inside() {
    let Some(world) = World::new("walls_hold_as_seen_from_inside").await else { return };
    let script = r#"
        exec >/results/seen 2>/dev/null
        echo "user $(id -u):$(id -g)"
        grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        echo "interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1 | xargs)"
        while read -r _ at _ flags _; do [ $at != / ] || echo "root is ${flags%%,*}"; done </proc/mounts
        for folder in /tasks /workspace /run/gateway /opt/supervisor /login /results /tmp; do
            touch $folder/probe && echo "writable $folder"
        done
        cp /bin/true /tmp/true && /tmp/true && echo "programs run in /tmp"
        head -c 9M /dev/zero >/tmp/big || echo "/tmp is bounded"
        echo "memory $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max)"
        echo "pids $(cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max)"
        echo "host $(hostname) pid $$ in $PWD home $HOME"
        env | grep -E 'KEY|TOKEN|ANTHROPIC' || echo "no keys"
    "#;
    let spec = world.spec("marie-1", script);
    world.runtime.ensure(&spec, false).await.unwrap();
    let exit = world.wait(&spec.replica).await;
    assert_eq!(exit.code, Some(0), "{exit}");

    let seen = fs::read_to_string(spec.results.join("seen")).unwrap().replace('\t', " ");
    let user = spec.user;
    let expected = format!(
        "user {}:{}\nroot is ro\nCapBnd: 0000000000000000\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n\
         interfaces lo\nwritable /results\nwritable /tmp\nprograms run in /tmp\n\
         /tmp is bounded\nmemory 67108864\npids 32\nhost marie-1 pid 1 in /workspace home /tmp/home\n\
         no keys\n",
        user.uid, user.gid
    );
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&seen), sorted(&expected));
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn agent_that_may_write_its_workspace_can_not_change_its_own_settings() {
    let test = "agent_that_may_write_its_workspace_can_not_change_its_own_settings";
    let Some(world) = World::new(test).await else { return };
    let script = r#"
        cd /workspace
        { echo "budget_usd = 1000" >>worker.toml; mv worker.toml other; mv -f notes worker.toml
          rm -f worker.toml; ln -sf notes worker.toml; sed -i s/1/1000/ worker.toml; } 2>/dev/null
        cat worker.toml >/results/seen; touch mine; echo up >>/results/starts
        sleep infinity & trap 'kill $!; exit 0' TERM; wait
    "#;
    let spec =
        ReplicaSpec { workspace_mode: WorkspaceMode::Shared, ..world.spec("marie-1", script) };
    let settings = spec.workspace.join("worker.toml");
    for name in ["worker.toml", "notes"] {
        let path = spec.workspace.join(name);
        let text = format!("# {name}\nbudget_usd = 1\n");
        atomic_file::replace(&path, text.as_bytes(), Durability::Volatile).unwrap();
        chown(&path, Some(spec.user.uid), Some(spec.user.gid)).unwrap();
    }
    world.runtime.ensure(&spec, false).await.unwrap();
    lines(spec.results.join("starts"), 1).await;
    let expected = "# worker.toml\nbudget_usd = 1\n";
    assert_eq!(fs::read_to_string(spec.results.join("seen")).unwrap(), expected);
    assert_eq!(fs::read_to_string(&settings).unwrap(), expected);
    assert!(spec.workspace.join("mine").exists(), "the rest is the agent's");

    // An editor puts another file in its place, and the engine's mount is gone with the old one.
    let id = world.container_id(&spec.replica).await;
    let other = expected.replace('1', "2");
    atomic_file::replace(&settings, other.as_bytes(), Durability::Volatile).unwrap();
    world.runtime.ensure(&spec, true).await.unwrap();
    assert_eq!(world.container_id(&spec.replica).await, id, "what is under way goes on");
    world.runtime.ensure(&spec, false).await.unwrap();
    lines(spec.results.join("starts"), 2).await;
    assert_ne!(world.container_id(&spec.replica).await, id);
    assert_eq!(fs::read_to_string(&settings).unwrap(), other);
    world.stop(&spec.replica).await;
}

#[tokio::test]
async fn what_has_ended_and_is_old_is_cleared_away_and_nothing_else() {
    let test = "what_has_ended_and_is_old_is_cleared_away_and_nothing_else";
    let Some(world) = World::new(test).await else { return };
    let [running, kept, gone] =
        [("anga-1", RESIDENT), ("marie-1", "exit 0"), ("marie-2", "exit 0")]
            .map(|(replica, script)| world.spec(replica, script));
    for spec in [&running, &kept, &gone] {
        world.runtime.ensure(spec, false).await.unwrap();
    }
    for spec in [&kept, &gone] {
        world.wait(&spec.replica).await;
    }
    let old = format!("supervisor-worker:{}", world.installation);
    let name = world.runtime.container_name(&gone.replica);
    let docker = |args: &[&str]| {
        let output = std::process::Command::new("docker").args(args).output().unwrap();
        assert!(output.status.success(), "docker {args:?}: {output:?}");
    };
    docker(&["commit", &name, &old]);
    let keep = BTreeSet::from([kept.replica.clone()]);
    let (now, wanted) = (Time::from_millis(u64::MAX), [world.image.clone()]);

    // Only said of images: there may be some of others here.
    let all = world.runtime.clear_old(&keep, &wanted, now, true).await.unwrap();
    let with_old = [old.clone()];
    let without = world.runtime.clear_old(&keep, &with_old, now, true).await.unwrap();
    docker(&["rmi", &old]);
    let named = |items: &[GcItem], name: &str| items.iter().any(|item| item.name == name);
    assert!(named(&all, &old) && named(&all, &name) && !named(&all, &world.image), "{all:?}");
    assert!(!named(&without, &old), "it is wanted");
    assert!(world.container_id(&gone.replica).await.is_some(), "it was a dry run");
    let removed = world.runtime.clear_old(&keep, &wanted, Time::ZERO, false).await.unwrap();

    assert_eq!(removed, [GcItem { kind: GcKind::Container, name, bytes: 0 }]);
    assert_eq!(world.container_id(&gone.replica).await, None);
    for spec in [&running, &kept] {
        assert!(world.container_id(&spec.replica).await.is_some(), "{}", spec.replica);
        world.stop(&spec.replica).await;
    }
}

#[tokio::test]
async fn engine_that_is_not_there_is_unreachable() {
    for endpoint in ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"] {
        let error = DockerRuntime::connect_to(endpoint, "t").await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Unreachable { endpoint: found, .. } if found == endpoint),
            "{error:?}"
        );
        assert!(error.is_transient() && error.hint().is_some());
        assert_eq!(error.to_string(), format!("cannot reach the container engine at {endpoint}"));
    }
    let error = DockerRuntime::connect_to("ssh://somewhere", "t").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to `ssh://somewhere`");
}

/// On a clock that jumps to the next timeout: each call has one.
#[tokio::test(start_paused = true)]
async fn engine_that_takes_calls_and_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let engine = tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            connections.push(listener.accept().await.unwrap());
        }
    });
    let start = tokio::time::Instant::now();
    let error = DockerRuntime::connect_to(&endpoint, "t").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(start.elapsed() <= Duration::from_secs(60), "{:?}", start.elapsed());
    engine.abort();
}

#[tokio::test]
async fn engine_that_is_too_old_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let engine = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _request = stream.read(&mut [0; 4096]).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"ApiVersion\":\"1.40\"}";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let error = DockerRuntime::connect_to(&endpoint, "t").await.unwrap_err();
    assert!(matches!(error, RuntimeError::TooOld { found } if found == "1.40"));
    engine.await.unwrap();
}

#[tokio::test]
async fn lost_connection_is_not_an_end() {
    let Some(world) = World::new("lost_connection_is_not_an_end").await else { return };
    let spec = world.spec("marie-1", RESIDENT);
    world.runtime.ensure(&spec, false).await.unwrap();

    // The way to the engine leads through here. Who waits gets no answer, or an empty one.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let socket = world.runtime.endpoint().trim_start_matches("unix://").to_owned();
    let way = tokio::spawn(async move {
        let mut answers = [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"].into_iter();
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            let mut there = UnixStream::connect(&socket).await.unwrap();
            let mut request = vec![0; 4096];
            let len = here.read(&mut request).await.unwrap();
            if String::from_utf8_lossy(&request[..len]).contains("/wait") {
                here.write_all(answers.next().unwrap()).await.unwrap();
            } else {
                there.write_all(&request[..len]).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut here, &mut there).await);
            }
        }
    });
    let remote = DockerRuntime::connect_to(&endpoint, &world.installation).await.unwrap();
    for _ in 0..2 {
        let waited = timeout(PATIENCE, remote.wait(&spec.replica)).await;
        let error = waited.unwrap().unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    way.abort();

    let running = Found { replica: spec.replica.clone(), running: true };
    assert_eq!(world.runtime.list().await.unwrap(), [running]);
    world.stop(&spec.replica).await;
}
