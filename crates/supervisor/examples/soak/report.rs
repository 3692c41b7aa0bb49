//! The report, as Markdown that can be read as it is.

use std::fs;
use std::process::Command;
use std::thread;

use crate::Options;
use crate::check::Findings;
use crate::latency::Latencies;
use crate::peers::{Load, Peer};
use crate::plan::{REPLICAS, WORKERS};
use crate::storm::Done;

/// All that there was to do, and what came of it.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) findings: Findings,
    pub(crate) done: Done,
}

/// The smaller loop.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) load: Load,
    pub(crate) ours: Round,
    pub(crate) peers: Vec<Peer>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) seed: u64,
    pub(crate) millis: u64,
    pub(crate) calm: Round,
    pub(crate) storm: Round,
    pub(crate) is_same: bool,
    pub(crate) latencies: Option<Latencies>,
    pub(crate) peers: Option<Compared>,
}

/// Something that must hold.
struct Target {
    what: String,
    wanted: &'static str,
    found: String,
    is_met: bool,
}

impl Report<'_> {
    /// Returns whether all targets are met.
    pub(crate) fn is_met(&self) -> bool {
        self.calm.findings.is_clean() && self.targets().iter().all(|target| target.is_met)
    }

    fn targets(&self) -> Vec<Target> {
        let findings = &self.storm.findings;
        let none = |what: &str, wrong: &[String]| Target {
            what: what.to_owned(),
            wanted: "0",
            found: wrong.len().to_string(),
            is_met: wrong.is_empty(),
        };
        let mut targets = vec![
            none("tasks lost", &findings.lost),
            none(
                "accepted twice, done again after acceptance, or a result that changed",
                &findings.doubled,
            ),
            none("processes left, when all was done and after `down`", &findings.orphans),
            none("attempts beside another of the same task, or without an input", &findings.unruly),
            Target {
                what: "final state (results, artifacts, answers) as without a kill".to_owned(),
                wanted: "the same",
                found: if self.is_same { "the same" } else { "another" }.to_owned(),
                is_met: self.is_same,
            },
        ];
        if let Some(latencies) = &self.latencies {
            let (p50, p99) = latencies.dispatched_after();
            targets.push(Target {
                what: format!(
                    "from a worker's death to the next attempt's dispatch, beyond the backoff, p50 of {}",
                    latencies.dispatched.len()
                ),
                wanted: "≤ 150 ms",
                found: format!("{p50} ms (p99 {p99} ms)"),
                is_met: p50 <= 150 && !latencies.dispatched.is_empty(),
            });
        }
        targets
    }

    /// Returns the whole report.
    pub(crate) fn markdown(&self) -> String {
        let Self { storm, calm, .. } = self;
        let (findings, done) = (&storm.findings, &storm.done);
        let mut out: Vec<String> = vec![
            "# Reliability".into(),
            String::new(),
            format!(
                "What {} kills of the daemon cost: `kill -9` at random moments, the real programs, real processes and files. Made by \
                 `make soak`; how is said at the end.",
                done.kills
            ),
            String::new(),
            "| target | wanted | found | |".into(),
            "| --- | ---: | ---: | --- |".into(),
        ];
        out.extend(self.targets().iter().map(|target| {
            let verdict = if target.is_met { "met" } else { "**missed**" };
            format!("| {} | {} | {} | {verdict} |", target.what, target.wanted, target.found)
        }));
        out.extend([
            String::new(),
            "## What was done".into(),
            String::new(),
            "| | without kills | with |".into(),
            "| --- | ---: | ---: |".into(),
            format!("| tasks | {} | {} |", calm.findings.tasks, findings.tasks),
            format!("| attempts | {} | {} |", calm.findings.attempts, findings.attempts),
            format!("| kills of the daemon | {} | {} |", calm.done.kills, done.kills),
            format!(
                "| of these right after it wrote into a journal | {} | {} |",
                calm.done.after_write, done.after_write
            ),
            format!(
                "| workers killed from outside | {} | {} |",
                calm.done.workers_killed, done.workers_killed
            ),
            format!(
                "| workers killed by their own task | {} | {} |",
                calm.findings.deaths, findings.deaths
            ),
            format!(
                "| attempts that another worker took up where its slot had them | {} | {} |",
                calm.findings.gone_on_with, findings.gone_on_with
            ),
            format!(
                "| time | {:.0} s | {:.0} s |",
                calm.done.took.as_secs_f64(),
                done.took.as_secs_f64()
            ),
        ]);
        if let Some(latencies) = &self.latencies {
            let ((noticed, slowly), (p50, p99)) =
                (latencies.noticed_after(), latencies.dispatched_after());
            out.extend([
                String::new(),
                format!(
                    "A worker's death is noticed after {noticed} ms (p50; p99 {slowly} ms), and the next attempt is dispatched {p50} ms \
                     (p50; p99 {p99} ms) after it, beyond the backoff."
                ),
            ]);
        }
        if let Some(compared) = &self.peers {
            compared.tell(&mut out);
        }
        self.tell_how(&mut out);
        out.push(String::new());
        out.join("\n")
    }

    fn tell_how(&self, out: &mut Vec<String>) {
        let options = self.options;
        let at_once = WORKERS.len() * REPLICAS;
        out.extend([String::new(), "## How it is measured".into(), String::new()]);
        out.extend(facts());
        out.extend([
            format!(
                "- Seed {}: `make soak KILLS={} SOAK_ARGS='--seed {}'` chooses the same plans, tasks and moments again; what the machine \
                 makes of them differs.",
                self.seed, options.kills, self.seed
            ),
            format!(
                "- {} plans of {} tasks, each after up to three others, and {} tasks dropped as files in between; {} workers with {REPLICAS} \
                 replicas each, process runtime, {at_once} attempts at once. The agent is a program that takes {} ms on average, makes its \
                 artifact of its name and its inputs, and holds a lock on its task's name.",
                options.plans,
                options.tasks().div_ceil(options.plans.into()),
                options.tasks() / 20,
                WORKERS.len(),
                self.millis
            ),
            "- One kill of three comes within 120 ms of the daemon's start, one between 50 and 400 ms after it, and one up to 8 ms after it has \
             written into a journal. The next start follows at once, and nothing else is done; where the kills get ahead of the work, a life is up to 2 s longer. Of a hundred kills five come with one of a \
             random worker, before or after; of a hundred tasks five kill their own worker in the middle of the first attempt, and work on."
                .into(),
            "- Tasks note their beginning and end in a file of their own. Lost: no end in the journal, no result, another attempt's artifacts, an \
             end that the task itself does not know of, a task file that is left, a run that is not complete when `supervisor replay` folds \
             its journal. Doubled: two ends in the journal, an attempt that begins after one was accepted, a result that is not as it was \
             when it was seen first. Orphans: any process with this installation's mark."
                .into(),
        ]);
        if let Some(latencies) = &self.latencies {
            out.push(format!(
                "- Death to dispatch: {} tasks in {at_once} chains, so that there is room for each; every first attempt kills its worker and \
                 notes when. From there to the journal's time of the next dispatch, less what the journal has as backoff.",
                latencies.dispatched.len()
            ));
        }
    }
}

