//! Callers that do whatever may happen, against a model that knows what each request truly took.

use std::{collections::HashMap, sync::LazyLock};

use proptest::{prelude::*, sample::Index};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        caller: usize,
        usd: Option<u64>,
        tokens: u64,
        takes: u64,
    },
    Settle {
        pick: Index,
        seen: u64,
        complete: bool,
    },
    Release {
        pick: Index,
    },
    Drop {
        pick: Index,
    },
    Raise {
        scope: usize,
        by: u64,
    },
    NextDay,
    MakeSmall,
    /// Killed, with this part of the last line on disk, or all of it.
    Crash {
        cut: Option<Index>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Index>;
    let usd = prop_oneof![9 => (0..40_u64).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        10 => (0..16_usize, usd, 0..40_u64, 0..=100_u64)
            .prop_map(|(caller, usd, tokens, takes)| Step::Reserve { caller, usd, tokens, takes }),
        6 => (pick(), 0..=100_u64, prop::bool::weighted(0.8))
            .prop_map(|(pick, seen, complete)| Step::Settle { pick, seen, complete }),
        1 => pick().prop_map(|pick| Step::Release { pick }),
        1 => pick().prop_map(|pick| Step::Drop { pick }),
        1 => (0..20_usize, 0..60_u64).prop_map(|(scope, by)| Step::Raise { scope, by }),
        1 => Just(Step::NextDay),
        1 => Just(Step::MakeSmall),
        1 => prop::option::of(pick()).prop_map(|cut| Step::Crash { cut }),
    ]
}

/// Where a request is, as the books should have it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Out,
    Released,
    Lost,
    /// With what was seen, of which the second says whether it was all.
    Settled((u64, u64), bool),
}

#[derive(Debug)]
struct Request {
    caller: usize,
    day: Day,
    worst: (Option<u64>, u64),
    /// What it truly takes, whoever sees it.
    takes: (u64, u64),
    at: At,
}

impl Request {
    fn concerns(&self, scope: &Scope, today: Day) -> bool {
        let caller = &CALLERS[self.caller];
        match scope {
            Scope::Task(task) => *task == caller.task,
            Scope::Run(run) => *run == caller.run,
            Scope::Worker(worker) => *worker == caller.worker && self.day == today,
            Scope::Day => self.day == today,
        }
    }

    fn truly(&self) -> (u64, u64) {
        if self.at == At::Released { (0, 0) } else { self.takes }
    }

    /// Returns what should be spent and held.
    fn booked(&self) -> [(u64, u64); 2] {
        let worst = (self.worst.0.unwrap_or(0), self.worst.1);
        match self.at {
            At::Out | At::Lost => [(0, 0), worst],
            At::Released => [(0, 0); 2],
            At::Settled(seen, true) => [seen, (0, 0)],
            At::Settled(seen, false) => [seen, (worst.0 - seen.0, worst.1 - seen.1)],
        }
    }
}

static CALLERS: LazyLock<Vec<Caller>> = LazyLock::new(|| {
    let caller = |n: usize| {
        let (task, worker) = (n / 2, ["marie", "paul", "ada"][n % 3]);
        // A task has one run.
        caller(worker, (task % 3) as u8, &format!("t{task}"))
    };
    (0..16).map(caller).collect()
});

fn all_scopes() -> Vec<Scope> {
    let tasks = CALLERS.iter().step_by(2).map(|caller| Scope::Task(caller.task.clone()));
    let runs = (0..3).map(|n| Scope::Run(run(n)));
    let workers = ["marie", "paul", "ada"].map(|name| Scope::Worker(name.parse().unwrap()));
    tasks.chain(runs).chain(workers).chain([Scope::Day]).collect()
}

struct World {
    path: PathBuf,
    hands: Hands,
    ledger: Ledger,
    scopes: Vec<Scope>,
    budgets: HashMap<Scope, Budget>,
    requests: Vec<Request>,
    /// Those that are out, by their number here.
    out: Vec<(usize, Reservation)>,
    /// The lines that the process has written: whose, and where that request was before.
    lines: Vec<(usize, Option<At>)>,
}

impl World {
    fn new(path: PathBuf, budgets: &[Option<(u64, bool)>]) -> Self {
        let (hands, scopes) = (Hands::new(), all_scopes());
        let budget = |(limit, in_usd)| {
            if in_usd { usd(limit) } else { Budget { usd: None, tokens: Some(limit) } }
        };
        let budgets = scopes
            .iter()
            .zip(budgets)
            .filter_map(|(scope, given)| Some((scope.clone(), given.map(budget)?)))
            .collect();
        let ledger = open(&path, &hands);
        let (requests, out, lines) = (Vec::new(), Vec::new(), Vec::new());
        let world = Self { path, hands, ledger, scopes, budgets, requests, out, lines };
        world.set_budgets();
        world
    }

    fn set_budgets(&self) {
        for (scope, budget) in &self.budgets {
            self.ledger.set_budget(scope.clone(), *budget);
        }
    }

    fn today(&self) -> Day {
        Day::of(self.hands.read()())
    }

    fn moves(&mut self, number: usize, to: At) {
        self.lines.push((number, Some(self.requests[number].at)));
        self.requests[number].at = to;
    }

