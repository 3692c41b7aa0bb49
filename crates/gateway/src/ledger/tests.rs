mod hostile;
mod together;
mod waiting;

use std::{
    fs,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use protocol::{Attempt, Priority, RunId};

use super::*;
use crate::{Tokens, Usd};

/// Noon of the first day.
const NOON: u64 = 20_000 * 86_400_000 + 43_200_000;

/// A clock that is set by hand.
#[derive(Clone, Debug)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOON)))
    }

    fn next_day(&self) {
        self.0.fetch_add(86_400_000, Ordering::Relaxed);
    }

    fn read(&self) -> impl Fn() -> Time + Send + Sync + 'static {
        let hands = Arc::clone(&self.0);
        move || Time::from_millis(hands.load(Ordering::Relaxed))
    }
}

fn open(path: &Path, hands: &Hands) -> Ledger {
    Ledger::open(Some(path), hands.read()).unwrap().0
}

fn in_memory() -> (Ledger, mpsc::UnboundedReceiver<Notice>, Hands) {
    let hands = Hands::new();
    let (ledger, notices) = Ledger::open(None, hands.read()).unwrap();
    (ledger, notices, hands)
}

fn run(number: u8) -> RunId {
    match number {
        0 => RunId::Adhoc,
        n => format!("0190b5a0-0000-7000-8000-0000000000{n:02x}").parse().unwrap(),
    }
}

/// The caller of a task, by worker, run and task.
fn caller(worker: &str, of_run: u8, task: &str) -> Caller {
    Caller {
        replica: format!("{worker}-1").parse().unwrap(),
        worker: worker.parse().unwrap(),
        run: run(of_run),
        task: task.parse().unwrap(),
        attempt: Attempt::FIRST,
        priority: Priority::Medium,
    }
}

fn emma() -> Caller {
    caller("marie", 1, "emma")
}

fn cents(cents: u64) -> Usd {
    Usd::from_nanos(cents * 10_000_000)
}

fn worst(usd: u64, tokens: u64) -> Worst {
    Worst { usd: Some(cents(usd)), tokens }
}

fn usd(limit: u64) -> Budget {
    Budget { usd: Some(cents(limit)), tokens: None }
}

fn spent(cost: u64, output: u64) -> Spent {
    Spent {
        tokens: Tokens { output, ..Tokens::default() },
        cost: Some(cents(cost)),
        complete: true,
        ..Spent::default()
    }
}

fn over(refused: Refused) -> OverBudget {
    match refused {
        Refused::OverBudget(over) => over,
        Refused::Unwritable { .. } => panic!("{refused}"),
    }
}

/// Returns spent and held, in cents and tokens.
fn standing(ledger: &Ledger, scope: &Scope) -> [(u64, u64); 2] {
    let standing = ledger.standing(scope);
    [standing.spent, standing.held]
        .map(|worst| (worst.usd.unwrap().nanos() / 10_000_000, worst.tokens))
}

fn scopes() -> [Scope; 4] {
    let emma = emma();
    [Scope::Task(emma.task), Scope::Run(emma.run), Scope::Worker(emma.worker), Scope::Day]
}

#[test]
fn what_could_pass_a_budget_is_refused_with_all_figures() {
    for scope in scopes() {
        let (ledger, _, _) = in_memory();
        ledger.set_budget(scope.clone(), usd(100));
        ledger.reserve(&emma(), "m", worst(60, 10)).unwrap().settle(spent(30, 7));
        let out = ledger.reserve(&emma(), "m", worst(50, 10)).unwrap();
        let refused = over(ledger.reserve(&emma(), "m", worst(21, 10)).unwrap_err());
        let dollars = |c| Amount::Usd(cents(c));
        assert_eq!(
            refused,
            OverBudget::TooMuch {
                scope: scope.clone(),
                limit: dollars(100),
                spent: dollars(30),
                held: dollars(50),
                worst: dollars(21),
                may_pass: true,
            },
        );
        // To the cent.
        ledger.reserve(&emma(), "m", worst(20, 10)).unwrap().release();
        assert!(!ledger.reserve(&emma(), "m", worst(71, 0)).unwrap_err().may_pass());
        out.release();
        assert_eq!(standing(&ledger, &scope), [(30, 7), (0, 0)]);
        ledger.reserve(&emma(), "m", worst(70, 10)).unwrap().release();
    }
}

