//! An installation of its own, with a daemon, gone when it is dropped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rehearsal::{Rehearsal, Scenario, SeenRequest};
use serde_json::Value;
use supervisor::api::types::{RunSummary, StatusReport, TaskStatus, TaskView};
use supervisor::config::CLI_VERSION;
use supervisor::install::Installation;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::engine::Engine;
use crate::janitor::Janitor;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(150);

/// What runs the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Process,
    Docker,
}

pub(crate) struct World {
    pub(crate) kind: Kind,
    sockets: TempDir,
    claude: PathBuf,
    worker: PathBuf,
    upstream: Option<Upstream>,
    /// Where the model's API is, if it is not the rehearsal of this test.
    address: Option<String>,
    /// Where the container engine is, if it is not the usual one.
    engine: Option<String>,
    /// The small disk that the folder is on, if it is.
    disk: Option<Disk>,
    dir: TempDir,
    /// The names that the daemon knows, in place of `/etc/hosts`.
    hosts: Option<PathBuf>,
    /// The umask of the daemon, if it is not ours.
    umask: Option<String>,
    daemon: Option<Child>,
    _janitor: Janitor,
}

/// The model's API, in the test's own process.
struct Upstream {
    runtime: tokio::runtime::Runtime,
    rehearsal: Rehearsal,
    address: String,
}

/// The key that the daemon is given. It must be seen upstream, and nowhere else.
pub(crate) const KEY: &str = "sk-test-4f1c0a55e77";

impl World {
    pub(crate) fn of_processes(test: &str) -> Option<Self> {
        Self::new(Kind::Process, test)
    }

    pub(crate) fn of_containers(test: &str) -> Option<Self> {
        has_image(test)?;
        Self::new(Kind::Docker, test)
    }

    /// The same with an engine of the test's own, that has the image by then.
    pub(crate) fn of_containers_of(engine: &Engine, test: &str) -> Option<Self> {
        let mut world = Self::of_containers(test)?;
        engine.load(&image()).unwrap();
        world.set_engine(&engine.endpoint());
        Some(world)
    }

    /// The same as [`of_containers`](Self::of_containers), with all that the daemon writes on a disk of
    /// that size, in MiB.
    pub(crate) fn of_containers_on_a_disk_of(mib: u32, test: &str) -> Option<Self> {
        if let Some(why) = Disk::impossible() {
            return skip(test, &why);
        }
        has_image(test)?;
        Self::with_disk(Kind::Docker, Some(mib), test)
    }

    fn new(kind: Kind, test: &str) -> Option<Self> {
        Self::with_disk(kind, None, test)
    }

    fn with_disk(kind: Kind, disk: Option<u32>, test: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let claude = std::env::var_os("SUPERVISOR_CLAUDE")
            .map_or_else(|| root.join(format!(".cache/cli/{CLI_VERSION}/claude")), PathBuf::from);
        if !claude.is_file() {
            return skip(test, "no Claude Code CLI; `compose/fetch-cli` fetches it");
        }
        let Some(worker) = std::env::var_os("SUPERVISOR_WORKER").map(PathBuf::from) else {
            return skip(test, "no static worker: run `make test`, which builds it");
        };
        let dir = tempfile::Builder::new().prefix("sup").tempdir().unwrap();
        let disk = disk.map(|mib| Disk::mount(dir.path(), mib).unwrap());
        // Agents in containers are another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        copy_tree(&root.join("workspaces"), &dir.path().join("workspaces"));
        let sockets = tempfile::Builder::new().prefix("s").tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        let has_containers = kind == Kind::Docker;
        let janitor = Janitor::new(
            has_containers.then_some(installation.id()),
            &[dir.path(), sockets.path()],
        );
        let world = Self {
            kind,
            disk,
            dir,
            sockets,
            claude,
            worker,
            upstream: None,
            address: None,
            engine: None,
            hosts: None,
            umask: None,
            daemon: None,
            _janitor: janitor,
        };
        world.write("supervisor.toml", "backoff_base = 0.2\nstop_grace = 5\n");
        Some(world)
    }

