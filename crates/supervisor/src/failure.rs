//! What a command could not do, for the person at the keyboard.

use std::error::Error;
use std::fmt;

/// What kind of failure it is; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// What was given can't be accepted: a request, a task, a plan, the configuration.
    BadInput,
    /// The daemon can't be reached, or can't start, or can't do it now.
    Unavailable,
}

/// A failure: what failed and which one, why, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
}

impl Failure {
    /// Returns a failure of bad input.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::BadInput, message: message.into(), source: None, hint: None }
    }

    /// Returns a failure to reach, start or use the daemon.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Unavailable, message: message.into(), source: None, hint: None }
    }

    /// Returns the same failure with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the same failure with what to do about it: a full sentence.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns what kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns what to do about it.
    pub fn cure(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns its causes as text, from the outermost to the innermost.
    pub fn causes(&self) -> Vec<String> {
        causes(self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|e| &**e as &(dyn Error + 'static))
    }
}

/// Returns the causes of an error as text, from the outermost to the innermost.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    causes
}
