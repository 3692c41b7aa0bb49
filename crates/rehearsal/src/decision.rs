//! What is decided about a request to `/v1/messages`, before any of it is delivered.

use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::cache::{PendingWrites, Prefix};
use crate::conversation::Conversation;
use crate::limits::OverLimit;
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
    /// How the model's limits stand.
    pub(crate) limits: Vec<(HeaderName, HeaderValue)>,
}

/// A request that is over one of the model's limits.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: OverLimit,
    /// How the limits stand.
    pub(crate) limits: Vec<(HeaderName, HeaderValue)>,
}

impl Decision {
    /// Decides, and writes into `seen` what there is to see.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the request is over a limit. Then it has used up no rule.
    pub(crate) fn make(
        shared: &Shared,
        conversation: &Conversation<'_>,
        seen: &mut SeenRequest,
    ) -> Result<Self, Refused> {
        let (prefix, now) = (Prefix::of(conversation.request), Instant::now());
        let model = &conversation.request.model;
        describe(seen, conversation);
        let (taken, (mut usage, writes), input) = {
            let mut state = shared.state();
            let (usage, writes) = state.cache.look_up(now, &prefix);
            let input = usage.input_tokens + usage.cache_creation_input_tokens;
            if let Err(why) = state.limits.admit(now, model, input) {
                seen.rule = Some("limits".to_owned());
                seen.answer = "http 429".to_owned();
                return Err(Refused { why, limits: state.limits.headers(now, model) });
            }
            (state.uses.take(&shared.scenario, conversation), (usage, writes), input)
        };
        let (rule, step) = match taken {
            Some((rule, step)) => (Some(rule), step),
            None => (None, Step::default()),
        };
        let reply = step.reply().unwrap_or_else(|| stock::answer(conversation));
        usage.output_tokens = reply.output_tokens();
        step.usage.apply(&mut usage);
        let stream = conversation.request.stream == Some(true);
        seen.rule = rule;
        seen.answer = step.fault(stream).unwrap_or_else(|| reply.summary());
        let begins = step.begins(stream);
        seen.usage = begins.then_some(usage);
        let limits = {
            let buckets = &mut shared.state().limits;
            if begins {
                buckets.answer(now, model, usage.output_tokens);
            } else {
                buckets.fail(now, model, input);
            }
            buckets.headers(now, model)
        };
        // From the conversation, so that ids are never met twice in a session, not even in one
        // that is resumed with a rehearsal started since.
        let digest = prefix.digest();
        let envelope = Envelope {
            message_id: format!("msg_rehearsal_{digest}_{:06}", seen.number),
            call_prefix: format!("toolu_rehearsal_{digest}"),
            model: conversation.request.model.clone(),
            usage,
        };
        Ok(Self { step, reply, envelope, writes, stream, limits })
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
