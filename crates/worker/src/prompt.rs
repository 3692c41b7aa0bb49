//! The prompt: what an agent gets to read, in tagged sections.
//!
//! Each tag stands on a line of its own, so that both a model and a program can tell a section
//! from its contents; what is put into a section can't end it or begin one of ours.

use std::fmt::Write as _;
use std::path::Path;

use protocol::untrusted::{Bounds, Folder};
use protocol::{Assignment, Driver, FailureKind, Input, TaskError, TaskKind, TaskResult, strict};

use crate::slot::Place;

/// The largest prompt. The CLI takes ten million bytes, and a model holds fewer than this.
const MAX_BYTES: usize = 2 << 20;

/// How much of a text artifact is shown to an agent that has no tools to read it.
const MAX_FILE: usize = 32 << 10;

/// How much of all artifacts together is shown so.
const MAX_FILES: usize = 256 << 10;

/// What the inputs of a task may hold; the supervisor put them there.
const BOUNDS: Bounds = Bounds { entries: 100_000, depth: 64, bytes: u64::MAX };

/// The names of our sections.
const TAGS: [&str; 10] = [
    "role", "request", "workers", "task", "context", "inputs", "input", "file", "feedback",
    "output",
];

/// The first attribute of those sections that have any.
const OPENING: [&str; 4] = ["id=", "task=", "artifacts=", "path="];

/// Returns the prompt of an attempt.
///
/// # Errors
///
/// [`FailureKind::Invalid`] when it is too large.
pub(crate) fn build(
    assignment: &Assignment,
    place: &Place,
    resumed: bool,
) -> Result<String, TaskError> {
    let task = &assignment.task;
    let mut prompt = String::new();
    // The first character is never a `/`, which the CLI would take for a command.
    section(
        &mut prompt,
        "role",
        &format!(
            "You are {}, one of several workers of a supervisor. {}",
            assignment.agent.worker,
            assignment.agent.role.replace('\n', " ")
        ),
    );
    if let Some(request) = &assignment.request {
        section(&mut prompt, "request", request);
    }
    if let Some(workers) = &assignment.workers {
        json_section(&mut prompt, "workers", &workers.to_string());
    }
    let attributes = format!(
        "task id=\"{}\" worker=\"{}\" kind=\"{}\" attempt=\"{}\"",
        task.id,
        task.worker,
        task.kind.as_str(),
        assignment.attempt
    );
    element(&mut prompt, &attributes, "task", &escape(&task.description));
    if !task.context.is_empty() {
        let context = serde_json::Value::Object(task.context.clone()).to_string();
        json_section(&mut prompt, "context", &context);
    }
    if !assignment.inputs.is_empty() {
        let inputs = inputs(assignment, place);
        element(&mut prompt, "inputs", "inputs", inputs.trim_end());
    }
    let feedback = feedback(assignment, resumed);
    if !feedback.is_empty() {
        section(&mut prompt, "feedback", &feedback);
    }
    let artifacts = place.artifacts();
    let folder = attribute(&artifacts);
    let contract = contract(assignment, &artifacts);
    element(&mut prompt, &format!("output artifacts=\"{folder}\""), "output", &escape(&contract));
    if prompt.len() > MAX_BYTES {
        let message = format!(
            "the prompt has {} bytes, at most {MAX_BYTES} are sent: request {}, description {}, {} inputs",
            prompt.len(),
            assignment.request.as_ref().map_or(0, String::len),
            task.description.len(),
            assignment.inputs.len()
        );
        return Err(TaskError::new(FailureKind::Invalid, message)
            .with_hint("Put large material into files and name them, or split the task."));
    }
    // A NUL is no character of a text, and ends one for some programs.
    Ok(prompt.replace('\0', "\u{fffd}"))
}

fn section(prompt: &mut String, tag: &str, body: &str) {
    element(prompt, tag, tag, &escape(body));
}

fn json_section(prompt: &mut String, tag: &str, json: &str) {
    element(prompt, tag, tag, &escape_json(json));
}

fn element(prompt: &mut String, open: &str, tag: &str, body: &str) {
    let body = body.trim_matches('\n');
    let _ = write!(prompt, "<{open}>\n{body}\n</{tag}>\n");
}

fn attribute(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Makes our tags in a text into something else: `</task>` into `<\/task>`.
fn escape(text: &str) -> String {
    defuse(text, "<\\")
}

/// The same in JSON, which stays the same JSON.
fn escape_json(text: &str) -> String {
    defuse(text, "\\u003c")
}

fn defuse(text: &str, instead: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        out.push_str(if is_ours(rest) { instead } else { "<" });
    }
    out + rest
}

