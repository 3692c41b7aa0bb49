//! Decisions in files.

use protocol::{
    Choice, Decider, DecisionId, DecisionKind, Event, FailureKind, HoldScope, Record, TaskError,
    TaskResult, Time, strict,
};
use serde_json::json;

fn event(json: &serde_json::Value) -> Event {
    let mut record = json!({ "v": 1, "seq": 1, "at": "2026-11-21T09:30:00Z" });
    let fields = record.as_object_mut().expect("it was made as one");
    fields.extend(json.as_object().expect("an event should be an object").clone());
    let record = record.to_string();
    strict::from_slice::<Record>(record.as_bytes()).expect("it should be a record").event
}

#[test]
fn name_of_a_decision_has_one_spelling() {
    for name in ["d1", "d2", "d4294967295"] {
        assert_eq!(name.parse::<DecisionId>().unwrap().to_string(), name);
    }
    for name in ["", "d", "d0", "d01", "d+1", "D1", "1", "d1 ", "d4294967296", "d-1"] {
        assert!(name.parse::<DecisionId>().is_err(), "{name}");
    }
    assert_eq!(DecisionId::FIRST.next().to_string(), "d2");
}

#[test]
fn scope_and_choice_stand_in_files_as_a_person_would_write_them() {
    let scope = |scope: &HoldScope| serde_json::to_value(scope).unwrap();
    assert_eq!(scope(&HoldScope::Task("a".parse().unwrap())), json!({ "task": "a" }));
    assert_eq!(scope(&HoldScope::Run(protocol::RunId::Adhoc)), json!({ "run": "adhoc" }));
    assert_eq!(scope(&HoldScope::Worker("marie".parse().unwrap())), json!({ "worker": "marie" }));
    assert_eq!(scope(&HoldScope::All), json!("all"));

    let choice = |json: serde_json::Value| serde_json::from_value::<Choice>(json);
    assert_eq!(choice(json!("stop")).unwrap(), Choice::Stop);
    let bare = Choice::GoOn { budget_usd: None, budget_tokens: None };
    assert_eq!(choice(json!({ "go_on": {} })).unwrap(), bare);
    assert_eq!(serde_json::to_value(bare).unwrap(), json!({ "go_on": {} }));
    assert!(choice(json!({ "go_on": { "budget": 3 } })).is_err(), "a slip of the pen costs money");
}

#[test]
fn decision_that_names_nobody_was_made_by_a_person() {
    let made = event(&json!({ "event": "decision_made", "decision": "d7", "choice": "stop" }));
    let id = "d7".parse().unwrap();
    let expected = Event::DecisionMade { decision: id, choice: Choice::Stop, by: Decider::Person };
    assert_eq!(made, expected);
    assert!(!serde_json::to_string(&made).unwrap().contains("by"));
}

#[test]
fn cost_that_is_absent_is_nothing_and_null_is_unknown() {
    let failed = |cost: Option<serde_json::Value>| {
        let mut json = json!({
            "event": "attempt_failed", "task": "a", "attempt": 1, "counted": true, "retry_at": null,
            "error": { "kind": "network", "message": "reset" },
        });
        if let Some(cost) = cost {
            json["cost_usd"] = cost;
        }
        match event(&json) {
            Event::AttemptFailed { cost_usd, paused: false, .. } => cost_usd,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed(None), Some(0.0));
    assert_eq!(failed(Some(json!(0.5))), Some(0.5));
    assert_eq!(failed(Some(json!(null))), None);

    let result = |cost: &str| {
        let text = format!(
            r#"{{"task_id": "a", "run": "adhoc", "worker": "marie", "attempt": 1, "status": "complete",
            "execution_time": 1{cost}, "started_at": "2026-11-21T09:30:00Z",
            "finished_at": "2026-11-21T09:30:01Z"}}"#
        );
        strict::from_slice::<TaskResult>(text.as_bytes()).unwrap().cost_usd
    };
    assert_eq!(result(""), Some(0.0));
    assert_eq!(result(r#", "cost_usd": 0.25"#), Some(0.25));
    assert_eq!(result(r#", "cost_usd": null"#), None);
}

#[test]
fn error_says_whose_limit_it_is_only_where_it_is_known() {
    let plain = TaskError::new(FailureKind::RateLimited, "429");
    let json = json!({ "kind": "rate_limited", "message": "429" });
    assert_eq!(serde_json::to_value(&plain).unwrap(), json);
    let known = TaskError {
        retry_at: Some(Time::from_millis(1_000)),
        scope: Some(HoldScope::All),
        ..plain
    };
    let json = serde_json::to_value(&known).unwrap();
    assert_eq!(
        (&json["retry_at"], &json["scope"]),
        (&json!("1970-01-01T00:00:01.000Z"), &json!("all"))
    );
    assert_eq!(serde_json::from_value::<TaskError>(json).unwrap(), known);
}

#[test]
fn only_three_kinds_of_failure_raise_a_question() {
    assert_eq!(DecisionKind::of(FailureKind::Budget), Some(DecisionKind::Budget));
    assert_eq!(DecisionKind::of(FailureKind::Auth), Some(DecisionKind::Auth));
    assert_eq!(DecisionKind::of(FailureKind::Billing), Some(DecisionKind::Billing));
    assert_eq!(DecisionKind::of(FailureKind::RateLimited), None);
}