impl Compared {
    fn tell(&self, out: &mut Vec<String>) {
        let Load { tasks, kills, millis, at_once, .. } = self.load;
        out.extend([
            String::new(),
            "## Beside others".into(),
            String::new(),
            format!(
                "A smaller loop that all can do: {tasks} tasks of {millis} ms on average that depend on nothing, {at_once} at once, {kills} kills \
                 of the daemon with `kill -9`, lives three times as long. These are other tools for other ends: one is a person's \
                 queue of shell commands, one a library for web applications; both say what they do at a crash, and this is it."
            ),
            String::new(),
            "| | kills | lost | called failed | begun again | done twice | ran on unseen | queue stood still |".into(),
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |".into(),
        ]);
        let ours = &self.ours.findings;
        let (lost, doubled) = (ours.lost.len(), ours.doubled.len());
        out.push(format!(
            "| supervisor | {} | {lost} | 0 | {} | {doubled} | {} | 0 |",
            self.ours.done.kills,
            ours.attempts - ours.tasks - 1,
            ours.orphans.len(),
        ));
        for peer in &self.peers {
            out.push(format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                peer.name,
                peer.kills,
                peer.lost,
                peer.failed,
                peer.begun_again,
                peer.twice,
                peer.orphans,
                peer.stuck
            ));
        }
        out.extend([
            String::new(),
            "Lost: never came to its end. Called failed: nothing was wrong with it, and somebody has to have it done again. Ran on unseen: \
             added up over all kills, tasks that ran on and that the queue took for over when it was back; the supervisor takes such tasks \
             over, so that they are neither failed nor begun again. Stood still: restarts after which nothing was done until somebody \
             said so."
                .into(),
            String::new(),
        ]);
        for peer in &self.peers {
            let how = peer.how.join("; ");
            out.push(format!("- {}, {:.0} s: {how}.", peer.name, peer.took.as_secs_f64()));
        }
    }
}

/// Returns on what it was measured, as lines of a list.
pub(crate) fn facts() -> Vec<String> {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once([':', '='])?.1.trim().trim_matches('"').to_owned())
    };
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let system = field("/etc/os-release", "PRETTY_NAME").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let said = |program: &str, arguments: &[&str]| {
        let said = Command::new(program).args(arguments).output().map(|said| said.stdout);
        String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned()
    };
    let folder = std::env::temp_dir().display().to_string();
    let files = said("stat", &["--file-system", "--format", "%T", &folder]);
    let rustc = said("rustc", &["--version"]);
    vec![
        format!(
            "- Machine: {cores} × {processor}; {system}, Linux {}; files on {files}; load {load} at the end",
            kernel.trim()
        ),
        format!("- Supervisor: version {}, {rustc}", env!("CARGO_PKG_VERSION")),
    ]
}
