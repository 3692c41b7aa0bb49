//! What reaches the dispatcher.

use std::fmt;

use protocol::{ReplicaId, TaskId, WorkerId};
use scheduler::Input;
use tokio::sync::mpsc;

use crate::dispatch::Dispatcher;
use crate::journal::snapshot::Draft;

/// Something for the dispatcher.
pub enum Message {
    /// Something happened with an attempt or a replica.
    Input(Box<Input>),
    /// A request of the API, or of the watch on dropped files.
    Ask(Ask),
    /// A question, to be answered at once.
    Look(Look),
    /// The keeper of a replica ended by a panic.
    KeeperDied(ReplicaId),
    /// The folders of a replica are there.
    SlotMade(ReplicaId),
    /// The file of a task is gone, and it was not we who removed it.
    TaskFileGone {
        /// Its worker.
        worker: WorkerId,
        /// The task.
        task: TaskId,
    },
    /// A snapshot of a journal was made, or could not be.
    Shortened(Option<Draft>),
    /// Something that a person should know, or that is over; by whom it is about.
    Notice {
        /// What it is about.
        about: String,
        /// What to know; `None` when it is over.
        text: Option<String>,
    },
}

/// Something to do with the dispatcher's state. What it returns is done when all that it led to is
/// safe in the journal: answering whoever asked.
pub type Ask = Box<dyn FnOnce(&mut Dispatcher) -> Box<dyn FnOnce() + Send> + Send>;

/// Something to look up in the dispatcher's state, and to answer with.
pub type Look = Box<dyn FnOnce(&Dispatcher) + Send>;

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(input) => f.debug_tuple("Input").field(input).finish(),
            Self::Ask(_) => f.write_str("Ask"),
            Self::Look(_) => f.write_str("Look"),
            Self::KeeperDied(replica) => f.debug_tuple("KeeperDied").field(replica).finish(),
            Self::SlotMade(replica) => f.debug_tuple("SlotMade").field(replica).finish(),
            Self::Shortened(draft) => f.debug_tuple("Shortened").field(draft).finish(),
            Self::TaskFileGone { task, .. } => f.debug_tuple("TaskFileGone").field(task).finish(),
            Self::Notice { about, .. } => f.debug_tuple("Notice").field(about).finish(),
        }
    }
}

/// Where to send messages for the dispatcher. Sending never waits: the number of senders is bounded by
/// the number of replicas and of open connections, and each has at most a few messages out.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::UnboundedSender<Message>);

impl Inbox {
    /// Returns an inbox and the dispatcher's end of it.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends a message. It is lost when the dispatcher has ended, and the daemon with it.
    pub fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }

    /// Returns when the dispatcher has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Says something that a person should know, or that it is over.
    pub fn notice(&self, about: &impl fmt::Display, text: Option<String>) {
        self.send(Message::Notice { about: about.to_string(), text });
    }

    /// Asks the dispatcher and waits for its answer, which comes when all that it led to is safe.
    ///
    /// Returns `None` when the daemon is ending.
    ///
    /// # Cancel safety
    ///
    /// What was asked is done all the same.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Dispatcher) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Message::Ask(Box::new(move |dispatcher| {
            let value = question(dispatcher);
            Box::new(move || {
                let _ = reply.send(value);
            })
        })));
        answer.await.ok()
    }

    /// Asks what the dispatcher knows. The answer comes at once: also while nothing can be written, and
    /// perhaps a moment before what it says is safe.
    ///
    /// Returns `None` when the daemon is ending.
    pub async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Dispatcher) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Message::Look(Box::new(move |dispatcher| {
            let _ = reply.send(question(dispatcher));
        })));
        answer.await.ok()
    }
}
