//! The assignment: what a worker finds in its slot for one attempt.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Attempt, SessionId, Status, Task, TaskId, TaskKind, Token, Usage, WorkerId};

/// The file in an attempt's folder that asks the worker to stop; its text says why.
pub const CANCEL_FILE: &str = "cancel";

/// The file in an attempt's folder with the transcript of the session that it goes on with.
pub const SESSION_FILE: &str = "session.jsonl";

/// The agent's configuration folder, in an attempt's folder of results: made new for each attempt.
pub const CONFIG_DIR: &str = "config";

/// The file in a gateway's folder that says where the gateway is, for a worker that can't be given a socket.
pub const DOOR_FILE: &str = "door.json";

/// Where a gateway listens for one replica, and what that has to show there: [`DOOR_FILE`].
///
/// Written by the supervisor each time that it listens: the address may be another then, the secret is not.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The address.
    pub address: SocketAddr,
    /// The replica's secret, of ASCII letters and digits.
    pub secret: String,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A host that no worker may reach, and that a worker asks its gateway for at its start, to be refused: no
/// name ends so (RFC 2606).
pub const SELF_TEST_HOST: &str = "supervisor-self-test.invalid";

/// The exit code of a worker that does not serve, and that would not if it were started again: its walls
/// do not hold, or it has no way out. The last line that it prints begins with [`UNFIT`] and says why.
/// (`EX_CONFIG` of sysexits.h; agents' exit codes are never the worker's.)
pub const UNFIT_CODE: u8 = 78;

/// What the last line of a worker that does not serve begins with.
pub const UNFIT: &str = "worker does not serve: ";

/// The exit code of a worker that does not serve for now, because the model's API does not answer. The last line
/// that it prints begins with [`UNREACHABLE`] and says why. (`EX_UNAVAILABLE` of sysexits.h.)
pub const UNREACHABLE_CODE: u8 = 69;

/// What the last line of a worker begins with that waits no longer for the model's API.
pub const UNREACHABLE: &str = "worker waits no longer: ";

/// The exit code of `worker check` when the task's command did not end with 0. What it prints begins with
/// [`CHECK_SAYS`] and says how it ended. (`EX_DATAERR` of sysexits.h.)
pub const CHECK_FAILED_CODE: u8 = 65;

/// The exit code of `worker check` when the command can't be run at all; it prints why. (`EX_SOFTWARE` of sysexits.h.)
pub const CHECK_IMPOSSIBLE_CODE: u8 = 70;

/// What a worker that checks says first.
pub const CHECK_SAYS: &str = "check: ";

/// `task.json` of an attempt's folder in a slot: all that a worker has to know.
///
/// Written by the supervisor, read by the worker of the same build: it is not a published format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The task.
    pub task: Task,
    /// Which attempt this is.
    pub attempt: Attempt,
    /// What the result has to echo.
    pub token: Token,
    /// The Claude session.
    pub session: SessionPlan,
    /// How long the attempt may take.
    pub timeout: Duration,
    /// How long it may be silent.
    pub idle_timeout: Duration,
    /// Who the worker is and how it runs its agent.
    pub agent: AgentSpec,
    /// The request of the run, where there is one.
    pub request: Option<String>,
    /// The workers to choose from, as JSON; for a task that plans.
    pub workers: Option<Value>,
    /// The results of the dependencies, in the order of the task's list.
    pub inputs: Vec<Input>,
    /// Why the last attempt did not count.
    pub feedback: Vec<String>,
    /// Whether the model is the built-in stand-in.
    pub rehearsal: bool,
}

/// Which Claude session an attempt uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionPlan {
    /// Its id.
    pub id: SessionId,
    /// Whether it was begun by an earlier attempt. Where it does not survive, the worker begins it
    /// anew.
    pub resume: bool,
    /// What the session had used up to now: the client's totals go over the whole session.
    pub used: Usage,
    /// What it had cost up to now, in US dollars.
    pub cost_usd: f64,
}

/// How a worker runs its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The worker.
    pub worker: WorkerId,
    /// What the worker is for, in a sentence.
    pub role: String,
    /// The program.
    pub driver: Driver,
    /// The text of the system prompt.
    pub system_prompt: String,
    /// The model's name; the agent's own default when absent.
    pub model: Option<String>,
    /// The agent's tools; none when empty.
    pub tools: Vec<String>,
    /// `--agents`: the sub-agents by name, as the CLI wants them.
    pub subagents: Option<Value>,
    /// `--mcp-config`: the MCP servers, as the CLI wants them.
    pub mcp: Option<Value>,
    /// The most tool rounds.
    pub max_turns: Option<u32>,
    /// The most tokens of one answer; the agent's own default when absent.
    pub max_output_tokens: Option<u32>,
    /// Whether a writable copy of the workspace is made for the attempt.
    pub copy_workspace: bool,
    /// Whether the agent signs in with its own home instead of through the gateway.
    pub own_login: bool,
    /// Environment variables of the agent.
    pub env: Vec<(String, String)>,
}

/// The program that does the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// The Claude Code CLI.
    Claude,
    /// Any program: the prompt on its standard input; on its standard output a result as JSON in
    /// the last line, or text.
    Command(
        /// The program and its arguments.
        Vec<String>,
    ),
}

/// The result of a dependency, as an attempt gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The dependency; also the name of its folder under `inputs/`, with `result.json` and
    /// `artifacts/`.
    pub task: TaskId,
    /// Who did it.
    pub worker: WorkerId,
    /// How it ended.
    pub status: Status,
}

/// What an agent has to hand in: the schema of its structured output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputContract(
    /// What the task is for.
    pub TaskKind,
);

impl OutputContract {
    /// Returns the JSON Schema, without references, for `--json-schema`.
    ///
    /// It depends on the kind alone, since it is part of the prefix that the prompt cache keeps.
    pub fn schema(self) -> Value {
        let text = |about: &str| serde_json::json!({ "type": "string", "description": about });
        let texts = |about: &str| {
            serde_json::json!({
                "type": "array", "items": { "type": "string" }, "description": about
            })
        };
        let (properties, required) = match self.0 {
            TaskKind::Work => (
                serde_json::json!({
                    "summary": text("What was done and what came of it, in two to five sentences."),
                    "findings": texts("What was found, one sentence each, most important first."),
                    "recommendations": texts("What to do next, one sentence each."),
                    "artifacts": texts(
                        "The files you left for others, relative to the artifact folder."
                    ),
                }),
                serde_json::json!(["summary", "findings", "recommendations", "artifacts"]),
            ),
            TaskKind::Plan => (
                serde_json::json!({
                    "tasks": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "additionalProperties": false,
                            "required": ["id", "worker", "description", "dependencies"],
                            "properties": {
                                "id": {
                                    "type": "string",
                                    "pattern": "^[a-z0-9][a-z0-9-]{0,39}$",
                                    "description": "A short name, unique in this plan.",
                                },
                                "worker": text("The name of one of the workers."),
                                "description": text(
                                    "What to do, complete in itself, with what to hand in."
                                ),
                                "dependencies": texts(
                                    "The ids of the tasks whose results this one needs."
                                ),
                                "priority": {
                                    "type": "string",
                                    "enum": ["low", "medium", "high"],
                                },
                            },
                        },
                    },
                }),
                serde_json::json!(["tasks"]),
            ),
            TaskKind::Synthesize => (
                serde_json::json!({
                    "summary": text("The answer in two to five sentences."),
                    "report": text("The whole answer to the request, in Markdown."),
                }),
                serde_json::json!(["summary", "report"]),
            ),
        };
        serde_json::json!({
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        })
    }
}
