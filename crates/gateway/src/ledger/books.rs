//! What is spent, what is held, and what may still be: no file, no clock, no lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;
use protocol::{RunId, TaskId, WorkerId};

use super::{
    Amount, Budget, Day, Entry, Filter, Notice, OverBudget, Scope, Standing, Sums, Totals, Worst,
};
use crate::{Caller, Usd};

/// The most entries of one task that name their model. What it asks for is an attempt's own choice,
/// and must not fill our memory.
const MAX_NAMED: usize = 256;

/// What the entries after those name instead.
const OTHER: &str = "other";

/// On whose account something is booked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    Task(TaskId),
    Run(RunId),
    Worker(WorkerId, Day),
    Day(Day),
}

impl Account {
    fn of(scope: &Scope, today: Day) -> Self {
        match scope {
            Scope::Task(task) => Self::Task(task.clone()),
            Scope::Run(run) => Self::Run(*run),
            Scope::Worker(worker) => Self::Worker(worker.clone(), today),
            Scope::Day => Self::Day(today),
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Self::Task(task) => Scope::Task(task.clone()),
            Self::Run(run) => Scope::Run(*run),
            Self::Worker(worker, _) => Scope::Worker(worker.clone()),
            Self::Day(_) => Scope::Day,
        }
    }

    fn day(&self) -> Option<Day> {
        match self {
            Self::Task(_) | Self::Run(_) => None,
            Self::Worker(_, day) | Self::Day(day) => Some(*day),
        }
    }
}

/// Dollars and tokens. Wide enough that a sum never stops at its end: what is added must come off again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    nanos: u128,
    tokens: u128,
}

impl Pair {
    fn new(usd: Usd, tokens: u64) -> Self {
        Self { nanos: usd.nanos().into(), tokens: tokens.into() }
    }

    fn plus(self, other: Self) -> Self {
        Self { nanos: self.nanos + other.nanos, tokens: self.tokens + other.tokens }
    }

    fn minus(self, other: Self) -> Self {
        // Only ever takes off what was added.
        Self { nanos: self.nanos - other.nanos, tokens: self.tokens - other.tokens }
    }
}

impl From<Worst> for Pair {
    fn from(worst: Worst) -> Self {
        Self::new(worst.usd.unwrap_or_default(), worst.tokens)
    }
}

/// What a budget can be in.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Usd,
    Tokens,
}

impl Unit {
    fn limit(self, budget: Budget) -> Option<u128> {
        match self {
            Self::Usd => budget.usd.map(|usd| usd.nanos().into()),
            Self::Tokens => budget.tokens.map(Into::into),
        }
    }

    fn pick(self, pair: Pair) -> u128 {
        match self {
            Self::Usd => pair.nanos,
            Self::Tokens => pair.tokens,
        }
    }

    fn amount(self, count: u128) -> Amount {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        match self {
            Self::Usd => Amount::Usd(Usd::from_nanos(count)),
            Self::Tokens => Amount::Tokens(count),
        }
    }
}

const UNITS: [Unit; 2] = [Unit::Usd, Unit::Tokens];

/// How an account stands.
#[derive(Clone, Copy, Debug, Default)]
struct Balance {
    requests: u64,
    unpriced: u64,
    spent: Pair,
    /// Held for ever: what those that were cut off may have used.
    lost: Pair,
    /// Held for those that are out.
    held: Pair,
    in_flight: u64,
    /// For each unit, whether it was said that most of the budget is used.
    warned: [bool; 2],
}

/// A request that is out.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) caller: Caller,
    pub(super) day: Day,
    pub(super) model: Arc<str>,
    pub(super) worst: Worst,
}

impl Out {
    fn accounts(&self) -> [Account; 4] {
        accounts(&self.caller, self.day)
    }
}

fn accounts(caller: &Caller, day: Day) -> [Account; 4] {
    [
        Account::Task(caller.task.clone()),
        Account::Run(caller.run),
        Account::Worker(caller.worker.clone(), day),
        Account::Day(day),
    ]
}

