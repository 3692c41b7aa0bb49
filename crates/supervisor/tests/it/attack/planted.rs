//! What an attempt writes where a later one reads: with the real CLI, the requests and the environment of the next
//! attempts are the same, byte by byte, as if it had written nothing.

use std::collections::BTreeMap;

use supervisor::api::types::TaskStatus;

use super::upstream::Recorder;
use super::{Attack, Life};

/// The first task runs a command, and the later ones look around: what they see is in the request that follows.
const SCENARIO: &str = r#"
    [[rule]]
    match = { worker = "reader", task = "first", turn = 0 }
    [rule.answer]
    tool_use = [{ name = "Bash", input = { command = "/workspace/hostile FIRST", description = "Work" } }]

    [[rule]]
    match = { worker = "reader", turn = 0 }
    [rule.answer]
    tool_use = [{ name = "Bash", input = { command = "/workspace/hostile look", description = "Look" } }]

    [[rule]]
    match = { worker = "reader" }
    [rule.answer.structured]
    summary = "It was read."
    findings = []
    recommendations = []
    artifacts = []
"#;

/// The rows, and how that kind is marked by who plants it.
const KINDS: [(&str, &[&str]); 14] = [
    ("planted-settings", &["PLANTED_SETTING", "PLANTED-env"]),
    ("planted-headers", &["PLANTED-header"]),
    ("planted-hooks", &["PLANTED-hook"]),
    ("planted-memory", &["MEMORY.md", "PLANTED-memory", "PLANTED-projects"]),
    ("planted-claude-md", &["PLANTED-CLAUDE", "PLANTED-AGENTS", "PLANTED-rules"]),
    ("planted-agents", &["PLANTED-agents"]),
    ("planted-skills", &["PLANTED-skills", "PLANTED-commands"]),
    ("planted-styles", &["PLANTED-output-styles", "PLANTED-language", "PLANTED-instructions"]),
    ("planted-programs", &["PLANTED-git", "PLANTED-function", "planted-bin"]),
    (
        "planted-shell-files",
        &["PLANTED_SCRIPT", "PLANTED-shell-snapshots", "PLANTED-.bash", "PLANTED-.profile"],
    ),
    ("planted-git-settings", &["PLANTED-alias", "PLANTED-user"]),
    ("planted-session-environment", &["PLANTED-session-env"]),
    ("planted-output-limit", &["\"max_tokens\":1234"]),
    ("planted-files", &["found /"]),
];

#[test]
fn docker_resident_container_shows_the_next_tasks_nothing_that_was_planted() {
    show_nothing(
        "docker_resident_container_shows_the_next_tasks_nothing_that_was_planted",
        Life::Resident,
    );
}

#[test]
fn docker_fresh_container_shows_its_task_nothing_that_was_planted() {
    show_nothing("docker_fresh_container_shows_its_task_nothing_that_was_planted", Life::Fresh);
}

fn show_nothing(test: &'static str, life: Life) {
    let Some((_, honest)) = run(test, life, "look") else { return };
    let Some((mut attack, attacked)) = run(test, life, "plant") else {
        return;
    };
    for (row, marks) in KINDS {
        let has_one = |text: &&String| marks.iter().any(|mark| text.contains(mark));
        let seen = attacked.values().flatten().find(has_one);
        let saw = seen.map(|text| around(text, marks)).unwrap_or_default();
        attack.verdicts.say(row, seen.is_none(), &saw);
    }
    let difference = honest.iter().find_map(|(task, requests)| {
        let others = attacked.get(task).map_or(&[][..], Vec::as_slice);
        let pairs = requests.iter().zip(others);
        let first = pairs.enumerate().find(|(_, (a, b))| a != b);
        match first {
            Some((number, (a, b))) => Some(format!("{task}, request {number}: {}", differs(a, b))),
            None if requests.len() != others.len() => {
                Some(format!("{task}: {} requests, not {}", others.len(), requests.len()))
            }
            None => None,
        }
    });
    let saw = difference.clone().unwrap_or_else(|| "the same, byte by byte".to_owned());
    attack.verdicts.say("planted-requests", difference.is_none(), &saw);
    attack.verdicts.finish();
}

