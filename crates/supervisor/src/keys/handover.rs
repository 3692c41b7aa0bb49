//! The key's way from the environment to the daemon.
//!
//! What a process has in its environment when it starts can be read in `/proc/<pid>/environ` as long as it
//! runs, whatever it does later; and what it starts inherits it. So the daemon is started without
//! the key in its environment, and finds it on its standard input, a pipe that is empty once it has read
//! it. In the foreground the program becomes itself once more in the same process, in this way.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::DumpableBehavior;
use zeroize::Zeroizing;

use super::MAX_BYTES;
use crate::failure::Failure;

/// The environment variable with the key.
pub const VARIABLE: &str = "ANTHROPIC_API_KEY";

/// In the environment of a daemon whose key is on its standard input.
pub(super) const ON_STDIN: &str = "SUPERVISOR_KEY_ON_STDIN";

/// Keeps this process's memory from other processes of the same user, and from core dumps.
///
/// Those that it starts are as usual. A debugger needs to be root's.
pub fn shield() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "The memory of this process, with the key, is open to this user's processes.");
    }
}

/// Takes the key out of the environment: where it is there, this program starts anew in this process, with
/// the key on its standard input. Returns when there is nothing to do.
///
/// # Errors
///
/// Bad input for what can't be a key; unavailable when the program can't be started.
pub fn leave_environment() -> Result<(), Failure> {
    let Some(key) = given() else { return Ok(()) };
    let mut args = std::env::args_os();
    let own = std::env::current_exe()
        .map_err(|e| Failure::unavailable("this program's own file can't be found").because(e))?;
    let mut command = Command::new(&own);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args);
    pass(&mut command, &key)?;
    let error = command.exec();
    Err(Failure::unavailable(format!("`{}` can't be started", own.display())).because(error))
}

/// Has a daemon that is about to be started find the key of this environment on its standard input; without
/// one it finds nothing there.
///
/// # Errors
///
/// Bad input for what can't be a key.
pub fn pass_on(command: &mut Command) -> Result<(), Failure> {
    match given() {
        Some(key) => pass(command, &key),
        None => {
            command.stdin(Stdio::null());
            Ok(())
        }
    }
}

/// Returns the daemon's environment: that of the process, with the key from where it is.
///
/// Reads the standard input to its end if a key is there. To be called once.
///
/// # Errors
///
/// Unavailable when it can't be read.
pub fn environment() -> Result<impl Fn(&'static str) -> Option<String>, Failure> {
    let on_stdin = std::env::var_os(ON_STDIN).is_some();
    let key = on_stdin.then(receive).transpose().map_err(|error| {
        Failure::unavailable("the key can't be read from the standard input")
            .because(error)
            .hint(format!("Unset {ON_STDIN}: it is for a daemon's own start."))
    })?;
    Ok(move |name: &'static str| match &key {
        Some(key) if name == VARIABLE => Some(String::clone(key)),
        _ => std::env::var(name).ok(),
    })
}

/// Returns the key of this environment.
fn given() -> Option<Zeroizing<String>> {
    std::env::var(VARIABLE).ok().filter(|key| !key.is_empty()).map(Zeroizing::new)
}

fn pass(command: &mut Command, key: &str) -> Result<(), Failure> {
    // Longer, it might not fit into the pipe, and nobody reads yet.
    if key.len() > MAX_BYTES {
        let message = format!("${VARIABLE} is no key: it has {} bytes", key.len());
        return Err(Failure::bad_input(message).hint("Copy the key again."));
    }
    let failed = |error| Failure::unavailable("the key can't be handed over").because(error);
    let (reader, mut writer) = io::pipe().map_err(failed)?;
    writer.write_all(key.as_bytes()).map_err(failed)?;
    command.env_remove(VARIABLE).env(ON_STDIN, "1").stdin(Stdio::from(reader));
    Ok(())
}

fn receive() -> io::Result<Zeroizing<String>> {
    let mut buffer = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let mut len = 0;
    let stdin = rustix::stdio::stdin();
    while len < buffer.len() {
        match rustix::io::read(stdin, &mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let key = std::str::from_utf8(&buffer[..len]).map_err(io::Error::other)?;
    // Nothing of what is started later gets the pipe.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(Zeroizing::new(key.to_owned()))
}
