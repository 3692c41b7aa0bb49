//! What was used of the model, by whom, and what holds requests back: from the gateway's books.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway::RefusedRequests;
use gateway::pace::{LimitStatus, PaceStatus, Scope, WaitReason};
use gateway::{CacheBreak, Entry, Filter, Ledger, Sums, Usd, Worst};
use protocol::{Attempt, HoldScope, RunId, ShortRunId, TaskId, Time, WorkerId};
use scheduler::{RunEntry, Scheduler};

use crate::api::usage::{
    AttemptUsed, BlockedView, BudgetView, CacheBreakView, LimitView, ModelUsed, PaceView,
    RefusedView, RunUsed, TaskUsed, Today, UsageReport, UsageTable, Used, Waits, WorkerLimits,
    WorkerUsed,
};
use crate::decisions;
use crate::dispatch::Dispatcher;
use crate::gateways::Gateways;
use crate::view::{has_ended, utc};

/// From which share on a budget is a notice: the ledger's own notices say the same.
pub const MUCH: f64 = 0.8;

/// A question about usage, with all that only the dispatcher knows. To answer it takes time with what is in
/// the ledger, and needs no dispatcher.
#[derive(Debug)]
pub struct Question {
    ledger: Ledger,
    limits: Vec<PaceStatus>,
    worker_limits: Vec<(WorkerId, Vec<LimitStatus>)>,
    cache_breaks: Vec<CacheBreak>,
    refused: Vec<RefusedRequests>,
    budgets: Vec<BudgetView>,
    rehearsal: bool,
    run: Option<RunEntry>,
    /// The tasks of the run that is asked for, in order of addition.
    tasks: Vec<TaskId>,
    runs: Vec<(RunId, ShortRunId, Option<String>)>,
}

impl Question {
    /// Returns the question about one run, or about all.
    pub fn new(dispatcher: &Dispatcher, run: Option<RunId>) -> Self {
        let (scheduler, gateway) = (dispatcher.scheduler(), dispatcher.gateways().gateway());
        let runs = scheduler.runs().filter(|_| run.is_none());
        Self {
            ledger: gateway.ledger().clone(),
            limits: gateway.limits(),
            worker_limits: gateway.worker_limits(),
            cache_breaks: gateway.cache_breaks(),
            refused: gateway.refused(),
            budgets: budgets(dispatcher, run),
            rehearsal: dispatcher.rehearsal(),
            run: run.and_then(|run| scheduler.run(&run)).cloned(),
            tasks: run
                .iter()
                .flat_map(|run| scheduler.run_tasks(run))
                .map(|entry| entry.task.id.clone())
                .collect(),
            runs: runs.map(|run| (run.run, run.short.clone(), run.name.clone())).collect(),
        }
    }

    /// Returns the answer; `None` for a run whose requests are in another ledger: it was a rehearsal and what
    /// is asked now is real, or the other way round.
    pub fn answer(self) -> Option<UsageReport> {
        let day = self.ledger.today();
        let one = self.run.as_ref().map(|run| run.run);
        let (mut all, mut today) = (Groups::of(one), Groups::of(one));
        let mut take = |entry: &Entry, is_out| {
            all.take(entry, is_out);
            if one.is_none() && entry.day == day {
                today.take(entry, is_out);
            }
        };
        let filter = Filter { run: one, ..Filter::default() };
        let out = self.ledger.look(&filter, |entry| take(entry, false));
        out.iter().for_each(|entry| take(entry, true));
        let elsewhere = |run: &RunEntry| run.run != RunId::Adhoc && run.rehearsal != self.rehearsal;
        if all.total.is_nothing() && self.run.as_ref().is_some_and(elsewhere) {
            return None;
        }
        let table = |groups: Groups| groups.table(self.rehearsal, &self.runs, &self.tasks);
        let (all, today) = (table(all), table(today));
        Some(UsageReport {
            rehearsal: self.rehearsal,
            run: one,
            short: self.run.as_ref().map(|run| run.short.clone()),
            name: self.run.and_then(|run| run.name),
            day: day.to_string(),
            today: one.is_none().then_some(today),
            all,
            budgets: self.budgets,
            limits: self.limits.into_iter().map(pace).collect(),
            worker_limits: self
                .worker_limits
                .into_iter()
                .map(|(worker, limits)| WorkerLimits { worker, limits: views(limits) })
                .collect(),
            cache_breaks: self
                .cache_breaks
                .into_iter()
                .filter(|of| one.is_none_or(|run| run == of.run))
                .map(|of| CacheBreakView {
                    task_id: of.task,
                    attempt: of.attempt,
                    lost_tokens: of.lost,
                    why: of.why,
                })
                .collect(),
            refused: self
                .refused
                .into_iter()
                .filter(|of| one.is_none_or(|run| run == of.run))
                .map(|of| RefusedView {
                    task_id: of.task,
                    attempt: of.attempt,
                    requests: of.count,
                    what: of.what,
                    hint: of.hint,
                })
                .collect(),
        })
    }
}

