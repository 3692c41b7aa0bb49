//! Any other program as the agent: the prompt on its standard input, its answer on its standard
//! output.

use std::path::{Path, PathBuf};

use protocol::{Assignment, FailureKind, TaskError, TaskKind};
use serde_json::Value;

use crate::child::{Pipe, Program};
use crate::delivery::Delivery;
use crate::environment;
use crate::lines::Line;
use crate::paths::Paths;
use crate::process::Ended;
use crate::slot::Place;
use crate::text;

/// How much plain text of a program is kept.
const MAX_TEXT: usize = 256 << 10;

/// Returns the program with its environment.
///
/// # Errors
///
/// [`FailureKind::Invalid`] when it can't be started as it is configured.
pub(crate) fn program(
    paths: &Paths,
    assignment: &Assignment,
    place: &Place,
    command: &[String],
    home: &Path,
    cwd: PathBuf,
    prompt: String,
) -> Result<Program, TaskError> {
    let Some((name, args)) = command.split_first() else {
        return Err(TaskError::new(FailureKind::Invalid, "the worker's command is empty")
            .with_hint("Name a program in `command` of worker.toml."));
    };
    let env = environment::of(paths, assignment, place, home, &[], &[])?;
    Ok(Program {
        name: name.into(),
        args: args.iter().map(Into::into).collect(),
        env: env.into_iter().collect(),
        cwd,
        stdin: prompt.into_bytes(),
    })
}

/// What a program has said up to now.
#[derive(Debug, Default)]
pub(crate) struct Said {
    text: String,
    len: u64,
    last: Option<Line>,
}

impl Said {
    /// Takes in a line.
    pub(crate) fn take(&mut self, pipe: Pipe, line: &Line) {
        if pipe == Pipe::Err {
            return;
        }
        self.len += line.len + 1;
        if self.text.len() < MAX_TEXT {
            self.text.push_str(&String::from_utf8_lossy(&line.bytes));
            self.text.push('\n');
        }
        if !line.bytes.trim_ascii().is_empty() {
            self.last = Some(line.clone());
        }
    }

    /// Returns what the program handed in: the object in its last line, or all of its text.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a part of a sentence.
    pub(crate) fn delivery(&self, kind: TaskKind) -> Result<Delivery, String> {
        if let Some(object) = self.last.as_ref().and_then(object)
            && let Ok(delivery) = Delivery::from_output(kind, &object)
        {
            return Ok(delivery);
        }
        let mut text = text::head(self.text.trim(), MAX_TEXT);
        if self.len > text.len() as u64 && self.text.len() >= MAX_TEXT {
            text.push_str(&format!("… [cut here; it had {} bytes]", self.len));
        }
        match kind {
            TaskKind::Work => Ok(Delivery { summary: text, ..Delivery::default() }),
            TaskKind::Plan => Err("its last line is no JSON object with `tasks`".to_owned()),
            TaskKind::Synthesize if text.is_empty() => Err("it printed nothing".to_owned()),
            TaskKind::Synthesize => Ok(Delivery {
                summary: text::first_line(&text, 1000),
                report: Some(text),
                ..Delivery::default()
            }),
        }
    }
}

fn object(line: &Line) -> Option<Value> {
    serde_json::from_slice(&line.bytes).ok().filter(Value::is_object)
}

/// Returns why a program did not succeed.
pub(crate) fn failure(name: &str, ended: Option<Ended>, stderr: &str) -> Option<TaskError> {
    match ended {
        Some(Ended::Code(0)) => None,
        // So says a shell of a program that it can't start.
        Some(Ended::Code(code @ (126 | 127))) => {
            let said = text::first_line(stderr, 2000);
            let message =
                format!("`{name}` ended with code {code}, as if a program were missing: {said}");
            Some(
                TaskError::new(FailureKind::Invalid, message).with_hint(
                    "Check `command` in worker.toml, and that the image has the program.",
                ),
            )
        }
        _ => Some(crate::failure::ended_badly(&format!("`{name}`"), ended, stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        for line in text.lines() {
            let bytes = line.as_bytes().to_vec();
            said.take(Pipe::Out, &Line { len: bytes.len() as u64, bytes });
        }
        said
    }

    #[test]
    fn object_in_the_last_line_is_the_delivery() {
        let text = "working\n{\"summary\":\"done\",\"findings\":[\"f\"]}\n\n";
        let delivery = said(text).delivery(TaskKind::Work).unwrap();
        assert_eq!((delivery.summary.as_str(), delivery.findings.len()), ("done", 1));
        let plan = said("{\"tasks\":[{\"id\":\"a\"}]}").delivery(TaskKind::Plan).unwrap();
        assert!(plan.plan.is_some());
    }

    #[test]
    fn text_is_the_summary_or_the_report() {
        let text = "first\n{\"other\": 1}\n";
        assert_eq!(said(text).delivery(TaskKind::Work).unwrap().summary, text.trim());
        let report = said(text).delivery(TaskKind::Synthesize).unwrap();
        assert_eq!(
            (report.summary.as_str(), report.report.as_deref()),
            ("first", Some(text.trim()))
        );
        assert!(said(text).delivery(TaskKind::Plan).is_err());
        assert!(said("").delivery(TaskKind::Synthesize).is_err());
    }

    #[test]
    fn missing_program_is_not_tried_again() {
        assert_eq!(failure("x", Some(Ended::Code(0)), ""), None);
        let kind = |code| failure("x", Some(Ended::Code(code)), "sh: y: not found").unwrap().kind;
        assert_eq!((kind(127), kind(1)), (FailureKind::Invalid, FailureKind::BadOutput));
    }
}
