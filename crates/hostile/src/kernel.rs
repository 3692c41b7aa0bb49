//! The kernel's surface: what no agent needs, and much that was found wrong in kernels.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use crate::row::Rows;
use crate::sys::{self, call_with, checked, in_child};

/// The bit of a system call's number in the x32 ABI.
const X32: i64 = 0x4000_0000;

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

pub(crate) fn run(rows: &mut Rows) {
    numbers(rows);
    namespaces(rows);
    mounts(rows);
    rights(rows);
    ordinary(rows);
}

/// Calls that are refused before their arguments are looked at. With arguments that can't be right, so that
/// nothing happens where one is let through: then the error is another one.
fn numbers(rows: &mut Rows) {
    let null = 0;
    for (row, number, args) in [
        ("kernel-io-uring", libc::SYS_io_uring_setup, &[1, null][..]),
        ("kernel-io-uring-enter", libc::SYS_io_uring_enter, &[u64::MAX, 0, 0, 0]),
        ("kernel-io-uring-register", libc::SYS_io_uring_register, &[u64::MAX, 0, 0, 0]),
        ("kernel-userfaultfd", libc::SYS_userfaultfd, &[0x7fff_0000]),
        ("kernel-bpf", libc::SYS_bpf, &[0xffff, null, 0]),
        ("kernel-perf", libc::SYS_perf_event_open, &[null, 0, 0, 0, 0]),
        ("kernel-add-key", libc::SYS_add_key, &[null, null, null, 0, 0]),
        ("kernel-request-key", libc::SYS_request_key, &[null, null, null, 0]),
        // KEYCTL_GET_KEYRING_ID of the session's.
        ("kernel-keyctl", libc::SYS_keyctl, &[0, -3_i64 as u64, 0]),
        ("kernel-kexec", libc::SYS_kexec_load, &[0, 0, null, 0]),
        ("kernel-modules", libc::SYS_finit_module, &[u64::MAX, null, 0]),
        ("kernel-open-by-handle", libc::SYS_open_by_handle_at, &[u64::MAX, null, 0]),
        ("kernel-swap", libc::SYS_swapon, &[null, 0]),
        ("kernel-reboot", libc::SYS_reboot, &[0, 0, 0, null]),
        ("kernel-acct", libc::SYS_acct, &[1]),
        ("kernel-quota", libc::SYS_quotactl, &[0, null, 0, null]),
    ] {
        let tried = in_child(|| call_with(number, args).map(|_| ()));
        say_denied(rows, row, tried);
    }
    for (row, number) in [
        ("kernel-x32-io-uring", libc::SYS_io_uring_setup),
        ("kernel-x32-unshare", libc::SYS_unshare),
        ("kernel-x32-keyctl", libc::SYS_keyctl),
    ] {
        let tried = in_child(|| call_with(number | X32, &[NEWUSER, 0]).map(|_| ()));
        say_denied(rows, row, tried);
    }
    let vsock = in_child(|| {
        // SAFETY: no memory is involved.
        checked(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) }).map(|_| ())
    });
    say_denied(rows, "kernel-vsock", vsock);
    let packet = in_child(|| {
        // SAFETY: no memory is involved.
        checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }).map(|_| ())
    });
    say_denied(rows, "kernel-raw-packets", packet);
}

/// A call is denied when the error says so, and not that its arguments are wrong.
fn say_denied(rows: &mut Rows, row: &str, tried: io::Result<()>) {
    let denied = [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::EAFNOSUPPORT];
    match tried {
        Ok(()) => rows.say(row, false, "it was done"),
        Err(error) => {
            let by_signal = error.raw_os_error().is_none();
            let held = by_signal || error.raw_os_error().is_some_and(|e| denied.contains(&e));
            rows.say(row, held, error.to_string());
        }
    }
}

fn namespaces(rows: &mut Rows) {
    for (row, flags) in [
        ("kernel-unshare-user", NEWUSER),
        ("kernel-unshare-mount", libc::CLONE_NEWNS as u64),
        ("kernel-unshare-net", libc::CLONE_NEWNET as u64),
        ("kernel-unshare-pid", libc::CLONE_NEWPID as u64),
        ("kernel-unshare-cgroup", libc::CLONE_NEWCGROUP as u64),
    ] {
        let tried = in_child(|| call_with(libc::SYS_unshare, &[flags]).map(|_| ()));
        say_denied(rows, row, tried);
    }
    let cloned = in_child(|| {
        let pid = call_with(libc::SYS_clone, &[NEWUSER | libc::SIGCHLD as u64, 0])?;
        if pid == 0 {
            // SAFETY: it ends the child.
            unsafe { libc::_exit(0) }
        }
        Ok(())
    });
    say_denied(rows, "kernel-clone-user", cloned);
    let cloned = in_child(|| {
        let mut args = [0_u64; 11];
        (args[0], args[4]) = (NEWUSER, libc::SIGCHLD as u64);
        let pid = call_with(libc::SYS_clone3, &[args.as_ptr() as u64, 88])?;
        if pid == 0 {
            // SAFETY: it ends the child.
            unsafe { libc::_exit(0) }
        }
        Ok(())
    });
    say_denied(rows, "kernel-clone3-user", cloned);
    let entered = in_child(|| {
        let file = fs::File::open("/proc/self/ns/net")?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        call_with(libc::SYS_setns, &[fd as u64, 0]).map(|_| ())
    });
    say_denied(rows, "kernel-setns", entered);
}

