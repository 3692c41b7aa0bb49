//! The targets.

use std::str::FromStr;

use protocol::strict::{self, ParseFault};
use protocol::{
    Assignment, HostName, HostRule, InvalidId, Plan, PlanLimits, Priority, ReplicaId, RunId,
    TaskFile, TaskId, TaskResult, Time, Token, WorkerConfig, WorkerId,
};

use crate::{Target, intake};

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "task", take: task },
    Target { name: "plan", take: plan },
    Target { name: "result", take: result },
    Target { name: "worker", take: worker },
    Target { name: "config", take: supervisor::fuzzing::config },
    Target { name: "journal", take: supervisor::fuzzing::journal },
    Target { name: "ledger", take: gateway::fuzzing::ledger },
    Target { name: "hosts", take: hosts },
    Target { name: "ids", take: ids },
    Target { name: "time", take: time },
    Target { name: "key", take: supervisor::fuzzing::key },
    Target { name: "transcript", take: supervisor::fuzzing::transcript },
    Target { name: "meter", take: gateway::fuzzing::meter },
    Target { name: "ask", take: gateway::fuzzing::ask },
    Target { name: "limits", take: gateway::fuzzing::limits },
    Target { name: "hello", take: gateway::fuzzing::client_hello },
    Target { name: "http", take: gateway::fuzzing::http },
    Target { name: "assignment", take: assignment },
    Target { name: "slot", take: intake::slot },
];

/// A fault has to say what is wrong and what to do about it, whatever it quotes.
fn shown(fault: &ParseFault) {
    assert!(!fault.to_string().is_empty() && !fault.hint().is_empty());
}

fn task(bytes: &[u8]) {
    let folder = WorkerId::from_str("marie").ok();
    match strict::from_slice::<TaskFile>(bytes) {
        Ok(file) => match file.into_task(folder.as_ref()) {
            Ok(task) => {
                // What is accepted is written into the journal, and read again.
                let json = serde_json::to_vec(&task).unwrap_or_else(|e| panic!("BUG: {e}"));
                let again = serde_json::from_slice(&json).unwrap_or_else(|e| panic!("BUG: {e}"));
                assert_eq!(task, again);
            }
            Err(invalid) => assert!(!invalid.to_string().is_empty() && !invalid.hint().is_empty()),
        },
        Err(fault) => shown(&fault),
    }
}

fn plan(bytes: &[u8]) {
    match strict::from_slice::<Plan>(bytes) {
        Ok(plan) => {
            let run = RunId::from_str("0199a3c4-5a3c-7000-8000-000000000000");
            let short = "k3f9".parse();
            let (Ok(run), Ok(short)) = (run, short) else { panic!("BUG: not a run") };
            let limits = PlanLimits { tasks: 50, depth: 10 };
            let workers: Vec<_> =
                plan.tasks.iter().map(|task| task.worker.clone()).take(3).collect();
            match plan.resolve(run, &short, Priority::Medium, &workers, limits) {
                Ok(tasks) => assert!(!tasks.is_empty() && tasks.len() <= limits.tasks),
                Err(faults) => assert!(faults.iter().all(|fault| !fault.to_string().is_empty())),
            }
        }
        Err(fault) => shown(&fault),
    }
}

fn result(bytes: &[u8]) {
    match strict::from_slice::<TaskResult>(bytes) {
        Ok(result) => {
            let json = serde_json::to_vec(&result).unwrap_or_else(|e| panic!("BUG: {e}"));
            if let Err(fault) = strict::from_slice::<TaskResult>(&json) {
                // What escaping has made too large is no contradiction.
                assert!(matches!(fault, ParseFault::TooLarge { .. }), "{fault}");
            }
        }
        Err(fault) => shown(&fault),
    }
}

fn worker(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = WorkerConfig::from_toml(text) {
        assert!(!error.to_string().is_empty());
    }
}

fn hosts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        match (HostRule::from_str(line), HostName::normalise(line)) {
            (Ok(rule), _) => {
                let again = HostRule::from_str(&rule.to_string());
                assert!(
                    again.is_ok_and(|again| again == rule),
                    "{rule} is another rule when it is read again"
                );
            }
            (Err(error), _) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(name) = HostName::normalise(line) {
            let again = HostName::normalise(name.as_str());
            assert!(again.is_ok_and(|again| again == name), "{name:?} has two spellings");
        }
    }
}

fn ids(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let component = |id: &str| {
        let is_one = std::path::Path::new(id).components().count() == 1;
        assert!(is_one && !id.starts_with('.') && !id.contains('/') && id.len() <= 128, "{id:?}");
    };
    let shown = |error: InvalidId| assert!(!error.to_string().is_empty());
    for line in text.lines() {
        line.parse::<TaskId>().map_or_else(shown, |id| component(id.as_str()));
        line.parse::<WorkerId>().map_or_else(shown, |id| component(id.as_str()));
        line.parse::<ReplicaId>().map_or_else(shown, |id| component(id.as_str()));
        if let Ok(run) = line.parse::<RunId>() {
            component(&run.to_string());
        }
        if let Some((task, attempt)) = TaskId::from_slot_name(line) {
            assert_eq!(task.slot_name(attempt), line);
        }
        let _ = serde_json::from_str::<Token>(line);
    }
}

fn time(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let json = serde_json::Value::from(line).to_string();
        if let Ok(time) = serde_json::from_str::<Time>(&json) {
            let json = serde_json::to_string(&time).unwrap_or_else(|e| panic!("BUG: {e}"));
            let again =
                serde_json::from_str::<Time>(&json).unwrap_or_else(|e| panic!("BUG: {json}: {e}"));
            assert_eq!(again, time);
        }
    }
}

/// What a worker reads; in a container whose `/tasks` somebody else could write.
fn assignment(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Assignment>(bytes);
}