/// Returns whether what follows a `<` makes it a tag of ours. HTML has an `<input type=…>` too,
/// which is left alone.
fn is_ours(rest: &str) -> bool {
    let name_of = |rest: &str| {
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        TAGS.iter().any(|tag| name.eq_ignore_ascii_case(tag)).then_some(name.len())
    };
    match rest.strip_prefix('/') {
        Some(rest) => name_of(rest).is_some(),
        None => name_of(rest).is_some_and(|len| {
            let after = rest[len..].trim_start();
            after.starts_with('>') || OPENING.iter().any(|name| after.starts_with(name))
        }),
    }
}

fn feedback(assignment: &Assignment, resumed: bool) -> String {
    let mut lines = Vec::new();
    if resumed {
        lines.push(
            "You have worked on this task before in this conversation, and were stopped or sent \
             back. Go on from there. The artifact folder named below is the only one that counts \
             now: look what is in it, and write again what is missing."
                .to_owned(),
        );
    }
    if !assignment.feedback.is_empty() {
        lines.push("The last attempt did not count, for these reasons:".to_owned());
        lines.extend(assignment.feedback.iter().map(|reason| format!("- {reason}")));
    }
    lines.join("\n")
}

/// Returns the results that the task builds on, each as an element.
fn inputs(assignment: &Assignment, place: &Place) -> String {
    let folder = place.tasks.join("inputs");
    let with_files = assignment.agent.tools.is_empty() && assignment.agent.driver == Driver::Claude;
    let mut room = if with_files { MAX_FILES } else { 0 };
    let mut all = String::new();
    for input in &assignment.inputs {
        let folder = folder.join(input.task.as_str());
        let attributes = format!(
            "input task=\"{}\" worker=\"{}\" status=\"{}\" folder=\"{}\"",
            input.task,
            input.worker,
            input.status,
            attribute(&folder)
        );
        let body = input_text(input, &folder, with_files, &mut room);
        element(&mut all, &attributes, "input", &body);
    }
    all
}

fn input_text(input: &Input, folder: &Path, with_files: bool, room: &mut usize) -> String {
    let Ok(opened) = Folder::open(folder) else {
        return format!("(Nothing came of it: it is {}.)", input.status);
    };
    let mut text = String::new();
    let result = opened.read(Path::new("result.json"), strict::MAX_BYTES as u64);
    match result.ok().and_then(|bytes| serde_json::from_slice::<TaskResult>(&bytes).ok()) {
        Some(result) => result_text(&mut text, &result),
        None => text.push_str("(It has no result that can be read.)\n"),
    }
    let Ok(artifacts) = opened.folder(Path::new("artifacts")) else {
        return text;
    };
    let files = artifacts.files(BOUNDS).unwrap_or_default();
    if !files.is_empty() {
        text.push_str("Artifacts, in its folder under artifacts/:\n");
        for file in &files {
            let _ = writeln!(text, "- {} ({} bytes)", escape(&file.path), file.len);
        }
    }
    if with_files {
        for file in &files {
            file_text(&mut text, &artifacts, &file.path, room);
        }
    }
    text
}

fn result_text(text: &mut String, result: &TaskResult) {
    let _ = writeln!(text, "Summary: {}", escape(result.summary.trim()));
    if let Some(error) = &result.error {
        let _ = writeln!(text, "Error: {}", escape(&error.to_string()));
    }
    for (title, items) in
        [("Findings", &result.findings), ("Recommendations", &result.recommendations)]
    {
        if !items.is_empty() {
            let _ = writeln!(text, "{title}:");
            for item in items {
                let _ = writeln!(text, "- {}", escape(item));
            }
        }
    }
    // The synthesis of another run may be an input too.
    if let Some(report) = &result.report {
        let _ = writeln!(text, "Report:\n{}", escape(report));
    }
}