    /// Starts the model's API with a scenario, and the daemon.
    pub(crate) fn start(mut self, scenario: &str) -> Self {
        self.open_api(scenario);
        self.start_daemon();
        self
    }

    /// Starts the model's API with a scenario, where it was before if it was closed.
    pub(crate) fn open_api(&mut self, scenario: &str) {
        let scenario = Scenario::from_toml(scenario).unwrap();
        let address = self.address.take().unwrap_or_else(|| "http://127.0.0.1:0".to_owned());
        self.upstream = Some(Upstream::start(scenario, &address));
    }

    /// Ends the model's API: nobody listens there any more.
    pub(crate) fn close_api(&mut self) {
        self.address = Some(self.upstream.take().unwrap().address);
    }

    /// Starts the daemon with somebody else's API.
    pub(crate) fn start_with_upstream(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self.start_daemon();
        self
    }

    pub(crate) fn start_daemon(&mut self) {
        self.spawn_daemon();
        self.until_healthy();
    }

    /// Starts the daemon, and does not wait for it.
    pub(crate) fn spawn_daemon(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.daemon_log()).unwrap();
        let mut command = match &self.hosts {
            None => self.command(),
            Some(hosts) => self.command_with_hosts(hosts),
        };
        if let Some(umask) = &self.umask {
            command = with_umask(&command, umask);
        }
        command
            .args(["-v", "up"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    pub(crate) fn until_healthy(&mut self) {
        self.wait("the daemon is healthy", |world| {
            let output = world.run(&["status", "--json"]);
            let daemon = world.daemon.as_mut().unwrap();
            if let Some(status) = daemon.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", world.log());
            }
            output.status.success().then_some(())
        });
    }

    /// Has the daemon know only these names by file, in a file system that it sees alone. Returns false
    /// where that can't be done.
    pub(crate) fn set_hosts(&mut self, hosts: &str) -> bool {
        self.write("hosts", hosts);
        let hosts = self.path("hosts");
        let may = self.command_with_hosts(&hosts).arg("--version").output();
        self.hosts = Some(hosts);
        may.is_ok_and(|output| output.status.success())
    }

    fn command_with_hosts(&self, hosts: &Path) -> Command {
        let inner = self.command();
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(hosts).arg(inner.get_program());
        command.env_clear();
        for (name, value) in inner.get_envs() {
            command.envs(value.map(|value| (name, value)));
        }
        command
    }

    /// Has the daemon run under that umask, from its next start on.
    pub(crate) fn set_umask(&mut self, umask: &str) {
        self.umask = Some(umask.to_owned());
    }

    /// Has the daemon find its container engine there.
    pub(crate) fn set_engine(&mut self, endpoint: &str) {
        self.engine = Some(endpoint.to_owned());
    }

    /// Returns the disk that was asked for.
    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// Returns a `docker` that speaks to the daemon's engine.
    pub(crate) fn docker(&self, args: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.envs(self.engine.as_ref().map(|engine| ("DOCKER_HOST", engine)));
        command.args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Returns the folder of the daemon's sockets.
    pub(crate) fn sockets(&self) -> PathBuf {
        let run = fs::read_to_string(self.path(".supervisor/run")).unwrap();
        run.trim().into()
    }

    /// Kills the daemon as a crash would; its workers go on.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Returns the command `supervisor` with nothing of the test's environment but the `PATH`.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supervisor"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("XDG_RUNTIME_DIR", self.sockets.path())
            .env("SUPERVISOR_DIR", self.dir.path())
            .env("SUPERVISOR_CLAUDE", &self.claude)
            .env("SUPERVISOR_WORKER", &self.worker)
            .env(
                "SUPERVISOR_RUNTIME",
                match self.kind {
                    Kind::Process => "process",
                    Kind::Docker => "docker",
                },
            )
            .env("ANTHROPIC_API_KEY", KEY);
        let engine = self.engine.as_ref().map(Into::into);
        if let Some(host) = engine.or_else(|| std::env::var_os("DOCKER_HOST")) {
            command.env("DOCKER_HOST", host);
        }
        let address = self.upstream.as_ref().map(|upstream| upstream.address.clone());
        if let Some(address) = address.or_else(|| self.address.clone()) {
            command.env("ANTHROPIC_BASE_URL", address);
        }
        command.current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must exit with that code, and returns its output.
    pub(crate) fn expect(&self, code: i32, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "supervisor {args:?}\n{}\n{}\n--- log\n{}",
            text(&output.stdout),
            text(&output.stderr),
            self.log()
        );
        output
    }

    /// Runs a command that must succeed and prints one line of JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.expect(0, args);
        let stdout = text(&output.stdout);
        serde_json::from_str(stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("supervisor {args:?}: {error}\n{stdout}"))
    }

