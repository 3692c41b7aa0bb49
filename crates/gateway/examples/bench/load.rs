//! The load: one thread and epoll, so that the load itself takes as little of the two cores as it can.
//!
//! The well-kept tools that speak HTTP over unix sockets (oha, h2load, vegeta) measure whole answers,
//! or only closed loops; what is wanted here is the first byte of a stream at a constant rate of arrivals.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::{
    Result,
    wire::{Address, Answer},
};

/// What to put on a contender.
pub(crate) struct Load<'a> {
    /// Connections are spread over these.
    pub(crate) at: &'a [Address],
    pub(crate) connections: usize,
    pub(crate) request: &'a [u8],
    /// The body that each answer must have.
    pub(crate) expected: &'a [u8],
    pub(crate) pace: Pace,
    /// Not counted.
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// When the last one on the same connection is answered.
    Closed,
    /// So many a second, whatever becomes of them. One that finds no connection free waits, and its
    /// latency counts from when it was due: nothing is left out because the other end was slow.
    Open(f64),
}

/// What came of it.
pub(crate) struct Measured {
    /// Answers per second.
    pub(crate) rate: f64,
    /// All answers, also those of the warm-up.
    pub(crate) answers: u64,
    /// From when a request was due to the first byte of its answer's body, in order of size.
    first_byte: Vec<Duration>,
}

impl Measured {
    /// Returns the latency that so much of all requests did not pass.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        quantile(&self.first_byte, share)
    }
}

/// Returns the one that so much of all do not pass. They are in order of size.
pub(crate) fn quantile(of: &[Duration], share: f64) -> Duration {
    let last = of.len().saturating_sub(1);
    let at = (share * last as f64).round() as usize;
    of.get(at).copied().unwrap_or(Duration::MAX)
}

/// The timer's place among the connections' numbers.
const TIMER: u64 = u64::MAX;

/// How long after the end the last answers may come.
const DRAIN: Duration = Duration::from_secs(5);

struct Connection {
    stream: OwnedFd,
    answer: Answer,
    /// When the request that is under way was due.
    due: Instant,
    sent: usize,
    /// The kernel takes no more for now.
    is_stuck: bool,
    /// How much of the body has come.
    matched: usize,
    first_byte: Option<Duration>,
}

/// Runs a load to its end.
///
/// # Errors
///
/// If an answer is not the one that is expected, or a connection breaks.
pub(crate) fn run(load: &Load<'_>) -> Result<Measured> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(load.connections);
    for (ix, at) in load.at.iter().cycle().take(load.connections).enumerate() {
        let stream = at.connect(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(ix as u64), EventFlags::IN)?;
        let (answer, due) = (Answer::default(), Instant::now());
        connections.push(Connection {
            stream,
            answer,
            due,
            sent: 0,
            is_stuck: false,
            matched: 0,
            first_byte: None,
        });
    }
    let mut idle: VecDeque<usize> = (0..connections.len()).collect();
    let interval = match load.pace {
        Pace::Closed => None,
        Pace::Open(rate) => Some(Duration::from_secs_f64(1.0 / rate)),
    };
    // tokio's and epoll's own timers count in milliseconds.
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    if let Some(every) = interval {
        let every = Timespec { tv_sec: 0, tv_nsec: every.as_nanos().try_into()? };
        let spec = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        epoll::add(&poll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
    }

    let start = Instant::now();
    let counted = start + load.warm_up;
    let end = counted + load.length;
    let mut next_due = start;
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let (mut answers, mut in_time) = (0, 0_u64);
    let mut first_byte = Vec::with_capacity(1 << 18);
    let mut events = Vec::with_capacity(connections.len() + 1);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let now = Instant::now();
        if let Some(interval) = interval {
            while next_due <= now && next_due < end {
                waiting.push_back(next_due);
                next_due += interval;
            }
            while let (Some(due), Some(ix)) = (waiting.front().copied(), idle.front().copied()) {
                waiting.pop_front();
                idle.pop_front();
                connections[ix].begin(ix, due, load, &poll)?;
            }
        } else if now < end {
            for ix in idle.drain(..) {
                connections[ix].begin(ix, now, load, &poll)?;
            }
        }
        let all_answered = waiting.is_empty() && idle.len() == connections.len();
        if now >= end && (all_answered || now >= end + DRAIN) {
            break;
        }
        epoll::wait(
            &poll,
            spare_capacity(&mut events),
            Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }),
        )?;
        for event in events.drain(..) {
            if event.data.u64() == TIMER {
                // It goes on when it is read.
                rustix::io::read(&timer, &mut [0; 8])?;
                continue;
            }
            let (ix, flags) = (event.data.u64() as usize, event.flags);
            let connection = &mut connections[ix];
            if flags.contains(EventFlags::OUT) {
                connection.write(ix, load, &poll)?;
            }
            if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                continue;
            }
            if connection.read(&mut buffer, load.expected)? {
                let now = Instant::now();
                if connection.due >= counted {
                    let latency = connection.first_byte.ok_or("an answer without a body")?;
                    first_byte.push(latency);
                }
                answers += 1;
                in_time += u64::from((counted..end).contains(&now));
                idle.push_back(ix);
            }
        }
    }
    // Those that were never answered are the slowest of all.
    let now = Instant::now();
    let unanswered = (0..connections.len()).filter(|ix| !idle.contains(ix));
    first_byte.extend(unanswered.map(|ix| now - connections[ix].due));
    first_byte.extend(waiting.iter().map(|&due| now - due));
    first_byte.sort_unstable();
    Ok(Measured { rate: in_time as f64 / load.length.as_secs_f64(), answers, first_byte })
}

impl Connection {
    fn begin(&mut self, ix: usize, due: Instant, load: &Load<'_>, poll: &OwnedFd) -> Result<()> {
        (self.due, self.sent, self.matched, self.first_byte) = (due, 0, 0, None);
        self.answer.reset();
        self.write(ix, load, poll)
    }

    fn write(&mut self, ix: usize, load: &Load<'_>, poll: &OwnedFd) -> Result<()> {
        let mut is_stuck = false;
        while self.sent < load.request.len() && !is_stuck {
            match rustix::io::write(&self.stream, &load.request[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(Errno::AGAIN) => is_stuck = true,
                Err(error) => return Err(error.into()),
            }
        }
        if is_stuck != self.is_stuck {
            self.is_stuck = is_stuck;
            let more = if is_stuck { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(
                poll,
                &self.stream,
                EventData::new_u64(ix as u64),
                EventFlags::IN | more,
            )?;
        }
        Ok(())
    }

    /// Reads once. Returns whether that was the end of the answer.
    fn read(&mut self, buffer: &mut [u8], expected: &[u8]) -> Result<bool> {
        let read = match rustix::io::read(&self.stream, &mut *buffer) {
            Ok(0) => return Err("a connection was closed in the middle".into()),
            Ok(read) => read,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Self { answer, due, matched, first_byte, .. } = self;
        let is_done = answer.feed(&buffer[..read], &mut |piece| {
            first_byte.get_or_insert_with(|| due.elapsed());
            match expected.get(*matched..*matched + piece.len()) {
                Some(wanted) if wanted == piece => *matched += piece.len(),
                _ => return Err("an answer has another body than the upstream's".into()),
            }
            Ok(())
        })?;
        if is_done && *matched != expected.len() {
            return Err("an answer is shorter than the upstream's".into());
        }
        Ok(is_done)
    }
}
