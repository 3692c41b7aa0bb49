//! What an agent hands in, taken from its structured output.

use protocol::TaskKind;
use serde_json::{Map, Value};

/// What an agent handed in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) summary: String,
    pub(crate) findings: Vec<String>,
    pub(crate) recommendations: Vec<String>,
    /// The files as the agent names them.
    pub(crate) artifacts: Vec<String>,
    pub(crate) plan: Option<Value>,
    pub(crate) report: Option<String>,
}

impl Delivery {
    /// Returns what an object holds that was made after the schema for that kind of task.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a part of a sentence.
    pub(crate) fn from_output(kind: TaskKind, output: &Value) -> Result<Self, String> {
        let Some(object) = output.as_object() else {
            return Err("it is not an object".to_owned());
        };
        let mut delivery = Self {
            summary: string(object, "summary")?.unwrap_or_default(),
            findings: strings(object, "findings")?,
            recommendations: strings(object, "recommendations")?,
            artifacts: strings(object, "artifacts")?,
            ..Self::default()
        };
        match kind {
            TaskKind::Work if delivery.summary.trim().is_empty() => {
                return Err("`summary` is missing or empty".to_owned());
            }
            TaskKind::Work => {}
            TaskKind::Plan => {
                let tasks = object.get("tasks").and_then(Value::as_array).map_or(0, Vec::len);
                if tasks == 0 {
                    return Err("`tasks` is missing or empty".to_owned());
                }
                if delivery.summary.is_empty() {
                    let s = if tasks == 1 { "" } else { "s" };
                    delivery.summary = format!("A plan of {tasks} task{s}.");
                }
                delivery.plan = Some(output.clone());
            }
            TaskKind::Synthesize => {
                let report = string(object, "report")?.unwrap_or_default();
                if report.trim().is_empty() {
                    return Err("`report` is missing or empty".to_owned());
                }
                delivery.report = Some(report);
            }
        }
        Ok(delivery)
    }
}

fn string(object: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{name}` is not text")),
    }
}

fn strings(object: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{name}` holds something that is not text")),
        Some(_) => Err(format!("`{name}` is not a list")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn output_of_each_kind_is_read() {
        let work = json!({ "summary": "s", "findings": ["f"], "artifacts": ["a.md"] });
        let work = Delivery::from_output(TaskKind::Work, &work).unwrap();
        assert_eq!((work.findings.len(), work.artifacts.len()), (1, 1));
        let plan = json!({ "tasks": [{ "id": "a" }] });
        let delivery = Delivery::from_output(TaskKind::Plan, &plan).unwrap();
        assert_eq!((delivery.summary.as_str(), delivery.plan), ("A plan of 1 task.", Some(plan)));
        let report = json!({ "summary": "s", "report": "# r" });
        let report = Delivery::from_output(TaskKind::Synthesize, &report).unwrap();
        assert_eq!(report.report.as_deref(), Some("# r"));
    }

    #[test]
    fn wrong_output_is_refused_with_its_field() {
        let work = |value: Value| Delivery::from_output(TaskKind::Work, &value).unwrap_err();
        assert_eq!(work(json!(["s"])), "it is not an object");
        assert_eq!(work(json!({})), "`summary` is missing or empty");
        assert_eq!(work(json!({ "summary": 1 })), "`summary` is not text");
        assert_eq!(work(json!({ "summary": "s", "findings": "f" })), "`findings` is not a list");
        assert_eq!(
            work(json!({ "summary": "s", "artifacts": [1] })),
            "`artifacts` holds something that is not text"
        );
        let plan = Delivery::from_output(TaskKind::Plan, &json!({ "tasks": [] }));
        assert_eq!(plan.unwrap_err(), "`tasks` is missing or empty");
    }
}
