//! `supervisor up`: start the daemon, here or in the background.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::args::{RuntimeChoice, UpArgs};
use super::context::Context;
use super::interrupt::unless_interrupted;
use super::text::NOTE;
use super::{Outcome, Stop, doctor, down, left_behind, report, summary, text};
use crate::api::types::{Health, WorkerView};
use crate::client::Client;
use crate::config::{Config, Flags};
use crate::failure::Failure;
use crate::install::{Installation, cant_write};
use crate::keys::handover;
use crate::programs;

/// How long a start may take. It looks for an engine, adopts containers and reads journals.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long to look for workers that run on, once the daemon has ended.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// In the environment of a daemon that is to leave the terminal's session.
const DETACHED: &str = "SUPERVISOR_DETACHED";

/// Carries out the command. `serve` is the daemon itself.
pub(crate) async fn run(
    context: &mut Context,
    args: &UpArgs,
    serve: impl AsyncFnOnce(Installation, Config) -> Result<(), Failure>,
) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let flags = Flags { runtime: args.runtime, rehearsal: args.rehearsal };
    let config = match args.detach {
        true => Config::load(&installation, flags, |name| std::env::var(name).ok())?,
        false => Config::load(&installation, flags, handover::environment()?)?,
    };
    refuse_tracked(&doctor::tracked_credentials(&installation)?)?;
    refuse_tracked_keys(&doctor::tracked_keys(&installation, &config)?)?;
    if args.detach {
        return detach(context, args, &installation, &config).await;
    }
    if std::env::var_os(DETACHED).is_some() {
        // It fails only for the leader of a group, who is not in a terminal's foreground job.
        let _ = rustix::process::setsid();
        serve(installation, config).await?;
        return Ok(Outcome::Done);
    }
    let announce = async {
        let own = |health: &Health| health.pid == std::process::id();
        let healthy = wait_healthy(&installation, own, || Ok(())).await;
        if let Ok((health, workers)) = healthy {
            context.screen.err(&banner(&installation, &health, &workers));
        }
        // The daemon decides when it ends.
        std::future::pending::<()>().await;
    };
    let served = tokio::select! {
        served = serve(installation.clone(), config) => served,
        () = announce => Ok(()),
    };
    served?;
    // An engine that does not answer is not waited for.
    let running = timeout(FAREWELL_LIMIT, left_behind::running(&installation)).await;
    context.screen.err(&farewell(running.unwrap_or_default()));
    Ok(Outcome::Done)
}

/// Returns what to say once the daemon has ended in a person's terminal.
fn farewell(workers_that_run: usize) -> String {
    let rest = match workers_that_run {
        0 => String::new(),
        1 => " One worker runs on".to_owned(),
        more => format!(" {more} workers run on"),
    };
    let then = if rest.is_empty() {
        ""
    } else {
        ": the next `up` takes over, `supervisor down` stops what is left."
    };
    format!("The supervisor has stopped.{rest}{then}\n")
}

/// Refuses to start where credentials are in the repository.
fn refuse_tracked(tracked: &[String]) -> Result<(), Failure> {
    if tracked.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = tracked.iter().take(5).map(|path| format!("`{path}`")).collect();
    let more = tracked.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = format!("git tracks {}{more}", shown.join(", "));
    Err(Failure::bad_input("workers' logins are in the git repository")
        .because(names)
        .hint(doctor::UNTRACK))
}

/// Refuses to start where a key is in the repository.
fn refuse_tracked_keys(tracked: &[String]) -> Result<(), Failure> {
    let Some(path) = tracked.first() else { return Ok(()) };
    Err(Failure::bad_input("a key is in the git repository")
        .because(format!("git tracks `{path}`"))
        .hint(doctor::UNTRACK_KEY))
}

async fn detach(
    context: &mut Context,
    args: &UpArgs,
    installation: &Installation,
    config: &Config,
) -> Result<Outcome, Stop> {
    if let Ok(client) = Client::connect(installation).await
        && let Ok(health) = client.get::<Health>("/v1/health").await
    {
        if health.build == programs::build() {
            let workers: Vec<WorkerView> = client.get("/v1/workers").await.unwrap_or_default();
            context.screen.err("The supervisor runs already.\n");
            context.screen.err(&differences(&health, config));
            context.screen.err(&banner(installation, &health, &workers));
            return Ok(Outcome::Done);
        }
        context.screen.err("Another build of the supervisor runs: this one takes over its work.\n");
        down::end_daemon(installation, &client, health.pid).await?;
    }
    let (mut child, from) = spawn(context, args, installation)?;
    let pid = child.id();
    let wait = wait_healthy(
        installation,
        |health| health.pid == pid,
        || match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(died(installation, from, status)),
            Err(error) => {
                Err(Failure::unavailable("the supervisor can't be watched").because(error))
            }
        },
    );
    match unless_interrupted(wait).await {
        Some(healthy) => {
            let (health, workers) = healthy?;
            context.screen.err(&banner(installation, &health, &workers));
            Ok(Outcome::Done)
        }
        None => {
            context
                .screen
                .err("\nThe supervisor goes on starting without you: `supervisor status`.\n");
            Ok(Outcome::Interrupted)
        }
    }
}

