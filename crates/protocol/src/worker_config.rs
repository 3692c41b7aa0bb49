//! `worker.toml`: who a worker is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::FORMAT_VERSION;
use crate::checked;
use crate::host_rule::HostRule;
use crate::model_rule::ModelRule;
use crate::task::check_limits;

/// How long a container of a worker lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum ContainerMode {
    /// It serves one task, and is replaced: a further attempt of the task, too, gets a fresh one.
    #[default]
    #[serde(alias = "per-attempt")]
    PerTask,
    /// It serves one task after another.
    Resident,
}

/// How an attempt sees the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum WorkspaceMode {
    /// As it is, without the right to change it.
    #[default]
    ReadOnly,
    /// A fresh copy that it may change; the copy goes with the attempt.
    Copy,
    /// As it is; every attempt of every replica may change it.
    Shared,
}

/// Where the worker's credential is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Auth {
    /// In the supervisor: the gateway adds the key on the way out.
    #[default]
    Gateway,
    /// In `auth-homes/<worker>`, made by `supervisor auth login`.
    Home,
}

/// What the model's API can do by itself, past the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ServerTool {
    /// It searches the web.
    WebSearch,
    /// It reads pages of the web: any page, whatever `egress` says.
    WebFetch,
    /// It runs code in a container of its own.
    CodeExecution,
    /// It connects to the MCP servers that a request names, at hosts of `egress`.
    Mcp,
}

impl ServerTool {
    /// Returns the tool as it stands in `worker.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebSearch => "web_search",
            Self::WebFetch => "web_fetch",
            Self::CodeExecution => "code_execution",
            Self::Mcp => "mcp",
        }
    }
}

/// What a container may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory in MiB, without swap.
    pub memory_mib: u32,
    /// CPU cores.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u32,
    /// The size of `/tmp` in MiB. It counts as memory.
    pub tmp_mib: u32,
    /// The size of `/dev/shm` in MiB. It counts as memory.
    pub shm_mib: u32,
    /// How much an attempt may write to disk, in MiB: into its folder of results, and its own configuration.
    pub disk_mib: u64,
    /// How many files and folders an attempt may have there.
    pub files: u64,
}

impl Default for Resources {
    fn default() -> Self {
        // The CLI needs about 200 MiB by itself; the rest is for what it runs.
        Self {
            memory_mib: 2048,
            cpus: 2.0,
            pids: 512,
            tmp_mib: 512,
            shm_mib: 64,
            disk_mib: 10_240,
            files: 200_000,
        }
    }
}

/// How fast the model's API may be asked. What is absent has no limit of ours; the API's own always hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in a minute.
    #[serde(deserialize_with = "checked::count", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Tokens read by the model in a minute.
    #[serde(deserialize_with = "checked::count", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens written by the model in a minute.
    #[serde(deserialize_with = "checked::count", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_tokens_per_minute: Option<u64>,
    /// Requests that are under way at once.
    #[serde(deserialize_with = "checked::count", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_in_flight: Option<u32>,
}

/// `workspaces/<worker>/worker.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Worker", description = "worker.toml: who a worker is.")]
pub struct WorkerConfig {
    /// The version of this format; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What the worker is for, in a sentence: the orchestrator chooses by it.
    pub description: String,
    /// The file with the system prompt, relative to the workspace.
    #[serde(default)]
    pub system_prompt: Option<String>,
    /// A program to run instead of Claude Code, with its arguments.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The model; the CLI's default when absent.
    #[serde(default)]
    pub model: Option<String>,
    /// The tools that the agent has.
    #[serde(default = "default_tools")]
    pub tools: Vec<String>,
    /// How many attempts of this worker may run at once, each in a container of its own.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: u32,
    /// How long a container lives.
    #[serde(default)]
    pub container: ContainerMode,
    /// How an attempt sees the workspace.
    #[serde(default)]
    pub workspace: WorkspaceMode,
    /// Where the credential is.
    #[serde(default)]
    pub auth: Auth,
    /// The container's image, if not the installation's.
    #[serde(default)]
    pub image: Option<String>,
    /// Seconds that one attempt may take.
    #[serde(default = "default_timeout")]
    pub timeout: u32,
    /// Seconds that one attempt may be silent.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: u32,
    /// Further attempts after a failure that may pass.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The most tool rounds of an attempt.
    #[serde(default)]
    pub max_turns: Option<u32>,
    /// The most that one task may spend, in US dollars.
    #[serde(default, deserialize_with = "checked::budget")]
    pub budget_usd: Option<f64>,
    /// The most tokens that one task may use, read and written.
    #[serde(default, deserialize_with = "checked::count")]
    #[schemars(range(min = 1))]
    pub budget_tokens: Option<u64>,
    /// The most that all attempts of this worker may spend in a day (UTC), in US dollars.
    #[serde(default, deserialize_with = "checked::budget")]
    #[schemars(range(min = 0))]
    pub budget_usd_per_day: Option<f64>,
    /// The most tokens, read and written, of all attempts of this worker in a day (UTC).
    #[serde(default, deserialize_with = "checked::count")]
    #[schemars(range(min = 1))]
    pub budget_tokens_per_day: Option<u64>,
    /// The most tokens that one answer of the model may have; a model's own bound holds where it is less.
    ///
    /// The gateway holds back from the budgets what a request may cost at worst. With the CLI's own
    /// 128000, at $20 for a million, that is $2.56 for each request that is under way.
    #[serde(default = "default_max_output_tokens", deserialize_with = "output_tokens")]
    #[schemars(range(min = 1))]
    pub max_output_tokens: u32,
    /// The file with the MCP servers, relative to the workspace.
    #[serde(default)]
    pub mcp: Option<String>,
    /// Environment variables of the agent.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The hosts that the agent's tools may reach, as `host[:port]` or `*.suffix[:port]`. None when absent.
    #[serde(default)]
    pub egress: Vec<HostRule>,
    /// The models that may be asked: names, or the beginning of a name and `*`. When absent, those that
    /// `model`, the sub-agents and `env` name; without `model`, the CLI's defaults.
    #[serde(default)]
    pub models: Option<Vec<ModelRule>>,
    /// What the model's API may do by itself for this worker. Nothing when absent, but with the tool
    /// `WebSearch` its search.
    #[serde(default)]
    pub server_tools: Vec<ServerTool>,
    /// How fast this worker may ask the model's API, over all its replicas.
    #[serde(default)]
    pub limits: Limits,
    /// What a container may use.
    #[serde(default)]
    pub resources: Resources,
}

