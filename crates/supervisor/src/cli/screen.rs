//! Where text goes: data to standard output, all else to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anstream::adapter::strip_str;
use clap::ColorChoice;

use super::Stop;
use crate::failure::Failure;

/// Standard output and standard error of this process, or what a test puts in their place.
pub(crate) struct Screen {
    out: Stream,
    err: Stream,
}

struct Stream {
    to: Box<dyn Write + Send>,
    color: bool,
    terminal: bool,
}

impl Screen {
    /// Returns the process's own.
    pub(crate) fn new(color: ColorChoice) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        Self {
            out: Stream {
                color: wants_color(color, &out),
                terminal: out.is_terminal(),
                to: Box::new(out),
            },
            err: Stream {
                color: wants_color(color, &err),
                terminal: err.is_terminal(),
                to: Box::new(err),
            },
        }
    }

    /// Returns a screen without color that writes to these two.
    #[cfg(test)]
    pub(crate) fn to(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        let plain = |to| Stream { to, color: false, terminal: false };
        Self { out: plain(Box::new(out)), err: plain(Box::new(err)) }
    }

    /// Writes data: text, with or without styles.
    pub(crate) fn out(&mut self, text: &str) -> Result<(), Stop> {
        self.out.write(text).map_err(cant_print)
    }

    /// Writes data as it is.
    pub(crate) fn out_raw(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.to.write_all(bytes).and_then(|()| self.out.to.flush()).map_err(cant_print)
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn out_json(&mut self, value: &impl serde::Serialize) -> Result<(), Stop> {
        let mut line = serde_json::to_vec(value).expect("BUG: what is printed should be JSON");
        line.push(b'\n');
        self.out_raw(&line)
    }

    /// Writes what is not data. Where nobody reads it, that is no reason to stop.
    pub(crate) fn err(&mut self, text: &str) {
        let _ = self.err.write(text);
    }

    /// Returns whether data goes to a terminal.
    pub(crate) fn out_is_terminal(&self) -> bool {
        self.out.terminal
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Stream {
    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.color {
            self.to.write_all(text.as_bytes())?;
        } else {
            self.to.write_all(strip_str(text).to_string().as_bytes())?;
        }
        self.to.flush()
    }
}

/// `auto` also obeys `NO_COLOR`, `CLICOLOR` and `TERM=dumb`.
fn wants_color(choice: ColorChoice, stream: &impl anstream::stream::RawStream) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
    }
}

fn cant_print(error: io::Error) -> Stop {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Stop::NobodyReads;
    }
    Stop::Failed(Failure::unavailable("standard output can't be written").because(error))
}