#[test]
fn budgets_of_others_do_not_matter() {
    let (ledger, _, _) = in_memory();
    for scope in scopes() {
        ledger.set_budget(scope, usd(0));
    }
    let other = caller("paul", 2, "liam");
    assert!(ledger.reserve(&other, "m", worst(1, 1)).is_err(), "the day is everybody's");
    ledger.set_budget(Scope::Day, Budget::default());
    ledger.reserve(&other, "m", worst(1, 1)).unwrap().release();
    for own in [caller("marie", 2, "liam"), caller("paul", 1, "liam"), caller("paul", 2, "emma")] {
        assert!(ledger.reserve(&own, "m", worst(1, 1)).is_err());
    }
}

#[test]
fn a_budget_of_tokens_counts_all_that_are_read_and_written() {
    let (ledger, _, _) = in_memory();
    ledger.set_budget(Scope::Day, Budget { usd: None, tokens: Some(100) });
    let unpriced = Worst { usd: None, tokens: 40 };
    let tokens =
        Tokens { input: 1, output: 2, cache_read: 4, cache_write_5m: 8, cache_write_1h: 16 };
    let out = ledger.reserve(&emma(), "m", unpriced).unwrap();
    out.settle(Spent { tokens, complete: true, ..Spent::default() });
    assert_eq!(standing(&ledger, &Scope::Day), [(0, 31), (0, 0)]);
    let refused = over(ledger.reserve(&emma(), "m", Worst { usd: None, tokens: 70 }).unwrap_err());
    assert_eq!(
        refused.to_string(),
        "the budget of all workers today is 100 tokens: 31 tokens are spent, 0 tokens are held for requests \
         that are out or broke off, and this one can take up to 70 tokens"
    );
    let least = ledger.standing(&Scope::Day).refused.unwrap();
    assert_eq!(least.tokens, 70);
    assert_eq!(
        ledger.standing(&Scope::Task(emma().task)).refused,
        None,
        "its budget did not refuse"
    );
    ledger.reserve(&emma(), "m", Worst { usd: None, tokens: 69 }).unwrap().release();
    ledger.set_budget(Scope::Day, Budget { usd: None, tokens: Some(101) });
    assert_eq!(ledger.standing(&Scope::Day).refused, None);
}

#[test]
fn a_model_without_a_price_can_not_be_held_against_dollars() {
    let (ledger, _, _) = in_memory();
    let unpriced = Worst { usd: None, tokens: 1 };
    ledger.reserve(&emma(), "new", unpriced).unwrap().settle(Spent::default());
    ledger.set_budget(Scope::Task(emma().task), usd(1_000));
    let refused = ledger.reserve(&emma(), "new", unpriced).unwrap_err();
    assert!(!refused.may_pass());
    assert_eq!(
        [refused.to_string(), refused.hint()],
        [
            "the budget of task `emma` is $10.00, and the model `new` has no price",
            "Give `new` a price in supervisor.toml, or bound task `emma` by tokens instead of dollars; start again and retry.",
        ]
    );
    let totals = ledger.totals(&Filter::default());
    assert_eq!((totals.cost(), totals.sums.unpriced), (None, 1));
}

