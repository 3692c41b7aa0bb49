//! Names and numbers, each a type of its own, checked once on parsing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidId {
    /// There is nothing.
    #[error("an id can't be empty")]
    Empty,
    /// It is longer than 64 bytes.
    #[error("an id has at most {max} characters, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// A character is not allowed where it stands.
    #[error(
        "{found:?} is not allowed at position {at} of an id (use a-z, 0-9, and after the first \
         character also `.`, `_` and `-`)"
    )]
    BadChar {
        /// The character.
        found: char,
        /// Its offset in bytes.
        at: usize,
    },
    /// It ends like a file name of ours, so that its folder and another id's file would collide.
    #[error("an id can't end in `{suffix}`")]
    BadSuffix {
        /// The ending.
        suffix: &'static str,
    },
    /// It is not `adhoc` and not a UUID.
    #[error("a run is `adhoc` or a UUID")]
    NotARun,
}

/// The longest id, in bytes. With a prefix and a suffix it is still a legal file and host name.
const MAX_BYTES: usize = 64;

fn check(s: &str) -> Result<(), InvalidId> {
    if s.is_empty() {
        return Err(InvalidId::Empty);
    }
    if s.len() > MAX_BYTES {
        return Err(InvalidId::TooLong { len: s.len(), max: MAX_BYTES });
    }
    let good = |at: usize, c: char| match c {
        'a'..='z' | '0'..='9' => true,
        '.' | '_' | '-' => at > 0,
        _ => false,
    };
    if let Some((at, found)) = s.char_indices().find(|&(at, c)| !good(at, c)) {
        return Err(InvalidId::BadChar { found, at });
    }
    match [".json", ".tmp"].into_iter().find(|suffix| s.ends_with(suffix)) {
        Some(suffix) => Err(InvalidId::BadSuffix { suffix }),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// # Invariants
        ///
        /// `[a-z0-9][a-z0-9._-]{0,63}`, not ending in `.json` or `.tmp`. So it is always one path
        /// component, never hidden, never a temporary name, and is escaped nowhere.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(s: &str) -> Result<Self, InvalidId> {
                check(s)?;
                Ok(Self(s.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(s: String) -> Result<Self, InvalidId> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$" })
            }
        }
    };
}

text_id! {
    /// The name of a task: a node of the graph, a file stem, a folder.
    TaskId
}
text_id! {
    /// The name of a worker: a folder in `workspaces/`, `tasks/` and `results/`.
    WorkerId
}
text_id! {
    /// The name of one container of a worker: `marie-1`.
    ReplicaId
}
text_id! {
    /// The short form of a run, unique in its installation: `k3f9`.
    ShortRunId
}

impl TaskId {
    /// Returns a plan's local name as it is known outside of its run: `k3f9.review`.
    ///
    /// # Errors
    ///
    /// [`InvalidId::TooLong`] when there is no room for the prefix.
    pub fn in_run(&self, run: &ShortRunId) -> Result<Self, InvalidId> {
        format!("{run}.{self}").parse()
    }

    /// Returns the name of an attempt's folder in a slot: `k3f9.review.2`.
    pub fn slot_name(&self, attempt: Attempt) -> String {
        format!("{self}.{attempt}")
    }

    /// Splits the name of an attempt's folder. The reverse of [`slot_name`](Self::slot_name).
    pub fn from_slot_name(name: &str) -> Option<(Self, Attempt)> {
        let (task, attempt) = name.rsplit_once('.')?;
        // "01" and "+1" would be second names of attempt 1.
        let number: u32 = attempt.parse().ok()?;
        let attempt = (number.to_string() == attempt).then(|| Attempt::new(number))??;
        Some((task.parse().ok()?, attempt))
    }
}

impl ReplicaId {
    /// Returns the name of a worker's `number`-th replica, counted from 1.
    ///
    /// # Errors
    ///
    /// [`InvalidId::TooLong`] when the worker's name leaves no room for the number.
    pub fn new(worker: &WorkerId, number: u32) -> Result<Self, InvalidId> {
        format!("{worker}-{number}").parse()
    }
}

/// A run: a UUID of version 7, or `adhoc`, to which tasks without a run belong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RunId {
    /// The standing run of tasks that were dropped by hand. It never closes.
    Adhoc,
    /// A run that was submitted.
    Submitted(Uuid),
}

impl RunId {
    /// Returns the shortest form of this run's id for which `taken` is false: at least four
    /// characters of the random end of the UUID, in base 32.
    pub fn short(&self, taken: impl Fn(&ShortRunId) -> bool) -> ShortRunId {
        // No i, l, o, u: nothing to misread, nothing to mis-say.
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let Self::Submitted(uuid) = self else {
            return ShortRunId("adhoc".into());
        };
        let bits = uuid.as_u128();
        let digit = |i: u32| char::from(ALPHABET[(bits >> (5 * i) & 31) as usize]);
        let short = |len: u32| ShortRunId((0..len).map(digit).collect::<String>().into());
        // Twelve digits are the whole random end: two runs that share it are the same run.
        (4..12).map(short).find(|id| !taken(id)).unwrap_or_else(|| short(12))
    }
}

impl FromStr for RunId {
    type Err = InvalidId;

    fn from_str(s: &str) -> Result<Self, InvalidId> {
        if s == "adhoc" {
            return Ok(Self::Adhoc);
        }
        let uuid = Uuid::try_parse(s).map_err(|_| InvalidId::NotARun)?;
        // One spelling only: the id names files.
        if uuid.hyphenated().to_string() == s {
            Ok(Self::Submitted(uuid))
        } else {
            Err(InvalidId::NotARun)
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidId;

    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adhoc => f.pad("adhoc"),
            Self::Submitted(uuid) => f.pad(uuid.hyphenated().encode_lower(&mut [0; 36])),
        }
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl JsonSchema for RunId {
    fn schema_name() -> Cow<'static, str> {
        "RunId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(adhoc|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$" })
    }
}

/// The number of an execution of a task, from 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Attempt(#[schemars(range(min = 1))] u32);

impl Attempt {
    /// The first attempt of a task.
    pub const FIRST: Self = Self(1);

    /// Returns the attempt of that number, or `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// Returns the number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns the attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Returns the id made of these random bits.
            pub fn from_random(high: u64, low: u64) -> Self {
                let bytes = ((u128::from(high) << 64) | u128::from(low)).to_be_bytes();
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": "uuid" })
            }
        }
    };
}

uuid_id! {
    /// What an attempt has to echo in its result, so that a result of another attempt, or one that
    /// somebody made up, counts for nothing.
    Token
}
uuid_id! {
    /// A Claude session: what `--session-id` and `--resume` take.
    SessionId
}
