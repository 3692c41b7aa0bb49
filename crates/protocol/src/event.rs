//! The journal: what has happened in a run, one event a line.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, VariantAccess,
    Visitor,
};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use crate::{
    Attempt, Choice, Decider, Decision, DecisionId, Plan, Priority, ReplicaId, RunId, SessionId,
    ShortRunId, Task, TaskError, TaskId, TaskResult, Time, Token, Usage,
};

/// A line of a journal.
///
/// In the file a line is the record as JSON, a tab, a checksum in eight hexadecimal digits, a tab,
/// and the line's place: `2/3@128` is the second of three lines that were written together, from
/// byte 128 of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "Event", description = "A line of a run's journal.")]
pub struct Record {
    /// The version of this format.
    #[serde(rename = "v")]
    pub version: u32,
    /// The number of the event. It rises over all the journals of an installation, so that they
    /// can be put together in order.
    pub seq: u64,
    /// When it happened.
    pub at: Time,
    /// In the first line of a file that begins with a snapshot: what that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// In the first line of a commit that goes over several journals, in the first of them: what else
    /// belongs to it. A reader that does not know it may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

/// What belongs to a commit over several journals: it counts as a whole, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Commit {
    /// The number of its last event.
    pub last: u64,
    /// Where the rest of it is. This part is written before the others.
    pub others: Vec<CommitPart>,
}

/// The part of a commit in another journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommitPart {
    /// The run whose journal that is.
    pub run: RunId,
    /// The byte of that journal at which the part begins.
    pub at: u64,
}

