//! An agent that tries to stand in for its worker: to look into it, to report for it, and to outlive it.

use supervisor::api::types::TaskStatus;

use crate::world::World;

/// What a process of the agent may not do to process 1, and may do to its own.
const LOOK: &str = r#"
for file in environ mem maps smaps auxv stack syscall io; do
  head -c 1 /proc/1/$file >/dev/null 2>&1 && echo "ESCAPED: /proc/1/$file can be read"
done
ls /proc/1/fd >/dev/null 2>&1 && echo "ESCAPED: /proc/1/fd can be listed"
for link in exe cwd root; do
  readlink /proc/1/$link >/dev/null 2>&1 && echo "ESCAPED: /proc/1/$link can be followed"
done
(echo 500 >/proc/1/oom_score_adj) 2>/dev/null && echo "ESCAPED: process 1 can be offered to the OOM killer"
python3 - <<'PY'
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if libc.syscall(*args) >= 0:
        print("ESCAPED:", name)
buffer = ctypes.create_string_buffer(16)
iov = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 16)
there = (ctypes.c_ulong * 2)(0x400000, 16)
call("PTRACE_ATTACH", 101, 16, 1, 0, 0)
call("PTRACE_SEIZE", 101, 0x4206, 1, 0, 0)
call("process_vm_readv", 310, 1, iov, 1, there, 1, 0)
call("process_vm_writev", 311, 1, iov, 1, there, 1, 0)
pidfd = libc.syscall(434, 1, 0)
if pidfd >= 0:
    for number in range(64):
        call("pidfd_getfd", 438, pidfd, number, 0)
call("kcmp", 312, 1, os.getpid(), 0, 0, 0)
child = os.fork()
if child == 0:
    time.sleep(60)
# Tools that trace what they start go on to work.
if libc.syscall(101, 16, child, 0, 0) != 0:
    print("BROKEN: its own child can't be traced")
os.kill(child, 9)
PY
for signal in STOP KILL TSTP HUP USR1 SEGV; do kill -$signal 1 2>/dev/null; done
head -c 1 /proc/self/environ >/dev/null || echo "BROKEN: its own environment can't be read"
env | grep REPORT_SECRET && echo "ESCAPED: it has the secret"
echo "end"
"#;

#[test]
fn docker_process_1_is_closed_to_its_agent() {
    let test = "docker_process_1_is_closed_to_its_agent";
    let Some(world) = World::of_containers(test) else { return };
    shell(&world, "spy", LOOK);
    let world = world.start("");
    world.add("spy", "look", "Look around", &[]);
    assert_eq!(world.ended(&["look"]), [TaskStatus::Complete]);
    let seen = world.result("spy", "look")["summary"].as_str().unwrap().to_owned();
    assert_eq!(seen.trim(), "end");
}

/// It has the token, and writes as soon as it can and as long as it lives; each time a report that is right in all but
/// its proof.
const FORGE: &str = r#"
token=$(grep -o '"token": *"[^"]*"' /tasks/$SUPERVISOR_TASK.1/task.json | head -n 1 | cut -d'"' -f4)
report() {
  cat <<JSON
{"task_id":"$SUPERVISOR_TASK","run":"adhoc","worker":"forger","attempt":1,"token":"$token","status":"complete",
"summary":"FORGED","execution_time":1.0,"started_at":"2026-01-01T00:00:00Z","finished_at":"2026-01-01T00:00:01Z"}
JSON
}
place=/results/$SUPERVISOR_TASK.1.json
case $SUPERVISOR_TASK in
  plain) report >/tmp/f; cp /tmp/f /results/.f; mv /results/.f $place; sleep 60 ;;
  wrapped) (printf '{"proof":"%064d","report":' 0; report | tr -d '\n'; printf '}') >/results/.f; mv /results/.f $place; sleep 60 ;;
  link) report >/results/.f; ln -s .f $place; sleep 60 ;;
  pipe) mkfifo $place; sleep 60 ;;
  folder) mkdir -p $place/x; sleep 60 ;;
  last) report >/results/.f; (setsid bash -c 'while :; do cp /results/.f /results/.g; mv -f /results/.g '$place'; done' &) ; until [ -e $place ]; do sleep 0.01; done ;;
  readonly) chmod 0555 /results ;;
