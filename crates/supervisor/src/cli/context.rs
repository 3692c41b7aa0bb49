//! What every command works with.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::args::Cli;
use super::screen::Screen;
use crate::client::Client;
use crate::failure::Failure;
use crate::install::Installation;

/// Where a command prints, and which installation it is about.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where it prints.
    pub(crate) screen: Screen,
    /// The zone in which times are shown.
    pub(crate) zone: TimeZone,
    /// How much more is logged.
    pub(crate) verbose: u8,
    dir: Option<PathBuf>,
}

impl Context {
    /// Returns what the command line says.
    pub(crate) fn new(cli: &Cli) -> Self {
        Self {
            screen: Screen::new(cli.color),
            zone: TimeZone::system(),
            verbose: cli.verbose,
            dir: cli.dir.clone(),
        }
    }

    /// Returns what a test says.
    #[cfg(test)]
    pub(crate) fn of(screen: Screen, dir: PathBuf) -> Self {
        Self { screen, zone: TimeZone::UTC, verbose: 0, dir: Some(dir) }
    }

    /// Finds the installation.
    pub(crate) fn installation(&self) -> Result<Installation, Failure> {
        Installation::find(self.dir.as_deref())
    }

    /// Returns a client of the daemon that runs here.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.installation()?).await
    }
}
