//! Process 1: the worker, which judges the agent and outlives it.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::row::Rows;
use crate::sys::{call_with, checked, in_child};

pub(crate) fn run(rows: &mut Rows) {
    trace(rows);
    memory(rows);
    proc(rows);
    limits(rows);
    processors(rows);
    sockets(rows);
    signals(rows);
}

fn trace(rows: &mut Rows) {
    for (row, request) in
        [("one-ptrace-attach", libc::PTRACE_ATTACH), ("one-ptrace-seize", libc::PTRACE_SEIZE)]
    {
        let tried = in_child(|| {
            // SAFETY: no memory is involved.
            let attached = unsafe { libc::ptrace(request, 1, 0, 0) };
            if attached == -1 {
                return Err(io::Error::last_os_error());
            }
            if request == libc::PTRACE_ATTACH {
                // It is let go again: a worker that stands still could not tell of it.
                let mut status = 0;
                // SAFETY: the status lives.
                unsafe { libc::waitpid(1, &raw mut status, libc::__WALL) };
            }
            // SAFETY: no memory is involved.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, 1, 0, 0) };
            Ok(())
        });
        rows.refused(row, tried);
    }
    let tried = call_with(libc::SYS_kcmp, &[std::process::id().into(), 1, 1]);
    rows.refused("one-kcmp", tried);
}

fn memory(rows: &mut Rows) {
    // An address of its own is as good as any: what matters is whether the call is allowed at all.
    let mut buffer = [0_u8; 8];
    let mut local = [0_u64; 2];
    let remote = [first_mapping().unwrap_or(0x40_0000), 8];
    (local[0], local[1]) = (buffer.as_mut_ptr() as u64, 8);
    let args = [1, local.as_ptr() as u64, 1, remote.as_ptr() as u64, 1, 0];
    rows.refused("one-read-memory", call_with(libc::SYS_process_vm_readv, &args));
    // To where nothing can be written: allowed or not is told before.
    let nowhere = [8_u64, 8];
    let args = [1, local.as_ptr() as u64, 1, nowhere.as_ptr() as u64, 1, 0];
    match call_with(libc::SYS_process_vm_writev, &args) {
        Err(error) if error.raw_os_error() != Some(libc::EFAULT) => {
            rows.say("one-write-memory", true, error.to_string());
        }
        other => rows.say("one-write-memory", false, format!("{other:?}")),
    }
    let tried = fs::OpenOptions::new().read(true).write(true).open("/proc/1/mem");
    let tried = tried.and_then(|mut mem| {
        mem.seek(SeekFrom::Start(remote[0]))?;
        mem.read(&mut buffer)
    });
    rows.refused("one-proc-mem", tried);
}

fn first_mapping() -> Option<u64> {
    let maps = fs::read_to_string("/proc/1/maps").ok()?;
    u64::from_str_radix(maps.split('-').next()?, 16).ok()
}

fn proc(rows: &mut Rows) {
    for (row, file) in [
        ("one-environ", "environ"),
        ("one-maps", "maps"),
        ("one-auxv", "auxv"),
        ("one-syscall", "syscall"),
        ("one-stack", "stack"),
    ] {
        let read = fs::read(format!("/proc/1/{file}"));
        // What is empty tells nothing.
        let held = read.as_ref().map_or(true, Vec::is_empty);
        rows.say(
            row,
            held,
            read.map_or_else(|e| e.to_string(), |bytes| format!("{} bytes", bytes.len())),
        );
    }
    for (row, link) in [("one-root", "root"), ("one-cwd", "cwd"), ("one-exe", "exe")] {
        rows.refused(row, fs::read_link(format!("/proc/1/{link}")));
    }
    let fds = fs::read_dir("/proc/1/fd").map(Iterator::count);
    rows.refused("one-fds", fds);
    let through =
        fs::File::open("/proc/1/root/etc/hostname").or_else(|_| fs::File::open("/proc/1/fd/1"));
    rows.refused("one-magic-links", through);
    let stolen = call_with(libc::SYS_pidfd_open, &[1, 0]).and_then(|pidfd| {
        (0..16)
            .map(|fd| call_with(438, &[pidfd as u64, fd, 0]))
            .find(Result::is_ok)
            .unwrap_or_else(|| call_with(438, &[pidfd as u64, 1, 0]))
    });
    rows.refused("one-pidfd-getfd", stolen);
    for (row, file, text) in [
        ("one-oom-score", "oom_score_adj", "1000"),
        ("one-coredump-filter", "coredump_filter", "7f"),
        ("one-clear-refs", "clear_refs", "1"),
    ] {
        let file = fs::OpenOptions::new().write(true).open(format!("/proc/1/{file}"));
        rows.refused(row, file.and_then(|mut file| file.write_all(text.as_bytes())));
    }
}

