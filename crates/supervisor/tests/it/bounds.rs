//! Bounds that are kept: system calls, what outlives an attempt, disk, modes; and what is said where one is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use protocol::SelfTest;
use supervisor::api::types::TaskStatus;

use crate::in_both_runtimes;
use crate::world::{World, image, text};

fn program(world: &World, worker: &str, more: &str, script: &str) {
    world.write(
        &format!("workspaces/{worker}/worker.toml"),
        &format!(
            "description = \"Runs a script.\"\ncommand = [\"bash\", \"/workspace/run.sh\"]\nreplicas = 1\n\
             container = \"resident\"\n{more}"
        ),
    );
    world.write(&format!("workspaces/{worker}/run.sh"), script);
}

fn summary(world: &World, worker: &str, task: &str) -> String {
    world.result(worker, task)["summary"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn docker_what_an_attempt_leaves_in_memory_is_neither_seen_nor_counted_in_the_next() {
    let test = "docker_what_an_attempt_leaves_in_memory_is_neither_seen_nor_counted_in_the_next";
    let Some(world) = World::of_containers(test) else { return };
    let script = r#"
        ran_by() { echo "container $(cut -d' ' -f22 /proc/1/stat)"; }
        if [ "$SUPERVISOR_TASK" = leave ]; then
            head -c 60000000 /dev/zero > /dev/shm/.hidden
            mkdir -p /tmp/.cache/locked /dev/shm/folder && echo x > /tmp/.cache/locked/x && chmod 555 /tmp/.cache/locked
            perl -e '$id = shmget(0, 100 << 20, 0600);
                     for (0 .. 99) { shmwrite($id, "x" x (1 << 20), $_ << 20, 1 << 20) or die }
                     defined semget(0, 1, 0600) or die; defined msgget(0, 0600) or die; print "left\n"'
            ran_by
            exit
        fi
        ran_by
        find /dev/shm /dev/mqueue /tmp -mindepth 1 ! -path '/tmp/home*' ! -path '/tmp/.worker*' | sed 's/^/found /'
        tail -q -n +2 /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | sed 's/^/found /'
        python3 -c 'x = bytearray(160 << 20); print(len(x) >> 20, "MiB")'
    "#;
    program(&world, "hog", "[resources]\nmemory_mib = 224\n", script);
    let world = world.start("");
    world.add("hog", "leave", "Leave something", &[]);
    assert_eq!(world.ended(&["leave"]), [TaskStatus::Complete]);
    world.add("hog", "find", "Find it", &[]);
    assert_eq!(world.ended(&["find"]), [TaskStatus::Complete]);
    let (left, found) = (summary(&world, "hog", "leave"), summary(&world, "hog", "find"));
    let container = left.strip_prefix("left\n").unwrap();
    assert_eq!(found, format!("{container}\n160 MiB"), "in the same container nothing is found");
}

#[test]
fn docker_shared_memory_has_the_size_that_was_asked_for() {
    let test = "docker_shared_memory_has_the_size_that_was_asked_for";
    let Some(world) = World::of_containers(test) else { return };
    let script = "stat -f -c '%b %S' /dev/shm | (read n size; echo $((n * size >> 20)))";
    program(&world, "large", "[resources]\nshm_mib = 200\n", script);
    program(&world, "usual", "", script);
    let world = world.start("");
    world.add("large", "a", "Look", &[]);
    world.add("usual", "b", "Look", &[]);
    assert_eq!(world.ended(&["a", "b"]), [TaskStatus::Complete; 2]);
    assert_eq!((&*summary(&world, "large", "a"), &*summary(&world, "usual", "b")), ("200", "64"));
}

#[test]
fn docker_attempt_that_fills_the_disk_is_stopped_and_the_next_task_is_not() {
    let test = "docker_attempt_that_fills_the_disk_is_stopped_and_the_next_task_is_not";
    let Some(world) = World::of_containers(test) else { return };
    let script = r#"
        echo "container $(cut -d' ' -f22 /proc/1/stat)"
        [ "$SUPERVISOR_TASK" = small ] && exit
        [ "$SUPERVISOR_TASK" = files ] && { cd /results; mkdir .mine; for n in $(seq 400); do > .mine/$n; done; }
        [ "$SUPERVISOR_TASK" = bytes ] && { head -c 20000000 /dev/zero > /results/x; exec 3< /results/x; rm /results/x; }
        sleep 600
    "#;
    program(&world, "hog", "retries = 3\n[resources]\ndisk_mib = 16\nfiles = 300\n", script);
    let world = world.start("");
    let began = Instant::now();
    world.add("hog", "bytes", "Fill it", &[]);
    world.add("hog", "files", "Fill it", &[]);
    assert_eq!(world.ended(&["bytes", "files"]), [TaskStatus::Failed; 2]);
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    for (task, what) in [("bytes", "more than 16 MiB"), ("files", "more than 300 files")] {
        let result = world.result("hog", task);
        assert_eq!(result["error"]["kind"], "disk", "{result}");
        assert!(result["error"]["message"].as_str().unwrap().contains(what), "{result}");
        assert_eq!(result["attempt"], 2, "it is made once more");
    }
    world.add("hog", "small", "Fill nothing", &[]);
    assert_eq!(world.ended(&["small"]), [TaskStatus::Complete]);
}

#[test]
fn docker_calls_that_no_agent_needs_are_denied_and_ordinary_programs_run() {
    let test = "docker_calls_that_no_agent_needs_are_denied_and_ordinary_programs_run";
    let Some(world) = World::of_containers(test) else { return };
    let script = r#"
        set -e -o pipefail
        perl -e 'for (["uring", 425, 1, 0], ["vsock", 41, 40, 1, 0], ["clone3", 435, 0, 0], ["keys", 250, 0, 0, 0, 0, 0],
                      ["unshare", 272, 0x10000000], ["userfaultfd", 323, 1], ["x32", 0x40000027], ["unix", 41, 1, 1, 0]) {
                     ($name, $nr, @args) = @$_; $! = 0; $done = syscall($nr, @args);
                     printf "%s %d\n", $name, $done == -1 ? $! + 0 : 0 }'
        { sleep 0.05; echo piped; } | cat
        cd /tmp; git init -q repo; cd repo; git config user.email a@b; git config user.name a
        echo x > x; git add x; git commit -q -m one; git log --format=%s; git gc -q
        python3 -c '
import multiprocessing, threading
def double(n): return 2 * n
with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(double, [1, 2]))
thread = threading.Thread(target=print, args=("threads",)); thread.start(); thread.join()'
    "#;
    program(&world, "spy", "", script);
    let world = world.start("");
    world.add("spy", "try", "Try it", &[]);
    assert_eq!(world.ended(&["try"]), [TaskStatus::Complete]);
    let seen = summary(&world, "spy", "try");
    assert_eq!(
        seen.lines().collect::<Vec<_>>(),
        [
            "uring 1",
            "vsock 1",
            "clone3 38",
            "keys 1",
            "unshare 1",
            "userfaultfd 1",
            "x32 38",
            "unix 0",
            "piped",
            "one",
            "[2, 4]",
            "threads"
        ]
    );
}