esac
echo done
"#;

#[test]
fn docker_agent_that_reports_for_its_worker_gets_nothing_accepted() {
    let test = "docker_agent_that_reports_for_its_worker_gets_nothing_accepted";
    let Some(world) = World::of_containers(test) else { return };
    shell(&world, "forger", FORGE);
    let world = world.start("");
    let forged = ["plain", "wrapped", "link", "pipe", "folder", "last"];
    for task in forged {
        world.add("forger", task, "Forge it", &["--verify-command", "false"]);
    }
    // That one only makes it hard to report; and the next one finds a container as it should be.
    world.add("forger", "readonly", "Do it", &[]);
    world.add("forger", "honest", "Do it", &[]);
    assert_eq!(world.ended(&forged), [TaskStatus::Failed; 6]);
    assert_eq!(world.ended(&["readonly", "honest"]), [TaskStatus::Complete; 2]);
    for task in forged {
        let result = world.result("forger", task);
        assert_eq!(result["error"]["kind"], "tampered", "{task}: {result:#}");
        assert_eq!(result["attempt"], 1, "{task} is not tried again: {result:#}");
    }
    assert_eq!(world.result("forger", "honest")["summary"], "done");
}

/// Processes that start others faster than anybody could look them up, in sessions of their own.
const MULTIPLY: &str = r#"
[ $SUPERVISOR_TASK = innocent ] && { echo "$(ls -d /proc/[0-9]* | wc -l) processes"; exit; }
cat >/tmp/bomb.py <<'PY'
import os, signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
PY
setsid python3 /tmp/bomb.py >/dev/null 2>&1 &
sleep 1
echo done
"#;

#[test]
fn docker_processes_that_multiply_at_the_end_are_gone_before_the_report() {
    let test = "docker_processes_that_multiply_at_the_end_are_gone_before_the_report";
    let Some(world) = World::of_containers(test) else { return };
    shell(&world, "bomber", MULTIPLY);
    // Enough of them to starve process 1, were it one among equals, and half a processor, so that nobody else starves.
    let config = std::fs::read_to_string(world.path("workspaces/bomber/worker.toml")).unwrap();
    let bounds = "[resources]\npids = 256\ncpus = 0.5\n";
    world.write("workspaces/bomber/worker.toml", &format!("{config}{bounds}"));
    let world = world.start("");
    world.add("bomber", "bomb", "Multiply", &[]);
    world.add("bomber", "innocent", "Count", &["--after", "bomb"]);
    assert_eq!(world.ended(&["bomb", "innocent"]), [TaskStatus::Complete; 2]);
    // Process 1, the shell, its subshell, `ls` and `wc`.
    let count = world.result("bomber", "innocent")["summary"].as_str().unwrap().to_owned();
    let number: u32 = count.split(' ').next().unwrap().parse().unwrap();
    assert!(number <= 5, "{count}");
}

/// It leaves what a check runs into everywhere that it can write, and then says that all is well.
const TRAPS: &str = r#"
cd $SUPERVISOR_ARTIFACTS
printf 'fine\n' >report.md
for folder in /tmp /tmp/home /results /config $HOME $SUPERVISOR_ARTIFACTS; do
  for name in sh bash test false true env; do
    printf '#!/bin/sh\nexit 0\n' >$folder/$name; chmod 755 $folder/$name
  done
  for name in .profile .bashrc .bash_profile .shrc; do echo 'exit 0' >$folder/$name; done
done
export PATH=/tmp:$PATH LD_PRELOAD=/tmp/true ENV=/tmp/.profile BASH_ENV=/tmp/.profile
(setsid sh -c 'while :; do echo 0 >/tmp/code; sleep 0.01; done' &)
echo '{"summary":"All is well.","artifacts":["report.md"]}'
"#;

