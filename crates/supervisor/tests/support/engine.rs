//! A container engine of a test's own, that may be stopped and killed: never the machine's.
//!
//! It has its own data (in memory, so that nothing of it is left), its own folder for what runs, its own
//! process id file, its own socket and its own containerd, and no network.

use std::io::{self, Error};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use protocol::atomic_file::{self, Durability};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// The most that its images and containers may take up.
const SIZE: &str = "size=4g,mode=0711";

/// How long it may take to start, or to stop: without `live-restore` it gives each container that it finds
/// or has 10 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends what belongs to the engine in the folder `$1`, and takes the folder away. First as it should be
/// done, for what is still there to do it. The engine and its helpers have the folder in their
/// environment; a container has it in its root.
const SWEEP: &str = r#"
    folder=$1
    [ -z "$2" ] || while read -r _; do :; done
    if [ -S "$folder/docker.sock" ]; then
        export DOCKER_HOST="unix://$folder/docker.sock"
        timeout 20 docker ps -aq | timeout 60 xargs -r docker rm --force
    fi
    if [ -s "$folder/pid" ] && grep -qsF -e "$folder" "/proc/$(cat "$folder/pid")/environ"; then
        kill -TERM "$(cat "$folder/pid")"
        for _ in $(seq 100); do [ -s "$folder/pid" ] || break; sleep 0.2; done
    fi
    for round in 1 2 3; do
        {
            grep -lsF -e "SUPERVISOR_TEST_ENGINE=$folder" /proc/[0-9]*/environ
            grep -lsE -e "^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ / .*$folder/" /proc/[0-9]*/mountinfo
        } | cut -d/ -f3 | xargs -r kill -KILL
        awk -v folder="$folder/" 'index($5, folder) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
            xargs -r umount --lazy
        rm -rf -- "$folder" && [ ! -e "$folder" ] && exit
        sleep 1
    done
"#;

/// An engine.
#[derive(Debug)]
pub(crate) struct Engine {
    folder: TempDir,
    /// Whether its containers outlive it, from its next start on.
    pub(crate) live_restore: bool,
    program: Option<Child>,
    janitor: Child,
}

impl Engine {
    /// Returns why there can't be one here.
    pub(crate) fn impossible() -> Option<String> {
        if !geteuid().is_root() {
            return Some("an engine of its own needs root".to_owned());
        }
        let found = Command::new("dockerd").arg("--version").output();
        (!found.is_ok_and(|output| output.status.success()))
            .then(|| "no dockerd command".to_owned())
    }

    /// Starts an engine.
    pub(crate) fn start() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("eng").tempdir()?;
        let janitor = Command::new("sh")
            .args(["-c", SWEEP, "janitor"])
            .arg(folder.path())
            .arg("wait")
            // Ends with us, however we end.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Whoever kills a test kills its whole group.
            .process_group(0)
            .spawn()?;
        let mut engine = Self { folder, live_restore: false, program: None, janitor };
        let data = engine.path("data");
        std::fs::create_dir(&data)?;
        // Not the machine's: its folders belong to another engine.
        atomic_file::replace(&engine.path("daemon.json"), b"{}", Durability::Volatile)?;
        good(Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&data))?;
        engine.start_again()?;
        Ok(engine)
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), and returns when it answers.
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        // In a network of its own, which leads nowhere: without a bridge it would remove the one of another engine.
        let mut dockerd = Command::new("unshare");
        dockerd.args(["--net", "dockerd"]);
        for (flag, file) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            dockerd.arg(flag).arg(self.path(file));
        }
        dockerd
            .args(["--host", &self.endpoint()])
            // Workers need none.
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .arg(format!("--live-restore={}", self.live_restore))
            .env("SUPERVISOR_TEST_ENGINE", self.folder.path())
            // Whoever kills a test leaves it to the janitor, which asks it to clean up first.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.program = Some(dockerd.spawn()?);
        let start = Instant::now();
        while !self.command().args(["version"]).output()?.status.success() {
            let ended = self.program.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                return Err(Error::other(format!("dockerd ended with {status}:\n{}", self.log())));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::other(format!("dockerd does not answer:\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops it as a system does that restarts it.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        let Some(program) = &mut self.program else { return Ok(()) };
        if let Some(pid) = i32::try_from(program.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let start = Instant::now();
        while program.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(Error::other(format!("dockerd does not stop:\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.program = None;
        Ok(())
    }

    /// Kills it as a crash does. Its containers live on, until it is started again.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let Some(mut program) = self.program.take() else { return Ok(()) };
        program.kill()?;
        program.wait()?;
        // Its containerd dies with it, and is nobody's child then. The next start takes it for alive, and
        // waits for its answer in vain, until somebody has taken note of its end.
        let file = self.path("exec/containerd/containerd.pid");
        let pid = std::fs::read_to_string(&file)?;
        let start = Instant::now();
        while is_alive(pid.trim()) {
            if start.elapsed() > PATIENCE {
                return Err(Error::other("containerd outlives dockerd"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::remove_file(file)
    }

    /// Gives it an image that another engine has.
    pub(crate) fn load(&self, image: &str) -> io::Result<()> {
        let mut save =
            Command::new("docker").args(["save", image]).stdout(Stdio::piped()).spawn()?;
        let pipe = save.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let loaded = good(self.command().arg("load").stdin(pipe));
        let saved = save.wait()?;
        loaded?;
        if !saved.success() {
            return Err(Error::other(format!("`docker save {image}` ended with {saved}")));
        }
        Ok(())
    }

    /// Returns a `docker` that speaks to it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env_remove("DOCKER_CONTEXT").env("DOCKER_HOST", self.endpoint());
        command.stdin(Stdio::null());
        command
    }

    /// Returns where it is.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Returns the processes that run in its containers, by what the kernel says of their root: the engine need
    /// not know of them any more.
    pub(crate) fn inhabitants(&self) -> io::Result<Vec<String>> {
        let folder = format!("{}/", self.path("data").display());
        let is_root_in = |mounts: &str| {
            // The fifth field is where it is mounted.
            let roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
            roots.into_iter().any(|line| line.contains(&folder))
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            // Who has ended meanwhile has nothing to tell.
            let mounts = std::fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.parse::<u32>().is_ok() && is_root_in(&mounts) {
                found.push(name.to_owned());
            }
        }
        Ok(found)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the end of what it said.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.janitor.kill();
        let _ = self.janitor.wait();
        // The engine ends in there; who is its parent has to take note of that.
        let program = self.program.take();
        let waiter = std::thread::spawn(move || program.map(|mut program| program.wait()));
        let _ = sweep(self.folder.path());
        let _ = waiter.join();
    }
}

/// Returns whether a process is there and has not ended.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn sweep(folder: &Path) -> io::Result<Output> {
    good(Command::new("sh").args(["-c", SWEEP, "sweep"]).arg(folder).arg("").stdin(Stdio::null()))
}

/// Runs a command that must succeed.
fn good(command: &mut Command) -> io::Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::other(format!("{:?} ended with {}: {said}", command.get_program(), output.status)))
}
