//! Its part of the report.

use super::{Aim, Round, WORKERS, check};
use crate::latency::quantile;
use crate::report::facts;

/// What the part begins with. It is the last one of the report.
pub(super) const HEADING: &str = "## With real containers\n";

/// How long it may take from a container's death to the next attempt's dispatch beyond the backoff, at the median.
const PROMPT: u64 = 150;

fn is_prompt(storm: &Round) -> bool {
    quantile(&storm.findings.dispatched_after, 0.5) <= PROMPT
}

/// Returns whether nothing is wrong.
pub(super) fn is_met(calm: &Round, storm: &Round) -> bool {
    let is_clean = |round: &Round| round.findings.wrong().iter().all(|(_, wrong)| wrong.is_empty());
    is_clean(calm)
        && is_clean(storm)
        && is_prompt(storm)
        && check::differences(&calm.findings, &storm.findings).is_empty()
}

/// Returns the part, as Markdown.
pub(super) fn markdown(aim: Aim, calm: &Round, storm: &Round) -> String {
    let mut out: Vec<String> = vec![
        HEADING.to_owned(),
        format!(
            "What {} interruptions of {} containers cost, one after the other while work is under way: the real engine, the real \
             Claude Code CLI, only the model is played. Made by `make soak-containers`.",
            storm.done.made.values().sum::<usize>(),
            WORKERS.len()
        ),
        String::new(),
        "| target | wanted | found | |".into(),
        "| --- | ---: | ---: | --- |".into(),
    ];
    let verdict = |is_met: bool| if is_met { "met" } else { "**missed**" };
    out.extend(storm.findings.wrong().iter().map(|(what, wrong)| {
        format!("| {what} | 0 | {} | {} |", wrong.len(), verdict(wrong.is_empty()))
    }));
    let differences = check::differences(&calm.findings, &storm.findings);
    out.push(format!(
        "| results, artifacts and answers as without an interruption | the same | {} | {} |",
        match differences.len() {
            0 => "the same".to_owned(),
            count => format!("{count} differ, such as {}", differences[0]),
        },
        verdict(differences.is_empty())
    ));
    let after = &storm.findings.dispatched_after;
    out.push(format!(
        "| from a container's death to the next dispatch, beyond the backoff, p50 of {} | ≤ {PROMPT} ms | {} ms (p99 {} ms) | {} |",
        after.len(),
        quantile(after, 0.5),
        quantile(after, 0.99),
        verdict(is_prompt(storm))
    ));
    let row = |what: &str, of: &dyn Fn(&Round) -> usize| {
        format!("| {what} | {} | {} |", of(calm), of(storm))
    };
    out.extend([
        String::new(),
        "| | without | with |".into(),
        "| --- | ---: | ---: |".into(),
        row("tasks", &|round| round.findings.tasks),
        row("attempts, the answers' among them", &|round| round.findings.attempts),
        row("of these lost with their worker", &|round| round.findings.attempts_lost),
        row("of these that went on with the session of a lost one", &|round| {
            round.findings.resumed
        }),
        row("the most containers at once", &|round| round.done.containers),
        format!(
            "| time | {:.0} s | {:.0} s |",
            calm.done.took.as_secs_f64(),
            storm.done.took.as_secs_f64()
        ),
    ]);
    out.extend(storm.done.made.iter().map(|(kind, count)| {
        let without = calm.done.made.get(kind).copied().unwrap_or_default();
        format!("| {} | {without} | {count} |", kind.name())
    }));
    out.push(String::new());
    out.extend(facts());
    out.extend([
        format!(
            "- Seed {}: `make soak-containers INTERRUPTIONS={} CONTAINER_ARGS='--seed {}'` chooses the same plans and interruptions again; what the \
             machine makes of them differs.",
            aim.seed, aim.interruptions, aim.seed
        ),
        format!(
            "- Plans of {} tasks, each after up to three others, for {} workers with one container each, and a fourth for the answers; an \
             answer of the model takes a second, a task four requests and one of a sub-agent. The engine is a second `dockerd` with its own \
             data, socket and containerd.",
            super::PLAN,
            WORKERS.len()
        ),
        "- Interruptions are chosen at random and come up to 3 s after one another, in step with the work: a task whose worker is lost five \
         times in a row fails, and is meant to."
            .into(),
        "- Lost: no end in the journal, another end than complete, no result, an artifact that is not there, a task file that is left. \
         Doubled: two ends, an attempt that is dispatched after one was accepted, a result that is not as it was when it was seen first. \
         Left: containers with this installation's label, and processes whose root is in the engine's data, by the kernel's word."
            .into(),
        "- Death to dispatch: of containers that were killed or removed while the daemon was there, and that had an attempt. From the \
         engine's time of its end to the journal's time of the task's next dispatch, less what the journal has as backoff; or to that of \
         another task which had waited for the replica. Where it was given away in the middle of the backoff, it is left out."
            .into(),
        String::new(),
    ]);
    out.join("\n")
}