/// The numbers that threads of process 1 may have: they are started before any agent.
const THREADS: std::ops::RangeInclusive<u64> = 1..=16;

/// A limit that is set to what it is hurts nobody where the attack succeeds.
fn limits(rows: &mut Rows) {
    let mut limit = [0_u64; 2];
    let resource = u64::from(libc::RLIMIT_NOFILE);
    let own = call_with(libc::SYS_prlimit64, &[0, resource, 0, limit.as_mut_ptr() as u64]);
    let mut set = |thread| {
        call_with(libc::SYS_prlimit64, &[thread, resource, 0, limit.as_mut_ptr() as u64])?;
        call_with(libc::SYS_prlimit64, &[thread, resource, limit.as_ptr() as u64, 0])
    };
    let main = set(1);
    rows.refused("one-prlimit", own.and(main));
    rows.refused("one-prlimit-thread", any(THREADS.map(set)));
}

/// What would leave process 1 without a processor among many others. What is set is what it has.
fn processors(rows: &mut Rows) {
    let set = |which, who| call_with(libc::SYS_setpriority, &[u64::from(which), who, 0]);
    let policy = call_with(libc::SYS_sched_setscheduler, &[1, 0, [0_u32].as_ptr() as u64]);
    rows.refused("one-priority", any([set(libc::PRIO_PROCESS, 1), policy].into_iter()));
    rows.refused("one-priority-thread", any(THREADS.map(|one| set(libc::PRIO_PROCESS, one))));
    // A process may join the group of process 1: they are of one session.
    let joined = in_child(|| {
        // SAFETY: no memory is involved.
        let _ = checked(unsafe { libc::setpgid(0, 1) });
        any([set(libc::PRIO_PGRP, 0), set(libc::PRIO_PGRP, 1)].into_iter()).map(drop)
    });
    rows.refused("one-priority-group", joined);
    rows.refused("one-priority-user", set(libc::PRIO_USER, 0));
    let mut cores = [0_u64; 16];
    let size = size_of_val(&cores) as u64;
    let known = call_with(libc::SYS_sched_getaffinity, &[1, size, cores.as_mut_ptr() as u64]);
    let set = known.and_then(|len| {
        call_with(libc::SYS_sched_setaffinity, &[1, len as u64, cores.as_ptr() as u64])
    });
    rows.refused("one-affinity", set);
}

/// Returns the first of them that succeeded, or else the last error.
fn any<T>(mut tried: impl Iterator<Item = io::Result<T>>) -> io::Result<T> {
    let mut last = Err(io::Error::other("nothing was tried"));
    tried
        .find_map(|one| match one {
            Ok(value) => Some(value),
            Err(error) => {
                last = Err(error);
                None
            }
        })
        .map_or(last, Ok)
}

fn sockets(rows: &mut Rows) {
    let port = std::env::var("HTTPS_PROXY").unwrap();
    let port: u16 = port.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    // In an order in which one does not keep the other from it.
    let taken: Vec<_> = ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"]
        .into_iter()
        .filter(|host| TcpListener::bind(format!("{host}:{port}")).is_ok())
        .collect();
    rows.say("one-forwarder-port", taken.is_empty(), format!("bound again: {taken:?}"));
    let reused = in_child(|| {
        // SAFETY: what is passed lives.
        unsafe {
            let fd = checked(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0))?;
            let on = 1_i32;
            for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
                checked(libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const on).cast(), 4))?;
            }
            let mut address: libc::sockaddr_in = std::mem::zeroed();
            address.sin_family = libc::AF_INET as u16;
            address.sin_port = port.to_be();
            address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
            checked(libc::bind(fd, (&raw const address).cast(), 16))?;
            checked(libc::listen(fd, 1)).map(|_| ())
        }
    });
    rows.refused("one-forwarder-port-reused", reused);
    // As many connections as it takes, held for as long as the attempt lasts.
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    let held: Vec<_> = (0..400).map_while(|_| connect()).collect();
    std::mem::forget(held);
    let gateway = fs::remove_file("/run/gateway/gateway.sock");
    rows.refused("one-gateway-socket-removed", gateway);
    let gateway = std::os::unix::net::UnixListener::bind("/run/gateway/other.sock");
    rows.refused("one-gateway-socket-replaced", gateway);
}

/// Only those that the kernel keeps from process 1; it reports this row after it has had them.
fn signals(rows: &mut Rows) {
    for signal in [libc::SIGSTOP, libc::SIGKILL, libc::SIGUSR1, libc::SIGSEGV, libc::SIGTSTP] {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(1, signal) };
    }
    crate::sys::sleep(50);
    let stat = fs::read_to_string("/proc/1/stat").unwrap();
    let state = stat.rsplit(')').next().unwrap().trim().chars().next().unwrap();
    rows.say("one-signals", state != 'T' && state != 'Z', format!("its state is {state}"));
}
