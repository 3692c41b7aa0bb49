//! Following the events of a run, also over a restart of the daemon.

use std::error::Error;
use std::time::Duration;

use protocol::Record;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::api::types::RunSummary;
use crate::client::{Client, Lines};
use crate::failure::{Failure, FailureKind};
use crate::install::Installation;

/// How long a daemon may be away. A restart takes seconds, also with the journals of years.
const AWAY_LIMIT: Duration = Duration::from_secs(60);

/// How long between two looks whether the daemon is back.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What came next.
#[derive(Debug)]
pub(crate) enum News {
    /// Something happened in the run.
    Event(Entry),
    /// The daemon went away. It is waited for.
    Away,
    /// The daemon is back.
    Back,
    /// The run has ended, and everything that happened in it was seen.
    End,
}

/// A line of the journal.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As it came.
    pub(crate) line: String,
    /// What it says, unless it is of a kind that this program does not know.
    pub(crate) record: Option<Box<Record>>,
}

/// Follows one run.
#[derive(Debug)]
pub(crate) struct Follow {
    installation: Installation,
    run: String,
    /// Where in the journal to begin.
    offset: u64,
    /// The last event that was seen.
    seen: u64,
    lines: Option<Lines>,
    /// Since when the daemon is away, once that was said.
    away: Option<Instant>,
    announced_back: bool,
}

impl Follow {
    /// Returns what follows that run from its beginning.
    pub(crate) fn new(installation: Installation, run: impl Into<String>) -> Self {
        let run = run.into();
        Self {
            installation,
            run,
            offset: 0,
            seen: 0,
            lines: None,
            away: None,
            announced_back: true,
        }
    }

    /// Returns the same, from that many bytes into the run's journal.
    pub(crate) fn starting_at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// Returns what came next.
    ///
    /// # Errors
    ///
    /// What the daemon says, or unavailable when it is away for more than 60 seconds.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            match self.step().await {
                Ok(Some(news)) => return Ok(news),
                Ok(None) => sleep(LOOK_AGAIN).await,
                Err(failure) if is_final(&failure) => return Err(failure),
                Err(failure) => {
                    self.lines = None;
                    let Some(since) = self.away else {
                        self.away = Some(Instant::now());
                        self.announced_back = false;
                        return Ok(News::Away);
                    };
                    if since.elapsed() > AWAY_LIMIT {
                        return Err(self.gave_up(failure));
                    }
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<News>, Failure> {
        if self.lines.is_none() {
            let client = Client::connect(&self.installation).await?;
            let Self { run, seen, offset, .. } = &*self;
            let path = format!("/v1/runs/{run}/events?follow=true&after={seen}&offset={offset}");
            self.lines = Some(client.lines(&path).await?);
        }
        self.away = None;
        if !self.announced_back {
            self.announced_back = true;
            return Ok(Some(News::Back));
        }
        let Some(lines) = &mut self.lines else {
            return Ok(None);
        };
        while let Some(line) = lines.next().await? {
            // After a reconnection nothing is told twice, whatever the daemon sends.
            if let Some(seq) = number(&line).filter(|seq| *seq > self.seen) {
                self.seen = seq;
                let record = serde_json::from_str(&line).ok();
                return Ok(Some(News::Event(Entry { line, record })));
            }
        }
        // The stream ends with the run, and also with the daemon. Which it was, the run knows.
        self.lines = None;
        let client = Client::connect(&self.installation).await?;
        let summary: RunSummary = client.get(&format!("/v1/runs/{}", self.run)).await?;
        Ok(summary.state.has_ended().then_some(News::End))
    }

    fn gave_up(&self, failure: Failure) -> Failure {
        let run = &self.run;
        Failure::unavailable("the supervisor went away and did not come back within 60 seconds")
            .because(failure)
            .hint(format!(
                "Nothing is lost: start it with `supervisor up --detach`, then look with \
                 `supervisor status {run}`."
            ))
    }
}

/// Returns whether asking again would change nothing: the daemon refuses, or speaks another language.
fn is_final(failure: &Failure) -> bool {
    let unreadable = failure.source().is_some_and(|cause| cause.is::<serde_json::Error>());
    failure.kind() == FailureKind::BadInput || unreadable
}

/// Returns the number of an event, of whatever kind it is. They begin with 1.
fn number(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    Some(serde_json::from_str::<Numbered>(line).ok()?.seq)
}
