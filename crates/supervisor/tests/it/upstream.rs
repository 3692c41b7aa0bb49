//! A model's API that no one here wrote: LiteLLM's, which serves the Messages API in front of any
//! model. The model behind it is played; what the CLI and the gateway talk to is not ours.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use supervisor::api::types::RunStatus;
use tempfile::TempDir;

use crate::in_both_runtimes;
use crate::world::{KEY, Kind, World, skip};

/// The first start of all installs it; see `foreign-api`.
const PATIENCE: Duration = Duration::from_secs(100);

/// The exit codes where its packages can't be had: `foreign-api`'s own, and that of a host without Python.
const UNAVAILABLE: [i32; 2] = [4, 127];

const PINS: &str = include_str!("../upstream/requirements.txt");

in_both_runtimes! {
    a_foreign_api_does_a_task_and_a_whole_request,
}

fn a_foreign_api_does_a_task_and_a_whole_request(world: World) {
    let Some(api) = ForeignApi::start(world.kind) else { return };
    // Its own doorkeeper: what comes through came with the daemon's key. It would look another key up
    // in its database, and says 400 because it has none.
    assert_eq!(api.status_for("sk-test-another"), 400);
    assert_eq!(api.status_for(KEY), 200);
    let world = world.start_with_upstream(&api.address);

    let args = ["task", "marie", "Count the mirrors", "--id", "mirrors", "--json"];
    let result = world.json(&args);
    assert_eq!(result["status"], "complete", "{result}\n{}", api.log());
    let version = PINS.lines().find_map(|pin| pin.strip_prefix("litellm==")).unwrap();
    let said = &format!("LiteLLM {version} streams this to claude-cli/");
    let published = world.result("marie", "mirrors");
    let summary = published["summary"].as_str().unwrap();
    assert!(summary.starts_with(said) && summary.ends_with("Count the mirrors"), "{summary}");
    // Written by a tool that it called, and it was told how that went.
    let artifact = world.path(published["artifacts"][0].as_str().unwrap());
    assert!(std::fs::read_to_string(artifact).unwrap().starts_with(said));

    let summary = world.submit("Should the studio have another mirror?");
    assert_eq!(summary.state, RunStatus::Complete, "{summary:#?}\n{}", api.log());
    assert_eq!(summary.tasks.len(), 4, "a plan, its two tasks and an answer: {summary:#?}");
    let answer = std::fs::read_to_string(world.path(summary.answer.as_deref().unwrap())).unwrap();
    assert!(answer.contains(said), "{answer}");
    assert!(
        answer.contains("look', 'complete'") && answer.contains("judge', 'complete'"),
        "{answer}"
    );
}

/// The API, gone when it is dropped.
struct ForeignApi {
    /// It ends when its standard input does, which is this one's.
    child: Child,
    address: String,
    dir: TempDir,
}

impl ForeignApi {
    /// Starts it with the daemon's key, and waits until it answers.
    fn start(kind: Kind) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstream/foreign-api"))
                .arg(KEY)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(File::create(dir.path().join("log")).unwrap())
                .spawn()
                .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(stdout.lines().next()));
        let mut api = Self { child, address: String::new(), dir };
        match receiver.recv_timeout(PATIENCE) {
            Ok(Some(line)) => api.address = line.unwrap(),
            Ok(None) => {
                let status = api.child.wait().unwrap();
                let unavailable = status.code().is_some_and(|code| UNAVAILABLE.contains(&code));
                assert!(unavailable, "{status}\n{}", api.log());
                return skip(
                    &format!("a foreign API, {kind:?}"),
                    "LiteLLM can't be installed: no pip, or no packages",
                );
            }
            Err(_) => panic!("no foreign API after {PATIENCE:?}\n{}", api.log()),
        }
        Some(api)
    }

    /// Asks for its models with a key, and returns the status of the answer.
    fn status_for(&self, key: &str) -> u16 {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /v1/models HTTP/1.0\r\nhost: {host}\r\nx-api-key: {key}\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        status.parse().unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ForeignApi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the foreign API's log\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