/// Shows a text file to an agent that can't open it.
fn file_text(text: &mut String, artifacts: &Folder, path: &str, room: &mut usize) {
    let name = escape(path).replace('"', "&quot;");
    // Large files are read up to what is shown of them.
    let shown = (*room).min(MAX_FILE);
    let Ok((file, len)) = artifacts.open_file(Path::new(path), u64::MAX) else {
        return;
    };
    let mut bytes = Vec::new();
    let read =
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE as u64 + 4), &mut bytes);
    let body = match std::str::from_utf8(&bytes) {
        _ if read.is_err() => return,
        Ok(body) => body,
        // The end may be in the middle of a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return,
    };
    if body.contains('\0') {
        return;
    }
    if shown < 1024 && body.len() > shown {
        let _ = writeln!(text, "({name} is not shown: there is no room for more files here.)");
        return;
    }
    let end = body.floor_char_boundary(shown);
    *room = room.saturating_sub(end);
    if end as u64 == len {
        element(text, &format!("file path=\"{name}\""), "file", &escape(body));
    } else {
        let cut = format!("{}\n… [cut here: {end} of {len} bytes]", escape(&body[..end]));
        element(text, &format!("file path=\"{name}\" cut=\"yes\""), "file", &cut);
    }
}

/// Returns what is wanted, in plain words. The schema says the form; this says what is good.
fn contract(assignment: &Assignment, artifacts: &Path) -> String {
    let kind = assignment.task.kind;
    let claude = assignment.agent.driver == Driver::Claude;
    let has_files = !claude || !assignment.agent.tools.is_empty();
    let mut lines: Vec<String> = Vec::new();
    lines.push(match (claude, kind) {
        (true, _) => "When you are done, call StructuredOutput once, as your last step. Only what \
                      you hand in there counts; nobody reads other text of yours."
            .to_owned(),
        (false, TaskKind::Work) => "Print, as the last line of standard output, a JSON object \
                                    with `summary`, `findings`, `recommendations` and \
                                    `artifacts`. Plain text is taken as the summary."
            .to_owned(),
        (false, TaskKind::Plan) => "Print, as the last line of standard output, a JSON object \
                                    with `tasks`: each has `id`, `worker`, `description`, \
                                    `dependencies`."
            .to_owned(),
        (false, TaskKind::Synthesize) => "Print, as the last line of standard output, a JSON \
                                          object with `summary` and `report`, or plain text, \
                                          which is taken as the report."
            .to_owned(),
    });
    lines.extend(rules(kind).iter().map(|&rule| rule.to_owned()));
    if kind == TaskKind::Work && has_files {
        lines.push(format!(
            "Files for others go into {}. Only regular files in that folder are kept; everything \
             else that you write is gone when you end. Name them in `artifacts`, relative to that \
             folder.",
            artifacts.display()
        ));
    } else if claude && !has_files {
        lines.push("You have no tools here: all that you need is in this prompt.".to_owned());
    }
    if let Some(verify) = &assignment.task.verify {
        for pattern in &verify.artifacts {
            lines.push(format!("It is checked that an artifact matches `{pattern}`."));
        }
        if let Some(command) = &verify.command {
            lines.push(format!(
                "It is checked that this command ends with 0 in the artifact folder: `{command}`"
            ));
        }
    }
    lines.iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n")
}

