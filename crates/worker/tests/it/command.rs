//! Attempts of programs other than Claude Code.

use std::fs;
use std::time::{Duration, Instant};

use protocol::{FailureKind, Status};
use rustix::process::Signal;
use serde_json::json;

use crate::slot::{Slot, lives, opened, secret, wait_for};

fn kind(result: &protocol::TaskResult) -> FailureKind {
    result.error.as_ref().unwrap_or_else(|| panic!("it should fail: {result:?}")).kind
}

#[test]
fn program_gets_the_prompt_and_a_small_environment_and_its_text_is_the_summary() {
    let slot = Slot::new();
    let mut assignment = slot.script("env | cut -d= -f1 | sort | tr '\\n' ' '; pwd; grep '<task'");
    assignment["agent"]["env"] = json!([["MINE", "1"]]);
    let result = slot.run(&assignment);
    assert_eq!(result.status, Status::Complete, "{result:?}");
    assert_eq!(
        result.summary,
        format!(
            "HOME HTTPS_PROXY HTTP_PROXY LANG MINE NO_PROXY PATH PWD SUPERVISOR_ARTIFACTS \
             SUPERVISOR_ATTEMPT SUPERVISOR_SLOT SUPERVISOR_TASK TERM TMPDIR http_proxy https_proxy \
             no_proxy {}\n\
             <task id=\"t\" worker=\"marie\" kind=\"work\" attempt=\"1\">",
            slot.path("workspace").display()
        )
    );
    assert_eq!(result.token.unwrap().to_string(), "00000000-0000-4000-8000-000000000001");
    assert_eq!((result.session_id, result.cost_usd), (None, Some(0.0)));
    assert!(result.execution_time > 0.0 && result.finished_at >= result.started_at);
}

/// As on a full disk: what the worker prints is for people.
#[test]
fn worker_that_has_no_room_for_its_log_works_on() {
    let slot = Slot::new();
    std::os::unix::fs::symlink("/dev/full", slot.path("log")).unwrap();
    let result = slot.run(&slot.script("echo done"));
    assert_eq!((result.status, result.summary.as_str()), (Status::Complete, "done"));
}

#[test]
fn object_in_the_last_line_and_all_files_make_the_result() {
    let slot = Slot::new();
    let assignment = slot.script(
        r#"cd "$SUPERVISOR_ARTIFACTS"; mkdir sub; echo a > a.md; echo b > sub/b.csv; echo noise
           echo '{"summary":"s","findings":["f"],"recommendations":[],"artifacts":["sub/b.csv"]}'"#,
    );
    let result = slot.run(&assignment);
    assert_eq!(result.status, Status::Complete, "{result:?}");
    assert_eq!((result.summary.as_str(), result.findings.len()), ("s", 1));
    assert_eq!(result.artifacts, ["sub/b.csv", "a.md"]);
}

#[test]
fn full_pipes_never_block() {
    let slot = Slot::new();
    // The prompt is more than a pipe holds, and nobody reads it.
    let mut assignment = slot.script(
        "flood() { head -c 100000000 /dev/zero | tr '\\0' x | fold -w 60000; }
         flood & flood >&2; wait; echo; echo end",
    );
    assignment["request"] = json!("r".repeat(1 << 20));
    let result = slot.run(&assignment);
    assert_eq!(result.status, Status::Complete, "{:?}", result.error);
    let transcript = fs::metadata(slot.path("results/t.1/transcript.jsonl")).unwrap();
    assert!(transcript.len() > 190_000_000, "{}", transcript.len());
}

#[test]
fn giant_lines_and_bytes_that_are_no_text_are_bounded_and_kept() {
    let slot = Slot::new();
    let result = slot.run(&slot.script(
        "head -c 50000000 /dev/zero | tr '\\0' x; echo; printf 'bad \\377 byte\\n'; \
         printf '{\"summary\":\"ok\"}'",
    ));
    assert_eq!(result.summary, "ok");
    let transcript = slot.transcript("t.1");
    assert_eq!(transcript.len(), 3);
    assert_eq!(transcript[0]["cut"]["bytes"], 50_000_000);
    assert_eq!(transcript[1], json!({ "type": "stdout", "text": "bad \u{fffd} byte" }));
}

#[test]
fn result_of_a_talkative_program_still_fits() {
    let slot = Slot::new();
    let result = slot.run(&slot.script("head -c 5000000 /dev/zero | tr '\\0' '\\1' | fold -w 99"));
    assert_eq!(result.status, Status::Complete);
    assert!(result.summary.contains("[cut here"), "{}", result.summary.len());
}

