//! The log on standard error.

use std::io::{self, IsTerminal, Write};

use clap::ColorChoice;
use tracing_subscriber::EnvFilter;

/// Starts logging. A daemon tells what somebody asked for; another command only what is wrong.
pub(crate) fn start(verbose: u8, is_daemon: bool, color: ColorChoice) {
    let level = match u8::from(is_daemon) + verbose {
        0 => "warn",
        1 => "info",
        2 => "info,supervisor=debug,gateway=debug,rehearsal=debug,scheduler=debug",
        _ => "debug",
    };
    let asked = std::env::var("SUPERVISOR_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = asked.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        let note = "the log is as without it";
        let _ = writeln!(io::stderr(), "Note: SUPERVISOR_LOG is not a filter ({error}); {note}.");
        EnvFilter::new(level)
    });
    let ansi = match color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(ansi);
    // By default a line that can't be written is complained of with `eprintln!`, which then panics: a full
    // disk with the log on it would end the daemon.
    let log = log.log_internal_errors(false);
    // In a test there may be one already.
    let _ = log.with_env_filter(filter).with_target(is_daemon).try_init();
}
