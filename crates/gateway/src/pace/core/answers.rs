//! What answers teach.

use tokio::time::Instant;

use super::{Core, End, Phase, Request, Verdict};
use crate::pace::{
    allowance::Cost, bucket::later, queue::Id, told::Told, window::Trouble, words::WaitReason,
};

impl Core {
    /// The head of an answer has come. With [`Verdict::Again`] the request has ended.
    pub(crate) fn answered(&mut self, now: Instant, id: Id, status: u16, told: &Told) -> Verdict {
        let Some(Request { lane: lane_ix, estimate, phase, .. }) = self.requests.get_mut(&id)
        else {
            return Verdict::Deliver;
        };
        let Phase::Sent { seq, cost, answered, good } = phase else { return Verdict::Deliver };
        *good = (200..300).contains(&status);
        let (lane_ix, estimate, seq, cost) = (*lane_ix, *estimate, *seq, *cost);
        let lane = &mut self.lanes[lane_ix];
        let account = &mut self.accounts[lane.account];
        if !std::mem::replace(answered, true) {
            lane.pending.answered(estimate, cost);
        }
        let refused = matches!(status, 429 | 529);
        // An answer that was overtaken says how it was, not how it is; but a refusal is news.
        if seq > lane.heard || refused {
            lane.heard = lane.heard.max(seq);
            let overtaken = seq < lane.heard;
            lane.server.hear(now, told, (!overtaken).then_some(lane.pending));
        }
        if !refused {
            if status < 500 {
                account.gate.succeed(seq);
                if lane.gate.succeed(seq) {
                    lane.window.restart();
                }
                if status < 400 {
                    lane.window.succeed(now, lane.in_flight, !lane.queue.is_empty());
                }
            } else {
                account.gate.forget(seq);
                lane.gate.forget(seq);
            }
            let ix = lane.account;
            self.settle(now, ix);
            return Verdict::Deliver;
        }
        let need = Cost { input: cost.input.max(estimate.input), ..cost };
        let mut again = estimate.input;
        if let Some(rejected) = told.rejected.as_ref().filter(|_| status == 429) {
            // Subscriptions are limited over all models, apart from some windows of one family.
            let wait = rejected.reset.or(told.retry_after);
            let gate = if rejected.is_of(&lane.class) { &mut lane.gate } else { &mut account.gate };
            match wait {
                Some(wait) => {
                    gate.pause(now, WaitReason::RateLimited, seq, wait, &mut self.random);
                }
                None => gate.refuse(now, WaitReason::RateLimited, seq, None, &mut self.random),
            }
        } else if status == 529 {
            lane.window.cut(now, Trouble::Overloaded, seq, self.next_seq - 1);
            let reason = WaitReason::Overloaded;
            lane.gate.refuse(now, reason, seq, told.retry_after, &mut self.random);
        } else if let Some((reason, count, need)) = told.exhausted(need) {
            lane.server.missed(now, reason, need - count.remaining as f64);
            // The number in flight is not to blame. When the bucket has enough again can be reckoned.
            let rate = count.limit as f64 / 60.0;
            let wait = told
                .retry_after
                .unwrap_or_else(|| later(now, (need - count.remaining as f64) / rate) - now);
            if reason == WaitReason::InputTokens {
                // What will be there then must be what it needs.
                let then = count.remaining as f64 + wait.as_secs_f64() * rate;
                again = again.max(then.min(count.limit as f64));
            }
            lane.gate.pause(now, WaitReason::RateLimited, seq, wait, &mut self.random);
        } else {
            lane.window.cut(now, Trouble::Limited, seq, self.next_seq - 1);
            let reason = WaitReason::RateLimited;
            lane.gate.refuse(now, reason, seq, told.retry_after, &mut self.random);
        }
        // It cost nothing.
        let ix = lane.account;
        self.hold_late(now, ix);
        if told.hopeless {
            self.charge(now, id, Cost::default());
            self.settle(now, ix);
            return Verdict::Deliver;
        }
        self.end(now, id, End::Unsent);
        Verdict::Again { input: again.ceil() as u64 }
    }

    /// No connection to the API could be made, so the request has ended, and goes again. To the breaker that is a
    /// refusal like any other; how many may be in flight it does not tell.
    pub(crate) fn unreached(&mut self, now: Instant, id: Id) {
        let Some(Request { lane, phase: Phase::Sent { seq, .. }, .. }) = self.requests.get(&id)
        else {
            return;
        };
        let (lane, seq) = (&mut self.lanes[*lane], *seq);
        lane.gate.refuse(now, WaitReason::Unreachable, seq, None, &mut self.random);
        self.end(now, id, End::Unsent);
    }

    /// The API broke an answer off, because it is overloaded.
    pub(crate) fn overloaded(&mut self, now: Instant, id: Id) {
        let Some(Request { lane, phase: Phase::Sent { seq, .. }, .. }) = self.requests.get(&id)
        else {
            return;
        };
        let (lane, seq) = (&mut self.lanes[*lane], *seq);
        lane.window.cut(now, Trouble::Overloaded, seq, self.next_seq - 1);
        lane.gate.refuse(now, WaitReason::Overloaded, seq, None, &mut self.random);
        let account = lane.account;
        self.settle(now, account);
    }
}