#[test]
fn what_nobody_knows_stays_held_until_the_budget_is_raised() {
    let (ledger, _, _) = in_memory();
    ledger.set_budget(Scope::Day, usd(100));
    drop(ledger.reserve(&emma(), "m", worst(30, 30)).unwrap());
    assert_eq!(standing(&ledger, &Scope::Day), [(0, 0), (30, 30)]);
    let broke_off = ledger.reserve(&emma(), "m", worst(30, 30)).unwrap();
    broke_off.settle(Spent { complete: false, ..spent(10, 5) });
    assert_eq!(standing(&ledger, &Scope::Day), [(10, 5), (50, 55)]);
    // The whole answer is there, but nobody knows what it cost.
    let odd = ledger.reserve(&emma(), "m", worst(20, 30)).unwrap();
    odd.settle(Spent { cost: None, ..spent(0, 5) });
    assert_eq!(standing(&ledger, &Scope::Day), [(10, 10), (70, 55)]);
    assert!(!ledger.reserve(&emma(), "m", worst(21, 1)).unwrap_err().may_pass());
    ledger.set_budget(Scope::Day, usd(101));
    ledger.reserve(&emma(), "m", worst(21, 1)).unwrap().release();
}

#[test]
fn what_took_more_than_its_worst_is_booked_in_full() {
    let (ledger, _, _) = in_memory();
    ledger.set_budget(Scope::Day, usd(100));
    ledger.reserve(&emma(), "m", worst(30, 30)).unwrap().settle(spent(150, 50));
    assert_eq!(standing(&ledger, &Scope::Day), [(150, 50), (0, 0)]);
    assert!(ledger.reserve(&emma(), "m", worst(0, 0)).is_err());
}

#[test]
fn sums_of_monsters_do_not_free_anything() {
    let (ledger, _, _) = in_memory();
    let monster = Worst { usd: Some(Usd::MAX), tokens: u64::MAX };
    let outs: Vec<_> = (0..3).map(|_| ledger.reserve(&emma(), "m", monster).unwrap()).collect();
    ledger.set_budget(Scope::Day, Budget { usd: Some(Usd::MAX), tokens: Some(u64::MAX) });
    let mut outs = outs.into_iter();
    outs.next().unwrap().release();
    assert!(ledger.reserve(&emma(), "m", worst(1, 1)).is_err());
    outs.next().unwrap().release();
    outs.next().unwrap().release();
    ledger.reserve(&emma(), "m", monster).unwrap().release();
}

#[test]
fn a_new_day_has_a_new_budget_and_each_request_belongs_to_the_day_it_went_out() {
    let (ledger, _, hands) = in_memory();
    for scope in scopes() {
        ledger.set_budget(scope, usd(100));
    }
    let late = ledger.reserve(&emma(), "m", worst(60, 6)).unwrap();
    hands.next_day();
    let worker = Scope::Worker(emma().worker);
    assert_eq!(standing(&ledger, &worker), [(0, 0), (0, 0)]);
    late.settle(spent(50, 5));
    assert_eq!(standing(&ledger, &Scope::Day), [(0, 0), (0, 0)]);
    assert_eq!(standing(&ledger, &Scope::Run(emma().run)), [(50, 5), (0, 0)]);
    assert!(
        ledger.reserve(&emma(), "m", worst(60, 6)).is_err(),
        "the run's budget is for all days"
    );
    let today = Day::of(hands.read()());
    let of = |day| ledger.totals(&Filter { day: Some(day), ..Filter::default() }).sums.cost;
    assert_eq!([of(today.minus(1)), of(today)], [cents(50), Usd::ZERO]);
    assert_eq!(today.to_string(), "2024-10-05");
}

#[test]
fn four_fifths_are_told_once_for_each_budget_and_day() {
    let (ledger, mut notices, hands) = in_memory();
    let told = |notices: &mut mpsc::UnboundedReceiver<Notice>| {
        std::iter::from_fn(|| notices.try_recv().ok())
            .map(|notice| notice.to_string())
            .collect::<Vec<_>>()
    };
    let run = Scope::Run(emma().run);
    ledger.set_budget(run.clone(), usd(100));
    ledger.set_budget(Scope::Day, Budget { usd: None, tokens: Some(10) });
    let spend = |cost, tokens| {
        ledger.reserve(&emma(), "m", worst(cost, tokens)).unwrap().settle(spent(cost, tokens));
    };
    spend(79, 7);
    assert!(told(&mut notices).is_empty());
    spend(1, 1);
    let both = [
        format!("$0.8000 of the budget of $1.00 for {run} are used"),
        "8 tokens of the budget of 10 tokens for all workers today are used".to_owned(),
    ];
    assert_eq!(told(&mut notices), both);
    spend(5, 1);
    assert!(told(&mut notices).is_empty());
    // Held for good counts too, and a new budget is another one.
    ledger.set_budget(run.clone(), usd(200));
    assert!(told(&mut notices).is_empty());
    hands.next_day();
    drop(ledger.reserve(&emma(), "m", worst(75, 8)).unwrap());
    let told_again = told(&mut notices);
    assert_eq!(told_again.len(), 2, "{told_again:?}");
    ledger.set_budget(run.clone(), usd(161));
    assert_eq!(told(&mut notices).len(), 1);
    // Dollars and tokens each have their say.
    ledger.set_budget(run, Budget { tokens: Some(12), ..usd(180) });
    assert_eq!(told(&mut notices).len(), 2);
}

