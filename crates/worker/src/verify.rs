//! The checks that a task brings along.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use globset::GlobBuilder;
use protocol::{FailureKind, TaskError, Verify};

use crate::child::{self, Clocks, Program, Stop, Watch};
use crate::environment::Environment;
use crate::process::{Ended, Processes};
use crate::text;

/// How long the task's command may take: what its format promises.
const LIMIT: Duration = Duration::from_secs(60);

/// How long the command may take when the attempt has used up its own time.
const OVERTIME: Duration = Duration::from_secs(3);

/// How much of the end of the command's output is shown.
const SHOWN: usize = 2000;

/// Why a check did not pass.
#[derive(Debug)]
pub(crate) enum Unverified {
    /// It failed.
    Failed(TaskError),
    /// The attempt was stopped meanwhile.
    Stopped(Stop),
}

/// Checks that each pattern matches one of the artifacts.
///
/// # Errors
///
/// [`FailureKind::Unverified`], or [`FailureKind::Invalid`] for what is no pattern.
pub(crate) fn patterns(verify: &Verify, artifacts: &[String]) -> Result<(), TaskError> {
    let mut unmatched = Vec::new();
    for pattern in &verify.artifacts {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(|error| {
            let message = format!(
                "`{pattern}` in the task's `verify.artifacts` is no pattern: {}",
                error.kind()
            );
            TaskError::new(FailureKind::Invalid, message).with_hint("Correct the task.")
        })?;
        let glob = glob.compile_matcher();
        if !artifacts.iter().any(|artifact| glob.is_match(artifact)) {
            unmatched.push(format!("`{pattern}`"));
        }
    }
    if unmatched.is_empty() {
        return Ok(());
    }
    let have = match artifacts {
        [] => "there is no artifact".to_owned(),
        some => format!("there is {}", text::head(&some.join(", "), SHOWN)),
    };
    let message = format!("no artifact matches {}: {have}", unmatched.join(", "));
    Err(TaskError::new(FailureKind::Unverified, message))
}

/// Runs the task's command in the artifact folder; it must end with 0.
///
/// # Errors
///
/// See [`Unverified`].
pub(crate) fn command(
    command: &str,
    folder: &Path,
    env: &Environment,
    processes: &Processes,
    watch: Watch<'_>,
    attempt_ends: Instant,
) -> Result<(), Unverified> {
    let program = Program {
        name: "sh".into(),
        args: ["-c", command].map(OsString::from).to_vec(),
        env: env.clone().into_iter().collect(),
        cwd: folder.to_owned(),
        stdin: Vec::new(),
    };
    // The supervisor does not wait much longer for a result than the attempt may take.
    let (own, outer) = (Instant::now() + LIMIT, attempt_ends + OVERTIME);
    let clocks =
        Clocks { deadline: own.min(outer), idle: None, first_line: None, stderr_counts: false };
    let output = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&output);
    let outcome = child::run(
        processes,
        &program,
        clocks,
        watch,
        Box::new(move |_, line| {
            let mut output = sink.lock().unwrap_or_else(PoisonError::into_inner);
            let start = line.bytes.len().saturating_sub(SHOWN);
            output.push_str(&String::from_utf8_lossy(&line.bytes[start..]));
            output.push('\n');
            if output.len() > 4 * SHOWN {
                *output = text::tail(&output, SHOWN).to_owned();
            }
            None
        }),
    );
    let shown = |end: &str| {
        let output = output.lock().unwrap_or_else(PoisonError::into_inner);
        let output = text::tail(output.trim(), SHOWN);
        let output = if output.is_empty() { String::new() } else { format!(": {output}") };
        let command = text::head(command, SHOWN);
        Unverified::Failed(TaskError::new(
            FailureKind::Unverified,
            format!("the task's check `{command}` {end}{output}"),
        ))
    };
    let outcome = outcome.map_err(|error| {
        let message = format!("the task's check can't be started with `sh`: {error}");
        Unverified::Failed(
            TaskError::new(FailureKind::Invalid, message)
                .with_hint("Use an image with a shell, or leave out `verify.command`."),
        )
    })?;
    match (outcome.stopped, outcome.ended) {
        (Some(Stop::Timeout), _) if own <= outer => {
            Err(shown(&format!("took more than {} s", LIMIT.as_secs())))
        }
        (Some(stop), _) => Err(Unverified::Stopped(stop)),
        (None, Some(Ended::Code(0))) => Ok(()),
        (None, Some(Ended::Code(code))) => Err(shown(&format!("ended with code {code}"))),
        (None, Some(Ended::Signal(signal))) => Err(shown(&format!("was ended by signal {signal}"))),
        (None, None) => Err(shown("could not be ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], artifacts: &[&str]) -> Result<(), TaskError> {
        let own = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        super::patterns(&Verify { artifacts: own(patterns), command: None }, &own(artifacts))
    }

    #[test]
    fn each_pattern_needs_a_match() {
        assert_eq!(check(&["*.md", "data/**/*.csv"], &["a.md", "data/x/y.csv"]), Ok(()));
        let error = check(&["*.md", "*.csv"], &["sub/a.md", "b.csv"]).unwrap_err();
        assert_eq!(error.kind, FailureKind::Unverified);
        assert_eq!(error.message, "no artifact matches `*.md`: there is sub/a.md, b.csv");
        assert_eq!(check(&["[z"], &[]).unwrap_err().kind, FailureKind::Invalid);
    }
}