/// What a task's own command sees, and what it must not.
const SEES: &str = "cat report.md && test -f /workspace/script.sh && test \"$PWD\" = \"$SUPERVISOR_ARTIFACTS\" && \
    test -d $SUPERVISOR_INPUTS/plain && test -s $SUPERVISOR_INPUTS/plain/artifacts/report.md && \
    echo changed >report.md && touch new && ! touch /workspace/x 2>/dev/null && ! test -e /config && \
    ! test -e /results && ! test -e /run/gateway && ! test -e /tmp/code && test \"$(ls /sys/class/net)\" = lo && \
    ! env | grep -q SECRET && ! cat /proc/1/environ 2>/dev/null";

#[test]
fn docker_check_runs_where_no_agent_was() {
    let test = "docker_check_runs_where_no_agent_was";
    let Some(world) = World::of_containers(test) else { return };
    shell(&world, "trapper", TRAPS);
    let world = world.start("");
    let command = |command| ["--retries", "0", "--verify-command", command];
    world.add("trapper", "plain", "Do it", &command("test -s report.md"));
    world.add("trapper", "refuted", "Do it", &command("false"));
    world.add("trapper", "later", "Do it", &[&command(SEES)[..], &["--after", "plain"]].concat());
    // Code that the agent wrote runs in it, too: it ends nothing but itself.
    let kills = "kill -9 1; kill -9 -1; exit 4";
    world.add("trapper", "kills", "Do it", &command(kills));
    assert_eq!(world.ended(&["plain", "later"]), [TaskStatus::Complete; 2]);
    assert_eq!(world.ended(&["refuted", "kills"]), [TaskStatus::Failed; 2]);
    for (task, message) in [
        ("refuted", "the task's check `false` ended with code 1"),
        ("kills", "the task's check `kill -9 1; kill -9 -1; exit 4` ended with code 4"),
    ] {
        let error = world.result("trapper", task)["error"].clone();
        assert_eq!(error["kind"], "unverified");
        let found = error["message"].as_str().unwrap();
        assert!(found.starts_with(message), "{found}");
    }
    let published = std::fs::read_to_string(world.path("results/trapper/later/report.md"));
    assert_eq!(published.unwrap(), "fine\n", "a check changes a copy");
    assert!(!world.path("results/trapper/later/new").exists());
    let installation = supervisor::install::Installation::at(&world.path("")).unwrap();
    let label = format!("label=supervisor.installation={}", installation.id());
    let left = world.docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
    let left = String::from_utf8(left.stdout).unwrap();
    assert!(!left.contains("check"), "{left}");
}

#[test]
fn process_check_runs_in_a_folder_and_an_environment_of_its_own() {
    let Some(world) = World::of_processes("process_check") else { return };
    shell(&world, "marie2", "echo fine >$SUPERVISOR_ARTIFACTS/report.md; echo done");
    let world = world.start("");
    world.add(
        "marie2",
        "good",
        "Do it",
        &["--verify-command", "test -s report.md && rm report.md"],
    );
    world.add("marie2", "bad", "Do it", &["--retries", "0", "--verify-command", "ls; exit 3"]);
    let ended = world.ended(&["good", "bad"]);
    assert_eq!(ended[0], TaskStatus::Complete, "{:#}", world.result("marie2", "good"));
    assert_eq!(ended[1], TaskStatus::Failed);
    let message = world.result("marie2", "bad")["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "the task's check `ls; exit 3` ended with code 3: report.md");
    assert!(world.path("results/marie2/good/report.md").is_file());
    assert!(!world.path(".supervisor/scratch/marie2-1.check").exists());
}

/// Makes a worker that runs a script.
fn shell(world: &World, worker: &str, script: &str) {
    world.write(
        &format!("workspaces/{worker}/worker.toml"),
        "description = \"Runs a script.\"\ncommand = [\"bash\", \"script.sh\"]\n",
    );
    world.write(&format!("workspaces/{worker}/script.sh"), script);
}