#[test]
fn totals_are_by_whatever_is_asked_for() {
    let (ledger, _, _) = in_memory();
    let settle = |caller: &Caller, model: &str, spent: Spent| {
        ledger.reserve(caller, model, worst(100, 1_000)).unwrap().settle(spent);
    };
    let waits = |ms| [("requests".to_owned(), ms)].into();
    let tokens = Tokens { input: 10, output: 20, cache_read: 30, ..Tokens::default() };
    settle(
        &emma(),
        "opus",
        Spent { tokens, uncached: Some(cents(9)), waits: waits(5), ..spent(4, 0) },
    );
    settle(&emma(), "haiku", Spent { waits: waits(2), ..spent(1, 7) });
    let second = Caller { attempt: Attempt::FIRST.next(), ..emma() };
    settle(&second, "opus", spent(2, 1));
    settle(&caller("paul", 1, "liam"), "opus", spent(8, 1));
    settle(&caller("marie", 2, "noah"), "opus", spent(16, 1));
    let out = ledger.reserve(&second, "opus", worst(3, 4)).unwrap();

    let cost = |filter: Filter| ledger.totals(&filter).cost().unwrap().nanos() / 10_000_000;
    let all = Filter::default();
    let task = Filter { run: Some(run(1)), task: Some(emma().task), ..all.clone() };
    assert_eq!(cost(all.clone()), 31);
    assert_eq!(cost(Filter { run: Some(run(1)), ..all.clone() }), 15);
    assert_eq!(cost(task.clone()), 7);
    assert_eq!(cost(Filter { task: Some(emma().task), ..all.clone() }), 7);
    assert_eq!(cost(Filter { attempt: Some(second.attempt), ..task.clone() }), 2);
    assert_eq!(cost(Filter { worker: Some(emma().worker), ..all.clone() }), 23);
    assert_eq!(cost(Filter { run: Some(run(9)), ..all.clone() }), 0);

    let totals = ledger.totals(&task);
    assert_eq!((totals.sums.requests, totals.in_flight, totals.out), (3, 1, worst(3, 4)));
    assert_eq!(totals.sums.waits, waits(7));
    assert_eq!(totals.models.keys().map(|model| &**model).collect::<Vec<_>>(), ["haiku", "opus"]);
    assert_eq!(totals.models["opus"].all(), 61);
    assert!((totals.saved() - 0.05).abs() < 1e-9, "{}", totals.saved());
    assert_eq!(ledger.entries(&task).len(), 3);
    out.release();
    assert_eq!(ledger.totals(&task).out, Worst { usd: Some(Usd::ZERO), tokens: 0 });
}

#[test]
fn an_attempt_that_asks_for_a_thousand_models_does_not_fill_the_books() {
    let (ledger, _, _) = in_memory();
    for n in 0..1_000 {
        let name = format!("{n}{}", "é".repeat(1_000));
        ledger.reserve(&emma(), &name, worst(1, 1)).unwrap().settle(spent(1, 1));
    }
    let entries = ledger.entries(&Filter::default());
    assert_eq!((entries.len(), &*entries[256].model), (257, "other"));
    assert!(entries.iter().all(|entry| entry.model.len() <= MAX_MODEL));
    assert_eq!(ledger.totals(&Filter::default()).sums.cost, cents(1_000));
}

