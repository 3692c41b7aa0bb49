//! What a task wants to find among the artifacts.

use globset::GlobBuilder;
use protocol::{FailureKind, Status, TaskError, TaskResult, Verify};

/// How much of the list of the artifacts is told.
const SHOWN: usize = 2000;

/// Checks that each pattern matches one of the artifacts.
///
/// # Errors
///
/// [`FailureKind::Unverified`], or [`FailureKind::Invalid`] for what is no pattern.
pub(super) fn patterns(verify: &Verify, artifacts: &[String]) -> Result<(), TaskError> {
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
        some => {
            let mut list = some.join(", ");
            if list.len() > SHOWN {
                list.truncate(list.floor_char_boundary(SHOWN));
                list.push('…');
            }
            format!("there is {list}")
        }
    };
    let message = format!("no artifact matches {}: {have}", unmatched.join(", "));
    Err(TaskError::new(FailureKind::Unverified, message))
}

/// Returns the report of an attempt that says that it is complete, and is not.
pub(crate) fn refuted(report: TaskResult, status: Status, error: TaskError) -> TaskResult {
    TaskResult {
        status,
        summary: error.message.clone(),
        findings: Vec::new(),
        recommendations: Vec::new(),
        artifacts: Vec::new(),
        plan: None,
        report: None,
        error: Some(error),
        ..report
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