/// A place in the queue before a budget.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// Where it waits.
    at: Account,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    budgets: HashMap<Scope, Budget, RandomState>,
    balances: HashMap<Account, Balance, RandomState>,
    entries: BTreeMap<RunId, BTreeMap<TaskId, Vec<Entry>>>,
    out: HashMap<u64, Out, RandomState>,
    /// Who waits before which account, by number.
    queues: HashMap<Account, BTreeSet<u64>, RandomState>,
    next_place: u64,
    /// The most that a request could take that was refused, not one that waits, by whose budget refused it.
    refused: HashMap<Scope, Worst, RandomState>,
    today: Day,
    notices: Vec<Notice>,
}

impl Books {
    /// Makes `day` the day of what comes next. Days do not go back.
    pub(super) fn turn_to(&mut self, day: Day) {
        if day > self.today {
            self.today = day;
            // No request of an earlier day is asked for any more.
            self.balances.retain(|account, _| account.day().is_none_or(|of| of >= day));
        }
    }

    pub(super) fn today(&self) -> Day {
        self.today
    }

    pub(super) fn set_budget(&mut self, scope: Scope, budget: Budget) {
        let account = Account::of(&scope, self.today);
        self.refused.remove(&scope);
        if budget == Budget::default() {
            self.budgets.remove(&scope);
        } else {
            self.budgets.insert(scope, budget);
        }
        if let Some(balance) = self.balances.get_mut(&account) {
            balance.warned = [false; 2];
        }
        self.warn(&account);
    }

    pub(super) fn has_budget(&self, scope: &Scope) -> bool {
        self.budgets.contains_key(scope)
    }

    /// Returns whether a request may go out; if not, and it may fit later, its place in the queue has
    /// been taken or moved, if it has one.
    pub(super) fn check(
        &mut self,
        caller: &Caller,
        model: &str,
        worst: Worst,
        place: Option<&mut Option<Place>>,
    ) -> Result<(), OverBudget> {
        let accounts = accounts(caller, self.today);
        for account in &accounts {
            if let Err(over) = self.check_alone(account, model, worst) {
                self.refused.insert(account.scope(), worst);
                return Err(over);
            }
        }
        let number = place.as_ref().and_then(|place| place.as_ref()).map(|place| place.number);
        for account in accounts {
            if let Err(over) = self.check_now(&account, worst, number) {
                if let Some(place) = place {
                    self.wait_at(account, place);
                }
                return Err(over);
            }
        }
        Ok(())
    }

    /// Returns whether a request would fit if nothing else were out.
    fn check_alone(&self, account: &Account, model: &str, worst: Worst) -> Result<(), OverBudget> {
        let scope = account.scope();
        let Some(budget) = self.budgets.get(&scope) else { return Ok(()) };
        if let (Some(limit), None) = (budget.usd, worst.usd) {
            let (limit, model) = (Amount::Usd(limit), model.into());
            return Err(OverBudget::NoPrice { scope, limit, model });
        }
        let balance = self.balance(account);
        let sum = balance.spent.plus(balance.lost).plus(worst.into());
        Self::compare(scope, *budget, &balance, sum, worst, false)
    }

    /// Returns whether a request fits beside those that are out, and nobody has waited for longer.
    fn check_now(
        &self,
        account: &Account,
        worst: Worst,
        number: Option<u64>,
    ) -> Result<(), OverBudget> {
        let scope = account.scope();
        let Some(budget) = self.budgets.get(&scope) else { return Ok(()) };
        let balance = self.balance(account);
        let sum = balance.spent.plus(balance.lost).plus(balance.held).plus(worst.into());
        Self::compare(scope.clone(), *budget, &balance, sum, worst, true)?;
        let first = self.queues.get(account).and_then(BTreeSet::first);
        if first.is_some_and(|first| number.is_none_or(|number| *first < number)) {
            let unit = if budget.usd.is_some() { Unit::Usd } else { Unit::Tokens };
            return Err(Self::too_much(unit, scope, *budget, &balance, worst, true));
        }
        Ok(())
    }

    fn compare(
        scope: Scope,
        budget: Budget,
        balance: &Balance,
        sum: Pair,
        worst: Worst,
        may_pass: bool,
    ) -> Result<(), OverBudget> {
        let over = |unit: &Unit| unit.limit(budget).is_some_and(|limit| unit.pick(sum) > limit);
        match UNITS.into_iter().find(over) {
            Some(unit) => Err(Self::too_much(unit, scope, budget, balance, worst, may_pass)),
            None => Ok(()),
        }
    }

