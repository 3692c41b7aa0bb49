//! What must hold, whatever the API and the clients do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::Priority;
use tokio::time::{Duration, Instant};

use super::{
    super::{
        allowance::Cost,
        core::{Asked, Core, End, Outcome, Verdict},
        queue::{Id, place},
        told::{Count, Rejected, Told},
        *,
    },
    at_once, want, worker,
};

/// What the world does next.
#[derive(Clone, Debug)]
enum Step {
    Ask { worker: u8, model: u8, priority: u8, input: u64, patience: u64 },
    Answer { pick: prop::sample::Index, how: u8, retry_after: Option<u64> },
    End { pick: prop::sample::Index, how: u8, actual: u64 },
    Leave { pick: prop::sample::Index },
    Overload { pick: prop::sample::Index },
    Unreach { pick: prop::sample::Index },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..3_u8, 0..2_u8, 0..3_u8, 0..40_000_u64, 1..400_u64).prop_map(
            |(worker, model, priority, input, patience)| Step::Ask {
                worker, model, priority, input, patience
            }
        ),
        4 => (pick(), 0..8_u8, prop::option::of(0..2_000_u64)).prop_map(
            |(pick, how, retry_after)| Step::Answer { pick, how, retry_after }
        ),
        4 => (pick(), 0..3_u8, 0..60_000_u64).prop_map(
            |(pick, how, actual)| Step::End { pick, how, actual }
        ),
        1 => pick().prop_map(|pick| Step::Leave { pick }),
        1 => pick().prop_map(|pick| Step::Overload { pick }),
        2 => pick().prop_map(|pick| Step::Unreach { pick }),
        5 => (0..20_000_u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// A core and what is known of it from outside.
struct World {
    core: Core,
    start: Instant,
    now: Instant,
    wants: BTreeMap<Id, Want>,
    waiting: BTreeMap<Id, Instant>,
    sent: BTreeSet<Id>,
    answered: BTreeSet<Id>,
    /// How many requests of the worker went that may send ten per minute, but for those that never went out.
    went: usize,
}

impl World {
    fn new() -> Self {
        let workers = [
            (worker("w0"), Limits { requests_per_minute: Some(10), ..at_once(3) }),
            (worker("w1"), Limits { input_tokens_per_minute: Some(50_000), ..Limits::default() }),
        ];
        let config = PaceConfig {
            account: Limits { output_tokens_per_minute: Some(100_000), ..at_once(12) },
            models: vec![("m1".to_owned(), at_once(5))],
            workers: workers.into(),
        };
        let now = Instant::now();
        Self {
            core: Core::new(config, 7, now),
            start: now,
            now,
            wants: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sent: BTreeSet::new(),
            answered: BTreeSet::new(),
            went: 0,
        }
    }

    fn is_of(&self, id: Id, name: &str) -> bool {
        self.wants[&id].worker.as_str() == name
    }

    fn go(&mut self, id: Id) {
        assert!(self.sent.insert(id), "{id} goes twice");
        if self.is_of(id, "w0") {
            self.went += 1;
        }
        let count = |of: &dyn Fn(Id) -> bool| self.sent.iter().filter(|id| of(**id)).count();
        assert!(count(&|_| true) <= 12);
        assert!(count(&|id| &*self.wants[&id].model == "m1") <= 5);
        assert!(count(&|id| self.is_of(id, "w0")) <= 3);
        let model = &self.wants[&id].model;
        let lane = self.core.status(self.now).into_iter().find(|lane| lane.model == *model);
        let lane = lane.unwrap();
        assert!(lane.in_flight <= lane.window, "{lane:?}");
    }

    /// One did not go out after all.
    fn unsent(&mut self, id: Id) {
        if self.is_of(id, "w0") && !self.answered.contains(&id) {
            self.went -= 1;
        }
    }

    /// Takes in what became of those that waited.
    fn look(&mut self) {
        for (id, outcome) in self.core.take_outcomes() {
            let since = self.waiting.remove(&id).expect("only one that waits should be told");
            let want = &self.wants[&id];
            match outcome {
                Outcome::Go(waits) => {
                    assert_eq!(waits.total(), self.now - since, "{id}: {waits:?}");
                    let at = |id: Id| place(self.wants[&id].since, self.wants[&id].priority, id);
                    let before = self.waiting.keys().find(|other| {
                        let other_want = &self.wants[other];
                        (&other_want.model, &other_want.worker) == (&want.model, &want.worker)
                            && at(**other) < at(id)
                    });
                    assert_eq!(before, None, "it should go before {id}");
                    self.go(id);
                }
                Outcome::Held(held, waits) => {
                    assert_eq!(waits.total(), self.now - since, "{id}: {waits:?}");
                    let known = held.until.is_some_and(|until| until > want.give_up);
                    assert!(known || self.now >= want.give_up, "{held:?} {want:?}");
                }
            }
        }
        let status = self.core.status(self.now);
        assert_eq!(self.core.waiting(), self.waiting.len());
        assert_eq!(status.iter().map(|lane| lane.waiting).sum::<usize>(), self.waiting.len());
        assert_eq!(
            status.iter().map(|lane| lane.in_flight as usize).sum::<usize>(),
            self.sent.len()
        );
        // Nobody waits for nothing.
        if !self.waiting.is_empty() {
            let next = self.core.next_wake().expect("who waits should be looked at some time");
            assert!(next > self.now, "it should have been settled");
        }
    }

    fn step(&mut self, step: &Step) {
        let pick = |pick: &prop::sample::Index, from: Vec<Id>| {
            (!from.is_empty()).then(|| from[pick.index(from.len())])
        };
        let sent = || self.sent.iter().copied().collect::<Vec<_>>();
        match step {
            Step::Ask { worker: of, model, priority, input, patience } => {
                let want = Want {
                    worker: worker(&format!("w{of}")),
                    model: format!("m{model}").into(),
                    priority: [Priority::Low, Priority::Medium, Priority::High][*priority as usize],
                    input: *input,
                    give_up: self.now + Duration::from_secs(*patience),
                    ..want(self.now)
                };
                match self.core.ask(self.now, &want) {
                    Asked::Go(id) => {
                        self.wants.insert(id, want);
                        self.go(id);
                    }
                    Asked::Wait(id) => {
                        self.wants.insert(id, want);
                        self.waiting.insert(id, self.now);
                    }
                    Asked::Held(held) => assert!(held.until > Some(want.give_up), "{held:?}"),
                }
            }
            Step::Answer { pick: which, how, retry_after } => {
                let Some(id) = pick(which, sent()) else { return };
                let count = |remaining| Some(Count { limit: 80_000, remaining });
                let (status, mut told) = match how {
                    0..3 => (200, Told { input: count(40_000), ..Told::default() }),
                    3 => (500, Told::default()),
                    4 => (429, Told { input: count(0), ..Told::default() }),
                    5 => (429, Told { input: count(80_000), ..Told::default() }),
                    6 => (529, Told::default()),
                    _ => {
                        let reset = retry_after.map(Duration::from_secs);
                        let rejected = Some(Rejected { reset, claim: None });
                        (429, Told { rejected, ..Told::default() })
                    }
                };
                told.retry_after = retry_after.map(Duration::from_secs);
                self.answered.insert(id);
                if self.core.answered(self.now, id, status, &told) != Verdict::Deliver {
                    self.sent.remove(&id);
                }
            }
            Step::End { pick: which, how, actual } => {
                let Some(id) = pick(which, sent()) else { return };
                let cost = Cost { input: *actual as f64, output: *actual as f64 / 20.0 };
                let end = [End::Spent(cost), End::Unknown, End::Unsent][*how as usize];
                self.sent.remove(&id);
                if *how == 2 {
                    self.unsent(id);
                }
                self.core.end(self.now, id, end);
            }
            Step::Leave { pick: which } => {
                let Some(id) = pick(which, self.waiting.keys().copied().collect()) else { return };
                self.waiting.remove(&id);
                self.core.leave(self.now, id);
            }
            Step::Overload { pick: which } => {
                let Some(id) = pick(which, sent()) else { return };
                self.core.overloaded(self.now, id);
            }
            Step::Unreach { pick: which } => {
                let Some(id) = pick(which, sent()) else { return };
                self.sent.remove(&id);
                self.unsent(id);
                self.core.unreached(self.now, id);
            }
            Step::Pass { millis } => {
                let end = self.now + Duration::from_millis(*millis);
                while let Some(next) = self.core.next_wake().filter(|next| *next <= end) {
                    self.now = next;
                    self.core.tick(next);
                    self.look();
                }
                self.now = end;
            }
        }
        self.look();
    }

    /// All that is in flight ends well, and all that waits goes or is held.
    fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "{} wait for ever", self.waiting.len());
            for id in std::mem::take(&mut self.sent) {
                self.core.answered(self.now, id, 200, &Told::default());
                self.core.end(self.now, id, End::Unsent);
                // What it lets go is looked at below: it may end only after it was seen to go.
            }
            self.look();
            if self.sent.is_empty() {
                if self.waiting.is_empty() {
                    break;
                }
                self.now = self.core.next_wake().unwrap();
                self.core.tick(self.now);
                self.look();
            }
        }
        let rate = self.went as f64 - 10.0;
        assert!(rate <= (self.now - self.start).as_secs_f64() / 6.0 + 1.0, "{} went", self.went);
        assert!(self.core.is_at_rest(), "{:?}", self.core);
    }
}

proptest! {
    #[test]
    fn limits_and_order_hold_and_everybody_goes_or_is_told(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