/// What a snapshot stands for: lines that lead to the same state as the beginning of a journal, which
/// they took the place of. Attempts that are over are not in it, but in the sums of their tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// How many lines it has. The journal goes on after them.
    pub lines: u64,
    /// For how many bytes of the journal it stands. Places count them, also after it.
    pub bytes: u64,
    /// The number of the last event that it stands for.
    pub seq: u64,
    /// When that happened.
    pub at: Time,
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RunMode {
    /// A request is split, worked on and answered.
    Request,
    /// The plan is given.
    Plan,
    /// A request is only split.
    PlanOnly,
    /// The standing run of tasks dropped by hand.
    Adhoc,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RunState {
    /// Every task is complete and the request is answered.
    Complete,
    /// There is an answer, and it has gaps.
    Partial,
    /// There is no answer.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl RunState {
    /// Returns the state as it stands in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a task came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TaskSource {
    /// A file in `tasks/<worker>/`.
    Drop,
    /// The API.
    Api,
    /// The run's plan.
    Plan,
    /// The supervisor: planning and synthesis.
    Supervisor,
}

/// What is known of the attempts of a task that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Attempts {
    /// The number of the last one; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Attempt>,
    /// The tokens of all of them, also of those before the task was done again.
    pub usage: Usage,
    /// What all of them cost, in US dollars; `null` when that of one of them is not known.
    pub cost_usd: Option<f64>,
    /// How many failures used up a retry.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Why the last one that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<TaskError>,
    /// Whether somebody had asked for the task's end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Defines the enum, and how it is read: the name of the event first, and then its fields one by one. What
/// serde derives would first keep all of it, and a start with 100,000 tasks would take twice as long.
macro_rules! read_by_name {
    ($(#[$meta:meta])* pub enum $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
        #[serde(tag = "event", rename_all = "snake_case")]
        pub enum $name { $($body)* }

        #[derive(Deserialize)]
        #[serde(remote = "Event", rename_all = "snake_case")]
        enum ByName { $($body)* }
    };
}

read_by_name! {
/// Something that happened in a run. Each is a fact: reading a journal again decides nothing anew.
pub enum Event {
    /// A run began.
    RunOpened {
        /// The run.
        run: RunId,
        /// Its short form.
        short: ShortRunId,
        /// What a person calls it.
        name: Option<String>,
        /// What kind of run it is.
        mode: RunMode,
        /// The request, where there is one.
        request: Option<String>,
        /// The priority of its tasks.
        priority: Priority,
        /// The most that it may spend, in US dollars.
        budget_usd: Option<f64>,
        /// The most tokens that it may use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget_tokens: Option<u64>,
        /// Whether the model is the built-in stand-in.
        rehearsal: bool,
    },
    /// A task was added.
    TaskAdded {
        /// The task.
        task: Task,
        /// Where it came from.
        source: TaskSource,
    },
    /// The orchestrator's plan can't be carried out; it is told why.
    PlanRejected {
        /// The task that planned.
        task: TaskId,
        /// What is wrong with it, a sentence each.
        reasons: Vec<String>,
    },
    /// The run has its plan. Its tasks follow as events of their own in the same write.
    PlanAccepted {
        /// The run.
        run: RunId,
        /// How many tasks it has.
        tasks: usize,
        /// The complete tasks of earlier runs whose results its answer has too.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        given: Vec<TaskId>,
        /// The plan as it was handed in; only in a run that is only split.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
    },
    /// An attempt was handed to a replica.
    AttemptDispatched {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// To whom.
        replica: ReplicaId,
        /// What its result has to echo.
        token: Token,
        /// The Claude session.
        session: SessionId,
        /// Whether the session goes on from an earlier attempt.
        resume: bool,
    },
    /// The replica runs and has the attempt before it.
    AttemptStarted {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// The attempt is being stopped; it is not over yet.
    AttemptStopping {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
    },
    /// The attempt is over without a result that counts, and whatever ran it is gone.
    AttemptFailed {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
        /// Whether it uses up one of the task's retries.
        counted: bool,
        /// When the next attempt may be dispatched; absent when there is none.
        retry_at: Option<Time>,
        /// The tokens of the attempt.
        #[serde(default)]
        usage: Usage,
        /// What it cost, in US dollars; `null` when a model was used whose price is not known,
        /// and nothing when absent.
        #[serde(default = "nothing")]
        cost_usd: Option<f64>,
        /// Whether nothing of its worker can be started: that says nothing of the task.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        paused: bool,
    },
    /// The task ended, with its one result. `status` of the result says how.
    TaskEnded {
        /// The result.
        result: Box<TaskResult>,
        /// When it was skipped: the tasks from the one it depends on to the one that failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        because: Vec<TaskId>,
        /// In a snapshot: what is known of its attempts, whose own events are not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempts: Option<Box<Attempts>>,
    },
    /// Somebody asked for an end to a task, or to all tasks of a run.
    CancelRequested {
        /// The run.
        run: RunId,
        /// The task; absent for the whole run.
        task: Option<TaskId>,
    },
    /// A task that had ended is to be done again.
    TaskReset {
        /// The task.
        task: TaskId,
    },
    /// Tasks of the standing run that ended were cleared away, with their results. Their names are not used
    /// again.
    TasksForgotten {
        /// The run: the standing one.
        run: RunId,
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// The run ended. A task that is done again opens it again.
    RunEnded {
        /// The run.
        run: RunId,
        /// How.
        state: RunState,
    },
    /// A question came up that waits for a person. It is in the journal of the run that it
    /// concerns, or of the standing run.
    DecisionRaised {
        /// The question.
        decision: Decision,
    },
    /// A question is answered.
    DecisionMade {
        /// Which one.
        decision: DecisionId,
        /// The answer.
        choice: Choice,
        /// Who answered; a person when absent.
        #[serde(default, skip_serializing_if = "Decider::is_person")]
        by: Decider,
    },
}
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}

struct RecordVisitor;

/// The fields before those of the event.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Head {
    V,
    Seq,
    At,
    Snapshot,
    Event,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line of a journal")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let (mut version, mut seq, mut at, mut snapshot) = (None, None, None, None);
        while let Some(key) = map.next_key()? {
            match key {
                Head::V => version = Some(map.next_value()?),
                Head::Seq => seq = Some(map.next_value()?),
                Head::At => at = Some(map.next_value()?),
                Head::Snapshot => snapshot = map.next_value()?,
                Head::Event => {
                    let name = map.next_value::<String>()?;
                    let mut commit = None;
                    let fields = EventFields { map, commit: &mut commit };
                    return Ok(Record {
                        version: version.ok_or_else(|| A::Error::missing_field("v"))?,
                        seq: seq.ok_or_else(|| A::Error::missing_field("seq"))?,
                        at: at.ok_or_else(|| A::Error::missing_field("at"))?,
                        snapshot,
                        event: ByName::deserialize(Named { name, fields })?,
                        commit,
                    });
                }
                Head::Other => {
                    return Err(A::Error::custom("the fields of an event come after its name"));
                }
            }
        }
        Err(A::Error::missing_field("event"))
    }
}

/// The fields of an event, without what stands among them and is not the event's.
struct EventFields<'a, A> {
    map: A,
    commit: &'a mut Option<Commit>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for EventFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        mut seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        loop {
            match self.map.next_key_seed(Key(seed))? {
                None => return Ok(None),
                Some(Found::Field(key)) => return Ok(Some(key)),
                Some(Found::Commit(unused)) => {
                    *self.commit = self.map.next_value()?;
                    seed = unused;
                }
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a key; the seed comes back where the key is none of the event's.
struct Key<K>(K);

enum Found<K, V> {
    Field(V),
    Commit(K),
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<K> {
    type Value = Found<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<K> {
    type Value = Found<K, K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        match name {
            "commit" => Ok(Found::Commit(self.0)),
            name => self.0.deserialize(name.into_deserializer()).map(Found::Field),
        }
    }
}

/// An event whose name was read, and whose fields are next.
struct Named<A> {
    name: String,
    fields: A,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Named<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Named<A> {
    type Error = A::Error;
    type Variant = Fields<A>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Fields<A>), A::Error> {
        let name: StringDeserializer<A::Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Fields(self.fields)))
    }
}

struct Fields<A>(A);

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        seed.deserialize(MapAccessDeserializer::new(self.0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, A::Error> {
        Err(A::Error::custom("BUG: an event without names of its fields"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.0)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "serde's signature")]
pub(crate) fn nothing() -> Option<f64> {
    Some(0.0)
}