    fn too_much(
        unit: Unit,
        scope: Scope,
        budget: Budget,
        balance: &Balance,
        worst: Worst,
        may_pass: bool,
    ) -> OverBudget {
        let amount = |pair| unit.amount(unit.pick(pair));
        OverBudget::TooMuch {
            scope,
            limit: unit.amount(unit.limit(budget).unwrap_or(u128::MAX)),
            spent: amount(balance.spent),
            held: amount(balance.lost.plus(balance.held)),
            worst: amount(worst.into()),
            may_pass,
        }
    }

    fn balance(&self, account: &Account) -> Balance {
        self.balances.get(account).copied().unwrap_or_default()
    }

    fn wait_at(&mut self, account: Account, place: &mut Option<Place>) {
        let number = match place.take() {
            Some(old) if old.at == account => return *place = Some(old),
            Some(old) => {
                self.unqueue(&old);
                old.number
            }
            None => {
                self.next_place += 1;
                self.next_place
            }
        };
        self.queues.entry(account.clone()).or_default().insert(number);
        *place = Some(Place { number, at: account });
    }

    /// Gives up a place in the queue.
    pub(super) fn unqueue(&mut self, place: &Place) {
        if let Some(queue) = self.queues.get_mut(&place.at) {
            queue.remove(&place.number);
            if queue.is_empty() {
                self.queues.remove(&place.at);
            }
        }
    }

