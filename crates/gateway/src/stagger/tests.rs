use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::*;
use crate::ask::Ttl;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn prefix(text: &str, ttl: Ttl) -> Option<Prefix> {
    let system = text.repeat(8_192 / text.len());
    let body = serde_json::json!({ "model": "m", "max_tokens": 1, "system": [
        { "type": "text", "text": system, "cache_control": { "type": "ephemeral" } },
    ]});
    let ask = crate::ask::Ask::parse(body.to_string().as_bytes()).unwrap();
    ask.prefix.map(|prefix| Prefix { ttl, ..prefix })
}

/// Requests with one prefix.
struct World {
    stagger: Stagger,
    prefix: Option<Prefix>,
}

type Entering = Pin<Box<dyn Future<Output = Place>>>;

impl World {
    fn new(ttl: Ttl) -> Self {
        Self { stagger: Stagger::new(), prefix: prefix("marie", ttl) }
    }

    fn enter(&self, priority: Priority) -> Entering {
        let (stagger, prefix) = (self.stagger.clone(), self.prefix);
        Box::pin(async move { stagger.enter("account", prefix, priority).await })
    }

    /// Lets a request in that goes at once.
    fn goes(&self, priority: Priority) -> Place {
        now(&mut self.enter(priority)).expect("the request should go at once")
    }

    /// Lets a request in that waits.
    fn waits(&self, priority: Priority) -> Entering {
        let mut entering = self.enter(priority);
        assert!(now(&mut entering).is_none(), "the request should wait");
        entering
    }

    fn entries(&self) -> usize {
        lock(&self.stagger.table).len()
    }
}