fn mounts(rows: &mut Rows) {
    let (tmp, kind, root) = (text("/tmp"), text("tmpfs"), text("/"));
    let at = |text: &CString| text.as_ptr() as u64;
    for (row, number, args) in [
        ("kernel-mount", libc::SYS_mount, vec![at(&kind), at(&tmp), at(&kind), 0, 0]),
        ("kernel-remount", libc::SYS_mount, vec![at(&root), at(&root), 0, 0x1020, 0]),
        ("kernel-umount", libc::SYS_umount2, vec![at(&tmp), 2]),
        ("kernel-fsopen", libc::SYS_fsopen, vec![at(&kind), 0]),
        ("kernel-open-tree", libc::SYS_open_tree, vec![libc::AT_FDCWD as u64, at(&root), 1]),
        (
            "kernel-move-mount",
            libc::SYS_move_mount,
            vec![u64::MAX, at(&root), u64::MAX, at(&tmp), 0],
        ),
        ("kernel-pivot-root", libc::SYS_pivot_root, vec![at(&tmp), at(&tmp)]),
        ("kernel-chroot", libc::SYS_chroot, vec![at(&tmp)]),
    ] {
        let tried = in_child(|| call_with(number, &args).map(|_| ()));
        say_denied(rows, row, tried);
    }
    let device = text("/tmp/device");
    let made = in_child(|| {
        // SAFETY: the path lives.
        let mode = libc::S_IFBLK | 0o600;
        checked(unsafe { libc::mknod(device.as_ptr(), mode, libc::makedev(254, 0)) }).map(|_| ())
    });
    say_denied(rows, "kernel-mknod", made);
}

fn rights(rows: &mut Rows) {
    // SAFETY: no memory is involved.
    let root = in_child(|| checked(unsafe { libc::setuid(0) }).map(|_| ()));
    rows.refused("kernel-setuid", root);
    // SAFETY: no memory is involved.
    let group = in_child(|| checked(unsafe { libc::setgid(0) }).map(|_| ()));
    rows.refused("kernel-setgid", group);
    let name = text("elsewhere");
    // SAFETY: the name lives.
    let named = in_child(|| checked(unsafe { libc::sethostname(name.as_ptr(), 4) }).map(|_| ()));
    rows.refused("kernel-hostname", named);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let capabilities = ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"].map(field);
    let none = capabilities.iter().all(|set| set.trim_start_matches('0').is_empty());
    rows.say("kernel-capabilities", none, capabilities.join(" "));
    rows.say("kernel-no-new-privileges", field("NoNewPrivs:") == "1", field("NoNewPrivs:"));
    rows.say("kernel-seccomp", field("Seccomp:") == "2", field("Seccomp:"));
    let knobs = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/notify_on_release",
        "/sys/fs/cgroup/memory.max",
    ];
    let open: Vec<_> = knobs
        .into_iter()
        .filter(|knob| fs::OpenOptions::new().write(true).open(knob).is_ok())
        .collect();
    rows.say("kernel-knobs", open.is_empty(), format!("writable: {open:?}"));
    let secrets = ["/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/proc/timer_list"];
    let read = |path: &&str| {
        let mut byte = [0];
        fs::File::open(path)
            .is_ok_and(|mut file| io::Read::read(&mut file, &mut byte).is_ok_and(|read| read > 0))
    };
    let seen: Vec<_> = secrets.into_iter().filter(read).collect();
    rows.say("kernel-memory", seen.is_empty(), format!("readable: {seen:?}"));
    let places = [
        "/",
        "/etc",
        "/usr/bin",
        "/opt/supervisor",
        "/tasks",
        "/workspace",
        "/run",
        "/run/gateway",
        "/var/tmp",
    ];
    let written: Vec<_> = places
        .into_iter()
        .filter(|place| symlink("x", format!("{place}/planted")).is_ok())
        .collect();
    rows.say("kernel-root-is-read-only", written.is_empty(), format!("writable: {written:?}"));
}

/// What ordinary tools need must go on working: a wall that stops them is none that people keep.
fn ordinary(rows: &mut Rows) {
    let traced = in_child(|| {
        // SAFETY: the child asks to be traced, and stops itself.
        let pid = sys::fork(|| unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            0
        });
        let mut status = 0;
        // SAFETY: the status lives.
        checked(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) })?;
        // SAFETY: no memory is involved.
        let went_on = unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, 0) };
        if !libc::WIFSTOPPED(status) || went_on == -1 {
            return Err(io::Error::last_os_error());
        }
        sys::wait(pid).map(|_| ())
    });
    let saw =
        traced.as_ref().map_or_else(ToString::to_string, |()| "its child was traced".to_owned());
    rows.say("kernel-tools-can-trace-their-children", traced.is_ok(), saw);
    let threads: Vec<_> = (0..8).map(|n| std::thread::spawn(move || n * 2)).collect();
    let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    rows.say("kernel-tools-have-threads", sum == 56, sum.to_string());
    let said =
        std::process::Command::new("sh").args(["-c", "sleep 0.01 | cat; echo well"]).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let well = said.as_ref().is_ok_and(|said| said == "well\n");
    rows.say("kernel-tools-have-pipelines", well, format!("{said:?}"));
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}
