//! `supervisor gc`: remove what is old.

use std::time::Duration;

use protocol::RunId;
use scheduler::Input;

use super::args::GcArgs;
use super::context::Context;
use super::table::Table;
use super::text::{NOTE, count, one_line, paint};
use super::{Outcome, Stop, down};
use crate::api::types::{GcItem, GcKind, GcReport, GcRequest};
use crate::client::Client;
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::failure::Failure;
use crate::install::Installation;
use crate::journal::Journals;
use crate::lock::Lock;
use crate::runtime::docker::DockerRuntime;
use crate::{daemon, gc, workers};

/// How long a daemon may take: years of transcripts are many files.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How many things are named of each kind; the others are only counted.
const SHOWN: usize = 10;

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &GcArgs) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let request = GcRequest {
        keep_seconds: args.keep.as_secs(),
        dry_run: args.dry_run,
        results: args.results,
    };
    let config = Config::load(&installation, Flags::default(), |name| std::env::var(name).ok())?;
    let mut report = match Client::connect(&installation).await {
        Ok(client) => {
            let client = client.patient(PATIENCE);
            let mut report: GcReport = client.post("/v1/gc", &request).await?;
            containers(&installation, &config, true, &mut report).await?;
            report
        }
        Err(failure) if down::is_locked(&installation)? => {
            let message = "a supervisor holds this folder, and does not answer";
            return Err(Failure::unavailable(message)
                .because(failure)
                .hint("It may be starting or stopping: wait a moment, then run this again.")
                .into());
        }
        Err(_) => alone(&installation, &config, request).await?,
    };
    report.bytes = report.removed.iter().map(|item| item.bytes).sum();
    match args.json {
        true => context.screen.out_json(&report)?,
        false => context.screen.out(&render(&report))?,
    }
    for failed in &report.failed {
        context.screen.err(&format!("{} {}\n", paint(NOTE, "Note:"), one_line(failed, 300)));
    }
    Ok(Outcome::Done)
}

/// Does what a daemon would do, in its place.
async fn alone(
    installation: &Installation,
    config: &Config,
    request: GcRequest,
) -> Result<GcReport, Failure> {
    if !installation.runs().is_dir() {
        let before = Clock::starting_after(protocol::Time::ZERO).now();
        return Ok(GcReport { dry_run: request.dry_run, before, ..GcReport::default() });
    }
    let _lock = Lock::take(installation)?;
    let workers = workers::load_all(installation)?;
    let (mut journals, records) = Journals::open(installation).map_err(|error| {
        let hint = error.hint();
        Failure::unavailable("the journal can't be used").because(error).hint(hint)
    })?;
    let mut scheduler = daemon::replay(config, &workers, &records);
    let now = Clock::starting_after(journals.latest()).now();
    let chosen = gc::choose(&scheduler, installation, request, now);
    let tasks = chosen.tasks.clone();
    let mut report = chosen.carry_out();
    if !request.dry_run {
        // No attempt begins by it, so nothing has to be random.
        let step = scheduler.step(now, &mut || 0, Input::Forget(tasks)).unwrap_or_default();
        for event in step.events {
            journals.push(RunId::Adhoc, now, event);
        }
        journals
            .commit()
            .map_err(|error| Failure::unavailable("the journal can't be written").because(error))?;
    }
    containers(installation, config, false, &mut report).await?;
    Ok(report)
}

/// Removes containers and images, where an engine ran the workers last.
async fn containers(
    installation: &Installation,
    config: &Config,
    has_daemon: bool,
    report: &mut GcReport,
) -> Result<(), Failure> {
    let last = std::fs::read_to_string(installation.runtime_file()).unwrap_or_default();
    if last.trim() != "docker" {
        return Ok(());
    }
    let workers = workers::load_all(installation)?;
    let mut images = vec![config.image.value.clone()];
    images.extend(workers.values().filter_map(|worker| worker.config.image.clone()));
    // A daemon looks after the containers of its workers itself.
    let kept =
        workers.values().filter(|_| has_daemon).flat_map(workers::Worker::replicas).collect();
    let found = match DockerRuntime::connect(installation.id()).await {
        Ok(docker) => docker.clear_old(&kept, &images, report.before, report.dry_run).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(found) => report.removed.extend(found),
        Err(error) => {
            let why = crate::failure::causes(&error).join(": ");
            report.failed.push(format!("containers and images stay: {error}: {why}"));
        }
    }
    Ok(())
}

