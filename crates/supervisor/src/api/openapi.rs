//! The OpenAPI document of the API.

use protocol::Plan;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::types::{
    ApiError, DecisionAnswer, DecisionView, GcReport, GcRequest, Health, NewTask, RunOpened,
    RunSummary, Shutdown, StatusReport, SubmitRun, TargetName, TaskAdded, TaskView, Transcript,
    WorkerView,
};
use super::usage::{Estimate, UsageReport};

/// Returns the OpenAPI 3.1 document.
pub fn document() -> Value {
    let mut doc = Document {
        schemas: SchemaGenerator::new(
            SchemaSettings::openapi3().with(|s| s.definitions_path = "/components/schemas".into()),
        ),
        paths: Map::new(),
    };
    let (run, task, any) = (&["id"][..], &["id"][..], &["id"][..]);
    doc.get::<Health>("/v1/health", "How the daemon is", &[]);
    doc.get::<StatusReport>(
        "/v1/status",
        "What runs, what waits and why; `run` asks for one run",
        &[],
    );
    doc.post::<SubmitRun, RunOpened>("/v1/runs", "Submit a request or a plan", "201");
    doc.get::<RunSummary>("/v1/runs/{id}", "A run's figures", run);
    doc.get::<Plan>("/v1/runs/{id}/plan", "The plan of a run that is only split", run);
    let estimate = "What that plan may take, going by past tasks of the same workers";
    doc.get::<Estimate>("/v1/runs/{id}/estimate", estimate, run);
    doc.get::<protocol::Record>(
        "/v1/runs/{id}/events",
        "What has happened, a line of JSON each (application/x-ndjson); `follow=true` goes on until \
         the run ends, `after=SEQ` leaves out what was seen, `offset=BYTES` begins there in the journal",
        run,
    );
    doc.post::<NewTask, TaskAdded>("/v1/tasks", "Add one task without a plan", "201");
    doc.get::<TaskView>("/v1/tasks/{id}", "A task, with its result when it has ended", task);
    doc.post::<TargetName, Value>("/v1/cancel", "Put an end to a run or a task", "200");
    doc.post::<TargetName, Value>("/v1/retry", "Do again what did not complete", "200");
    doc.get::<Vec<DecisionView>>(
        "/v1/decisions",
        "The questions that wait for a person; `run` asks for those that hold up one run",
        &[],
    );
    let decide = "Answer a question; what it leads to is safe when the answer comes";
    doc.post_at::<DecisionAnswer, Value>("/v1/decisions/{id}", decide, "200", &["id"]);
    doc.get::<UsageReport>(
        "/v1/usage",
        "What was used of the model, the budgets and the limits; `run` asks for one run",
        &[],
    );
    doc.get::<Vec<WorkerView>>("/v1/workers", "The workers", &[]);
    doc.get::<Vec<Transcript>>(
        "/v1/logs/{id}",
        "The transcripts of a run, a task or a worker",
        any,
    );
    let clear =
        "Remove runs that ended long ago, what is left of old attempts, and unfinished files";
    doc.post::<GcRequest, GcReport>("/v1/gc", clear, "200");
    doc.post::<Shutdown, Value>("/v1/shutdown", "End the daemon", "202");
    doc.get::<Value>("/v1/openapi.json", "This document", &[]);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "supervisor",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of the supervisor's daemon, on the unix socket `api.sock` in the \
                            folder that `.supervisor/run` names.",
        },
        "paths": doc.paths,
        "components": { "schemas": doc.schemas.take_definitions(true) },
    })
}

struct Document {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn get<T: JsonSchema>(&mut self, path: &str, summary: &str, names: &[&str]) {
        let responses = self.responses::<T>("200");
        let operation =
            json!({ "summary": summary, "parameters": parameters(names), "responses": responses });
        self.paths.insert(path.to_owned(), json!({ "get": operation }));
    }

    fn post<B: JsonSchema, T: JsonSchema>(&mut self, path: &str, summary: &str, status: &str) {
        self.post_at::<B, T>(path, summary, status, &[]);
    }

    fn post_at<B: JsonSchema, T: JsonSchema>(
        &mut self,
        path: &str,
        summary: &str,
        status: &str,
        names: &[&str],
    ) {
        let body = self.content::<B>();
        let responses = self.responses::<T>(status);
        let mut operation = json!({
            "summary": summary,
            "requestBody": { "required": true, "content": body },
            "responses": responses,
        });
        if !names.is_empty() {
            operation["parameters"] = json!(parameters(names));
        }
        self.paths.insert(path.to_owned(), json!({ "post": operation }));
    }

    fn responses<T: JsonSchema>(&mut self, status: &str) -> Value {
        let (good, bad) = (self.content::<T>(), self.content::<ApiError>());
        json!({
            status: { "description": "Done", "content": good },
            "default": { "description": "Why not", "content": bad },
        })
    }

    fn content<T: JsonSchema>(&mut self) -> Value {
        json!({ "application/json": { "schema": self.schemas.subschema_for::<T>() } })
    }
}

/// Describes the parts of a path that have these names.
fn parameters(names: &[&str]) -> Vec<Value> {
    let parameter = |name: &&str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    names.iter().map(parameter).collect()
}
