//! Those who can't go in time.

use tokio::time::Instant;

use super::{
    Core, HeldUntil, Outcome,
    lane::{AccountIx, Lane, check_gate},
};
use crate::pace::{
    allowance::Block,
    queue::Party,
    words::{Scope, WaitReason},
};

impl Core {
    /// Tells those whose time is up.
    pub(super) fn give_up(&mut self, now: Instant, account: AccountIx) {
        self.hold(account, now, |lane, worker| {
            let reason = lane.queue.reason_of(worker).unwrap_or(WaitReason::InFlight);
            let block = lane.block.filter(|block| block.reason == reason);
            let scope = block.map_or(Scope::Worker, |block| block.scope);
            (now, HeldUntil { reason, scope, until: block.and_then(|block| block.until) })
        });
    }

    /// Tells those who would give up before what the API said is over.
    pub(super) fn hold_late(&mut self, now: Instant, account: AccountIx) {
        let of_account = check_gate(&self.accounts[account].gate, now, Scope::Account).err();
        self.hold(account, now, |lane, _| {
            let of_lane = check_gate(&lane.gate, now, Scope::Model).err();
            let until = |block: &Block| block.until;
            let block = of_account.into_iter().chain(of_lane).max_by_key(until);
            match block {
                Some(Block { reason, scope, until: Some(until), .. }) => {
                    (until, HeldUntil { reason, scope, until: Some(until) })
                }
                _ => (
                    now,
                    HeldUntil { reason: WaitReason::InFlight, scope: Scope::Model, until: None },
                ),
            }
        });
    }

    /// Holds all requests of an account that give up before the instant that `judge` returns.
    fn hold(
        &mut self,
        account: AccountIx,
        now: Instant,
        judge: impl Fn(&Lane, &Party) -> (Instant, HeldUntil),
    ) {
        for lane in self.accounts[account].waiting.clone() {
            while let Some((give_up, id)) = self.lanes[lane].queue.first_to_give_up() {
                let Some(request) = self.requests.get(&id) else {
                    panic!("BUG: request {id} is in a queue, and nobody knows it");
                };
                let (until, held) = judge(&self.lanes[lane], &request.worker);
                if give_up > until || (give_up == until && until > now) {
                    break;
                }
                let waits = self.unqueue(now, id);
                self.outcomes.push((id, Outcome::Held(held, waits)));
            }
        }
    }
}