#[test]
fn pipes_and_links_are_no_artifacts() {
    for (script, word) in [("mkfifo x", "not a regular file"), ("ln -s /etc/passwd x", "link")] {
        let slot = Slot::new();
        let script = format!("cd $SUPERVISOR_ARTIFACTS; {script}; echo done");
        let result = slot.run(&slot.script(&script));
        assert_eq!(kind(&result), FailureKind::BadOutput);
        assert!(result.summary.contains("`x`") && result.summary.contains(word), "{result:?}");
    }
}

#[test]
fn folder_that_was_put_in_the_place_of_the_artifacts_counts_for_nothing() {
    let slot = Slot::new();
    let result = slot.run(&slot.script(
        "rmdir $SUPERVISOR_ARTIFACTS; ln -s /etc $SUPERVISOR_ARTIFACTS; \
         echo '{\"summary\":\"s\",\"artifacts\":[\"passwd\"]}'",
    ));
    assert_eq!(kind(&result), FailureKind::BadOutput);
    assert!(result.artifacts.is_empty());
}

/// The agent has all that its worker has but the secret: the token, the folder, and the time to write first.
#[test]
fn what_lies_in_the_place_of_the_report_is_replaced_and_told() {
    for script in [
        "echo '{\"status\":\"complete\"}' > $R",
        "ln -s /etc/passwd $R",
        "ln -s /nowhere $R",
        "mkfifo $R",
        "mkdir -p $R/a/b && chmod 0 $R/a $R",
        "touch $R; chmod 0555 $(dirname $R)",
    ] {
        let slot = Slot::new();
        let result = slot.path("results/t.1.json");
        let script = format!("R={}; {script}; echo done", result.display());
        slot.put(&slot.script(&script));
        let mut worker = slot.worker(&["--once"]);
        assert_eq!(worker.wait().code(), Some(0));
        assert!(fs::symlink_metadata(&result).unwrap().is_file(), "{script}");
        let report = opened("t.1", &fs::read(&result).unwrap()).expect("it is the worker's");
        assert_eq!(kind(&report), FailureKind::Tampered, "{script}");
        assert!(report.summary.contains("`t.1.json`"), "{}", report.summary);
    }
}

#[test]
fn secret_is_in_no_process_but_the_workers_and_in_no_command_line() {
    let slot = Slot::new();
    let result = slot.run(&slot.script("env; cat /proc/*/cmdline | tr '\\0' ' '"));
    assert!(!result.summary.contains(secret().to_hex().as_str()), "{}", result.summary);
    assert!(!result.summary.contains("SUPERVISOR_REPORT_SECRET"), "{}", result.summary);
}

#[test]
fn program_that_takes_too_long_is_killed_when_it_does_not_listen() {
    let slot = Slot::new();
    let mut assignment =
        slot.script("trap '' INT TERM; echo $$ > pid; while :; do sleep 0.2; echo x; done");
    assignment["timeout"] = json!({ "secs": 1, "nanos": 0 });
    let started = Instant::now();
    let result = slot.run(&assignment);
    assert_eq!(kind(&result), FailureKind::Timeout);
    // Three seconds after each of the two signals that it ignores.
    let took = started.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(11)).contains(&took), "{took:?}");
    assert!(!lives(&slot.text("workspace/pid").unwrap()));
}

#[test]
fn silence_ends_an_attempt_and_a_line_on_standard_error_is_no_silence() {
    let slot = Slot::new();
    let mut assignment =
        slot.script("for i in 1 2 3 4 5; do sleep 0.4; echo $i >&2; done; sleep 60");
    assignment["idle_timeout"] = json!({ "secs": 1, "nanos": 0 });
    let result = slot.run(&assignment);
    assert_eq!(kind(&result), FailureKind::IdleTimeout);
    assert!(result.execution_time > 2.9, "{}", result.execution_time);
    assert_eq!(slot.transcript("t.1").len(), 5);
}

#[test]
fn cancelled_attempt_ends_and_says_why() {
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo $$ > pid; sleep 60"));
    let mut worker = slot.worker(&[]);
    let pid = wait_for("the program", || slot.text("workspace/pid"));
    fs::write(slot.path("tasks/t.1/cancel"), "changed my mind\n").unwrap();
    let result = slot.result(&name);
    assert_eq!((result.status, kind(&result)), (Status::Cancelled, FailureKind::Cancelled));
    assert_eq!(result.error.unwrap().message, "changed my mind");
    assert!(!lives(&pid));
    worker.signal(Signal::INT);
    assert_eq!(worker.wait().code(), Some(130));
}