#[test]
fn books_are_the_same_after_opening_again_and_after_being_made_small() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    for n in 0..50 {
        let caller = caller(["marie", "paul"][n % 2], (n % 3) as u8, &format!("t{}", n % 5));
        let out = ledger.reserve(&caller, ["a", "b"][n % 2], worst(10, 20)).unwrap();
        match n % 4 {
            0 => out.settle(Spent { agent: Some("x".repeat(5_000)), ..spent(3, 4) }),
            1 => out.release(),
            2 => drop(out),
            _ => out.settle(Spent {
                complete: false,
                waits: [("held".to_owned(), 4)].into(),
                ..spent(1, 1)
            }),
        }
        if n == 30 {
            hands.next_day();
        }
    }
    let open_one = ledger.reserve(&emma(), "a", worst(7, 7)).unwrap();
    let all = Filter::default();
    let view = |ledger: &Ledger| {
        let standings = scopes().map(|scope| {
            let standing = ledger.standing(&scope);
            (standing.requests + standing.in_flight, standing.spent, standing.held)
        });
        (standings, ledger.totals(&all).sums.tokens, ledger.totals(&all).sums.cost)
    };
    let before = view(&ledger);
    assert_eq!(view(&open(&path, &hands)), before);

    let large = fs::metadata(&path).unwrap().len();
    ledger.0.with_log(State::make_small).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < large);
    assert_eq!(view(&ledger), before);
    // Also what comes after it, about what came before.
    let settled = open(&path, &hands);
    assert_eq!(view(&settled), before);
    open_one.settle(spent(2, 2));
    let after = view(&ledger);
    assert_ne!(after, before);
    let last = open(&path, &hands);
    assert_eq!(view(&last), after);
    assert_eq!(last.entries(&all), ledger.entries(&all));
    ledger.sync().unwrap();
}

#[test]
fn a_file_that_has_grown_is_made_small_by_the_next_sync() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let size = || fs::metadata(&path).unwrap().len();
    let ledger = open(&path, &hands);
    let reason = "x".repeat(1 << 10);
    let settle = |ledger: &Ledger| {
        let waits = [(reason.clone(), 1)].into();
        let out = ledger.reserve(&emma(), "m", worst(1, 1)).unwrap();
        out.settle(Spent { waits, ..spent(1, 1) });
    };
    (0..20).for_each(|_| settle(&ledger));
    let large = size();
    // Opened again it is what it was.
    let ledger = open(&path, &hands);
    ledger.sync().unwrap();
    assert_eq!(size(), large);
    (0..20).for_each(|_| settle(&ledger));
    ledger.sync().unwrap();
    assert!(size() < 2 << 10);
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(40, 40), (0, 0)]);
}

#[test]
fn requests_of_several_lives_are_not_taken_for_each_other() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    for small in [false, true, true, false] {
        let ledger = open(&path, &hands);
        ledger.reserve(&emma(), "m", worst(1, 1)).unwrap().settle(spent(1, 1));
        std::mem::forget(ledger.reserve(&emma(), "m", worst(1, 1)).unwrap());
        if small {
            ledger.0.with_log(State::make_small).unwrap();
        }
    }
    let ledger = open(&path, &hands);
    assert_eq!(standing(&ledger, &Scope::Day), [(4, 4), (4, 4)]);
}

#[test]
fn what_is_older_than_a_year_and_a_month_is_forgotten() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    let spend = |task: &str| {
        ledger.reserve(&caller("marie", 1, task), "m", worst(1, 1)).unwrap().settle(spent(1, 1));
    };
    spend("old");
    hands.next_day();
    spend("young");
    (0..400).for_each(|_| hands.next_day());
    let _ = ledger.standing(&Scope::Day);
    ledger.0.with_log(State::make_small).unwrap();
    let tasks: Vec<_> = open(&path, &hands)
        .entries(&Filter::default())
        .into_iter()
        .map(|entry| entry.task.to_string())
        .collect();
    assert_eq!(tasks, ["young"]);
}

