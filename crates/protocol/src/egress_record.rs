//! What left a container, or was kept from it: a line of a run's `egress.jsonl`.

use serde::{Deserialize, Serialize};

use crate::{Attempt, ReplicaId, TaskId, Time, WorkerId};

/// A line of `.supervisor/runs/<run>/egress.jsonl`. No contents, no headers, no query: only where
/// something went, how much, and whether it was let through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EgressRecord {
    /// A try to get out.
    Try(Box<EgressTry>),
    /// Lines that are missing here, because more was tried than could be written.
    Dropped {
        /// When that was seen.
        time: Time,
        /// How many.
        dropped: u64,
    },
    /// The file has all that it may have; nothing follows.
    Full {
        /// Since when.
        time: Time,
        /// The bytes that it may have.
        full: u64,
    },
}

/// A request to the model's API, or a connection to another host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressTry {
    /// When it ended, or was refused.
    pub time: Time,
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The replica.
    pub replica: ReplicaId,
    /// Its worker.
    pub worker: WorkerId,
    /// Which way it took.
    pub kind: EgressKind,
    /// The host, where the request named one that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The HTTP method, where it is of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path at the model's API, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The model that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Bytes that the agent sent. Those of a request that was refused went nowhere.
    pub bytes_up: u64,
    /// Bytes that the agent got.
    pub bytes_down: u64,
    /// Whether it was let through.
    pub verdict: EgressVerdict,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressKind {
    /// To the model's API.
    Model,
    /// A tunnel to another host.
    Connect,
    /// A plain HTTP request to another host.
    Http,
}

/// Whether something was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressVerdict {
    /// It was.
    Allowed,
    /// It was not.
    Refused,
}
