//! `supervisor usage`: what was used of the model, by whom, and what may be.

use gateway::pace::{Scope, Source, WaitReason};
use jiff::tz::TimeZone;

use super::args::UsageArgs;
use super::context::Context;
use super::table::{Cell, Table};
use super::text::{self, BOLD, NOTE, count, duration, moment, number, one_line, paint};
use super::{Outcome, Stop, target};
use crate::api::usage::{
    BudgetView, CacheBreakView, LimitView, PaceView, RefusedView, RunUsed, TaskUsed, Today,
    UsageReport, UsageTable, Used, Waits, WorkerLimits,
};
use crate::usage::{MUCH, whole_percent};

/// How many runs are shown: the latest.
const RUNS_SHOWN: usize = 20;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &UsageArgs) -> Result<Outcome, Stop> {
    let path = match &args.run {
        Some(run) => format!("/v1/usage?run={}", target::name(run)?),
        None => "/v1/usage".to_owned(),
    };
    let report: UsageReport = context.client().await?.get(&path).await?;
    if args.json {
        context.screen.out_json(&report)?;
    } else {
        context.screen.out(&render(&report, &context.zone))?;
    }
    Ok(Outcome::Done)
}

/// Returns the report as text.
pub(crate) fn render(report: &UsageReport, zone: &TimeZone) -> String {
    let mut parts = Vec::new();
    if report.rehearsal {
        let note = "This is a rehearsal: no model is asked, nothing is billed.";
        parts.push(format!("{}\n", paint(NOTE, note)));
    }
    if let Some(today) = &report.today {
        parts.push(table(&format!("Today ({}, UTC)", report.day), today));
    }
    let all = match (&report.short, &report.name) {
        (None, _) => "All that is known".to_owned(),
        (Some(short), None) => format!("Run {short}"),
        (Some(short), Some(name)) => format!("Run {short} ({})", one_line(name, 60)),
    };
    parts.push(table(&all, &report.all));
    parts.extend(budgets(&report.budgets));
    parts.extend(limits(&report.limits, &report.worker_limits));
    parts.extend(paces(&report.limits, zone));
    parts.extend(cache_breaks(&report.cache_breaks));
    parts.extend(refused(&report.refused));
    parts.join("\n")
}

/// Returns a table of what was used, whose first column says by what.
fn by(what: &'static str) -> Table {
    Table::new(&[
        what,
        ">REQUESTS",
        ">INPUT",
        ">OUTPUT",
        ">CACHE READ",
        ">WRITTEN",
        ">FROM CACHE",
        ">COST",
        ">SAVED",
        ">HELD",
        "WAITED FOR",
    ])
}

fn table(heading: &str, usage: &UsageTable) -> String {
    let heading = paint(BOLD, heading);
    let total = &usage.total;
    if total.requests == 0 && total.out == 0 {
        return format!("{heading}: the model was asked for nothing\n");
    }
    let mut text = format!("{heading}\n");
    let mut workers = by("WORKER");
    for of in &usage.workers {
        row(&mut workers, of.worker.as_str(), &of.used);
    }
    row(&mut workers, "all", total);
    text.push_str(&workers.render());
    text.push('\n');
    let mut models = by("MODEL");
    for of in &usage.models {
        row(&mut models, &one_line(&of.model, 40), &of.used);
    }
    text.push_str(&models.render());
    text.push_str(&runs(&usage.runs));
    text.push_str(&tasks(&usage.tasks));
    text.push_str(&remarks(total));
    text
}

fn runs(runs: &[RunUsed]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let earlier = runs.len().saturating_sub(RUNS_SHOWN);
    let mut table = by("RUN");
    for of in runs.iter().skip(earlier) {
        let id = of.short.as_ref().map_or_else(|| of.run.to_string(), ToString::to_string);
        let name = of.name.as_ref().map(|name| format!(" ({})", one_line(name, 30)));
        row(&mut table, &format!("{id}{}", name.unwrap_or_default()), &of.used);
    }
    let more = match earlier {
        0 => String::new(),
        earlier => format!("… and {} before; --json has them all\n", count(earlier, "run")),
    };
    format!("\n{}{more}", table.render())
}

