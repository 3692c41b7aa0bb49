//! What the journals tell of runs that may be long over. No daemon is needed, and one may be at work.

use std::io;

use protocol::{Event, Record, RunId, ShortRunId};

use super::target;
use crate::failure::{Failure, causes};
use crate::install::Installation;
use crate::journal::{self, JournalError, Told};

/// All journals of an installation, as far as they are whole.
#[derive(Debug)]
pub(crate) struct History {
    runs: Vec<Told>,
}

/// A run and what has happened in it, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story<'a> {
    /// The run.
    pub(crate) run: RunId,
    /// Its short form.
    pub(crate) short: &'a ShortRunId,
    /// Its journal. The first that matters is its opening.
    pub(crate) records: &'a [Record],
}

impl History {
    /// Reads the journals.
    ///
    /// # Errors
    ///
    /// Unavailable when the folder of the runs can't be read.
    pub(crate) fn read(installation: &Installation) -> Result<Self, Failure> {
        match journal::look(installation) {
            Ok(runs) => Ok(Self { runs }),
            Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self { runs: Vec::new() })
            }
            Err(error) => Err(cant_read(&error)),
        }
    }

    /// Returns the run of that id or short form.
    ///
    /// # Errors
    ///
    /// Bad input when there is none; unavailable when its journal can't be read.
    pub(crate) fn find(&self, name: &str) -> Result<Story<'_>, Failure> {
        let name = target::name(name)?;
        for (run, told) in &self.runs {
            let is_id = run.to_string() == name;
            match told {
                Ok(records) => match short_form(records) {
                    Some(short) if is_id || short.as_str() == name => {
                        return Ok(Story { run: *run, short, records });
                    }
                    _ => {}
                },
                Err(error) if is_id => return Err(cant_read(error)),
                Err(_) => {}
            }
        }
        // It may be one of those that can't be read: their short forms are not known.
        match self.unread().next() {
            Some(error) => Err(cant_read(error)),
            None => Err(Failure::bad_input(format!("there is no run `{name}`"))
                .hint("`supervisor status` shows the names of runs.")),
        }
    }

    /// Returns what has happened in all runs that can be read, in order.
    pub(crate) fn all(&self) -> Vec<(RunId, &Record)> {
        let runs = self.runs.iter().filter_map(|(run, told)| Some((*run, told.as_ref().ok()?)));
        let mut all: Vec<_> =
            runs.flat_map(|(run, records)| records.iter().map(move |r| (run, r))).collect();
        all.sort_by_key(|(_, record)| record.seq);
        all
    }

    /// Returns why some journals can't be read.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &JournalError> {
        self.runs.iter().filter_map(|(_, told)| told.as_ref().err())
    }
}

fn short_form(records: &[Record]) -> Option<&ShortRunId> {
    records.iter().find_map(|record| match &record.event {
        Event::RunOpened { short, .. } => Some(short),
        _ => None,
    })
}

fn cant_read(error: &JournalError) -> Failure {
    let causes = std::iter::once(error.to_string()).chain(causes(error));
    Failure::unavailable("the journal can't be used")
        .because(causes.collect::<Vec<_>>().join(": "))
        .hint(error.hint())
}
