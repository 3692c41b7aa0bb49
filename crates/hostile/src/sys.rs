//! System calls by their numbers, and processes.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Makes a system call.
pub(crate) fn call(number: i64, args: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: callers pass pointers to what lives during the call, or null.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Makes a system call with fewer arguments.
pub(crate) fn call_with(number: i64, args: &[u64]) -> io::Result<i64> {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    call(number, all)
}

/// Returns a C function's result, or the error that it left.
pub(crate) fn checked(value: i32) -> io::Result<i32> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Runs something in a child that may be killed for it. An error is what it returned, or the signal.
pub(crate) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let code = wait(fork(|| match work() {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(255).clamp(1, 255),
    }))?;
    match code {
        Ended::Code(0) => Ok(()),
        Ended::Code(errno) => Err(io::Error::from_raw_os_error(errno)),
        Ended::Signal(signal) => Err(io::Error::other(format!("killed by signal {signal}"))),
    }
}

/// How a child ended.
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

/// Starts a child that ends with what `work` returns.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> i32 {
    try_fork(work).unwrap()
}

/// The same, where there may be too many processes.
pub(crate) fn try_fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: this program has one thread whenever it forks, so the child may do anything.
    match checked(unsafe { libc::fork() })? {
        0 => {
            let code = work();
            // SAFETY: it ends the child, and runs nothing of the parent's.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child.
pub(crate) fn wait(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: the status lives.
    checked(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    Ok(match libc::WIFEXITED(status) {
        true => Ended::Code(libc::WEXITSTATUS(status)),
        false => Ended::Signal(libc::WTERMSIG(status)),
    })
}

/// Starts a process that belongs to nobody, in a session of its own, that ignores every signal it can.
pub(crate) fn detach(work: impl FnOnce()) {
    let _ = wait(fork(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::setsid() };
        fork(|| {
            for signal in 1..32 {
                // SAFETY: no handler is installed.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            // The worker waits for the end of its agent's output.
            for fd in 0..3 {
                // SAFETY: nothing is written any more.
                unsafe { libc::close(fd) };
            }
            work();
            0
        });
        0
    }));
}

/// Does something over and over for so long.
pub(crate) fn keep_on(seconds: u64, mut work: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        work();
    }
}

/// Sleeps.
pub(crate) fn sleep(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Returns `<task>.<attempt>`.
pub(crate) fn own_name() -> String {
    format!("{}.{}", own("SUPERVISOR_TASK"), own("SUPERVISOR_ATTEMPT"))
}

/// Returns the attempt's folder of results.
pub(crate) fn own_folder() -> PathBuf {
    artifacts().parent().unwrap().to_owned()
}

/// Returns the folder that is `/results`.
pub(crate) fn results() -> PathBuf {
    own_folder().parent().unwrap().to_owned()
}

/// Returns the attempt's folder of artifacts.
pub(crate) fn artifacts() -> PathBuf {
    own("SUPERVISOR_ARTIFACTS").into()
}

fn own(name: &str) -> String {
    std::env::var(name).unwrap()
}
