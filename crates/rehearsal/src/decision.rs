//! What is decided about a request to `/v1/messages`, before any of it is delivered.

use tokio::time::Instant;

use crate::cache::{PendingWrites, Prefix};
use crate::conversation::Conversation;
use crate::reply::{Envelope, Reply};
use crate::scenario::Step;
use crate::seen::SeenRequest;
use crate::server::Shared;
use crate::stock;

/// An answer, and what goes wrong with it.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) step: Step,
    pub(crate) reply: Reply,
    pub(crate) envelope: Envelope,
    /// For the cache, once the answer begins.
    pub(crate) writes: PendingWrites,
    pub(crate) stream: bool,
}

impl Decision {
    /// Decides, and writes into `seen` what there is to see.
    pub(crate) fn make(
        shared: &Shared,
        conversation: &Conversation<'_>,
        seen: &mut SeenRequest,
    ) -> Self {
        let prefix = Prefix::of(conversation.request);
        let (taken, (mut usage, writes)) = {
            let mut state = shared.state();
            let taken = state.uses.take(&shared.scenario, conversation);
            (taken, state.cache.look_up(Instant::now(), &prefix))
        };
        let (rule, step) = match taken {
            Some((rule, step)) => (Some(rule), step),
            None => (None, Step::default()),
        };
        let reply = step.reply().unwrap_or_else(|| stock::answer(conversation));
        usage.output_tokens = reply.output_tokens();
        step.usage.apply(&mut usage);
        let stream = conversation.request.stream == Some(true);
        describe(seen, conversation);
        seen.rule = rule;
        seen.answer = step.fault(stream).unwrap_or_else(|| reply.summary());
        seen.usage = step.begins(stream).then_some(usage);
        // From the conversation, so that ids are never met twice in a session, not even in one
        // that is resumed with a rehearsal started since.
        let digest = prefix.digest();
        let envelope = Envelope {
            message_id: format!("msg_rehearsal_{digest}_{:06}", seen.number),
            call_prefix: format!("toolu_rehearsal_{digest}"),
            model: conversation.request.model.clone(),
            usage,
        };
        Self { step, reply, envelope, writes, stream }
    }
}

fn describe(seen: &mut SeenRequest, conversation: &Conversation<'_>) {
    seen.model = Some(conversation.request.model.clone());
    seen.subagent.clone_from(&conversation.subagent);
    seen.turn = conversation.turn;
    seen.stream = conversation.request.stream == Some(true);
    if let Some(task) = &conversation.task {
        seen.worker = Some(task.worker.clone());
        seen.kind = Some(task.kind);
        seen.task = Some(task.id.clone());
        seen.attempt = Some(task.attempt);
    }
}
