//! The way to other hosts, and what has to be so before the first attempt.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use protocol::{Status, UNFIT, UNFIT_CODE};
use rustix::process::{Signal, geteuid};

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
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    let asked = api_is_away_at_first(&slot.path("gateway.sock"));
    let mut worker = slot.worker_alone(&["--once"]);
    // What is asked for the second time was no answer.
    asked.recv_timeout(SOON).unwrap();
    asked.recv_timeout(SOON).unwrap();
    assert!(!slot.path(&format!("results/{name}")).exists());
    assert_eq!(slot.result(&name).status, Status::Complete);
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn worker_that_waits_for_the_models_api_can_be_stopped() {
    let slot = Slot::new();
    let listener = UnixListener::bind(slot.path("gateway.sock")).unwrap();
    let (silent, asked) = channel();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let first = first_line(&stream);
            if first.starts_with("CONNECT ") {
                let _ = stream.write_all(b"HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n");
            } else {
                silent.send(first).unwrap();
                open.push(stream);
            }
        }
    });
    let mut worker = slot.worker_alone(&[]);
    assert_eq!(asked.recv_timeout(SOON).unwrap(), "GET /api/hello HTTP/1.1\r\n");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(143));
}

/// Serves a gateway whose first answer about the API is that it is away. Says when it is asked.
fn api_is_away_at_first(socket: &Path) -> Receiver<()> {
    const AWAY: &str = r#"{"error":{"message":"gateway: cannot reach it"}}"#;
    let listener = UnixListener::bind(socket).unwrap();
    let (sender, asked) = channel();
    thread::spawn(move || {
        let mut times = 0;
        for mut stream in listener.incoming().flatten() {
            let (head, body) = match first_line(&stream) {
                first if first.starts_with("CONNECT ") => ("403 x", ""),
                _ => {
                    times += 1;
                    let _ = sender.send(());
                    match times {
                        1 => ("502 x\r\nx-supervisor-gateway: unreachable", AWAY),
                        // Whatever the API says: it is there.
                        _ => ("503 x", ""),
                    }
                }
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    asked
}

fn first_line(stream: &UnixStream) -> String {
    let mut first = String::new();
    let _ = BufReader::new(stream).read_line(&mut first);
    first
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