/// What has ended and what is out.
#[derive(Debug, Default)]
struct Sum {
    ended: Sums,
    out: Sums,
}

impl Sum {
    fn take(&mut self, sums: &Sums, is_out: bool) {
        if is_out { &mut self.out } else { &mut self.ended }.add(sums);
    }

    fn is_nothing(&self) -> bool {
        self.ended.requests == 0 && self.out.requests == 0
    }

    /// Returns it with dollars as they are billed: not at all in a rehearsal.
    fn used(self, rehearsal: bool) -> Used {
        let Self { ended, out } = self;
        let usd = |usd: Usd| if rehearsal { 0.0 } else { usd.dollars() };
        let priced = |sums: &Sums| rehearsal || sums.unpriced == 0;
        Used {
            requests: ended.requests,
            cut_off: ended.cut_off,
            unpriced: if rehearsal { 0 } else { ended.unpriced },
            cache_share: cache_share(&ended.tokens.into()),
            usage: ended.tokens.into(),
            cost_usd: priced(&ended).then(|| usd(ended.cost)),
            known_cost_usd: usd(ended.cost),
            saved_usd: if rehearsal { 0.0 } else { saved(&ended) },
            held_usd: usd(ended.held),
            held_tokens: ended.held_tokens,
            out: out.requests,
            out_usd: priced(&out).then(|| usd(out.held)),
            out_tokens: out.held_tokens,
            of_agents: ended.of_agents,
            of_agents_tokens: ended.of_agents_tokens,
            of_agents_known_cost_usd: usd(ended.of_agents_cost),
            waits: waits(&ended),
        }
    }
}

/// Returns the share of the input that was read from the prompt cache; `None` without input.
pub fn cache_share(usage: &protocol::Usage) -> Option<f64> {
    let input = usage.input();
    (input > 0).then(|| usage.cache_read_input_tokens as f64 / input as f64)
}

/// Returns a share in hundredths, rounded down: only what is all used up is used to 100 %.
pub fn whole_percent(share: f64) -> f64 {
    // 0.29 times 100 is a little less than 29.
    (share * 100.0 + 1e-9).floor()
}

fn saved(sums: &Sums) -> f64 {
    // Whole billionths up to the end: the difference of two large sums may be small.
    let (without, with) = (sums.uncached.nanos(), sums.cost.nanos());
    let difference = Usd::from_nanos(without.abs_diff(with)).dollars();
    if without < with { -difference } else { difference }
}

fn waits(sums: &Sums) -> Waits {
    sums.waits.iter().map(|(reason, millis)| (reason.clone(), *millis as f64 / 1000.0)).collect()
}

#[derive(Debug, Default)]
struct Groups {
    /// Whether it is about one run: by task then, else by run.
    one: bool,
    total: Sum,
    workers: BTreeMap<WorkerId, Sum>,
    models: BTreeMap<Arc<str>, Sum>,
    runs: BTreeMap<RunId, Sum>,
    tasks: BTreeMap<TaskId, TaskSum>,
}

#[derive(Debug)]
struct TaskSum {
    worker: WorkerId,
    sum: Sum,
    attempts: BTreeMap<Attempt, Sum>,
}

/// Returns what is there under a key. The key is copied only when it is new: most are not.
fn of<'a, K: Ord + Clone, V>(
    map: &'a mut BTreeMap<K, V>,
    key: &K,
    new: impl FnOnce() -> V,
) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.clone(), new());
    }
    map.get_mut(key).expect("BUG: it was just put there")
}

impl Groups {
    fn of(run: Option<RunId>) -> Self {
        Self { one: run.is_some(), ..Self::default() }
    }

    fn take(&mut self, entry: &Entry, is_out: bool) {
        let sums = &entry.sums;
        self.total.take(sums, is_out);
        of(&mut self.workers, &entry.worker, Sum::default).take(sums, is_out);
        of(&mut self.models, &entry.model, Sum::default).take(sums, is_out);
        if !self.one {
            return of(&mut self.runs, &entry.run, Sum::default).take(sums, is_out);
        }
        let task = of(&mut self.tasks, &entry.task, || TaskSum {
            worker: entry.worker.clone(),
            sum: Sum::default(),
            attempts: BTreeMap::new(),
        });
        task.sum.take(sums, is_out);
        of(&mut task.attempts, &entry.attempt, Sum::default).take(sums, is_out);
    }

