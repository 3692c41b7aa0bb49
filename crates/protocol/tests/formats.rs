//! The published formats: every example that was ever published is read for ever, and each format
//! has examples that show all of it. A file under `examples/formats/` is never changed; what a
//! format gains is shown by a further file.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use protocol::{
    Plan, PlanLimits, Priority, Record, RunId, TaskFile, TaskResult, WorkerConfig, WorkerId,
    schema, strict,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[test]
fn every_published_task_is_read() {
    each::<TaskFile>("task");
    for path in published("task") {
        let task = read::<TaskFile>(&path).into_task(None);
        task.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert_shown("task", &shown("task"));
}

#[test]
fn every_published_result_is_read() {
    each::<TaskResult>("result");
    assert_shown("result", &shown("result"));
}

#[test]
fn every_published_plan_is_read() {
    each::<Plan>("plan");
    for path in published("plan") {
        assert_resolves(&path);
    }
    assert_shown("plan", &shown("plan"));
}

#[test]
fn every_published_event_is_read() {
    each::<Record>("event");
    let schema = schema_of("event");
    let kinds = schema["oneOf"].as_array().expect("an event should be one of several");
    let known = kinds.iter().filter_map(|kind| kind["properties"]["event"]["const"].as_str());
    let known: BTreeSet<_> = known.collect();
    let events: Vec<Value> = published("event").iter().flat_map(|path| values(path)).collect();
    let seen: BTreeSet<_> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(seen, known, "examples/formats/ should show each kind of event");
    assert_shown("event", &shown("event"));
}

#[test]
fn every_published_worker_is_read() {
    let mut seen = BTreeSet::new();
    for path in published("worker") {
        worker(&path);
        let fields: Value = toml::from_str(&text(&path)).expect("it was just read");
        names(&fields, &mut seen);
    }
    assert_shown("worker", &seen);
}

#[test]
fn every_worker_of_the_installation_is_read() {
    for name in workers() {
        let folder = root().join("workspaces").join(name.as_str());
        let config = worker(&folder.join("worker.toml"));
        let prompt = config.system_prompt.expect("our workers should have a system prompt");
        assert!(folder.join(&prompt).is_file(), "{name} has no {prompt}");
    }
}

#[test]
fn plan_of_the_examples_is_read() {
    assert_resolves(&root().join("examples/plan.json"));
}

#[test]
fn dropped_tasks_of_the_examples_are_read() {
    let marie: WorkerId = "marie".parse().expect("it should be an id");
    let paths = files(&root().join("examples/drop"), "");
    let ids: BTreeSet<_> = paths.iter().map(|path| read::<TaskFile>(path).task_id).collect();
    for path in &paths {
        let task = read::<TaskFile>(path).into_task(Some(&marie));
        let task = task.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(task.id.as_str()));
        assert!(task.dependencies.iter().all(|id| ids.contains(id)), "{}", path.display());
    }
    // The point of the example: they are dropped in an order in which they can't run.
    let first = read::<TaskFile>(paths.first().expect("there should be examples"));
    assert!(!first.dependencies.is_empty(), "the first by name should wait for a later one");
}

/// Reads each published example and checks that what is written of it is read back the same.
fn each<T: DeserializeOwned + Serialize + Debug>(format: &str) {
    let paths = published(format);
    assert!(!paths.is_empty(), "there is no example of `{format}`");
    for path in paths {
        for line in lines(&path) {
            let first: T = parse(&path, line.as_bytes());
            let written = serde_json::to_string(&first).expect("a format should be writable");
            let second: T = parse(&path, written.as_bytes());
            assert_eq!(format!("{first:?}"), format!("{second:?}"), "{}", path.display());
        }
    }
}

/// Asserts that each field of a format, at any depth, is in an example.
fn assert_shown(format: &str, seen: &BTreeSet<String>) {
    let mut known = BTreeSet::new();
    properties(&schema_of(format), &mut known);
    let missing: Vec<_> = known.difference(seen).collect();
    assert!(missing.is_empty(), "no example of `{format}` shows {missing:?}");
}

