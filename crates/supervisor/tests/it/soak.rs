//! A short storm: what `make soak` does a thousand times, twenty times.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::{skip, text};

#[test]
fn process_daemon_that_is_killed_twenty_times_loses_nothing_and_does_nothing_twice() {
    let test = "process_daemon_that_is_killed_twenty_times";
    let Some(worker) = std::env::var_os("SUPERVISOR_WORKER") else {
        skip::<()>(test, "no static worker: run `make test`, which builds it");
        return;
    };
    let supervisor = Path::new(env!("CARGO_BIN_EXE_supervisor"));
    let soak = supervisor.with_file_name("examples").join("soak");
    assert!(soak.is_file(), "build it first: cargo build --package supervisor --example soak");
    let output = Command::new(soak)
        .args(["--kills", "20", "--tasks", "60", "--plans", "1", "--deaths", "0"])
        .arg("--supervisor")
        .arg(supervisor)
        .arg("--worker")
        .arg(worker)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("| kills of the daemon | 0 | 20 |"), "{stdout}");
}
