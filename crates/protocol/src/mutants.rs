//! Faults that are planted in the program, so that it can be seen that the simulation finds them.
//!
//! Only with the feature `simulate`; else [`mutant!`](crate::mutant) is its normal branch and nothing more.

use std::cell::Cell;

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a fault in what this thread does from now on, or none.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Returns whether that fault is planted.
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

macro_rules! mutants {
    ($($name:ident $what:literal,)*) => {
        /// A fault that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "`what` says it")]
        pub enum Mutant {
            $($name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns what is wrong with the program then.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }
        }
    };
}

mutants! {
    JournalNotSynced "a batch of the journal is not synced",
    JournalFolderNotSynced "the folder of a new journal is not synced",
    FoldersNotSynced "the daemon's own folders are not synced",
    JournalTailLost "the last event before a torn tail is lost silently",
    HalfBatchStays "half a batch stays in the journal when there is no room for all of it",
    TornTailStays "a torn tail stays in the journal",
    HalfCommitStays "of a commit over several journals what is there stays when another part is missing",
    UnsyncedBatchTrusted "what a killed daemon had not synced is taken as it is read",
    FailedSyncRetried "a sync that failed is tried again, and then believed",
    SequenceRestarts "events are numbered from 1 again after a restart",
    ActsBeforeCommit "commands are carried out before their events are safe",
    AnswersBeforeCommit "a submission is acknowledged before it is safe",
    AnswersWithoutRoom "a submission is acknowledged while there is no room for it",
    ClearsBeforeCommit "a slot is cleared before the result is safe",
    PublishedBeforeAccepted "a result is published before it is accepted",
    OldAttemptCounts "the result of an old attempt counts",
    TokenIgnored "a result counts whatever its token is",
    DeadlineForgotten "an attempt may take for ever",
    AcceptedDoneAgain "a restart forgets that tasks have ended",
    OldContainerNotConfirmed "a container counts as gone when the engine says that it can't stop it",
    StopForgotten "a container that is to be stopped is not",
    ArtifactNotSynced "an artifact is not synced before its result counts",
    ArtifactFolderNotSynced "the folders of artifacts are not synced",
    OneTooMany "one attempt more than allowed runs at once",
    DependencyForgotten "a task does not wait for what it depends on",
    RescanForgotten "a slot is only looked at when the watcher says so",
    OverflowDropped "an overflow of the watcher is dropped",
    ClearedInWrongOrder "a slot's result is removed before its order",
    StrangersKept "a slot is not cleared of what does not belong there",
    TornResultTrusted "a published result counts as whole when it has any length",
    UnwrittenForgotten "what a full disk kept from being written is not written later",
    RestartForgetsToPublish "a restart does not publish what was accepted",
    TakenInTwice "a result that was reported is taken in again",
    TornInputsTrusted "what an attempt was given is not looked at after a power cut",
}

/// `mutant!(Name, normal, broken)` is `normal`, unless that fault is planted; `mutant!(Name, more)` does
/// something more when it is.
#[macro_export]
macro_rules! mutant {
    ($name:ident, $more:expr $(,)?) => {
        if $crate::mutants::is_planted($crate::mutants::Mutant::$name) {
            $more;
        }
    };
    ($name:ident, $normal:expr, $broken:expr $(,)?) => {
        if $crate::mutants::is_planted($crate::mutants::Mutant::$name) { $broken } else { $normal }
    };
}