/// Each time another thing is missing of what was asked for, as with an engine that leaves it out.
#[test]
fn docker_worker_that_lacks_what_was_asked_for_takes_no_attempt_and_says_what_it_is() {
    let test = "docker_worker_that_lacks_what_was_asked_for_takes_no_attempt_and_says_what_it_is";
    let Some(world) = World::of_containers(test) else { return };
    let program = std::env::var("SUPERVISOR_WORKER").unwrap();
    let program = Path::new(&program).parent().unwrap().to_str().unwrap().to_owned();
    let slot = |name: &str| {
        let path = world.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let start = |case: &str, without: &str, with: &[&str], unsafe_: &str| {
        let name = world.container(case);
        let mounts = ["results"].map(|folder| {
            format!("--mount=type=bind,src={},dst=/{folder}", slot(&format!("{case}/{folder}")))
        });
        let read_only = ["tasks", "workspace"].map(|folder| {
            let from = slot(&format!("{case}/{folder}"));
            format!("--mount=type=bind,src={from},dst=/{folder},readonly")
        });
        let label = format!("--label=supervisor.installation={}", world.installation_id());
        let own = format!("--mount=type=bind,src={program},dst=/opt/supervisor,readonly");
        let base = [
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--user=1000:1000",
            "--memory=64m",
            "--memory-swap=64m",
            "--pids-limit=32",
            "--cpus=1",
            "--tmpfs=/tmp",
        ];
        let mut args = vec!["run", "--detach", "--entrypoint=/opt/supervisor/worker", &label, &own];
        args.extend(
            base.iter().filter(|option| without.is_empty() || !option.starts_with(without)),
        );
        args.extend(mounts.iter().chain(&read_only).map(String::as_str));
        args.extend(with);
        let named = format!("--name={name}");
        let image = image();
        let limits = ["--memory-mib=64", "--pids=32", "--cpus=1", "--no-model"];
        let secret = format!("--env=SUPERVISOR_REPORT_SECRET={}", "7".repeat(64));
        args.extend([named.as_str(), secret.as_str(), image.as_str()]);
        args.extend(limits);
        let accepted = format!("--unsafe={unsafe_}");
        args.extend((!unsafe_.is_empty()).then_some(accepted.as_str()));
        let output = world.docker(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        name
    };
    let told = |case: &str| -> SelfTest {
        let file = world.path(&format!("{case}/results/.self-test.json"));
        world.wait_ref("the worker says what does not hold", |_| {
            serde_json::from_slice(&fs::read(&file).ok()?).ok()
        })
    };
    let open = world.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let volume = format!("--mount=type=bind,src={},dst=/srv", open.display());

    start("all", "", &[], "");
    assert_eq!(told("all").holes, []);
    for (case, without, with) in [
        ("memory", "--memory", &[][..]),
        ("pids", "--pids", &[]),
        ("cpus", "--cpus", &[]),
        ("user", "--user", &["--user=0:0"]),
        ("capabilities", "--cap-drop", &[]),
        ("folders", "", &[volume.as_str()]),
    ] {
        let name = start(case, without, with, "");
        let code = world.docker(&["wait", &name]);
        let said = world.docker(&["logs", &name]);
        let said = text(&said.stdout) + &text(&said.stderr);
        assert_eq!(text(&code.stdout).trim(), "78", "{case}: {said}");
        let last = said.trim().lines().last().unwrap();
        assert!(last.contains(&format!("`unsafe = [\"{case}\"]`")), "{case}: {last}");
        assert_eq!(told(case).holes.first().map(|wall| wall.as_str()), Some(case));
    }
    // Somebody puts up with that.
    let name = start("accepted", "--pids", &[], "memory,pids");
    assert_eq!(told("accepted").holes.len(), 1);
    world.wait_ref("it goes on", |world| {
        let said = world.docker(&["logs", &name]);
        (text(&said.stderr) + &text(&said.stdout)).contains("A wall does not hold").then_some(())
    });
    let running = world.docker(&["inspect", "--format={{.State.Running}}", &name]);
    assert_eq!(text(&running.stdout).trim(), "true", "it waits for its gateway");
}

in_both_runtimes! {
    who_may_read_what_is_published_the_umask_says,
}

fn who_may_read_what_is_published_the_umask_says(mut world: World) {
    let script = "mkdir -p $SUPERVISOR_ARTIFACTS/sub; echo mine > $SUPERVISOR_ARTIFACTS/sub/a.md\n\
                  cat /tasks/*/inputs/*/artifacts/sub/a.md ../../tasks/writer/.slots/*/*/inputs/*/artifacts/sub/a.md 2> /dev/null\necho done";
    world.write(
        "workspaces/writer/worker.toml",
        "description = \"Writes.\"\ncommand = [\"bash\", \"run.sh\"]\nreplicas = 1\n",
    );
    world.write("workspaces/writer/run.sh", script);
    world.open_api("");
    for (umask, file, folder) in [("077", 0o600, 0o700), ("022", 0o644, 0o755)] {
        world.set_umask(umask);
        world.start_daemon();
        let (first, second, waits) =
            (format!("a{umask}"), format!("b{umask}"), format!("c{umask}"));
        world.add("writer", &first, "Write", &[]);
        world.add("writer", &second, "Read", &["--after", &first]);
        world.add("writer", &waits, "Wait", &["--after", "never"]);
        assert_eq!(world.ended(&[&first, &second]), [TaskStatus::Complete; 2]);
        // An agent of another user has read what is not for others.
        assert_eq!(summary(&world, "writer", &second), "mine\ndone");
        let kept = |task: &str| format!(".supervisor/runs/adhoc/attempts/{task}.1");
        for (path, mode) in [
            (format!("results/writer/{first}.json"), file),
            (format!("results/writer/{first}"), folder),
            (format!("results/writer/{first}/sub"), folder),
            (format!("results/writer/{first}/sub/a.md"), file),
            (format!("tasks/writer/{waits}.json"), file),
            (format!("{}/transcript.jsonl", kept(&first)), file),
        ] {
            let path = world.path(&path);
            let found = world.wait_ref("it is published", |_| fs::metadata(&path).ok());
            let is = found.permissions().mode() & 0o777;
            assert_eq!(is, mode, "{} is {is:o} under umask {umask}", path.display());
        }
        world.expect(0, &["down"]);
        world.forget_daemon();
    }
}
