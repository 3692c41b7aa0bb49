//! Why a scenario can't be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a scenario can't be used.
///
/// `Display` says what is wrong and where; [`hint`](Self::hint) what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file can't be read.
    #[error("cannot read scenario `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file's name doesn't say whether it is TOML or JSON.
    #[error("scenario `{}` is neither .toml nor .json", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The text is not in the format of a scenario.
    #[error("{origin}, line {line}: {problem}")]
    Malformed {
        /// Where the text came from.
        origin: Origin,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A rule is well-formed, but makes no sense.
    #[error("{origin}, rule {rule}: `{field}` {problem}")]
    BadRule {
        /// Where the text came from.
        origin: Origin,
        /// The rule's name, else its number from 1.
        rule: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        cure: &'static str,
    },
}

impl ScenarioError {
    /// Returns what the author of the scenario can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "Check the path and that you may read the file.",
            Self::UnknownFormat { .. } => "Rename the file to end in .toml or .json.",
            Self::Malformed { .. } => {
                "Correct that line; the fields of a scenario are listed in SCENARIOS.md."
            }
            Self::BadRule { cure, .. } => cure,
        }
    }

    pub(super) fn malformed(origin: &Origin, line: usize, problem: &str) -> Self {
        // Some parsers end their first line with a list over further lines.
        let problem = problem.lines().collect::<Vec<_>>().join(" ");
        Self::Malformed { origin: origin.clone(), line, problem }
    }
}

/// Where a scenario came from: a file, or a text given by the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(Option<PathBuf>);

impl Origin {
    pub(super) fn file(path: &Path) -> Self {
        Self(Some(path.to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "scenario `{}`", path.display()),
            None => f.write_str("scenario"),
        }
    }
}

/// What is wrong with a rule, before it is known which rule it is.
#[derive(Debug)]
pub(super) struct BadField {
    pub(super) field: &'static str,
    pub(super) problem: String,
    pub(super) cure: &'static str,
}

impl BadField {
    pub(super) fn new(field: &'static str, problem: impl Into<String>, cure: &'static str) -> Self {
        Self { field, problem: problem.into(), cure }
    }
}