#[test]
fn a_full_disk_stops_requests_and_loses_no_money() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    ledger.set_budget(Scope::Day, usd(100));
    let [first, second] = [30, 40].map(|usd| ledger.reserve(&emma(), "m", worst(usd, 1)).unwrap());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = ledger.0.lock().lines.log().swap_file(full);

    let refused = ledger.reserve(&emma(), "m", worst(1, 1)).unwrap_err();
    assert!(refused.may_pass());
    let Refused::Unwritable { path: named, source } = refused else { panic!("{refused}") };
    assert_eq!((named, source.kind()), (path.clone(), io::ErrorKind::StorageFull));
    first.settle(spent(20, 1));
    drop(second);
    assert!(ledger.reserve(&emma(), "m", worst(1, 1)).unwrap_err().may_pass());
    assert_eq!(standing(&ledger, &Scope::Day), [(20, 1), (40, 1)]);
    assert!(ledger.sync().is_err());
    // Killed now, all that was out is held.
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(0, 0), (70, 2)]);

    // What failed left half a line.
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"reserved\":{").unwrap();
    ledger.0.lock().lines.log().swap_file(good);
    let out = ledger.reserve(&emma(), "m", worst(1, 1)).unwrap();
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(20, 1), (41, 2)]);
    out.release();
    assert_eq!(standing(&ledger, &Scope::Day), [(20, 1), (40, 1)]);
    assert_eq!(standing(&open(&path, &hands), &Scope::Day), [(20, 1), (40, 1)]);
}

#[test]
fn what_has_ended_and_what_is_out_are_seen_together() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    let reserve =
        |task, most| ledger.reserve(&caller("marie", 1, task), "m", worst(most, most)).unwrap();
    reserve("a", 9).settle(spent(2, 2));
    drop(reserve("a", 3));
    let out = reserve("b", 5);
    let look = |filter: &Filter| {
        let mut ended = Vec::new();
        let out = ledger.look(filter, |entry| ended.push(entry.clone()));
        assert_eq!(ended, ledger.entries(filter));
        out.into_iter()
            .map(|entry| (entry.task.to_string(), entry.sums.held, entry.sums.held_tokens))
            .collect::<Vec<_>>()
    };
    assert_eq!(look(&Filter::default()), [("b".to_owned(), cents(5), 5)]);
    assert_eq!(look(&Filter { task: Some("a".parse().unwrap()), ..Filter::default() }), []);
    let standing = ledger.standing(&Scope::Day);
    assert_eq!((standing.held, standing.lost), (worst(8, 8), worst(3, 3)));
    out.release();
    assert_eq!(look(&Filter::default()), []);
}

#[test]
fn a_ledger_that_is_only_read_leaves_its_file_alone() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let read = || Ledger::read(&path, hands.read());
    assert_eq!(standing(&read().unwrap(), &Scope::Day), [(0, 0), (0, 0)]);
    assert!(!path.exists());

    let ledger = open(&path, &hands);
    ledger.reserve(&emma(), "m", worst(9, 9)).unwrap().settle(spent(2, 2));
    // Somebody is in the middle of writing a line.
    let whole = fs::read(&path).unwrap();
    let torn = [whole.as_slice(), b"{\"half"].concat();
    protocol::atomic_file::replace(&path, &torn, protocol::atomic_file::Durability::Volatile)
        .unwrap();
    let found = read().unwrap();
    assert_eq!(standing(&found, &Scope::Day), [(2, 2), (0, 0)]);
    found.reserve(&emma(), "m", worst(1, 1)).unwrap().settle(spent(1, 1));
    found.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), torn);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let damaged = String::from_utf8(whole).unwrap().replacen('\n', "\n{}\n", 1);
    protocol::atomic_file::replace(
        &path,
        damaged.as_bytes(),
        protocol::atomic_file::Durability::Volatile,
    )
    .unwrap();
    assert!(matches!(read(), Err(LedgerError::Damaged { line: 2, .. })));
}