    fn table(
        mut self,
        rehearsal: bool,
        runs: &[(RunId, ShortRunId, Option<String>)],
        tasks: &[TaskId],
    ) -> UsageTable {
        let mut by_run = Vec::new();
        for (run, short, name) in runs {
            let Some(sum) = self.runs.remove(run) else { continue };
            let (short, used) = (Some(short.clone()), sum.used(rehearsal));
            by_run.push(RunUsed { run: *run, short, name: name.clone(), used });
        }
        // Those whose journals somebody has taken away: they are older than the others.
        let gone = self.runs.into_iter().map(|(run, sum)| RunUsed {
            run,
            short: None,
            name: None,
            used: sum.used(rehearsal),
        });
        let mut by_task = Vec::new();
        for task_id in tasks {
            let Some(TaskSum { worker, sum, attempts }) = self.tasks.remove(task_id) else {
                continue;
            };
            let attempts = attempts.into_iter();
            by_task.push(TaskUsed {
                task_id: task_id.clone(),
                worker,
                used: sum.used(rehearsal),
                attempts: attempts
                    .map(|(attempt, sum)| AttemptUsed { attempt, used: sum.used(rehearsal) })
                    .collect(),
            });
        }
        let (workers, models) = (self.workers.into_iter(), self.models.into_iter());
        UsageTable {
            total: self.total.used(rehearsal),
            workers: workers
                .map(|(worker, sum)| WorkerUsed { worker, used: sum.used(rehearsal) })
                .collect(),
            models: models
                .map(|(model, sum)| ModelUsed {
                    model: model.to_string(),
                    used: sum.used(rehearsal),
                })
                .collect(),
            runs: gone.chain(by_run).collect(),
            tasks: by_task,
        }
    }
}

/// Returns the budgets that are in force, each with what is used of it: of the day, of the workers, of the
/// runs and tasks that have not ended; or all that concern one run.
pub fn budgets(dispatcher: &Dispatcher, run: Option<RunId>) -> Vec<BudgetView> {
    let scheduler = dispatcher.scheduler();
    let is_meant = |of: &&RunEntry| run.map_or(!has_ended(of), |run| run == of.run);
    let runs: Vec<&RunEntry> = scheduler.runs().filter(is_meant).collect();
    let tasks = || runs.iter().flat_map(|run| scheduler.run_tasks(&run.run));
    let at_work: BTreeSet<&WorkerId> = match run {
        Some(_) => tasks().map(|entry| &entry.task.worker).collect(),
        None => dispatcher.workers().keys().collect(),
    };
    let meant = tasks().filter(|entry| run.is_some() || entry.status().is_none());
    std::iter::once(HoldScope::All)
        .chain(at_work.into_iter().map(|worker| HoldScope::Worker(worker.clone())))
        .chain(runs.iter().map(|run| HoldScope::Run(run.run)))
        .chain(meant.map(|entry| HoldScope::Task(entry.task.id.clone())))
        .filter_map(|scope| budget(dispatcher, scope))
        .collect()
}

/// Returns the budget of a scope, if it has one.
fn budget(dispatcher: &Dispatcher, scope: HoldScope) -> Option<BudgetView> {
    let standing = dispatcher.gateways().standing(&scope);
    let (usd, tokens) = (standing.budget.usd, standing.budget.tokens);
    if usd.is_none() && tokens.is_none() {
        return None;
    }
    let (spent, held, lost) = (standing.spent, standing.held, standing.lost);
    let dollars = |worst: Worst| worst.usd.unwrap_or_default();
    let used_usd = dollars(spent) + dollars(lost);
    let used_tokens = spent.tokens.saturating_add(lost.tokens);
    let share = |used: u64, limit: u64| if limit == 0 { 1.0 } else { used as f64 / limit as f64 };
    let shares = [
        usd.map(|limit| share(used_usd.nanos(), limit.nanos())),
        tokens.map(|limit| share(used_tokens, limit)),
    ];
    Some(BudgetView {
        about: about(dispatcher.scheduler(), &scope),
        scope,
        usd: usd.map(Usd::dollars),
        tokens,
        used_usd: (standing.unpriced == 0).then(|| used_usd.dollars()),
        used_tokens,
        out_usd: dollars(held).minus(dollars(lost)).dollars(),
        out_tokens: held.tokens.saturating_sub(lost.tokens),
        share: shares.into_iter().flatten().fold(0.0, f64::max),
    })
}

fn about(scheduler: &Scheduler, scope: &HoldScope) -> String {
    match scope {
        HoldScope::Task(_) | HoldScope::Run(_) => decisions::about(scheduler, scope),
        HoldScope::Worker(worker) => format!("worker {worker} today"),
        HoldScope::All => "all workers today".to_owned(),
    }
}

