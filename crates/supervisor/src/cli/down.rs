//! `supervisor down`: stop the daemon and its workers.

use std::fs::{File, TryLockError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::args::DownArgs;
use super::context::Context;
use super::interrupt::unless_interrupted;
use super::left_behind::{self, LeftBehind};
use super::text::{NOTE, clean, count, paint};
use super::{Outcome, Stop};
use crate::api::types::{Health, Shutdown};
use crate::client::Client;
use crate::failure::Failure;
use crate::install::Installation;

/// How long a daemon may take to stop: its workers have seconds of grace, then they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Carries out the command.
pub(crate) async fn run(context: &mut Context, args: &DownArgs) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let client = match Client::connect(&installation).await {
        Ok(client) => client,
        Err(failure) if is_locked(&installation)? => {
            return Err(Failure::unavailable(
                "a supervisor holds this folder, and does not answer",
            )
            .because(failure)
            .hint(
                "It may be starting or stopping: wait a moment. Its log is \
                     `.supervisor/supervisor.log`.",
            )
            .into());
        }
        Err(_) => {
            context.screen.err("No supervisor runs here.\n");
            context.screen.err(&left_over(left_behind::stop(&installation).await?));
            return Ok(Outcome::Done);
        }
    };
    let pid = client.get::<Health>("/v1/health").await.map(|health| health.pid).ok();
    let order = Shutdown { drain: args.drain, stop_workers: true };
    let _: serde_json::Value = client.post("/v1/shutdown", &order).await?;
    if args.drain {
        context.screen.err("Nothing new is started; waiting for what runs.\n");
    }
    let deadline = (!args.drain).then(|| Instant::now() + STOP_LIMIT);
    match unless_interrupted(stopped(&installation, deadline, pid)).await {
        Some(stopped) => stopped?,
        None => {
            context.screen.err("\nThe supervisor goes on stopping without you.\n");
            return Ok(Outcome::Interrupted);
        }
    }
    context
        .screen
        .err("The supervisor has stopped. What was interrupted is resumed at the next `up`.\n");
    Ok(Outcome::Done)
}

/// Says what became of workers that ran on without a daemon.
fn left_over(found: LeftBehind) -> String {
    match found {
        LeftBehind::Stopped(0) => String::new(),
        LeftBehind::Stopped(workers) => format!(
            "Stopped what the last one had left running: {}. What was interrupted is resumed at the next \
             `up`.\n",
            count(workers, "worker")
        ),
        LeftBehind::Unknown(error) => {
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            let causes: Vec<String> = causes.map(ToString::to_string).collect();
            format!(
                "{} whether its containers still run is not known: {}\n",
                paint(NOTE, "Note:"),
                clean(&causes.join(": "))
            )
        }
    }
}

/// Ends the daemon alone: its workers go on, and the next one finds them.
pub(crate) async fn end_daemon(
    installation: &Installation,
    client: &Client,
    pid: u32,
) -> Result<(), Failure> {
    let _: serde_json::Value = client.post("/v1/shutdown", &Shutdown::default()).await?;
    stopped(installation, Some(Instant::now() + STOP_LIMIT), Some(pid)).await
}

/// Waits until the daemon has let go of the folder.
async fn stopped(
    installation: &Installation,
    deadline: Option<Instant>,
    pid: Option<u32>,
) -> Result<(), Failure> {
    while is_locked(installation)? {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let which = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            let seconds = STOP_LIMIT.as_secs();
            let message = format!("the supervisor{which} has not stopped within {seconds} seconds");
            return Err(Failure::unavailable(message).hint(
                "Its log is `.supervisor/supervisor.log`; nothing is lost if it is killed.",
            ));
        }
        sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

/// Returns whether a daemon holds the folder.
pub(crate) fn is_locked(installation: &Installation) -> Result<bool, Failure> {
    let path = installation.lock();
    let cant =
        |error| Failure::unavailable(format!("`{}` can't be read", path.display())).because(error);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(cant(error)),
    };
    // Shared, and let go at once, so that it stands in no one's way.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(cant(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeError;

    #[test]
    fn what_was_left_running_is_told_and_so_is_that_nobody_knows() {
        assert_eq!(left_over(LeftBehind::Stopped(0)), "");
        insta::assert_snapshot!(left_over(LeftBehind::Stopped(3)), @"Stopped what the last one had left running: 3 workers. What was interrupted is resumed at the next `up`.");
        let gone = RuntimeError::Unreachable {
            endpoint: "unix:///x".to_owned(),
            source: "no such file".into(),
        };
        let text = left_over(LeftBehind::Unknown(gone));
        let text = anstream::adapter::strip_str(&text).to_string();
        insta::assert_snapshot!(text, @"Note: whether its containers still run is not known: cannot reach the container engine at unix:///x: no such file");
    }
}