/// Collects the names of the fields that a schema describes.
fn properties(schema: &Value, known: &mut BTreeSet<String>) {
    match schema {
        Value::Object(parts) => {
            if let Some(Value::Object(fields)) = parts.get("properties") {
                known.extend(fields.keys().cloned());
            }
            parts.values().for_each(|part| properties(part, known));
        }
        Value::Array(parts) => parts.iter().for_each(|part| properties(part, known)),
        _ => {}
    }
}

fn shown(format: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for value in published(format).iter().flat_map(|path| values(path)) {
        names(&value, &mut seen);
    }
    seen
}

/// Collects the names of the fields in an example.
fn names(value: &Value, seen: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            seen.extend(fields.keys().cloned());
            fields.values().for_each(|field| names(field, seen));
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, seen)),
        _ => {}
    }
}

fn assert_resolves(path: &Path) {
    let limits = PlanLimits { tasks: 20, depth: 5 };
    let run: RunId = "01a1f84a-95c0-7c3a-9b1e-4d5f60718a93".parse().expect("it should be a run");
    let short = run.short(|_| false);
    let plan: Plan = read(path);
    let tasks = plan.resolve(run, &short, Priority::Medium, &workers(), limits);
    assert!(tasks.is_ok(), "{}: {tasks:?}", path.display());
}

fn worker(path: &Path) -> WorkerConfig {
    WorkerConfig::from_toml(&text(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn workers() -> Vec<WorkerId> {
    let folders = fs::read_dir(root().join("workspaces")).expect("there should be workspaces");
    let folders = folders.map(|entry| entry.expect("a folder should be readable"));
    let workers = folders.filter(|entry| entry.path().join("worker.toml").is_file());
    let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    workers.map(|entry| name(entry).expect("a worker's folder should be named by an id")).collect()
}

fn schema_of(format: &str) -> Value {
    let text = schema::json_schema(format).expect("the format should be known");
    serde_json::from_str(&text).expect("a schema should be JSON")
}

/// Returns the published examples of a format, of all versions.
fn published(format: &str) -> Vec<PathBuf> {
    let versions = fs::read_dir(root().join("examples/formats")).expect("there should be formats");
    let versions = versions.map(|entry| entry.expect("a folder should be readable").path());
    versions.filter(|path| path.is_dir()).flat_map(|path| files(&path, format)).collect()
}

/// Returns the files whose names begin so, by name.
fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("a folder should be readable").path()).collect();
    paths.retain(|path| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix))
    });
    paths.sort();
    paths
}

/// Returns the texts in a file that are read by themselves: its lines, or all of it.
fn lines(path: &Path) -> Vec<String> {
    let text = text(path);
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        text.lines().map(str::to_owned).collect()
    } else {
        vec![text]
    }
}

fn values(path: &Path) -> Vec<Value> {
    lines(path).iter().map(|line| parse(path, line.as_bytes())).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    parse(path, text(path).as_bytes())
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> T {
    strict::from_slice(text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The journal is read again at each start: a number that drifts would make the same task another one.
#[test]
fn numbers_are_read_back_as_they_were_written() {
    let long = format!("{}0", "1".repeat(257));
    for number in
        ["0.1", "1.7976931348623157e308", "122.416294033786585", "2.2250738585072014e-308", &long]
    {
        let text = format!(
            "{{\"task_id\": \"a\", \"worker\": \"marie\", \"description\": \"x\", \"context\": {{\"n\": {number}}}}}"
        );
        let file: protocol::TaskFile = strict::from_slice(text.as_bytes()).unwrap();
        let task = file.into_task(None).unwrap();
        let again: protocol::Task =
            serde_json::from_slice(&serde_json::to_vec(&task).unwrap()).unwrap();
        assert_eq!(again, task, "{number}");
    }
}