/// Returns what the present day has taken.
pub fn today(dispatcher: &Dispatcher) -> Today {
    let gateways = dispatcher.gateways();
    let standing = gateways.standing(&HoldScope::All);
    let rehearsal = dispatcher.rehearsal();
    let known = match rehearsal {
        true => 0.0,
        false => standing.spent.usd.unwrap_or_default().dollars(),
    };
    Today {
        day: gateways.gateway().ledger().today().to_string(),
        requests: standing.requests,
        cost_usd: (rehearsal || standing.unpriced == 0).then_some(known),
        known_cost_usd: known,
        tokens: standing.spent.tokens,
        budget_usd: standing.budget.usd.map(Usd::dollars),
        budget_tokens: standing.budget.tokens,
    }
}

fn views(limits: Vec<LimitStatus>) -> Vec<LimitView> {
    let view = |of: LimitStatus| LimitView {
        what: of.what,
        scope: of.scope,
        source: of.source,
        limit: of.limit,
        left: of.left,
    };
    limits.into_iter().map(view).collect()
}

fn pace(status: PaceStatus) -> PaceView {
    PaceView {
        account: status.account.to_string(),
        model: status.model.to_string(),
        limits: views(status.limits),
        in_flight: status.in_flight,
        window: status.window,
        waiting: status.waiting as u64,
        blocked: status.blocked.map(|blocked| BlockedView {
            reason: blocked.reason,
            scope: blocked.scope,
            until: blocked.until,
        }),
    }
}

/// Returns what a person should know: whether the model's API is away, which budgets are nearly used up, and what limits hold back.
pub fn notices(dispatcher: &Dispatcher) -> Vec<String> {
    let much = budgets(dispatcher, None).into_iter().filter_map(|budget| nearly_used(&budget));
    let gateway = dispatcher.gateways().gateway();
    let limits = held_back(&gateway.limits(), dispatcher.now());
    gateway.outage().into_iter().chain(much).chain(limits).collect()
}

fn nearly_used(budget: &BudgetView) -> Option<String> {
    if budget.share < MUCH {
        return None;
    }
    let usd = budget.usd.map(|limit| match budget.used_usd {
        Some(used) => format!("${used:.2} of ${limit:.2}"),
        None => format!("an unknown part of ${limit:.2}"),
    });
    let tokens = budget.tokens.map(|limit| format!("{} of {limit} tokens", budget.used_tokens));
    let figures = usd.into_iter().chain(tokens).collect::<Vec<_>>().join(" and ");
    let percent = whole_percent(budget.share);
    Some(format!("the budget of {} is used to {percent} % ({figures})", budget.about))
}

/// Says which limits hold requests back, and until when: each once, also where it is the limit of a whole
/// account.
fn held_back(limits: &[PaceStatus], now: Time) -> Vec<String> {
    let mut waiting: Vec<(String, usize)> = Vec::new();
    for status in limits {
        let Some(blocked) = &status.blocked else { continue };
        // A limit of ours that nobody waits for is only where it should be.
        let refused = matches!(
            blocked.reason,
            WaitReason::RateLimited | WaitReason::Overloaded | WaitReason::Unreachable
        );
        if status.waiting == 0 && !refused {
            continue;
        }
        let whose = match blocked.scope {
            Scope::Account => status.account.to_string(),
            Scope::Model | Scope::Worker => format!("{} ({})", status.model, status.account),
        };
        let until = match blocked.until {
            Some(until) => format!("until {}", utc(until, now)),
            None => "for now".to_owned(),
        };
        let text = format!("{whose} is held back {until}: {}", blocked.reason);
        match waiting.iter_mut().find(|(same, _)| *same == text) {
            Some((_, count)) => *count += status.waiting,
            None => waiting.push((text, status.waiting)),
        }
    }
    let say = |(text, count): (String, usize)| match count {
        0 => text,
        1 => format!("{text}; 1 request waits"),
        count => format!("{text}; {count} requests wait"),
    };
    waiting.into_iter().map(say).collect()
}

impl Gateways {
    /// Returns the dollars that the prompt cache saved a run, where they are known, and how long its requests waited.
    pub fn run_figures(&self, run: RunId) -> (Option<f64>, Waits) {
        let totals =
            self.gateway().ledger().totals(&Filter { run: Some(run), ..Filter::default() });
        let known = totals.sums.requests > 0;
        let saved_usd = if self.is_rehearsal() { 0.0 } else { saved(&totals.sums) };
        (known.then_some(saved_usd), waits(&totals.sums))
    }
}

#[cfg(test)]
mod tests;
