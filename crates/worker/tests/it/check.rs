//! `worker check`: a task's own check, where no agent ever was.

use std::fs;
use std::process::{Command, Output};

use protocol::{CHECK_FAILED_CODE, CHECK_IMPOSSIBLE_CODE, CHECK_SAYS};
use serde_json::json;

use crate::slot::Slot;

/// Runs a check with that command beside an artifact `a.md`, and returns its code and what it says.
fn check(slot: &Slot, command: &str) -> (i32, String) {
    let mut assignment = slot.script("never run");
    assignment["agent"]["env"] = json!([["MINE", "1"], ["HOME", "/elsewhere"]]);
    assignment["task"]["verify"] = json!({ "command": command });
    slot.put(&assignment);
    let artifacts = slot.path("taken-in");
    fs::create_dir_all(artifacts.join("sub")).unwrap();
    fs::write(artifacts.join("a.md"), "text").unwrap();
    fs::write(artifacts.join("sub/b.csv"), "1,2").unwrap();
    let output = run(slot);
    assert_eq!(fs::read_to_string(artifacts.join("a.md")).unwrap(), "text", "it is a copy");
    assert!(!slot.path("scratch/artifacts").exists(), "the copy is removed");
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said.strip_prefix(CHECK_SAYS).unwrap_or(&said);
    (output.status.code().unwrap(), said.trim_end().to_owned())
}

fn run(slot: &Slot) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg("check").arg("--task").arg(slot.path("tasks/t.1"));
    command.arg("--artifacts").arg(slot.path("taken-in"));
    command.arg("--scratch").arg(slot.path("scratch"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("SECRET_OF_THE_WORKER", "1");
    command.output().unwrap()
}

#[test]
fn command_that_ends_with_0_passes_in_its_own_copy_of_the_artifacts() {
    let slot = Slot::new();
    let passes =
        "test -s a.md && test -s sub/b.csv && echo changed > a.md && rm -r sub && touch new";
    assert_eq!(check(&slot, passes), (0, String::new()));
}

#[test]
fn command_that_fails_says_how_with_the_end_of_what_it_printed() {
    let failed = i32::from(CHECK_FAILED_CODE);
    for (command, said) in [
        ("ls; echo why >&2; exit 3", "ended with code 3"),
        ("kill -9 $$", "was ended by signal 9"),
        ("exit 0; }", "ended with code 2"),
        ("rm -rf /nowhere; false", "ended with code 1"),
    ] {
        let (code, found) = check(&Slot::new(), command);
        assert!(code == failed && found.starts_with(said), "{command}: {code} {found}");
    }
    let (_, said) = check(&Slot::new(), "ls; echo why >&2; exit 3");
    assert!(said.contains("a.md") && said.contains("why"), "{said}");
    let (_, said) = check(&Slot::new(), "yes | head -c 9000000; exit 1");
    assert!((1900..2100).contains(&said.len()), "{}", said.len());
    // Where the copy can't be made, nothing is run.
    let slot = Slot::new();
    fs::remove_dir(slot.path("scratch")).unwrap();
    fs::write(slot.path("scratch"), "a file").unwrap();
    let (code, said) = check(&slot, "true");
    assert!(code == i32::from(CHECK_IMPOSSIBLE_CODE), "{code} {said}");
    assert!(said.contains("its copy of the artifacts can't be made"), "{said}");
}

#[test]
fn check_has_a_clean_environment_and_leaves_no_process() {
    let slot = Slot::new();
    let command = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo $HOME $MINE; \
                   setsid sleep 600 >/dev/null 2>&1 & echo $! > $TMPDIR/../pid; exit 1";
    let (_, said) = check(&slot, command);
    let home = slot.path("scratch/home");
    assert_eq!(
        said,
        format!(
            "ended with code 1: HOME LANG MINE PATH PWD SUPERVISOR_ARTIFACTS SUPERVISOR_ATTEMPT \
             SUPERVISOR_INPUTS SUPERVISOR_TASK SUPERVISOR_WORKSPACE TERM TMPDIR {} 1",
            home.display()
        )
    );
    assert!(!crate::slot::lives(&slot.text("pid").unwrap()));
}