    fn take(&mut self, pick: Index) -> Option<(usize, Reservation)> {
        (!self.out.is_empty()).then(|| self.out.swap_remove(pick.index(self.out.len())))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Reserve { caller, usd, tokens, takes } => {
                let worst = Worst { usd: usd.map(cents), tokens };
                let allowed = self.ledger.reserve(&CALLERS[caller], "m", worst);
                assert_eq!(allowed.is_ok(), self.fits(caller, usd, tokens), "{allowed:?}");
                if let Ok(reservation) = allowed {
                    let takes = (usd.unwrap_or(0) * takes / 100, tokens * takes / 100);
                    let (day, worst) = (self.today(), (usd, tokens));
                    self.out.push((self.requests.len(), reservation));
                    self.lines.push((self.requests.len(), None));
                    self.requests.push(Request { caller, day, worst, takes, at: At::Out });
                }
            }
            Step::Settle { pick, seen, complete } => {
                let Some((number, reservation)) = self.take(pick) else { return };
                let Request { takes, worst, .. } = self.requests[number];
                let part = |all| if complete { all } else { all * seen / 100 };
                let seen = (part(takes.0), part(takes.1));
                let cost = worst.0.map(|_| cents(seen.0));
                reservation.settle(Spent { complete, cost, ..spent(0, seen.1) });
                self.moves(number, At::Settled(seen, complete));
            }
            Step::Release { pick } => {
                let Some((number, reservation)) = self.take(pick) else { return };
                reservation.release();
                self.moves(number, At::Released);
            }
            Step::Drop { pick } => {
                let Some((number, reservation)) = self.take(pick) else { return };
                drop(reservation);
                self.moves(number, At::Lost);
            }
            Step::Raise { scope, by } => {
                let Some(scope) = self.scopes.get(scope) else { return };
                let Some(budget) = self.budgets.get_mut(scope) else { return };
                budget.usd = budget.usd.map(|limit| limit + cents(by));
                budget.tokens = budget.tokens.map(|limit| limit + by);
                self.ledger.set_budget(scope.clone(), *budget);
            }
            Step::NextDay => self.hands.next_day(),
            Step::MakeSmall => {
                drop(self.ledger.0.today());
                self.ledger.0.with_log(State::make_small).unwrap();
                self.lines.clear();
            }
            Step::Crash { cut } => self.crash(cut),
        }
    }

    fn crash(&mut self, cut: Option<Index>) {
        self.out.drain(..).for_each(|(_, reservation)| std::mem::forget(reservation));
        if let (Some(cut), Some((number, before))) = (cut, self.lines.pop()) {
            let bytes = fs::read(&self.path).unwrap();
            let last = bytes.split_inclusive(|byte| *byte == b'\n').next_back().unwrap();
            let left = bytes.len() - last.len() + cut.index(last.len());
            let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap();
            file.set_len(left as u64).unwrap();
            match before {
                // It was not sent: the line comes first.
                None => _ = self.requests.remove(number),
                Some(before) => self.requests[number].at = before,
            }
        }
        self.lines.clear();
        for request in &mut self.requests {
            if request.at == At::Out {
                request.at = At::Lost;
            }
        }
        self.ledger = open(&self.path, &self.hands);
        self.set_budgets();
    }

    fn fits(&self, caller: usize, usd: Option<u64>, tokens: u64) -> bool {
        let (day, today) = (self.today(), self.today());
        let at = At::Out;
        let request = Request { caller, day, worst: (usd, tokens), takes: (0, 0), at };
        self.budgets.iter().filter(|(scope, _)| request.concerns(scope, today)).all(
            |(scope, budget)| {
                let [spent, held] = self.booked(scope);
                let sum = (spent.0 + held.0 + usd.unwrap_or(0), spent.1 + held.1 + tokens);
                budget.usd.is_none_or(|limit| usd.is_some() && cents(sum.0) <= limit)
                    && budget.tokens.is_none_or(|limit| sum.1 <= limit)
            },
        )
    }

    fn sum<const N: usize>(
        &self,
        scope: &Scope,
        of: impl Fn(&Request) -> [(u64, u64); N],
    ) -> [(u64, u64); N] {
        let today = self.today();
        let mut sums = [(0, 0); N];
        for request in self.requests.iter().filter(|request| request.concerns(scope, today)) {
            for (sum, (usd, tokens)) in sums.iter_mut().zip(of(request)) {
                *sum = (sum.0 + usd, sum.1 + tokens);
            }
        }
        sums
    }

    fn booked(&self, scope: &Scope) -> [(u64, u64); 2] {
        self.sum(scope, Request::booked)
    }

    fn check(&self) {
        for scope in &self.scopes {
            assert_eq!(standing(&self.ledger, scope), self.booked(scope), "{scope}");
            let [(took, took_tokens)] = self.sum(scope, |request| [request.truly()]);
            if let Some(budget) = self.budgets.get(scope) {
                assert!(budget.usd.is_none_or(|limit| cents(took) <= limit), "{scope}: {took}");
                assert!(budget.tokens.is_none_or(|limit| took_tokens <= limit), "{scope}");
            }
        }
        let all = self.ledger.totals(&Filter::default());
        let at = |is: fn(&Request) -> bool| self.requests.iter().filter(|r| is(r)).count() as u64;
        assert_eq!(all.in_flight, at(|request| request.at == At::Out));
        let ended = at(|request| !matches!(request.at, At::Out | At::Released));
        assert_eq!(all.sums.requests, ended, "each counts once");
    }
}

proptest! {
    #[test]
    fn no_budget_is_ever_passed_and_the_books_are_right_whatever_happens(
        budgets in prop::collection::vec(prop::option::of((0..300_u64, any::<bool>())), 15),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        // In memory where there is such a place: what is synced often is slow.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut world = World::new(dir.path().join("ledger.jsonl"), &budgets);
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
