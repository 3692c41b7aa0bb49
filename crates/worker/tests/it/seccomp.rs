//! System calls that are denied, and programs that need none of them.

use protocol::Status;
use serde_json::json;

use crate::slot::Slot;

/// Makes calls by their numbers, as nothing keeps an agent from doing, and prints what the kernel says: 0 where it is
/// done, else the number of the error.
const CALL: &str = r#"
sub call { my ($name, @args) = @_; $! = 0; my $done = syscall($args[0], @args[1 .. $#args]); my $errno = $! + 0;
           printf "%s %d\n", $name, $done == -1 ? $errno : 0 }
"#;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Runs a program in an attempt, and returns what it printed.
fn run(interpreter: &str, option: &str, program: &str) -> String {
    let slot = Slot::new();
    let driver = json!({ "command": [interpreter, option, program] });
    let result = slot.run(&slot.assignment(&driver));
    assert_eq!(result.status, Status::Complete, "{result:?}");
    result.summary
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_that_no_agent_needs_are_denied_by_their_numbers() {
    // Arguments that a kernel without a filter refuses for another reason, if it refuses them at all.
    let calls = [
        ("io_uring_setup", "425, 1, 0", EPERM),
        ("io_uring_enter", "426, -1, 0, 0, 0, 0, 0", EPERM),
        ("io_uring_register", "427, -1, 0, 0, 0", EPERM),
        ("add_key", "248, 0, 0, 0, 0, 0", EPERM),
        ("request_key", "249, 0, 0, 0, 0", EPERM),
        ("keyctl", "250, 0, 0, 0, 0, 0", EPERM),
        ("userfaultfd", "323, -1", EPERM),
        ("bpf", "321, -1, 0, 0", EPERM),
        ("perf_event_open", "298, 0, 0, -1, -1, 0", EPERM),
        ("unshare nothing", "272, 0", EPERM),
        ("unshare user", "272, 0x10000000", EPERM),
        ("setns", "308, -1, 0", EPERM),
        ("open_by_handle_at", "304, -1, 0, 0", EPERM),
        ("mount", "165, 0, 0, 0, 0, 0", EPERM),
        ("umount2", "166, 0, 0", EPERM),
        ("pivot_root", "155, 0, 0", EPERM),
        ("open_tree", "428, -1, 0, 0", EPERM),
        ("move_mount", "429, -1, 0, -1, 0, 0", EPERM),
        ("fsopen", "430, 0, 0", EPERM),
        ("fsconfig", "431, -1, 0, 0, 0, 0", EPERM),
        ("fsmount", "432, -1, 0, 0", EPERM),
        ("fspick", "433, -1, 0, 0", EPERM),
        ("mount_setattr", "442, -1, 0, 0, 0, 0", EPERM),
        ("open_tree_attr", "467, -1, 0, 0, 0, 0", EPERM),
        ("kexec_load", "246, 0, 0, 0, 0", EPERM),
        ("kexec_file_load", "320, -1, -1, 0, 0, 0", EPERM),
        ("init_module", "175, 0, 0, 0", EPERM),
        ("finit_module", "313, -1, 0, 0", EPERM),
        ("delete_module", "176, 0, 0", EPERM),
        ("socket of virtual machines", "41, 40, 1, 0", EPERM),
        ("socket of the kernel with ciphers", "41, 38, 5, 0", EPERM),
        ("socket with a family of 64 bits", "41, 0x100000028, 1, 0", EPERM),
        ("pair of sockets of a cluster", "53, 30, 1, 0, 0", EPERM),
        ("clone3", "435, 0, 0", ENOSYS),
        ("clone user", "56, 0x10000011, 0, 0, 0, 0", EPERM),
        ("clone network", "56, 0x40000011, 0, 0, 0, 0", EPERM),
        ("clone processes", "56, 0x20000011, 0, 0, 0, 0", EPERM),
        ("clone mounts and bits above", "56, 0x100020011, 0, 0, 0, 0", EPERM),
        ("io_uring_setup of x32", "0x400001a9, 1, 0", ENOSYS),
        ("getpid of x32", "0x40000027", ENOSYS),
        ("socket", "41, 1, 1, 0", 0),
        ("socket of IPv4", "41, 2, 1, 0", 0),
        ("socket of IPv6", "41, 10, 1, 0", 0),
        ("socket of netlink", "41, 16, 3, 0", 0),
        ("getpid", "39", 0),
    ];
    let program = calls.iter().fold(CALL.to_owned(), |program, (name, args, _)| {
        format!("{program}call('{name}', {args});\n")
    });
    let expected: Vec<_> = calls.iter().map(|(name, _, errno)| format!("{name} {errno}")).collect();
    let said = run("perl", "-e", &program);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn ordinary_programs_run_under_the_filter() {
    let said = run(
        "bash",
        "-c",
        r#"set -e -o pipefail
        { sleep 0.05; echo piped; } | cat
        git init -q repo; cd repo; git config user.email a@b; git config user.name a
        echo x > x; git add x; git commit -q -m one; git log --format=%s; git gc -q
        timeout 5 true && echo timed
        ( sleep 0.05 & wait ); coproc cat; echo to >&"${COPROC[1]}"; read -r -u "${COPROC[0]}"; echo "$REPLY"
        command -v python3 > /dev/null || exit 0
        python3 - <<'END'
import asyncio, concurrent.futures, multiprocessing, socket, subprocess, threading
def double(n): return 2 * n
with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(double, [1, 2]))
with concurrent.futures.ThreadPoolExecutor(4) as pool: print(sum(pool.map(double, range(9))))
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
print(subprocess.run("echo sub | cat", shell=True, capture_output=True, text=True).stdout.strip())
a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1).decode())
server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname())
async def run(): print(await (await asyncio.create_subprocess_exec("true")).wait())
asyncio.run(run())
END
        "#,
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..4], ["piped", "one", "timed", "to"], "{said}");
    assert!(lines.len() == 4 || lines[4..] == ["[2, 4]", "72", "sub", "x", "0"], "{said}");
}

/// Its calls have other numbers, so that what is denied could not be told.
#[cfg(target_arch = "x86_64")]
#[test]
fn program_of_32_bits_makes_no_call() {
    let said = run(
        "bash",
        "-c",
        r#"perl -e '
            print pack("C16 S2 L5 S6 L8", 0x7f, 0x45, 0x4c, 0x46, 1, 1, 1, (0) x 9, 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32,
                       1, 0, 0, 0, 1, 0, 0x8048000, 0x8048000, 96, 96, 5, 0x1000);
            # exit(7)
            print pack("H*", "b801000000bb07000000cd80");' > exits-with-7
        chmod +x exits-with-7; ./exits-with-7 2> /dev/null; echo "$?"
        "#,
    );
    // 126 where the kernel has no such programs at all.
    assert!(["159", "126"].contains(&said.trim()), "{said}");
}