    pub(super) fn anybody_waits(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Books a request that goes out. Returns false when there is one of that number.
    pub(super) fn reserved(&mut self, id: u64, out: Out) -> bool {
        if self.out.contains_key(&id) {
            return false;
        }
        for account in out.accounts() {
            let balance = self.balances.entry(account).or_default();
            balance.held = balance.held.plus(out.worst.into());
            balance.in_flight += 1;
        }
        self.out.insert(id, out);
        true
    }

    /// Books that a request has used nothing. Returns false when there is none of that number.
    pub(super) fn released(&mut self, id: u64) -> bool {
        self.take(id).is_some()
    }

    /// Books what a request has used. Returns false when there is none of that number.
    pub(super) fn settled(&mut self, id: u64, used: &Sums) -> bool {
        let Some(out) = self.take(id) else { return false };
        self.book(out.entry(used.clone()));
        true
    }

    /// Books that nobody will know what a request has used. Returns false when there is none of that
    /// number.
    pub(super) fn lost(&mut self, id: u64) -> bool {
        let Some(out) = self.take(id) else { return false };
        let used = out.lost();
        self.book(out.entry(used));
        true
    }

    fn take(&mut self, id: u64) -> Option<Out> {
        let out = self.out.remove(&id)?;
        for account in out.accounts() {
            if let Some(balance) = self.balances.get_mut(&account) {
                balance.held = balance.held.minus(out.worst.into());
                balance.in_flight -= 1;
            }
        }
        Some(out)
    }

    /// Books what was used, on all accounts.
    pub(super) fn book(&mut self, entry: Entry) {
        let accounts = [
            Account::Task(entry.task.clone()),
            Account::Run(entry.run),
            Account::Worker(entry.worker.clone(), entry.day),
            Account::Day(entry.day),
        ];
        let sums = &entry.sums;
        for account in accounts {
            if account.day().is_none_or(|day| day >= self.today) {
                let balance = self.balances.entry(account.clone()).or_default();
                balance.requests += sums.requests;
                balance.unpriced += sums.unpriced;
                balance.spent = balance.spent.plus(Pair::new(sums.cost, sums.tokens.all()));
                balance.lost = balance.lost.plus(Pair::new(sums.held, sums.held_tokens));
                self.warn(&account);
            }
        }
        let of_run = self.entries.entry(entry.run).or_default();
        let of_task = of_run.entry(entry.task.clone()).or_default();
        merge(of_task, entry);
    }

    fn warn(&mut self, account: &Account) {
        let scope = account.scope();
        let (Some(budget), Some(balance)) =
            (self.budgets.get(&scope), self.balances.get_mut(account))
        else {
            return;
        };
        let used = balance.spent.plus(balance.lost);
        for (unit, warned) in UNITS.into_iter().zip(&mut balance.warned) {
            let (Some(limit), used) = (unit.limit(*budget), unit.pick(used)) else { continue };
            if !*warned && used > 0 && used * 5 >= limit * 4 {
                *warned = true;
                let (used, limit) = (unit.amount(used), unit.amount(limit));
                self.notices.push(Notice { scope: scope.clone(), used, limit });
            }
        }
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub(super) fn standing(&self, scope: &Scope) -> Standing {
        let balance = self.balance(&Account::of(scope, self.today));
        let count = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let worst = |pair: Pair| Worst {
            usd: Some(Usd::from_nanos(count(pair.nanos))),
            tokens: count(pair.tokens),
        };
        Standing {
            budget: self.budgets.get(scope).copied().unwrap_or_default(),
            requests: balance.requests,
            in_flight: balance.in_flight,
            unpriced: balance.unpriced,
            spent: worst(balance.spent),
            held: worst(balance.lost.plus(balance.held)),
            lost: worst(balance.lost),
            refused: self.refused.get(scope).copied(),
        }
    }

    pub(super) fn entries(&self, filter: &Filter) -> impl Iterator<Item = &Entry> {
        let runs: Box<dyn Iterator<Item = &BTreeMap<TaskId, Vec<Entry>>>> = match &filter.run {
            Some(run) => Box::new(self.entries.get(run).into_iter()),
            None => Box::new(self.entries.values()),
        };
        let tasks = runs.flat_map(|tasks| {
            let lists: Box<dyn Iterator<Item = &Vec<Entry>>> = match &filter.task {
                Some(task) => Box::new(tasks.get(task).into_iter()),
                None => Box::new(tasks.values()),
            };
            lists
        });
        tasks.flatten().filter(|entry| filter.takes(entry))
    }

    pub(super) fn totals(&self, filter: &Filter) -> Totals {
        let mut totals = Totals::default();
        self.entries(filter).for_each(|entry| totals.add(entry));
        let mut usd = Some(Usd::ZERO);
        for out in self.out.values().filter(|out| filter.takes(&out.entry(Sums::default()))) {
            totals.in_flight += 1;
            totals.out.tokens = totals.out.tokens.saturating_add(out.worst.tokens);
            usd = usd.zip(out.worst.usd).map(|(sum, worst)| sum + worst);
        }
        totals.out.usd = usd;
        totals
    }

    /// Returns the requests that are out, as they would be booked if nobody ever knew what they used.
    pub(super) fn pending(&self, filter: &Filter) -> impl Iterator<Item = Entry> {
        self.out.values().map(|out| out.entry(out.lost())).filter(|entry| filter.takes(entry))
    }

    /// Returns all requests that are out, by number.
    pub(super) fn out(&self) -> impl Iterator<Item = (u64, &Out)> {
        self.out.iter().map(|(id, out)| (*id, out))
    }

    /// Forgets who used what before a day. What is spent stays spent.
    pub(super) fn forget_before(&mut self, day: Day) {
        for tasks in self.entries.values_mut() {
            for entries in tasks.values_mut() {
                entries.retain(|entry| entry.day >= day);
            }
            tasks.retain(|_, entries| !entries.is_empty());
        }
        self.entries.retain(|_, tasks| !tasks.is_empty());
    }
}

fn merge(of_task: &mut Vec<Entry>, mut entry: Entry) {
    let same = |old: &&mut Entry| {
        (old.attempt, old.day) == (entry.attempt, entry.day)
            && old.worker == entry.worker
            && old.model == entry.model
    };
    // The newest is last.
    if let Some(old) = of_task.iter_mut().rev().find(same) {
        old.sums.add(&entry.sums);
    } else if of_task.len() < MAX_NAMED || &*entry.model == OTHER {
        of_task.push(entry);
    } else {
        entry.model = OTHER.into();
        merge(of_task, entry);
    }
}

impl Out {
    fn entry(&self, sums: Sums) -> Entry {
        Entry {
            run: self.caller.run,
            task: self.caller.task.clone(),
            attempt: self.caller.attempt,
            worker: self.caller.worker.clone(),
            day: self.day,
            model: Arc::clone(&self.model),
            sums,
        }
    }

    /// Returns what is booked when nobody will know what was used.
    fn lost(&self) -> Sums {
        Sums {
            requests: 1,
            cut_off: 1,
            unpriced: u64::from(self.worst.usd.is_none()),
            held: self.worst.usd.unwrap_or_default(),
            held_tokens: self.worst.tokens,
            ..Sums::default()
        }
    }
}
