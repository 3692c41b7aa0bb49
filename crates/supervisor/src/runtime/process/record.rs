//! What is remembered of a replica's process, so that a later daemon finds it.

use std::fs;
use std::io;
use std::path::Path;

use protocol::ReplicaId;
use protocol::atomic_file::{self, Durability};
use serde::{Deserialize, Serialize};

use super::family::Process;

/// `<state>/<replica>.json`. One that does not parse counts as none: the process is then found by
/// its environment, and replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The replica.
    pub(super) replica: ReplicaId,
    /// The number of the worker's process.
    pub(super) pid: i32,
    /// When that was started, in clock ticks since the system was.
    pub(super) started: u64,
    /// Which start of the system that was.
    pub(super) boot: String,
    /// The fingerprint of the spec.
    pub(super) spec: String,
    /// What tells the secret that it was given from others: of one that has another, no report counts.
    #[serde(default)]
    pub(super) proof: String,
    /// Where in the log file its output begins.
    pub(super) log_from: u64,
}

impl Record {
    /// Returns what is remembered, `None` when nothing usable is.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it down.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        // After a power cut no process runs either.
        atomic_file::replace(path, &serde_json::to_vec(self)?, Durability::Volatile)
    }

    /// Returns the worker's process if it runs.
    pub(super) fn process(&self) -> Option<Process> {
        let process = Process { pid: self.pid, started: self.started };
        (self.boot == boot_id() && process.is_alive()).then_some(process)
    }
}

/// Returns what tells this start of the system from every other.
pub(super) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