/// Has a first task do something, then two of the same worker at once look around, and returns the requests of
/// those two, without what differs from one run to the next.
fn run(
    test: &'static str,
    life: Life,
    first: &str,
) -> Option<(Attack, BTreeMap<String, Vec<String>>)> {
    let attack = Attack::of(test)?;
    let settings = format!(
        "description = \"Reads.\"\nmodel = \"claude-sonnet-5-5\"\nreplicas = 2\ntools = [\"Bash\", \"Read\"]\n{}",
        life.setting(&attack.world)
    );
    attack.world.write("workspaces/reader/worker.toml", &settings);
    attack.add_hostile("reader");
    let recorder = Recorder::start(&SCENARIO.replace("FIRST", first));
    let world = attack.world.start_with_upstream(&recorder.address);
    let attack = Attack { world, ..attack };
    attack.world.add("reader", "first", "Read the first page", &[]);
    assert_eq!(attack.world.ended(&["first"]), [TaskStatus::Complete]);
    for task in ["second", "third"] {
        attack.world.add("reader", task, "Read another page", &[]);
    }
    assert_eq!(attack.world.ended(&["second", "third"]), [TaskStatus::Complete; 2]);
    let mut requests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for sent in recorder.messages() {
        for task in ["second", "third"] {
            if sent.body.contains(&format!("id=\\\"{task}\\\"")) {
                let text = without_numbers(&format!("{}\n{}", sent.head, sent.body));
                requests.entry(task.to_owned()).or_default().push(text);
            }
        }
    }
    assert_eq!(requests.len(), 2, "each of the two should have asked: {:?}", requests.keys());
    Some((attack, requests))
}

/// Replaces what is drawn anew for each run: ids, and on which of the two replicas a task was.
fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let is_id = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase() || c == '-';
    while !rest.is_empty() {
        let end = rest.find(|c| !is_id(c)).unwrap_or(rest.len());
        let (run, more) = rest.split_at(end);
        out.push_str(if run.len() >= 16 { "#" } else { run });
        let step = more.chars().next().map_or(0, char::len_utf8);
        out.push_str(&more[..step]);
        rest = &more[step..];
    }
    let out = out.replace("reader-1", "reader-N").replace("reader-2", "reader-N");
    // The CLI tells its commands the number of its process, and names a socket by it.
    let out = without_digits_after(&without_digits_after(&out, "/cc-socks/"), "CLAUDE_PID=");
    let lines = out.lines().filter(|line| !is_drawn(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces the number that follows each of these marks.
fn without_digits_after(text: &str, mark: &str) -> String {
    let parts = text.split(mark).map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
    let mut parts = parts.collect::<Vec<_>>();
    // What comes before the first mark stays as it is.
    if let (Some(first), Some(whole)) = (parts.first_mut(), text.split(mark).next()) {
        *first = whole;
    }
    parts.join(&format!("{mark}N"))
}

/// Returns whether a header says what is another in each run: the port of the API, and how long the ids make a body.
fn is_drawn(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.starts_with("content-length:") || line.starts_with("host:")
}

/// Returns what stands around the first of the marks.
fn around(text: &str, marks: &[&str]) -> String {
    let at = marks.iter().find_map(|mark| text.find(mark)).unwrap_or(0);
    let (from, to) =
        (text.floor_char_boundary(at.saturating_sub(60)), text.floor_char_boundary(at + 140));
    text[from..to].to_owned()
}

/// Returns where two texts begin to differ.
fn differs(a: &str, b: &str) -> String {
    let at = a.bytes().zip(b.bytes()).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let cut = |text: &str| {
        let (from, to) =
            (text.floor_char_boundary(at.saturating_sub(60)), text.floor_char_boundary(at + 100));
        text[from.min(to)..to].to_owned()
    };
    format!("`{}` became `{}`", cut(a), cut(b))
}
