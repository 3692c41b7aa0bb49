//! What an agent can reach from inside of its container, and where the key is not.

use supervisor::api::types::TaskStatus;

use crate::in_both_runtimes;
use crate::world::{KEY, World, text};

/// A script that looks around and reports what it finds, as a worker of the `command` driver.
const LOOK: &str = r#"
echo "uid=$(id -u)"
grep -h -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '[:space:]' | sed 's/\([A-Z][a-zA-Z]*:\)/\n\1/g'
echo
echo "links=$(ls /sys/class/net | tr '\n' ' ')"
echo "routes=$(tail -n +2 /proc/net/route | wc -l)"
(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && echo "ESCAPED: a route out"
touch /root-file 2>/dev/null && echo "ESCAPED: the root file system is writable"
touch /tasks/x 2>/dev/null && echo "ESCAPED: tasks are writable"
touch /workspace/x 2>/dev/null && echo "ESCAPED: the workspace is writable"
touch /opt/supervisor/x 2>/dev/null && echo "ESCAPED: the worker's program is writable"
touch /run/gateway/x 2>/dev/null && echo "ESCAPED: the gateway's folder is writable"
echo "tasks=$(ls /tasks | tr '\n' ' ')"
echo "sockets=$(find / -xdev -type s 2>/dev/null | tr '\n' ' ')"
[ -S /run/gateway/gateway.sock ] && echo "the gateway is there"
env | grep -i -E 'key|token|secret' | grep -v SUPERVISOR_ || true
grep -r -l "$NEEDLE" /proc/self/environ /proc/1/environ /tasks /results /workspace /run /tmp 2>/dev/null
for place in /workspaces /auth-homes /var/run/docker.sock /tasks/.slots; do
  [ -e "$place" ] && echo "ESCAPED: $place is there"
done
echo "end"
"#;

#[test]
fn docker_walls_hold_from_the_inside() {
    let Some(world) = World::of_containers("docker_walls_hold_from_the_inside") else { return };
    // The needle is put together inside, so that the script itself does not hold it.
    let (head, tail) = KEY.split_at(8);
    let needle = format!("NEEDLE={head}\nNEEDLE=${{NEEDLE}}{tail}\n");
    world.write(
        "workspaces/spy/worker.toml",
        "description = \"Looks around.\"\ncommand = [\"bash\", \"/workspace/look.sh\"]\n",
    );
    world.write("workspaces/spy/look.sh", &format!("{needle}{LOOK}"));
    let world = world.start("");
    // Somebody else's work, to be not seen.
    world.add("marie", "private", "Keep it to yourself", &[]);
    world.add("spy", "look", "Look around", &[]);
    assert_eq!(world.ended(&["private", "look"]), [TaskStatus::Complete; 2]);
    let seen = world.result("spy", "look")["summary"].as_str().unwrap().to_owned();
    let has = |line: &str| seen.lines().any(|seen| seen.trim() == line);
    assert!(seen.contains("end"), "{seen}");
    assert!(!seen.contains("ESCAPED"), "{seen}");
    assert!(!seen.contains("uid=0"), "{seen}");
    assert!(has("CapEff:0000000000000000") && has("CapBnd:0000000000000000"), "{seen}");
    assert!(has("NoNewPrivs:1") && has("Seccomp:2"), "{seen}");
    assert!(has("links=lo") && has("routes=0"), "{seen}");
    assert!(has("tasks=look.1"), "only its own attempt should be there: {seen}");
    assert!(has("sockets=") && has("the gateway is there"), "{seen}");
    assert!(!seen.contains("/proc/"), "the key is inside: {seen}");
}

in_both_runtimes! {
    the_key_is_nowhere_but_in_memory,
}

/// Whatever is written or started while tasks succeed, and while the model's API quotes the key that it
/// refuses.
fn the_key_is_nowhere_but_in_memory(world: World) {
    let quotes = format!(
        "[[rule]]\nmatch = {{ task = \"locked\" }}\nanswer = {{ http = 401, \
         error = {{ type = \"authentication_error\", message = \"no such key: {KEY}\" }} }}\n\
         [[rule]]\nmatch = {{ task = \"long\" }}\nanswer = {{ hang = true }}\n"
    );
    let world = world.start(&quotes);
    world.add("marie", "open", "Look around", &[]);
    assert_eq!(world.ended(&["open"]), [TaskStatus::Complete]);
    world.add("anga", "long", "Take your time", &[]);
    world.until_asked("long");
    world.add("marie", "locked", "Try the door", &[]);
    world.wait_ref("a decision is raised", |world| {
        let shown = world.expect(0, &["decisions"]);
        text(&shown.stdout).contains("decide d1").then_some(())
    });

    // Files: tasks, results, journals, transcripts, sessions, the ledger and the log.
    let mut files = 0;
    let mut folders = vec![world.path("")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                // One that is gone by now holds nothing.
                let Ok(bytes) = std::fs::read(entry.path()) else { continue };
                files += 1;
                assert!(!has_key(&bytes), "the key is in {}", entry.path().display());
            }
        }
    }
    assert!(files > 10, "only {files} files were looked at");
    // Processes: the daemon's, a worker's and an agent's environment and arguments.
    let mut processes = vec![world.daemon_pid()];
    for program in ["worker", "claude"] {
        let found = world.processes(world.kind, program);
        assert!(!found.is_empty(), "no {program} runs");
        processes.extend(found);
    }
    for pid in processes {
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!has_key(&bytes), "the key is in /proc/{pid}/{file}");
        }
    }
    // What a person is shown.
    for args in [&["status"][..], &["status", "--json"], &["events", "adhoc", "--json"], &["usage"]]
    {
        let output = world.expect(0, args);
        assert!(!has_key(&output.stdout) && !has_key(&output.stderr), "the key is in {args:?}");
    }
}

fn has_key(bytes: &[u8]) -> bool {
    bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes())
}
