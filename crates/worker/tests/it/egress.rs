//! The way to other hosts, and what has to be so before the first attempt.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use protocol::{FailureKind, Status, UNFIT, UNFIT_CODE};
use rustix::process::{Signal, geteuid};
use serde_json::json;

use crate::messages::{Answer, serve};
use crate::slot::{Slot, wait_for};

/// Long enough for a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(30);

/// Asks for a host through the proxy that the environment names, and shows the answer's first line.
const ASK: &str = r#"exec bash -c '
    port=${HTTPS_PROXY##*:}
    exec 3<>/dev/tcp/127.0.0.1/$port
    printf "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n" >&3
    head -n 1 <&3'"#;

#[test]
fn program_finds_the_gateway_by_the_proxy_of_its_environment() {
    let slot = Slot::new();
    let result = slot.run(&slot.script(ASK));
    assert_eq!((result.status, result.summary.trim()), (Status::Complete, "HTTP/1.1 403 x"));
}

#[test]
fn gateway_that_is_away_is_waited_for_and_no_attempt_is_taken_before() {
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    // As a daemon that was killed leaves it.
    let gateway = slot.path("gateway.sock");
    drop(UnixListener::bind(&gateway).unwrap());
    let mut worker = slot.worker_alone(&["--once"]);
    // It has the slot by then, and looks for the gateway.
    wait_for("the worker", || slot.path("results/.worker.lock").exists().then_some(()));
    assert!(!slot.path(&format!("results/{name}")).exists());
    std::fs::remove_file(&gateway).unwrap();
    serve(&gateway, vec![Answer::Text("")]);
    assert_eq!(slot.result(&name).status, Status::Complete);
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn worker_that_waits_for_the_gateway_can_be_stopped() {
    let slot = Slot::new();
    let mut worker = slot.worker_alone(&[]);
    wait_for("the worker", || slot.path("results/.worker.lock").exists().then_some(()));
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(143));
}

#[test]
fn no_attempt_is_taken_before_the_models_api_answers() {
    const AWAY: &str =
        "HTTP/1.1 502 x\r\nx-supervisor-gateway: unreachable\r\ncontent-length: 0\r\n\r\n";
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    let (mut times, result) = (0, slot.path(&format!("results/{name}")));
    let asked = gateway(&slot.path("gateway.sock"), move |_| {
        times += 1;
        assert!(!result.exists(), "an attempt was taken");
        // Whatever the API says: it is there.
        if times == 1 { Some(AWAY) } else { Some("HTTP/1.1 503 x\r\n\r\n") }
    });
    let mut worker = slot.worker_alone(&["--once"]);
    for _ in 0..2 {
        assert_eq!(asked.recv_timeout(SOON).unwrap(), "GET /api/hello HTTP/1.1\r\n");
    }
    assert_eq!(slot.result(&name).status, Status::Complete);
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn worker_of_a_program_that_asks_no_model_does_not_wait_for_the_api() {
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    let asked = gateway(&slot.path("gateway.sock"), |first| {
        first.starts_with("HEAD").then_some("HTTP/1.1 200 x\r\n\r\n")
    });
    let mut worker = slot.worker_alone(&["--once", "--no-model"]);
    assert_eq!(slot.result(&name).status, Status::Complete);
    assert_eq!(worker.wait().code(), Some(0));
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["HEAD /api/hello HTTP/1.1\r\n"]);
}

#[test]
fn worker_that_waits_for_the_models_api_can_be_stopped() {
    let slot = Slot::new();
    let asked = gateway(&slot.path("gateway.sock"), |_| None);
    let mut worker = slot.worker_alone(&[]);
    asked.recv_timeout(SOON).unwrap();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(143));
}

#[test]
fn silence_of_an_agent_whose_request_the_gateway_holds_back_is_not_its_own() {
    let slot = Slot::new();
    let mut times = 0;
    let asked = gateway(&slot.path("gateway.sock"), move |first| {
        times += usize::from(first.starts_with("HEAD"));
        Some(match times {
            // It still waits; it waited a moment ago; that is long ago.
            1 => "HTTP/1.1 200 x\r\nx-supervisor-waited: 0\r\n\r\n",
            2 => "HTTP/1.1 200 x\r\nx-supervisor-waited: 400\r\n\r\n",
            3 => "HTTP/1.1 200 x\r\nx-supervisor-waited: 1000\r\n\r\n",
            _ => "HTTP/1.1 200 x\r\n\r\n",
        })
    });
    let mut assignment = slot.script("sleep 60");
    assignment["idle_timeout"] = json!({ "secs": 1, "nanos": 0 });
    let name = slot.put(&assignment);
    let _worker = slot.worker_alone(&[]);
    let result = slot.result(&name);
    assert_eq!(result.error.unwrap().kind, FailureKind::IdleTimeout);
    assert!(result.execution_time > 2.6, "{}", result.execution_time);
    let asked: Vec<_> = asked.try_iter().collect();
    let [hello, head] = ["GET /api/hello HTTP/1.1\r\n", "HEAD /api/hello HTTP/1.1\r\n"];
    assert_eq!(asked, [hello, head, head, head]);
}

/// Serves a gateway that gives these answers, or none, and lets nothing else out. Says what it was asked.
fn gateway(
    socket: &Path,
    mut answer: impl FnMut(&str) -> Option<&'static str> + Send + 'static,
) -> Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (sender, asked) = channel();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut first = String::new();
            let _ = BufReader::new(&stream).read_line(&mut first);
            if first.starts_with("CONNECT ") {
                let _ = stream.write_all(b"HTTP/1.1 403 x\r\n\r\n");
                continue;
            }
            let answer = answer(&first);
            // Before it can have any consequence.
            let _ = sender.send(first);
            match answer {
                Some(answer) => drop(stream.write_all(answer.as_bytes())),
                None => silent.push(stream),
            }
        }
    });
    asked
}

#[test]
fn worker_whose_gateway_lets_everything_out_does_not_serve() {
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    lets_everything_out(&slot.path("gateway.sock"));
    let mut worker = slot.worker_alone(&[]);
    assert_eq!(worker.wait().code(), Some(UNFIT_CODE.into()));
    let log = slot.text("log").unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with(UNFIT) && last.contains("on no list"), "{log}");
    assert!(!slot.path(&format!("results/{name}")).exists());
}

/// Serves a gateway that says yes to everything.
fn lets_everything_out(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
}

#[test]
fn another_user_of_the_machine_does_not_get_to_the_gateway() {
    if !geteuid().is_root() {
        println!("SKIPPED: only root can be another user");
        return;
    }
    let slot = Slot::new();
    let port = slot.path("port");
    let script = format!("echo $HTTPS_PROXY > {0}.tmp; mv {0}.tmp {0}; sleep 60", port.display());
    let _worker = slot.worker(&[]);
    slot.put(&slot.script(&script));
    let proxy = wait_for("the port", || slot.text("port"));
    let ask = |uid: u32| {
        let script = ASK.strip_prefix("exec bash -c '").unwrap().strip_suffix('\'').unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", script]).env("HTTPS_PROXY", proxy.trim()).uid(uid);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!((ask(0).as_str(), ask(65534).as_str()), ("HTTP/1.1 403 x\r\n", ""));
}