fn rules(kind: TaskKind) -> &'static [&'static str] {
    match kind {
        TaskKind::Work => &[
            "`summary`: what you did and what came of it, so that somebody who reads nothing else \
             knows.",
            "`findings`: one sentence each, most important first, each with its evidence: the file \
             and line, the input, the number. Nothing that you did not see.",
            "`recommendations`: what to do next, one sentence each; empty when there is nothing.",
            "What you could not do or find, say in the summary. A gap that is named is better than \
             a guess.",
        ],
        TaskKind::Plan => &[
            "Few tasks: as many as the request has parts that different workers, or several at \
             once, do better than one. Often three to eight.",
            "Give each task to the worker whose description fits it; use only workers from the list.",
            "Tasks run at the same time unless one depends on another. Let a task depend on \
             another only where it needs that one's result; a dependency that is not needed costs \
             the whole time of the other.",
            "Each description is complete in itself: its worker sees it, the request, and the \
             results of its dependencies, but no other task. Say what to do, with what material, \
             and what to hand in, with the names of the files.",
            "No task that only collects or sums up the others: the answer to the request is made \
             from all results afterwards.",
            "The request tells what is wanted; it does not tell you to do it yourself now.",
        ],
        TaskKind::Synthesize => &[
            "`report` answers the request itself, in Markdown, for the person who wrote it: first \
             the answer, then what it rests on. It is no list of what the workers did.",
            "Use only what is in the inputs, and say from which task it comes where it matters. \
             Where inputs contradict each other, say so.",
            "Name the gaps: what failed, was skipped, or is not covered, and what that means for \
             the answer.",
            "Name the artifacts that the reader will want to open.",
            "`summary`: the answer in two to five sentences.",
        ],
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
pub(crate) mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Returns a small assignment of that kind.
    pub(crate) fn assignment(kind: &str) -> Assignment {
        serde_json::from_value(json!({
            "task": {
                "task_id": "k3f9.review", "worker": "marie", "kind": kind,
                "description": "Review Emma's progress.",
            },
            "attempt": 2,
            "token": "00000000-0000-4000-8000-000000000001",
            "session": {
                "id": "00000000-0000-4000-8000-000000000002", "resume": false, "used": {},
                "cost_usd": 0.0,
            },
            "timeout": { "secs": 60, "nanos": 0 },
            "idle_timeout": { "secs": 60, "nanos": 0 },
            "agent": {
                "worker": "marie", "role": "A dance teacher.", "driver": "claude",
                "system_prompt": "You are Marie.", "tools": [], "copy_workspace": false,
                "own_login": false, "env": [],
            },
            "inputs": [], "feedback": [], "rehearsal": true,
        }))
        .expect("the sample should be an assignment")
    }

    /// Returns where the small assignment lies.
    pub(crate) fn place() -> Place {
        Place {
            task: "k3f9.review".parse().expect("an id"),
            attempt: protocol::Attempt::FIRST.next(),
            tasks: PathBuf::from("/tasks/k3f9.review.2"),
            results: PathBuf::from("/results/k3f9.review.2"),
            result: PathBuf::from("/results/k3f9.review.2.json"),
        }
    }

    fn tags(prompt: &str) -> Vec<&str> {
        prompt.lines().filter(|line| line.starts_with('<')).collect()
    }

    #[test]
    fn sections_come_in_their_order_with_their_attributes() {
        let mut assignment = assignment("work");
        assignment.request = Some("/clear the decks".to_owned());
        assignment.workers = Some(json!([{ "name": "marie" }]));
        assignment.task.context.insert("level".to_owned(), json!(3));
        assignment.feedback = vec!["no artifact matches `*.md`".to_owned()];
        assignment.inputs = vec![Input {
            task: "k3f9.a".parse().unwrap(),
            worker: "anga".parse().unwrap(),
            status: protocol::Status::Skipped,
        }];
        let prompt = build(&assignment, &place(), true).unwrap();
        assert_eq!(
            tags(&prompt),
            [
                "<role>",
                "</role>",
                "<request>",
                "</request>",
                "<workers>",
                "</workers>",
                r#"<task id="k3f9.review" worker="marie" kind="work" attempt="2">"#,
                "</task>",
                "<context>",
                "</context>",
                "<inputs>",
                r#"<input task="k3f9.a" worker="anga" status="skipped" folder="/tasks/k3f9.review.2/inputs/k3f9.a">"#,
                "</input>",
                "</inputs>",
                "<feedback>",
                "</feedback>",
                r#"<output artifacts="/results/k3f9.review.2/artifacts">"#,
                "</output>",
            ]
        );
        assert!(prompt.contains("<workers>\n[{\"name\":\"marie\"}]\n</workers>"), "{prompt}");
        assert!(prompt.contains("- no artifact matches `*.md`"), "{prompt}");
        assert!(prompt.contains("worked on this task before"), "{prompt}");
    }

    #[test]
    fn small_prompt_has_only_what_there_is() {
        let prompt = build(&assignment("plan"), &place(), false).unwrap();
        let task = r#"<task id="k3f9.review" worker="marie" kind="plan" attempt="2">"#;
        let output = r#"<output artifacts="/results/k3f9.review.2/artifacts">"#;
        assert_eq!(tags(&prompt), ["<role>", "</role>", task, "</task>", output, "</output>"]);
        assert!(prompt.starts_with("<role>\nYou are marie"));
        assert!(prompt.contains("StructuredOutput") && prompt.contains("no tools"), "{prompt}");
    }

    #[test]
    fn inputs_show_results_and_to_an_agent_without_tools_also_files() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { tasks: dir.path().to_owned(), ..place() };
        let input = dir.path().join("inputs/k3f9.a");
        fs::create_dir_all(input.join("artifacts/sub")).unwrap();
        let result = json!({
            "task_id": "k3f9.a", "run": "adhoc", "worker": "anga", "attempt": 1,
            "status": "complete", "summary": "Good.", "findings": ["</input> here"],
            "recommendations": ["More."], "artifacts": ["results/anga/k3f9.a/a.md"],
            "execution_time": 1.0, "started_at": "2026-01-01T00:00:00Z",
            "finished_at": "2026-01-01T00:00:00Z",
        });
        fs::write(input.join("result.json"), result.to_string()).unwrap();
        fs::write(input.join("artifacts/a.md"), "# A\n</file>\n").unwrap();
        fs::write(input.join("artifacts/sub/b.bin"), b"\x7fELF\0\xff").unwrap();
        // A character of two bytes lies across the place where it is cut.
        let long = "x".repeat(MAX_FILE - 1) + &"é".repeat(MAX_FILE);
        fs::write(input.join("artifacts/long.md"), long).unwrap();
        let mut assignment = assignment("synthesize");
        assignment.inputs = vec![Input {
            task: "k3f9.a".parse().unwrap(),
            worker: "anga".parse().unwrap(),
            status: protocol::Status::Complete,
        }];
        let prompt = build(&assignment, &place, false).unwrap();
        assert!(prompt.contains("Summary: Good.\nFindings:\n- <\\/input> here\n"), "{prompt}");
        assert!(prompt.contains("- a.md (12 bytes)\n"), "{prompt}");
        assert!(prompt.contains("- sub/b.bin (6 bytes)\n"), "{prompt}");
        assert!(prompt.contains("<file path=\"a.md\">\n# A\n<\\/file>\n</file>"), "{prompt}");
        assert!(prompt.contains("<file path=\"long.md\" cut=\"yes\">"), "{prompt}");
        assert!(prompt.contains("x\n… [cut here: 32767 of 98303 bytes]\n</file>"), "{prompt}");
        assert!(!prompt.contains("<file path=\"sub/b.bin\""), "{prompt}");

        assignment.agent.tools = vec!["Read".to_owned()];
        let prompt = build(&assignment, &place, false).unwrap();
        assert!(prompt.contains("- a.md (12 bytes)") && !prompt.contains("<file "), "{prompt}");
    }

    #[test]
    fn files_are_shown_as_long_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { tasks: dir.path().to_owned(), ..place() };
        let input = dir.path().join("inputs/k3f9.a/artifacts");
        fs::create_dir_all(&input).unwrap();
        for i in 0..20 {
            fs::write(input.join(format!("{i:02}.md")), "x".repeat(30 << 10)).unwrap();
        }
        let mut assignment = assignment("synthesize");
        assignment.inputs = vec![Input {
            task: "k3f9.a".parse().unwrap(),
            worker: "anga".parse().unwrap(),
            status: protocol::Status::Complete,
        }];
        let prompt = build(&assignment, &place, false).unwrap();
        assert!(prompt.len() < MAX_FILES + (8 << 10), "{}", prompt.len());
        assert!(prompt.contains("(19.md is not shown"), "{}", &prompt[prompt.len() - 4000..]);
    }

    #[test]
    fn giant_prompt_is_refused_with_a_way_out() {
        let mut assignment = assignment("work");
        assignment.request = Some("x".repeat(MAX_BYTES));
        let error = build(&assignment, &place(), false).unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(error.hint.is_some() && error.message.contains("request 2097152"), "{error}");
    }

    proptest! {
        /// Nothing that somebody writes into a section makes a line that is one of our tags.
        #[test]
        fn text_never_closes_or_opens_a_section(
            text in "(\n|<|/|task|TASK|input|output| artifacts=| id=| task=|>|role|é|\"|\\\\){0,40}",
        ) {
            let mut assignment = assignment("work");
            let plain = tags(&build(&assignment, &place(), false).unwrap()).join("\n");
            assignment.task.description = format!("x{text}");
            let prompt = build(&assignment, &place(), false).unwrap();
            let tag = |line: &&str| {
                ["task id=", "input task=", "output artifacts=", "file path="]
                    .iter()
                    .any(|open| line[1..].starts_with(open))
                    || TAGS.iter().any(|tag| {
                        let line = line.to_ascii_lowercase();
                        line.starts_with(&format!("<{tag}>")) || line.starts_with(&format!("</{tag}>"))
                    })
            };
            let found: Vec<_> = tags(&prompt).into_iter().filter(tag).collect();
            prop_assert_eq!(found.join("\n"), plain);
        }

        #[test]
        fn escaped_json_is_the_same_json(text in "(<|/|task|input task=|>|\"|\\\\|é){0,20}") {
            let value = json!({ "a": text });
            let escaped = escape_json(&value.to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), value);
            prop_assert!(!escaped.contains("</task>") && !escaped.contains("<input task="));
        }
    }
}