fn tasks(tasks: &[TaskUsed]) -> String {
    if tasks.is_empty() {
        return String::new();
    }
    let mut table = by("TASK");
    for of in tasks {
        row(&mut table, of.task_id.as_str(), &of.used);
        // Of one attempt there is nothing else to say.
        for attempt in of.attempts.iter().filter(|_| of.attempts.len() > 1) {
            row(&mut table, &format!("  attempt {}", attempt.attempt), &attempt.used);
        }
    }
    format!("\n{}", table.render())
}

fn row(table: &mut Table, of: &str, used: &Used) {
    let usage = &used.usage;
    table.row([
        of.into(),
        number(used.requests).into(),
        number(usage.input_tokens).into(),
        number(usage.output_tokens).into(),
        number(usage.cache_read_input_tokens).into(),
        number(usage.cache_creation_input_tokens).into(),
        percent(used.cache_share).into(),
        cost(used.cost_usd, used.known_cost_usd).into(),
        signed(used.saved_usd).into(),
        held(used).into(),
        waits(&used.waits).into(),
    ]);
}

/// Returns what is held for requests that are out, and for those of which nobody knows the end or the price.
fn held(used: &Used) -> String {
    match used.out_usd {
        _ if used.out == 0 && used.held_usd == 0.0 => "-".to_owned(),
        Some(out) => text::usd(out + used.held_usd),
        None => "unknown".to_owned(),
    }
}