/// Returns what went, or would go.
pub(crate) fn render(report: &GcReport) -> String {
    let what = if report.dry_run { "Would remove" } else { "Removed" };
    let mut text = String::new();
    let mut kinds: Vec<GcKind> = report.removed.iter().map(|item| item.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if !kinds.is_empty() {
        let mut table = Table::new(&["WHAT", ">SIZE", "NAME"]);
        for kind in &kinds {
            let items = report.removed.iter().filter(|item| item.kind == *kind);
            let items: Vec<&GcItem> = items.collect();
            for item in items.iter().take(SHOWN) {
                let name = one_line(&item.name, 120);
                table.row([name_of(*kind).into(), bytes(item.bytes).into(), name.into()]);
            }
            let rest = items.get(SHOWN..).unwrap_or_default();
            if !rest.is_empty() {
                let size = bytes(rest.iter().map(|item| item.bytes).sum());
                let name = format!("and {} more", rest.len());
                table.row([name_of(*kind).into(), size.into(), name.into()]);
            }
        }
        text.push_str(&table.render());
        text.push('\n');
    }
    for kept in &report.kept {
        text.push_str(&format!("Kept the run {}: {}.\n", kept.run, one_line(&kept.why, 200)));
    }
    text.push_str(&match report.removed.len() {
        0 => format!("There is nothing from before {} to remove.\n", day(report)),
        n => format!(
            "{what} {}, {}, from before {}.\n",
            count(n, "thing"),
            bytes(report.bytes),
            day(report)
        ),
    });
    text
}

fn day(report: &GcReport) -> String {
    let text = report.before.to_string();
    text.get(..10).map_or(text.clone(), str::to_owned)
}

fn name_of(kind: GcKind) -> &'static str {
    match kind {
        GcKind::Run => "run",
        GcKind::Attempt => "transcript",
        GcKind::Session => "session",
        GcKind::Result => "result",
        GcKind::Temporary => "unfinished file",
        GcKind::Container => "container",
        GcKind::Image => "image",
    }
}

/// Returns a size as `900 B`, `1.2 MB` or `3.4 GB`.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use protocol::Time;

    use super::*;
    use crate::api::types::GcKept;

    #[test]
    fn what_would_go_is_listed_and_what_stays_says_why() {
        let item = |kind, name: String, bytes| GcItem { kind, name, bytes };
        let mut removed: Vec<_> = (0..12)
            .map(|n| {
                item(GcKind::Attempt, format!(".supervisor/runs/adhoc/attempts/t{n}.1"), 2_000)
            })
            .collect();
        removed.push(item(GcKind::Image, "supervisor-worker:1.0.0".to_owned(), 1_200_000_000));
        let run: protocol::RunId = "01a1f84a-95c0-7c3a-9b1e-4d5f60718a93".parse().unwrap();
        let kept = vec![GcKept { run, why: "the task `x` depends on it, and stays".to_owned() }];
        let before = Time::from_millis(1_790_000_000_000);
        let bytes = removed.iter().map(|item| item.bytes).sum();
        let failed = Vec::new();
        let report = GcReport { dry_run: true, before, removed, bytes, kept, failed };
        let plain = |report| anstream::adapter::strip_str(&render(report)).to_string();
        insta::assert_snapshot!(plain(&report), @"
        WHAT          SIZE  NAME
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t0.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t1.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t2.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t3.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t4.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t5.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t6.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t7.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t8.1
        transcript  2.0 kB  .supervisor/runs/adhoc/attempts/t9.1
        transcript  4.0 kB  and 2 more
        image       1.2 GB  supervisor-worker:1.0.0

        Kept the run 01a1f84a-95c0-7c3a-9b1e-4d5f60718a93: the task `x` depends on it, and stays.
        Would remove 13 things, 1.2 GB, from before 2026-09-21.
        ");
        let nothing = GcReport { before, ..GcReport::default() };
        insta::assert_snapshot!(plain(&nothing), @"There is nothing from before 2026-09-21 to remove.");
    }
}