/// Returns the place of a request if it has one by now.
fn now(entering: &mut Entering) -> Option<Place> {
    match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

use Priority::{High, Low, Medium};

#[tokio::test(start_paused = true)]
async fn first_goes_alone_until_its_first_byte_then_the_rest() {
    let world = World::new(Ttl::Short);
    let mut first = world.goes(Medium);
    let mut others = [world.waits(Medium), world.waits(Low), world.waits(Medium)];
    tokio::time::advance(3 * SECOND).await;
    assert!(others.iter_mut().all(|other| now(other).is_none()));
    first.first_byte();
    for other in &mut others {
        assert_eq!(now(other).expect("it should go").waited(), 3 * SECOND);
    }
    assert_eq!(world.goes(Low).waited(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn higher_priority_passes_at_once_and_then_its_equals_wait_for_it() {
    let world = World::new(Ttl::Short);
    let _low = world.goes(Low);
    let _medium = world.waits(Low);
    let high = world.goes(High);
    let mut next = world.waits(High);
    let mut medium = world.waits(Medium);
    drop(high);
    assert!(now(&mut next).is_some_and(|place| place.waited() == Duration::ZERO));
    assert!(now(&mut medium).is_some(), "only a low one is left before it");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_twenty_seconds() {
    let world = World::new(Ttl::Short);
    let _stuck = world.goes(Medium);
    let mut early = world.waits(Medium);
    tokio::time::advance(SECOND).await;
    let mut late = world.waits(Medium);
    tokio::time::advance(19 * SECOND - Duration::from_millis(1)).await;
    assert!(now(&mut early).is_none());
    tokio::time::advance(Duration::from_millis(2)).await;
    let mut early = now(&mut early).expect("it should go");
    assert!(early.waited() >= LONGEST_WAIT);
    assert!(now(&mut late).is_none());
    early.first_byte();
    assert!(now(&mut late).is_some());
}

#[tokio::test(start_paused = true)]
async fn leader_that_goes_away_hands_the_lead_to_the_next() {
    let world = World::new(Ttl::Short);
    let first = world.goes(Medium);
    let mut low = world.waits(Low);
    let (mut second, mut third) = (world.waits(Medium), world.waits(Medium));
    drop(first);
    assert!(now(&mut low).is_none() && now(&mut third).is_none());
    let second = now(&mut second).expect("it should lead");
    drop(second);
    assert!(now(&mut low).is_none());
    let third = now(&mut third).expect("it should lead");
    drop(third);
    assert!(now(&mut low).is_some());
    assert_eq!(world.entries(), 0);
}

#[tokio::test(start_paused = true)]
async fn request_that_is_cancelled_leaves_no_trace_not_even_when_it_was_just_told_to_lead() {
    let world = World::new(Ttl::Short);
    let first = world.goes(Medium);
    let (cancelled, told, mut last) =
        (world.waits(Medium), world.waits(Medium), world.waits(Medium));
    drop(cancelled);
    drop(first);
    drop(told);
    let last = now(&mut last).expect("it should lead");
    drop(last);
    assert_eq!(world.entries(), 0);
}

#[tokio::test(start_paused = true)]
async fn prefix_is_warm_for_its_time_from_the_start_of_the_last_request_that_used_it() {
    for (ttl, minutes) in [(Ttl::Short, 5), (Ttl::Long, 60)] {
        let world = World::new(ttl);
        let mut first = world.goes(Medium);
        tokio::time::advance(10 * SECOND).await;
        first.sent();
        tokio::time::advance(30 * SECOND).await;
        first.first_byte();
        tokio::time::advance(minutes * MINUTE - 31 * SECOND).await;
        let mut second = world.goes(Medium);
        let third = world.goes(Medium);
        second.first_byte();
        tokio::time::advance(minutes * MINUTE - SECOND).await;
        drop(third);
        let unanswered = world.goes(Medium);
        tokio::time::advance(SECOND).await;
        // The one that used it last was not answered: the next leads, and one waits for it.
        drop(unanswered);
        let _leader = world.goes(Medium);
        let _waits = world.waits(Medium);
    }
}

#[tokio::test(start_paused = true)]
async fn accounts_and_prefixes_do_not_wait_for_each_other() {
    let world = World::new(Ttl::Short);
    let _first = world.goes(Medium);
    let enter = |account: &'static str, prefix| {
        let stagger = world.stagger.clone();
        let mut entering: Entering =
            Box::pin(async move { stagger.enter(account, prefix, Medium).await });
        now(&mut entering)
    };
    assert!(enter("another", world.prefix).is_some());
    assert!(enter("account", prefix("zoe", Ttl::Short)).is_some());
    assert!(enter("account", None).is_some());
    assert!(enter("account", world.prefix).is_none());
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let (stagger, prefix) = (Stagger::new(), prefix("x", Ttl::Long));
    let mut standing = Vec::new();
    for number in 0..20_000 {
        let mut place = stagger.enter(number, prefix, Medium).await;
        if number % 100 == 0 {
            standing.push(place);
        } else {
            place.first_byte();
        }
        assert!(lock(&stagger.table).len() <= 4_096 + 1);
    }
    let mut waits: Entering = Box::pin(async move { stagger.enter(0, prefix, Medium).await });
    assert!(now(&mut waits).is_none(), "what requests stand on is not forgotten");
}

/// What may happen to requests with one prefix. Indices count modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Enter(Priority),
    FirstByte(usize),
    Leave(usize),
    Cancel(usize),
    Advance(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::sample::select(vec![Low, Medium, High]).prop_map(Op::Enter),
        2 => (0..32_usize).prop_map(Op::FirstByte),
        2 => (0..32_usize).prop_map(Op::Leave),
        1 => (0..32_usize).prop_map(Op::Cancel),
        3 => prop::sample::select(vec![1_u64, 999, 7_001, 20_003, 290_007])
            .prop_map(|millis| Op::Advance(Duration::from_millis(millis))),
    ]
}

/// The rules, as they are written down, over a list of all requests.
#[derive(Debug, Default)]
struct Model {
    now: Duration,
    warm_until: Option<Duration>,
    requests: Vec<ModelRequest>,
}

#[derive(Debug)]
struct ModelRequest {
    priority: Priority,
    entered: Duration,
    /// When it went, if it has.
    went: Option<Duration>,
    /// Whether it is out: answered, gone or cancelled.
    over: bool,
}

impl Model {
    fn of(&self, waiting: bool) -> Vec<usize> {
        let all = self.requests.iter().enumerate();
        let some = all.filter(|(_, r)| !r.over && r.went.is_none() == waiting);
        some.map(|(at, _)| at).collect()
    }

    fn settle(&mut self) {
        let warm = self.warm_until.is_some_and(|until| self.now < until);
        loop {
            let before = self.of(false).iter().map(|at| self.requests[*at].priority).max();
            let next = self.of(true).into_iter().max_by(|a, b| {
                self.requests[*a].priority.cmp(&self.requests[*b].priority).then(b.cmp(a))
            });
            let Some(next) = next else { return };
            let (waiting, now) = (&mut self.requests[next], self.now);
            if !warm && before.is_some_and(|before| before >= waiting.priority) {
                break;
            }
            waiting.went = Some(now);
        }
        for request in &mut self.requests {
            if !request.over && request.went.is_none() && self.now >= request.entered + LONGEST_WAIT
            {
                request.went = Some(self.now);
            }
        }
    }
}

async fn follow(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let world = World::new(Ttl::Short);
    let mut model = Model::default();
    let mut entering: Vec<Option<Entering>> = Vec::new();
    let mut places: Vec<Option<Place>> = Vec::new();
    for op in ops {
        let pick = |list: Vec<usize>, at: usize| list.get(at % list.len().max(1)).copied();
        match op {
            Op::Enter(priority) => {
                entering.push(Some(world.enter(priority)));
                places.push(None);
                let entered = model.now;
                model.requests.push(ModelRequest { priority, entered, went: None, over: false });
            }
            Op::FirstByte(at) => {
                if let Some(at) = pick(model.of(false), at) {
                    places[at].take().expect("a place").first_byte();
                    let request = &mut model.requests[at];
                    request.over = true;
                    let until = request.went.map(|went| went + Ttl::Short.duration());
                    model.warm_until = model.warm_until.max(until);
                }
            }
            Op::Leave(at) => {
                if let Some(at) = pick(model.of(false), at) {
                    places[at] = None;
                    model.requests[at].over = true;
                }
            }
            Op::Cancel(at) => {
                if let Some(at) = pick(model.of(true), at) {
                    entering[at] = None;
                    model.requests[at].over = true;
                }
            }
            Op::Advance(time) => {
                tokio::time::advance(time).await;
                model.now += time;
            }
        }
        model.settle();
        for (at, entering) in entering.iter_mut().enumerate() {
            if let Some(place) = entering.as_mut().and_then(now) {
                *entering = None;
                places[at] = Some(place);
            }
        }
        let gone: Vec<_> = (0..places.len()).filter(|at| places[*at].is_some()).collect();
        prop_assert_eq!(gone, model.of(false), "{:?}", model);
        for (at, place) in places.iter().enumerate() {
            if let (Some(place), Some(went)) = (place, model.requests[at].went) {
                prop_assert_eq!(place.waited(), went - model.requests[at].entered);
            }
        }
    }
    drop((entering, places));
    prop_assert!(world.entries() <= usize::from(model.warm_until.is_some()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn rules_hold_whatever_happens(ops in prop::collection::vec(op(), 0..60)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(follow(ops))?;
    }
}
