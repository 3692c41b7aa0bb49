//! `supervisor doctor`: everything that could stop a run, each with its cure.
//!
//! Each check is a function of what it looks at, so that a test can take that away.

mod credentials;
mod files;
mod governor;
mod machine;
mod programs;
#[cfg(test)]
mod tests;
mod would_allow;

use serde::Serialize;

use super::args::DoctorArgs;
use super::context::Context;
use super::table::Table;
use super::text::{BAD, DIM, GOOD, NOTE, clean, count, indent, paint};
use super::{Outcome, Stop};
use crate::config::{Config, Flags, Row};
use crate::failure::Failure;
use crate::install::Installation;

pub(crate) use credentials::UNTRACK;
pub use credentials::tracked_credentials;
pub(crate) use credentials::{UNTRACK_KEY, tracked_keys};
pub(crate) use programs::find_claude;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: String,
    /// How it is.
    pub(crate) state: State,
    /// What was found.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cure: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; it stops nothing.
    Note,
    /// It stops runs, or will.
    Problem,
}

impl Finding {
    fn ok(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), state: State::Ok, message: message.into(), cure: None }
    }

    fn note(check: &str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        let cure = Some(cure.into());
        Self { check: check.to_owned(), state: State::Note, message: message.into(), cure }
    }

    fn problem(check: &str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        let cure = Some(cure.into());
        Self { check: check.to_owned(), state: State::Problem, message: message.into(), cure }
    }

    /// Returns a failure as a problem.
    fn failed(check: &str, failure: &Failure) -> Self {
        Self {
            check: check.to_owned(),
            state: State::Problem,
            message: with_causes(failure),
            cure: failure.cure().map(str::to_owned),
        }
    }
}

/// Returns an error and its causes as one text.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &DoctorArgs) -> Result<Outcome, Stop> {
    let environment = |name: &'static str| std::env::var(name).ok();
    if args.config {
        let config = Config::load(&context.installation()?, Flags::default(), environment)?;
        if args.json {
            context.screen.out_json(&config_json(&config))?;
        } else {
            context.screen.out(&config_table(&config))?;
        }
        return Ok(Outcome::Done);
    }
    if let Some([host, worker]) = args.would_allow.as_deref() {
        let installation = context.installation()?;
        let config = Config::load(&installation, Flags::default(), environment)?;
        let answer = would_allow::answer(&installation, &config, host, worker)?;
        if args.json {
            context.screen.out_json(&answer)?;
        } else {
            context.screen.out(&answer.render())?;
        }
        return Ok(if answer.allowed { Outcome::Done } else { Outcome::Incomplete });
    }
    let mut findings = Vec::new();
    match context.installation() {
        Ok(installation) => {
            let config = Config::load(&installation, Flags::default(), environment);
            findings.extend(check_all(&installation, config.as_ref()).await);
        }
        Err(failure) => findings.push(Finding::failed("installation", &failure)),
    }
    findings.extend(machine::check_machine());
    if args.json {
        context.screen.out_json(&findings)?;
    } else {
        context.screen.out(&render(&findings))?;
    }
    match findings.iter().filter(|finding| finding.state == State::Problem).count() {
        0 => Ok(Outcome::Done),
        problems => {
            let message = format!("{} would stop a run", count(problems, "problem"));
            Err(Failure::unavailable(message).into())
        }
    }
}

async fn check_all(installation: &Installation, config: Result<&Config, &Failure>) -> Vec<Finding> {
    let mut findings = vec![files::check_configuration(installation, config)];
    findings.extend(files::check_workers(installation));
    findings.push(files::check_folders(installation));
    findings.push(files::check_drops(installation));
    findings.push(credentials::check_tracked(installation, config.ok()));
    if let Ok(config) = config {
        findings.push(credentials::check_key(installation, config));
        findings.extend(governor::check_governor(installation, config).await);
        findings.extend(programs::check_programs(installation, config).await);
        findings.push(machine::check_memory(config.max_running.value, machine::free_memory()));
    }
    findings.push(machine::check_sockets(installation, &machine::socket_places()));
    findings.push(machine::check_watches(files::watched(installation), machine::inotify_limits()));
    findings.push(machine::check_disk(machine::free_disk(installation.root())));
    findings.push(programs::check_daemon(installation).await);
    findings
}

/// Returns the findings as text.
pub(crate) fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, state, message, cure } in findings {
        let (style, state) = match state {
            State::Ok => (GOOD, "ok"),
            State::Note => (NOTE, "note"),
            State::Problem => (BAD, "problem"),
        };
        let state = paint(style, format!("{state:<7}"));
        let message = indent(clean(message).trim_end(), width + 11);
        text.push_str(&format!("{state}  {check:<width$}  {}", message.trim_start()));
        if let Some(cure) = cure {
            text.push_str(&paint(DIM, indent(&clean(cure), width + 11)));
        }
    }
    text
}

fn config_table(config: &Config) -> String {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    for (name, value, origin) in config.table() {
        table.row([name.into(), value.into(), origin.to_string().into()]);
    }
    table.render()
}

fn config_json(config: &Config) -> serde_json::Value {
    let setting = |(name, value, origin): Row| serde_json::json!({ "setting": name, "value": value, "from": origin.to_string() });
    config.table().into_iter().map(setting).collect()
}