/// Says what the figures do not.
fn remarks(total: &Used) -> String {
    let mut text = String::new();
    let requests = |of: u64| count(usize::try_from(of).unwrap_or(usize::MAX), "request");
    let mut say = |line: String| text.push_str(&format!("{} {line}\n", paint(NOTE, "Note:")));
    if total.of_agents > 0 {
        say(format!(
            "{} of sub-agents, with {} and {} tokens",
            be(total.of_agents, &requests(total.of_agents)),
            text::usd(total.of_agents_known_cost_usd),
            number(total.of_agents_tokens),
        ));
    }
    if total.out > 0 {
        say(format!(
            "{} out: at the most {} and {} tokens",
            be(total.out, &requests(total.out)),
            text::cost(total.out_usd),
            number(total.out_tokens),
        ));
    }
    if total.cut_off > 0 {
        say(format!(
            "{} broke off: {} and {} tokens are held for what nobody knows of it",
            requests(total.cut_off),
            text::usd(total.held_usd),
            number(total.held_tokens),
        ));
    }
    if total.unpriced > 0 {
        say(format!(
            "{} of a model without a price; `supervisor doctor` says how to give it one",
            be(total.unpriced, &requests(total.unpriced)),
        ));
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn be(number: u64, what: &str) -> String {
    format!("{what} {}", if number == 1 { "is" } else { "are" })
}

fn budgets(budgets: &[BudgetView]) -> Option<String> {
    if budgets.is_empty() {
        return None;
    }
    let mut table = Table::new(&["BUDGET", ">USED", ">HELD", ">OF", ">SHARE"]);
    for of in budgets {
        let share = |used: f64, limit: f64| percent((limit > 0.0).then(|| used / limit));
        if let Some(limit) = of.usd {
            let share = of.used_usd.map_or_else(|| "-".to_owned(), |used| share(used, limit));
            table.row([
                of.about.as_str().into(),
                text::cost(of.used_usd).into(),
                text::usd(of.out_usd).into(),
                text::usd(limit).into(),
                marked(of, share),
            ]);
        }
        if let Some(limit) = of.tokens {
            let tokens = |count: u64| format!("{} tokens", number(count));
            table.row([
                of.about.as_str().into(),
                tokens(of.used_tokens).into(),
                tokens(of.out_tokens).into(),
                tokens(limit).into(),
                marked(of, share(of.used_tokens as f64, limit as f64)),
            ]);
        }
    }
    Some(table.render())
}

fn marked(budget: &BudgetView, share: String) -> Cell {
    if budget.share < MUCH { share.into() } else { Cell::styled(NOTE, share) }
}

fn cache_breaks(breaks: &[CacheBreakView]) -> Option<String> {
    let mut table = Table::new(&["PROMPT CACHE NOT READ BY", ">TOKENS LOST", "WHY"]);
    for of in breaks {
        table.row([
            format!("{} attempt {}", of.task_id, of.attempt).into(),
            number(of.lost_tokens).into(),
            one_line(&of.why, 120).into(),
        ]);
    }
    (!table.is_empty()).then(|| table.render())
}

fn refused(attempts: &[RefusedView]) -> Option<String> {
    let mut table = Table::new(&["REFUSED TO", ">REQUESTS", "THE LAST ONE"]);
    for of in attempts {
        table.row([
            format!("{} attempt {}", of.task_id, of.attempt).into(),
            number(of.requests).into(),
            one_line(&format!("{}; {}", of.what, of.hint), 300).into(),
        ]);
    }
    (!table.is_empty()).then(|| table.render())
}

fn limits(paces: &[PaceView], workers: &[WorkerLimits]) -> Option<String> {
    let mut table = Table::new(&["LIMIT", "WHOSE", ">LEFT", ">OF", "WHO SAYS SO"]);
    let mut row = |limit: &LimitView, whose: String| {
        table.row([
            limit.what.to_string().into(),
            whose.into(),
            limit.left.to_string().into(),
            number(limit.limit).into(),
            match limit.source {
                Source::Config => "the configuration",
                Source::Server => "the model's API",
            }
            .into(),
        ]);
    };
    let mut rows: Vec<(&PaceView, &LimitView)> = Vec::new();
    for pace in paces {
        for limit in &pace.limits {
            // What is the account's is told by each of its models.
            let is_account = limit.scope == Scope::Account;
            let told = |(of, same): &(&PaceView, &LimitView)| {
                is_account && of.account == pace.account && *same == limit
            };
            if !rows.iter().any(told) {
                rows.push((pace, limit));
            }
        }
    }
    for (pace, limit) in rows {
        row(limit, whose(pace, limit.scope));
    }
    for of in workers {
        of.limits.iter().for_each(|limit| row(limit, format!("worker {}", of.worker)));
    }
    (!table.is_empty()).then(|| table.render())
}

fn whose(pace: &PaceView, scope: Scope) -> String {
    match scope {
        Scope::Account => pace.account.clone(),
        Scope::Model => format!("{}, {}", one_line(&pace.model, 40), pace.account),
        Scope::Worker => format!("a worker, {}", pace.account),
    }
}

fn paces(paces: &[PaceView], zone: &TimeZone) -> Option<String> {
    let mut table =
        Table::new(&["REQUESTS TO", "ACCOUNT", ">IN FLIGHT", ">AT MOST", ">WAITING", "HELD BACK"]);
    for pace in paces {
        let blocked = match &pace.blocked {
            None => "-".into(),
            Some(blocked) => {
                let until = blocked.until.map(|until| format!(" until {}", moment(until, zone)));
                let text = format!("{}{}", blocked.reason, until.unwrap_or_default());
                Cell::styled(NOTE, text)
            }
        };
        table.row([
            one_line(&pace.model, 40).into(),
            pace.account.as_str().into(),
            pace.in_flight.to_string().into(),
            pace.window.to_string().into(),
            pace.waiting.to_string().into(),
            blocked,
        ]);
    }
    (!table.is_empty()).then(|| table.render())
}

/// Returns what something cost, with what is known of it where that is not all.
fn cost(all: Option<f64>, known: f64) -> String {
    match all {
        Some(usd) => text::usd(usd),
        None if known > 0.0 => format!("unknown ({} known)", text::usd(known)),
        None => "unknown".to_owned(),
    }
}

/// Returns what the day has cost.
pub(crate) fn spent(today: &Today) -> String {
    cost(today.cost_usd, today.known_cost_usd)
}

/// Returns an amount that may be less than nothing.
pub(crate) fn signed(amount: f64) -> String {
    let sign = if amount < 0.0 { "-" } else { "" };
    format!("{sign}{}", text::usd(amount.abs()))
}

/// Returns a share as a whole number of hundredths, rounded down: only all is 100 %.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{} %", whole_percent(share)))
}

/// Returns waits in words, the longest first.
pub(crate) fn waits(waits: &Waits) -> String {
    let mut waits: Vec<_> = waits.iter().collect();
    waits.sort_by(|a, b| b.1.total_cmp(a.1));
    let say = |(reason, seconds): (&String, &f64)| {
        format!("{} {}", reason_in_words(reason), duration(*seconds))
    };
    text::list(waits.into_iter().map(say))
}

fn reason_in_words(name: &str) -> String {
    let known = serde_json::from_value::<WaitReason>(name.into());
    known.map_or_else(|_| one_line(name, 40), |reason| reason.to_string())
}