/// Starts this program as the daemon. Returns it, and where its part of the log begins.
fn spawn(
    context: &Context,
    args: &UpArgs,
    installation: &Installation,
) -> Result<(Child, u64), Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::unavailable("this program's own file can't be found").because(e))?;
    let state = installation.state();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|e| cant_write(&state, e))?;
    let path = installation.log();
    let failed = |error| cant_write(&path, error);
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
    let from = log.metadata().map_err(failed)?.len();
    let mut command = Command::new(&program);
    command.arg("up").arg("--dir").arg(installation.root()).arg("--color=never");
    command.args(std::iter::repeat_n("--verbose", context.verbose.into()));
    if let Some(runtime) = args.runtime {
        let name = match runtime {
            RuntimeChoice::Auto => "auto",
            RuntimeChoice::Docker => "docker",
            RuntimeChoice::Process => "process",
        };
        command.arg("--runtime").arg(name);
    }
    if args.rehearsal {
        command.arg("--rehearsal");
    }
    command
        .env(DETACHED, "1")
        .current_dir(installation.root())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    handover::pass_on(&mut command)?;
    let child = command.spawn().map_err(|error| {
        Failure::unavailable(format!("`{}` can't be started", program.display())).because(error)
    })?;
    Ok((child, from))
}

/// Waits until the right daemon answers, as long as it is `alive`.
async fn wait_healthy(
    installation: &Installation,
    is_it: impl Fn(&Health) -> bool,
    mut alive: impl FnMut() -> Result<(), Failure>,
) -> Result<(Health, Vec<WorkerView>), Failure> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Ok(client) = Client::connect(installation).await
            && let Ok(health) = client.get::<Health>("/v1/health").await
            && is_it(&health)
        {
            let workers = client.get("/v1/workers").await.unwrap_or_default();
            return Ok((health, workers));
        }
        alive()?;
        if Instant::now() > deadline {
            let limit = START_LIMIT.as_secs();
            let message =
                format!("the supervisor was started, and does not answer after {limit} s");
            return Err(Failure::unavailable(message).hint(
                "It may still come: `supervisor status` shows it. Its log is \
                 `.supervisor/supervisor.log`.",
            ));
        }
        sleep(Duration::from_millis(25)).await;
    }
}

/// Returns why a daemon ended that had hardly begun: what it wrote last.
fn died(installation: &Installation, from: u64, status: ExitStatus) -> Failure {
    let message = format!("the supervisor did not start ({status})");
    let failed = match status.code() {
        Some(3) => Failure::bad_input(message),
        _ => Failure::unavailable(message),
    };
    let log = read_from(installation, from).unwrap_or_default();
    report::read_back(&log, failed.hint("Its log is `.supervisor/supervisor.log`."))
}

fn read_from(installation: &Installation, from: u64) -> std::io::Result<String> {
    let mut file = File::open(installation.log())?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Says where the daemon that runs is not what was asked for.
fn differences(health: &Health, config: &Config) -> String {
    let mut found = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    if health.version != version {
        found.push(format!("it has version {}, this program {version}", health.version));
    }
    let wants_live = config.has_key() && !config.rehearsal.value;
    if health.rehearsal && wants_live {
        found.push("it is a rehearsal, and there is a key now".to_owned());
    }
    if !health.rehearsal && config.rehearsal.value {
        found.push("it asks the model, and a rehearsal is asked for".to_owned());
    }
    let asked = match config.runtime.value {
        RuntimeChoice::Auto => None,
        RuntimeChoice::Docker => Some("docker"),
        RuntimeChoice::Process => Some("process"),
    };
    if let Some(asked) = asked.filter(|asked| *asked != health.runtime) {
        found.push(format!("its runtime is {}, and {asked} is asked for", health.runtime));
    }
    match found.as_slice() {
        [] => String::new(),
        found => text::paint(
            NOTE,
            format!("But {}. To change that: supervisor down; make up\n", found.join("; ")),
        ),
    }
}

/// Says what is real and what is not, and what to type next.
pub(crate) fn banner(
    installation: &Installation,
    health: &Health,
    workers: &[WorkerView],
) -> String {
    let runtime = match health.runtime.as_str() {
        "docker" => "containers, without network but the way to the model".to_owned(),
        "process" => "plain processes: no container keeps them from this machine's files and \
                      network"
            .to_owned(),
        other => other.to_owned(),
    };
    let model = match health.rehearsal {
        true => "a rehearsal: no model is asked, nothing is billed; all else is real".to_owned(),
        false => health.upstream.clone(),
    };
    let names = text::list(workers.iter().map(|worker| &worker.worker));
    let mut shown = format!(
        "The supervisor is up, and serves {}\n  workers  {names}\n  run as   {runtime}\n  model    \
         {model}\n",
        health.folder
    );
    if health.rehearsal {
        shown.push_str(&format!("           {}\n", summary::GO_LIVE));
    }
    for notice in &health.notices {
        shown.push_str(&format!("{} {}\n", text::paint(NOTE, "Note:"), text::clean(notice)));
    }
    let example = installation.root().join("examples/request.txt").is_file();
    let file = if example { "examples/request.txt" } else { "FILE" };
    shown.push_str(&format!("\nNext: supervisor submit {file}\n"));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_in_a_terminal_says_what_runs_on() {
        assert_eq!(farewell(0), "The supervisor has stopped.\n");
        insta::assert_snapshot!(farewell(1), @"The supervisor has stopped. One worker runs on: the next `up` takes over, `supervisor down` stops what is left.");
        assert!(farewell(3).contains("3 workers run on"));
    }
}