#[test]
fn attempt_that_is_cancelled_before_it_begins_does_not_begin() {
    let slot = Slot::new();
    slot.put(&slot.script("echo x > began"));
    fs::write(slot.path("tasks/t.1/cancel"), "").unwrap();
    let mut worker = slot.worker(&["--once"]);
    assert_eq!(slot.result("t.1").status, Status::Cancelled);
    worker.wait();
    assert!(!slot.path("workspace/began").exists());
}

#[test]
fn nothing_that_a_program_started_outlives_it() {
    let slot = Slot::new();
    let name = slot.put(&slot.script(
        "setsid sh -c 'trap \"\" HUP INT TERM; setsid sleep 600 & echo $! > b; echo $$ > a; wait' &
         while [ ! -s a ]; do sleep 0.01; done; sleep 600 & echo $! > c; echo done",
    ));
    let worker = slot.worker(&[]);
    let started = Instant::now();
    assert_eq!(slot.result(&name).status, Status::Complete);
    assert!(started.elapsed() < Duration::from_secs(10));
    for file in ["a", "b", "c"] {
        let pid = slot.text(&format!("workspace/{file}")).unwrap();
        assert!(!lives(&pid), "{file} lives");
    }
    // And none is left as a zombie.
    let children = format!("/proc/{0}/task/{0}/children", worker.pid());
    wait_for("the reaper", || fs::read_to_string(&children).unwrap().is_empty().then_some(()));
}

#[test]
fn worker_that_is_told_to_end_leaves_no_result_and_the_attempt_runs_again() {
    let slot = Slot::new();
    let name = slot
        .put(&slot.script("if [ -e began ]; then echo second; else echo $$ > began; sleep 60; fi"));
    let mut worker = slot.worker(&[]);
    let pid = wait_for("the program", || slot.text("workspace/began"));
    let told = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(143));
    assert!(told.elapsed() < Duration::from_secs(10));
    assert!(!lives(&pid) && !slot.path("results/t.1.json").exists());
    let _worker = slot.worker(&[]);
    assert_eq!(slot.result(&name).summary, "second");
}

#[test]
fn what_a_killed_worker_left_is_ended_by_the_next_one() {
    let slot = Slot::new();
    slot.put(&slot.script("if [ ! -e pid ]; then echo $$ > pid; exec sleep 600; fi; echo second"));
    let mut worker = slot.worker(&[]);
    let pid = wait_for("the program", || slot.text("workspace/pid"));
    worker.signal(Signal::KILL);
    worker.wait();
    assert!(lives(&pid), "outside of a container nobody else ends it");
    let _worker = slot.worker(&[]);
    assert_eq!(slot.result("t.1").summary, "second");
    assert!(!lives(&pid));
}

#[test]
fn slot_has_one_worker() {
    let slot = Slot::new();
    let name = slot.put(&slot.script("echo done"));
    let _first = slot.worker(&[]);
    slot.result(&name);
    let mut second = slot.worker(&[]);
    assert_eq!(second.wait().code(), Some(1));
    let log = slot.text("log").unwrap();
    assert!(log.contains("worker: another worker serves this slot"), "{log}");
}

#[test]
fn attempts_run_once_each_also_when_their_results_are_taken_away() {
    let slot = Slot::new();
    let mut assignment = slot.script("echo x >> count; wc -l < count");
    slot.put(&assignment);
    let _worker = slot.worker(&[]);
    assert_eq!(slot.result("t.1").summary, "1");
    fs::remove_file(slot.path("results/t.1.json")).unwrap();
    assignment["task"]["task_id"] = json!("u");
    slot.put(&assignment);
    assert_eq!(slot.result("u.1").summary, "2");
    assert!(!slot.path("results/t.1.json").exists());
}

#[test]
fn each_attempt_finds_an_empty_scratch_folder_and_its_own_copy_of_the_workspace() {
    let slot = Slot::new();
    fs::write(slot.path("workspace/file"), "original").unwrap();
    let mut assignment = slot
        .script("ls -A $TMPDIR $HOME; cat file; echo changed > file; touch $TMPDIR/left $HOME/x");
    assignment["agent"]["copy_workspace"] = json!(true);
    slot.put(&assignment);
    let _worker = slot.worker(&[]);
    let first = slot.result("t.1").summary;
    assert!(first.ends_with("original"), "{first}");
    assignment["attempt"] = json!(2);
    slot.put(&assignment);
    assert_eq!(slot.result("t.2").summary, first);
    assert_eq!(slot.text("workspace/file").unwrap(), "original");
    wait_for("an empty scratch folder", || {
        fs::read_dir(slot.path("scratch")).unwrap().next().is_none().then_some(())
    });
}

