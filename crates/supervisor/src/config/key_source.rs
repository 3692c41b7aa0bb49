//! `[keys]`: where the keys to the model's API come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use protocol::WorkerId;
use toml::Spanned;

use super::file::KeysTable;
use super::place::{Place, Placed};
use crate::failure::Failure;

/// Where a key comes from, other than the environment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeySource {
    /// A file, relative to the installation.
    File(PathBuf),
    /// A program that prints it, with its arguments.
    Command(Vec<String>),
}

impl fmt::Display for KeySource {
    /// Without the arguments of a command: somebody may have written a secret there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file `{}`", path.display()),
            Self::Command(command) => {
                write!(f, "the command `{}`", command.first().map_or("", String::as_str))
            }
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({self})")
    }
}

/// What `[keys]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// The key of all workers that have none of their own; `ANTHROPIC_API_KEY` when absent.
    pub all: Option<Placed<KeySource>>,
    /// Workers with a key of their own.
    pub workers: BTreeMap<WorkerId, Placed<KeySource>>,
}

impl KeySettings {
    pub(super) fn of(text: &str, table: KeysTable) -> Result<Self, Failure> {
        let all = source(text, table.file, table.command)?;
        let mut workers = BTreeMap::new();
        for (name, own) in table.workers {
            let name = Placed::of(text, name);
            let worker = name.value.parse::<WorkerId>().map_err(|error| {
                let what = format!("`{}` can't be the name of a worker", name.value);
                name.place.refused(what).because(error).hint(NO_WORKER)
            })?;
            let own = source(text, own.file, own.command)?.ok_or_else(|| {
                let what = format!("nothing says where the key of {worker} is");
                name.place.refused(what).hint(
                    "Add `file = \"path\"` or `command = [\"program\", \"argument\"]` below it.",
                )
            })?;
            workers.insert(worker, own);
        }
        Ok(Self { all, workers })
    }

    /// Returns whether there is any key.
    pub fn is_some(&self) -> bool {
        self.all.is_some() || !self.workers.is_empty()
    }

    /// Returns all files with keys, as they are written.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let all = self.all.iter().chain(self.workers.values());
        all.filter_map(|source| match &source.value {
            KeySource::File(path) => Some(path.as_path()),
            KeySource::Command(_) => None,
        })
    }
}

/// What to do about a worker that is not there.
pub(super) const NO_WORKER: &str = "Name a folder of `workspaces/`, or take it out.";

fn source(
    text: &str,
    file: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
) -> Result<Option<Placed<KeySource>>, Failure> {
    match (file, command) {
        (None, None) => Ok(None),
        (Some(_), Some(command)) => Err(Place::of(text, command.span())
            .refused("the key can't come from a `file` and from a `command`")
            .hint("Take out one of the two.")),
        (Some(file), None) => {
            let Placed { value, place } = Placed::of(text, file);
            if value.trim().is_empty() {
                let refused = place.refused("`file` names no file");
                return Err(refused.hint("Name the file with the key, or take `file` out."));
            }
            Ok(Some(Placed { value: KeySource::File(value.into()), place }))
        }
        (None, Some(command)) => {
            let Placed { value, place } = Placed::of(text, command);
            if value.first().is_none_or(|program| program.trim().is_empty()) {
                let refused = place.refused("`command` names no program");
                return Err(refused.hint(
                    "Name a program that prints the key, and its arguments, as in \
                     [\"op\", \"read\", \"op://Studio/Anthropic/key\"].",
                ));
            }
            Ok(Some(Placed { value: KeySource::Command(value), place }))
        }
    }
}
