//! How an answer reaches the client, faults and all: decided here, carried out in `playback`.

use std::time::Duration;

use bytes::Bytes;

use crate::reply::{Envelope, Reply};
use crate::scenario::{DropAt, ErrorAfter, Step};
use crate::sse::{self, Event, Mark};

/// One thing to do on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Send(Bytes),
    Wait(Duration),
    /// Break the connection; with a TCP reset when asked for.
    Abort {
        reset: bool,
    },
}

/// How often a stalled stream sends a ping, if it does.
const PING_EVERY: Duration = Duration::from_secs(1);

/// Returns the beats of a streamed answer.
pub(crate) fn stream(envelope: &Envelope, reply: &Reply, step: &Step) -> Vec<Beat> {
    let events = sse::events(envelope, reply);
    let end = match (step.drop, &step.sse_error) {
        (Some(drop), _) => cut(&events, drop),
        (None, Some(error)) => match error.after {
            ErrorAfter::Start => after_last_start(&events),
            ErrorAfter::Text => after_first(&events, Mark::TextDelta),
        },
        (None, None) => events.len(),
    };
    let stall_at = after_first(&events, Mark::TextDelta).min(after_first(&events, Mark::ToolDelta));
    let mut beats = Vec::new();
    for (at, event) in events.into_iter().take(end).enumerate() {
        if at == stall_at {
            beats.extend(stall(step));
        }
        if at > 0 && !step.chunk_delay.is_zero() {
            beats.push(Beat::Wait(step.chunk_delay));
        }
        beats.push(Beat::Send(event.bytes));
    }
    // When the stream breaks where it would stall, it stalls first.
    if end == stall_at {
        beats.extend(stall(step));
    }
    if step.drop.is_some() {
        beats.push(Beat::Abort { reset: step.rst });
    } else if let Some(error) = &step.sse_error {
        beats.push(Beat::Send(sse::error(&error.error())));
    }
    beats
}

/// Returns the beats of an answer in one piece.
pub(crate) fn whole(envelope: &Envelope, reply: &Reply, step: &Step) -> Vec<Beat> {
    let body = Bytes::from(envelope.message(reply).to_string());
    let wait = step.stall.filter(|stall| !stall.is_zero()).map(Beat::Wait);
    let mut beats: Vec<Beat> = wait.into_iter().collect();
    match step.drop {
        None => beats.push(Beat::Send(body)),
        Some(DropAt::BeforeHeaders | DropAt::AfterHeaders) => {}
        Some(_) => beats.push(Beat::Send(body.slice(..body.len() / 2))),
    }
    if step.drop.is_some() {
        beats.push(Beat::Abort { reset: step.rst });
    }
    beats
}

/// Returns how many events go out before the connection is dropped.
fn cut(events: &[Event], drop: DropAt) -> usize {
    match drop {
        DropAt::BeforeHeaders | DropAt::AfterHeaders => 0,
        DropAt::AfterStart => after_last_start(events),
        DropAt::MidText => after_first(events, Mark::TextDelta),
        DropAt::MidTool => after_first(events, Mark::ToolDelta),
        DropAt::BeforeStop => before_stop(events),
    }
}

fn after_last_start(events: &[Event]) -> usize {
    events.iter().take_while(|event| event.mark == Mark::Start).count()
}

/// Without such an event: as late as the answer allows, so that the fault is never left out.
fn after_first(events: &[Event], mark: Mark) -> usize {
    let at = events.iter().position(|event| event.mark == mark);
    at.map_or_else(|| before_stop(events), |at| at + 1)
}

fn before_stop(events: &[Event]) -> usize {
    events.iter().position(|event| event.mark == Mark::Stop).unwrap_or(events.len())
}

fn stall(step: &Step) -> Vec<Beat> {
    let Some(total) = step.stall else {
        return Vec::new();
    };
    if !step.pings {
        return vec![Beat::Wait(total)];
    }
    let mut beats = Vec::new();
    let mut left = total;
    while left > PING_EVERY {
        beats.extend([Beat::Wait(PING_EVERY), Beat::Send(sse::ping())]);
        left -= PING_EVERY;
    }
    beats.push(Beat::Wait(left));
    beats
}