#[test]
fn program_that_is_not_there_is_not_tried_again() {
    for driver in [json!({ "command": ["/no/such/program"] }), json!("claude")] {
        let slot = Slot::new();
        let name = slot.put(&slot.assignment(&driver));
        let _worker = slot.worker(&["--claude", "/no/such/claude"]);
        let result = slot.result(&name);
        assert_eq!(kind(&result), FailureKind::Invalid);
        assert!(result.summary.contains("/no/such/"), "{result:?}");
        assert!(result.error.unwrap().hint.is_some());
    }
}

#[test]
fn ends_of_programs_have_their_kinds() {
    for (script, expected) in [
        ("exit 3", FailureKind::BadOutput),
        ("no-such-program-anywhere", FailureKind::Invalid),
        ("kill -KILL $$", FailureKind::WorkerLost),
        ("kill -SEGV $$", FailureKind::BadOutput),
        ("true", FailureKind::BadOutput),
    ] {
        let slot = Slot::new();
        assert_eq!(kind(&slot.run(&slot.script(script))), expected, "{script}");
    }
}

#[test]
fn assignment_of_another_version_is_answered() {
    let slot = Slot::new();
    let mut assignment = slot.script("true");
    assignment["task"]["run"] = json!("adhoc");
    assignment["agent"] = json!({ "of": "tomorrow" });
    let result = slot.run(&assignment);
    assert_eq!(kind(&result), FailureKind::Invalid);
    assert_eq!(result.token.unwrap().to_string(), "00000000-0000-4000-8000-000000000001");
    assert!(result.summary.contains("can't be understood"), "{}", result.summary);
}

#[test]
fn worker_without_a_slot_says_what_is_missing() {
    let slot = Slot::new();
    fs::remove_dir(slot.path("tasks")).unwrap();
    assert_eq!(slot.worker(&[]).wait().code(), Some(1));
    fs::remove_dir_all(slot.path("results")).unwrap();
    assert_eq!(slot.worker(&[]).wait().code(), Some(1));
    let log = slot.text("log").unwrap();
    assert!(
        log.contains("worker: can't read ") && log.contains("worker: can't write into "),
        "{log}"
    );
}

/// Each of them is seen within seconds, whatever the program does then.
#[test]
fn program_that_fills_the_disk_is_stopped_and_the_worker_takes_no_further_attempt() {
    for (script, what) in [
        ("head -c 3145728 /dev/zero > $SUPERVISOR_ARTIFACTS/x; sleep 60", "more than 2 MiB"),
        (
            "cd $SUPERVISOR_ARTIFACTS; head -c 3145728 /dev/zero > x; exec 3< x; rm x; sleep 60",
            "more than 2 MiB",
        ),
        (
            "mkdir $SUPERVISOR_SLOT/mine; cd $SUPERVISOR_SLOT/mine; for n in $(seq 90); do > $n; done; sleep 60",
            "more than 64 files and folders",
        ),
    ] {
        let slot = Slot::new();
        slot.put(&slot.script(script));
        let mut second = slot.script("echo done");
        second["attempt"] = json!(2);
        let mut worker = slot.worker(&["--disk-mib", "2", "--files", "64"]);
        let began = Instant::now();
        let result = slot.result("t.1");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(kind(&result), FailureKind::Disk);
        assert!(result.error.unwrap().message.contains(what), "{script}");
        assert_eq!(worker.wait().code(), Some(1));
        slot.put(&second);
        let mut worker = slot.worker(&["--disk-mib", "2", "--files", "64", "--once"]);
        // What is there already is no fault of the next.
        assert_eq!(slot.result("t.2").status, Status::Complete);
        worker.wait();
    }
}

#[test]
fn no_file_may_be_larger_than_all_of_an_attempt() {
    let slot = Slot::new();
    let script = "cd $SUPERVISOR_ARTIFACTS; truncate -s 536870912 x && exec truncate -s +1 x";
    let result = slot.run(&slot.script(script));
    assert_eq!(result.error, None, "the default is larger");
    let slot = Slot::new();
    slot.put(&slot.script(script));
    let _worker = slot.worker(&["--disk-mib", "2"]);
    let result = slot.result("t.1");
    assert_eq!(kind(&result), FailureKind::Disk, "{result:?}");
}