fn default_tools() -> Vec<String> {
    ["Read", "Grep", "Glob", "Write", "Edit", "Bash", "Agent"].map(str::to_owned).to_vec()
}

fn default_replicas() -> u32 {
    2
}

fn default_timeout() -> u32 {
    1800
}

fn default_idle_timeout() -> u32 {
    // Above the longest silence of the CLI that was seen to end well (405 s).
    600
}

fn default_retries() -> u32 {
    2
}

fn default_max_output_tokens() -> u32 {
    // Long answers are files here, which tools write piece by piece.
    32_000
}

fn output_tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let tokens = checked::count(deserializer)?;
    Ok(tokens.unwrap_or_else(default_max_output_tokens))
}

/// Why a `worker.toml` that parses is not a configuration.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidWorkerConfig {
    /// It is not TOML, or has a field that is wrong.
    #[error("{message}")]
    Syntax {
        /// What is wrong and where, in several lines.
        message: String,
    },
    /// It is of a later version.
    #[error("`version` is {0}, and this supervisor reads up to {FORMAT_VERSION}")]
    Version(u32),
    /// A field has a value that can't be.
    #[error("`{field}` {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl WorkerConfig {
    /// Returns the configuration that this text holds.
    ///
    /// # Errors
    ///
    /// See [`InvalidWorkerConfig`].
    pub fn from_toml(text: &str) -> Result<Self, InvalidWorkerConfig> {
        let config: Self = toml::from_str(text).map_err(|error| InvalidWorkerConfig::Syntax {
            message: crate::strict::explain_toml(&error),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), InvalidWorkerConfig> {
        let bad = |field, why: &str| Err(InvalidWorkerConfig::Field { field, why: why.to_owned() });
        if let Some(version) = self.version.filter(|&version| version != FORMAT_VERSION) {
            return Err(InvalidWorkerConfig::Version(version));
        }
        if self.description.trim().is_empty() {
            return bad("description", "is empty; say what the worker is for, in a sentence");
        }
        if !(1..=64).contains(&self.replicas) {
            return bad("replicas", "must be from 1 to 64");
        }
        if self.command.as_ref().is_some_and(Vec::is_empty) {
            return bad("command", "is empty; name a program, or leave it out for Claude Code");
        }
        if !(1..=604_800).contains(&self.idle_timeout) {
            return bad("idle_timeout", "must be from 1 to 604800 (seconds)");
        }
        if self.max_turns == Some(0) {
            return bad("max_turns", "must be at least 1");
        }
        if self.resources.memory_mib < 64 {
            return bad("resources.memory_mib", "must be at least 64");
        }
        if !(self.resources.cpus.is_finite() && self.resources.cpus > 0.0) {
            return bad("resources.cpus", "must be more than 0");
        }
        if self.resources.pids < 16 {
            return bad("resources.pids", "must be at least 16");
        }
        if self.resources.tmp_mib == 0 {
            return bad("resources.tmp_mib", "must be at least 1");
        }
        if self.resources.shm_mib == 0 {
            return bad("resources.shm_mib", "must be at least 1");
        }
        // What is more is no bound.
        if !(1..=1 << 32).contains(&self.resources.disk_mib) {
            return bad("resources.disk_mib", "must be from 1 to 4294967296");
        }
        if self.resources.files < 16 {
            return bad("resources.files", "must be at least 16");
        }
        for (field, path) in [("system_prompt", &self.system_prompt), ("mcp", &self.mcp)] {
            if path.as_deref().is_some_and(|path| !is_inside(path)) {
                return bad(field, "must be a path inside of the workspace");
            }
        }
        let (timeout, retries) = (Some(self.timeout), Some(self.retries));
        let limits = check_limits(timeout, retries, self.budget_usd, self.budget_tokens);
        limits.map_err(|error| InvalidWorkerConfig::Syntax { message: error.to_string() })
    }
}

fn is_inside(path: &str) -> bool {
    use std::path::{Component, Path};
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}