    /// Adds a task and returns at once.
    pub(crate) fn add(&self, worker: &str, id: &str, text: &str, more: &[&str]) {
        let args = [&["task", worker, text, "--id", id, "--detach"], more].concat();
        self.expect(0, &args);
    }

    pub(crate) fn status(&self) -> StatusReport {
        serde_json::from_value(self.json_text(&["status", "--json"])).unwrap()
    }

    fn json_text(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.expect(0, args).stdout).unwrap()
    }

    pub(crate) fn task(&self, id: &str) -> TaskView {
        let report = self.status();
        let mut tasks = report.runs.into_iter().flat_map(|run| run.tasks);
        tasks.find(|task| task.task_id.as_str() == id).unwrap_or_else(|| panic!("no task {id}"))
    }

    /// Returns whether there is such a task.
    pub(crate) fn knows(&self, id: &str) -> bool {
        let report = self.status();
        report.runs.iter().flat_map(|run| &run.tasks).any(|task| task.task_id.as_str() == id)
    }

    /// Waits until all tasks of the standing run have ended, and returns their statuses.
    pub(crate) fn ended(&self, ids: &[&str]) -> Vec<TaskStatus> {
        self.wait_ref("the tasks have ended", |world| {
            let tasks: Vec<_> = ids.iter().map(|id| world.task(id).status).collect();
            tasks.iter().all(|status| status.has_ended()).then_some(tasks)
        })
    }

    /// Submits a request and waits for its end, which must be a good one.
    pub(crate) fn submit(&self, request: &str) -> RunSummary {
        self.write("request.txt", request);
        serde_json::from_value(self.json(&["submit", "request.txt", "--json"])).unwrap()
    }

    /// Returns the published result of a task.
    pub(crate) fn result(&self, worker: &str, id: &str) -> Value {
        let text = fs::read(self.path(&format!("results/{worker}/{id}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Returns the requests for messages that came upstream.
    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        let all = self.upstream.as_ref().unwrap().rehearsal.requests();
        all.into_iter().filter(|request| request.path == "/v1/messages").collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().write_all(contents.as_bytes()).unwrap();
    }

    /// Not on the disk that may be full.
    fn daemon_log(&self) -> PathBuf {
        self.sockets.path().join("daemon.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.daemon_log()).unwrap_or_default()
    }

    /// Waits for something, with a bound.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let log = self.daemon_log();
        patiently(what, &log, || look(self))
    }

    /// The same, where nothing of the world changes.
    pub(crate) fn wait_ref<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        patiently(what, &self.daemon_log(), || look(self))
    }

    /// Waits until the daemon's log has a line with these words.
    pub(crate) fn until_logged(&self, what: &str, words: [&str; 2]) {
        self.wait_ref(what, |world| {
            let log = world.log();
            let mut lines = log.lines();
            lines.any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
    }

    /// Waits until a task runs, with a request for it upstream.
    pub(crate) fn until_asked(&self, id: &str) {
        self.wait_ref("the model is asked", |world| {
            world.requests().iter().any(|r| r.task.as_deref() == Some(id)).then_some(())
        });
    }

    /// Returns the names of this installation's containers.
    pub(crate) fn containers(&self) -> Vec<String> {
        let label = format!("label=supervisor.installation={}", self.installation_id());
        let output = self.docker(&["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]);
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The same, where there are containers at all.
    pub(crate) fn containers_if_any(&self) -> Vec<String> {
        match self.kind {
            Kind::Docker => self.containers(),
            Kind::Process => Vec::new(),
        }
    }

    /// Returns the daemon's process.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Takes note that the daemon has ended by itself.
    pub(crate) fn forget_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.wait().unwrap();
    }

    /// Returns the processes of a program that belong to this world: those whose open files or arguments
    /// name its folder, or that run in its containers.
    pub(crate) fn processes(&self, kind: Kind, program: &str) -> Vec<u32> {
        match kind {
            Kind::Docker => {
                self.containers().iter().flat_map(|name| self.processes_in(name, program)).collect()
            }
            Kind::Process => {
                let folder = self.path("").to_string_lossy().into_owned();
                let output = Command::new("ps").args(["-eo", "pid,args", "-ww"]).output().unwrap();
                text(&output.stdout)
                    .lines()
                    .filter(|line| line.contains(&folder))
                    .filter_map(|line| {
                        let (pid, rest) = line.trim().split_once(' ')?;
                        let name = rest.split_whitespace().next()?.rsplit('/').next()?;
                        (name == program).then(|| pid.parse().ok())?
                    })
                    .collect()
            }
        }
    }

    /// Returns the processes of a program in a container, by their numbers outside.
    pub(crate) fn processes_in(&self, container: &str, program: &str) -> Vec<u32> {
        let output = self.docker(&["top", container, "-eo", "pid,comm"]);
        pids(&text(&output.stdout), program)
    }

    /// Returns the name of a replica's container.
    pub(crate) fn container(&self, replica: &str) -> String {
        format!("supervisor-{}-{replica}", self.installation_id())
    }

    pub(crate) fn installation_id(&self) -> String {
        Installation::at(self.dir.path()).unwrap().id().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        if self.daemon.is_none() && !std::thread::panicking() && self.upstream.is_some() {
            self.start_daemon();
        }
        let _ = self.run(&["down"]);
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if self.kind == Kind::Docker {
            for name in self.containers() {
                let _ = self.docker(&["rm", "--force", &name]);
            }
        }
    }
}

impl Upstream {
    fn start(scenario: Scenario, address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(address.replace("http://", "")))
            .unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let rehearsal = Rehearsal::new(scenario);
        runtime.spawn(rehearsal.clone().serve_tcp(listener, std::future::pending()));
        Self { runtime, rehearsal, address }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({}, {:?})", self.address, self.runtime)
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Says that a test is left out. Where everything must be there, that is a failure.
pub(crate) fn skip<T>(test: &str, why: &str) -> Option<T> {
    assert!(std::env::var_os("REQUIRE_DOCKER").is_none(), "{test}: {why}");
    println!("SKIPPED: {test}: {why}");
    if let Some(path) = std::env::var_os("TEST_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "SKIPPED: {test}: {why}").unwrap();
    }
    None
}

pub(crate) fn image() -> String {
    format!("supervisor-worker:{CLI_VERSION}")
}

/// Returns nothing where there is no engine with the workers' image.
fn has_image(test: &str) -> Option<()> {
    let image = image();
    match Command::new("docker").args(["image", "inspect", &image]).output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(_) => skip(test, &format!("no container engine with the image {image}")),
        Err(error) => skip(test, &format!("no docker command: {error}")),
    }
}

/// Returns the same command, which sets its umask first.
fn with_umask(inner: &Command, umask: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask \"$0\" && exec \"$@\"", umask]).arg(inner.get_program());
    command.env_clear();
    for (name, value) in inner.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    command.current_dir(inner.get_current_dir().unwrap_or(Path::new("/")));
    command
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn pids(table: &str, program: &str) -> Vec<u32> {
    table
        .lines()
        .filter_map(|line| {
            let (pid, name) = line.trim().split_once(char::is_whitespace)?;
            (name.trim() == program).then(|| pid.parse().ok())?
        })
        .collect()
}

/// Looks until there is something to see, with a bound.
fn patiently<T>(what: &str, log: &Path, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        if start.elapsed() > PATIENCE {
            let log = fs::read_to_string(log).unwrap_or_default();
            panic!("waited too long until {what}\n{log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
