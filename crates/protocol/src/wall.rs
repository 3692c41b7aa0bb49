//! What keeps an agent in its container, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The file in a slot's folder of results in which the worker says what does not hold.
pub const SELF_TEST_FILE: &str = ".self-test.json";

/// A wall, or a limit, of a container. Its name is what `unsafe` in `supervisor.toml` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wall {
    /// The limit on memory.
    Memory,
    /// That memory beyond that is not swapped out.
    Swap,
    /// The limit on processes and threads.
    Pids,
    /// The limit on processor time.
    Cpus,
    /// That the agent is not root.
    User,
    /// That it has no capabilities.
    Capabilities,
    /// That system calls which no agent needs are denied.
    Seccomp,
    /// That it writes nowhere but where it should.
    Folders,
}

impl Wall {
    /// All walls.
    pub const ALL: [Self; 8] = [
        Self::Memory,
        Self::Swap,
        Self::Pids,
        Self::Cpus,
        Self::User,
        Self::Capabilities,
        Self::Seccomp,
        Self::Folders,
    ];

    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Pids => "pids",
            Self::Cpus => "cpus",
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::Seccomp => "seccomp",
            Self::Folders => "folders",
        }
    }

    /// Returns what the operator can do where it does not hold, in a sentence.
    pub fn cure(self) -> &'static str {
        match self {
            Self::Memory => {
                "Turn on the engine's control of memory: `cgroup_enable=memory` on the kernel's command line, or for a \
                 rootless engine delegate the controller `memory` to your user."
            }
            Self::Swap => {
                "Turn off swap, or turn on its accounting with `swapaccount=1` on the kernel's command line."
            }
            Self::Pids => "For a rootless engine, delegate the controller `pids` to your user.",
            Self::Cpus => "For a rootless engine, delegate the controller `cpu` to your user.",
            Self::User => {
                "Run the supervisor as another user, or an engine that does not make its containers root."
            }
            Self::Capabilities => {
                "See which setting of the engine adds capabilities to its containers."
            }
            Self::Seccomp => {
                "Use a kernel, and an engine, with filters of system calls (`CONFIG_SECCOMP_FILTER`)."
            }
            Self::Folders => {
                "Use an image without volumes, and see what the engine mounts into its containers."
            }
        }
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Wall {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|wall| wall.as_str() == name);
        found.ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What a worker found out about its container: a [`SELF_TEST_FILE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// What does not hold.
    pub holes: Vec<Wall>,
}
