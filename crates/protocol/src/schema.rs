//! The JSON Schemas of the formats.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};

use crate::{Plan, Record, TaskFile, TaskResult, WorkerConfig};

/// The names that [`json_schema`] knows.
pub const NAMES: [&str; 5] = ["task", "result", "plan", "worker", "event"];

/// Returns the JSON Schema (draft 2020-12) of a format as text that ends with a newline, or `None`
/// for a name that is not in [`NAMES`].
pub fn json_schema(name: &str) -> Option<String> {
    let schema = match name {
        "task" => of::<TaskFile>(),
        "result" => of::<TaskResult>(),
        "plan" => of::<Plan>(),
        "worker" => of::<WorkerConfig>(),
        "event" => of::<Record>(),
        _ => return None,
    };
    let mut text = serde_json::to_string_pretty(&schema).ok()?;
    text.push('\n');
    Some(text)
}

fn of<T: JsonSchema>() -> schemars::Schema {
    SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<T>()
}
