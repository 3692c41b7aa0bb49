//! The order of a run. In each round every contender has a short turn, so that what else the machine does
//! falls on all alike. What others take does not, be it the hypervisor or a process of this machine: it comes in bursts of
//! milliseconds, and one or two of them are a turn's whole p99. A turn that lost processor time to them is
//! therefore repeated, whatever it found.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    Failure, Result, bodies,
    contenders::{self, Contender},
    cores::Cores,
    facts,
    load::{self, Load, Measured, Pace},
    others::Others,
    sse, streams,
    wire::{self, Address},
};

/// How many connections the load has open.
pub(crate) const CONNECTIONS: usize = 64;

/// The sizes of a request: what the CLI sends without tools, and with all its defaults.
pub(crate) const SMALL: usize = 1_800;
pub(crate) const LARGE: usize = 47_000;

/// The rate at which other gateways publish their latencies, in requests per second. (TensorZero: 0.35 ms at p50 and
/// 0.94 ms at p99 on four cores.)
const PUBLISHED: f64 = 10_000.0;

/// How often a turn is tried before the one that lost the least processor time counts.
const TRIES: u32 = 6;

/// The share of all processor time that the machine's other processes may take of a turn in which latencies are
/// measured. The services of an idle machine with a Docker engine take a third of a percent (measured).
pub(crate) const QUIET: f64 = 0.004;

/// The fewest requests that a turn at a constant rate has.
const FEWEST: f64 = 30.0;

/// How much to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) turn: Duration,
    pub(crate) streams: usize,
    /// How many text deltas each stream has.
    pub(crate) events: usize,
    pub(crate) with_litellm: bool,
    pub(crate) is_smoke: bool,
}

/// What was found.
pub(crate) struct Findings {
    pub(crate) small: Requests,
    pub(crate) large: Requests,
    /// At the rate at which others publish theirs.
    pub(crate) published: Requests,
    /// At half of LiteLLM's own top rate; it can't do half of ours.
    pub(crate) litellm: Option<Requests>,
    pub(crate) streams: Streams,
    pub(crate) lost: Lost,
    pub(crate) exchanges: usize,
    pub(crate) compared: u64,
}

/// What was found with requests of one size.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) bytes: usize,
    pub(crate) top: Vec<Top>,
    /// The rate at which latencies were taken, in requests per second.
    pub(crate) rate: f64,
    pub(crate) latencies: Vec<Latency>,
}

/// A contender's top rate.
pub(crate) struct Top {
    pub(crate) name: &'static str,
    /// Answers per second, by round.
    pub(crate) rates: Vec<f64>,
    /// The proxy's own processor time per request in seconds, by round. None for a direct connection.
    pub(crate) cpu: Vec<f64>,
}

/// A contender's time to the first byte.
pub(crate) struct Latency {
    pub(crate) name: &'static str,
    /// In milliseconds, by round.
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
}

/// What others took from the turns.
#[derive(Default)]
pub(crate) struct Lost {
    pub(crate) turns: u32,
    pub(crate) repeated: u32,
    /// Turns that lost some of their time in each try, and count nevertheless.
    pub(crate) kept: u32,
    /// The most that one of them lost.
    pub(crate) most: Duration,
}

/// What was found with many streams at once.
pub(crate) struct Streams {
    pub(crate) direct: Vec<Duration>,
    pub(crate) gateway: Vec<Duration>,
    /// The gateway's memory in KiB before, and the most while they were open.
    pub(crate) before: u64,
    pub(crate) most: u64,
}

pub(crate) const DIRECT_UNIX: &str = "direct, unix socket";
pub(crate) const DIRECT_TCP: &str = "direct, TCP";
pub(crate) const NGINX: &str = "nginx as reverse proxy";
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const LITELLM: &str = "LiteLLM";

/// One that has turns: a way to the upstream, by a proxy or without.
#[derive(Clone, Copy)]
struct Lane<'a> {
    name: &'static str,
    at: &'a [Address],
    proxy: Option<&'a Contender>,
}

impl Lane<'_> {
    /// Returns the processor time of the proxy so far. None for a direct connection.
    fn cpu_time(&self) -> Result<Option<Duration>> {
        self.proxy.map(|proxy| proxy.process.cpu_time()).transpose()
    }
}

/// Carries out a plan.
///
/// # Errors
///
/// If something that is compared can't be started or gives a wrong answer.
pub(crate) fn run(plan: &Plan) -> Result<Findings> {
    let folder = tempfile::Builder::new().prefix("bench-gateway").tempdir()?;
    let folder = folder.path();
    let own = contenders::own_upstream()?;
    let nginx = contenders::nginx();
    let quick = match &nginx {
        Some(nginx) => Some(contenders::nginx_upstream(nginx, folder)?),
        None if plan.is_smoke => None,
        None => return Err("nginx is not installed\nHint: apt-get install nginx-light".into()),
    };
    let direct = &quick.as_ref().unwrap_or(&own).at;
    let upstream = &direct[0];
    let floor = match &nginx {
        Some(nginx) => Some(contenders::nginx_proxy(nginx, folder, upstream)?),
        None => None,
    };
    let gateway = contenders::gateway(folder, "quick", upstream)?;
    let mut lanes = vec![Lane { name: DIRECT_TCP, at: &direct[..1], proxy: None }];
    if let Some(unix) = direct.get(1..) {
        lanes.push(Lane { name: DIRECT_UNIX, at: unix, proxy: None });
    }
    if let Some(floor) = &floor {
        lanes.push(Lane { name: NGINX, at: &floor.at, proxy: Some(floor) });
    }
    lanes.push(Lane { name: GATEWAY, at: &gateway.at, proxy: Some(&gateway) });

    let mut turns = Turns { plan, lost: Lost::default() };
    let mut small = Requests { bytes: SMALL, ..Requests::default() };
    let slow = match plan.with_litellm {
        true => Some(beside_litellm(&mut turns, folder, &lanes, &mut small)?),
        false => {
            small.top = turns.top_rates(&lanes, SMALL)?;
            None
        }
    };
    let mut large = Requests { bytes: LARGE, ..Requests::default() };
    large.top = turns.top_rates(&lanes, LARGE)?;
    for requests in [&mut small, &mut large] {
        requests.rate = half(&requests.top, GATEWAY)?;
        requests.latencies = turns.latencies(&lanes, requests.bytes, requests.rate)?;
    }
    let rate = if plan.is_smoke { 100.0 } else { PUBLISHED };
    let latencies = turns.latencies(&lanes, SMALL, rate)?;
    let published = Requests { bytes: SMALL, top: Vec::new(), rate, latencies };

    note("many streams at once");
    let body = sse::request_body(LARGE);
    let gateway = contenders::gateway(folder, "slow", &own.at[0])?;
    let before = gateway.process.memory("VmRSS")?;
    let streams = Streams {
        direct: streams::run(&own.at, plan.streams, plan.events, &body).map_err(of(DIRECT_TCP))?,
        gateway: streams::run(&gateway.at, plan.streams, plan.events, &body)
            .map_err(of(GATEWAY))?,
        before,
        most: gateway.process.memory("VmHWM")?,
    };
    note("bodies of all sizes");
    let (exchanges, compared) =
        bodies::compare(&gateway.at[0], if plan.is_smoke { 1 << 17 } else { usize::MAX })?;
    let lost = turns.lost;
    Ok(Findings { small, large, published, litellm: slow, streams, lost, exchanges, compared })
}

/// Takes the top rates of LiteLLM and all others, and the latencies at a rate that LiteLLM can do. It is ended
/// then: even idle, it takes time of a core.
fn beside_litellm(
    turns: &mut Turns<'_>,
    folder: &Path,
    others: &[Lane<'_>],
    small: &mut Requests,
) -> Result<Requests> {
    note("starting LiteLLM");
    let cores = std::thread::available_parallelism()?.get();
    let litellm = contenders::litellm(folder, cores, &others[0].at[0])?;
    let mut lanes = others.to_vec();
    lanes.push(Lane { name: LITELLM, at: &litellm.at, proxy: Some(&litellm) });
    small.top = turns.top_rates(&lanes, SMALL)?;
    let rate = half(&small.top, LITELLM)?;
    let latencies = turns.latencies(&lanes, SMALL, rate)?;
    Ok(Requests { bytes: SMALL, top: Vec::new(), rate, latencies })
}

/// Gives all their turns.
struct Turns<'a> {
    plan: &'a Plan,
    lost: Lost,
}

/// What came of a turn.
struct Turn {
    measured: Measured,
    /// The proxy's own processor time per request in seconds.
    cpu: Option<f64>,
}

impl Turns<'_> {
    fn top_rates(&mut self, lanes: &[Lane<'_>], size: usize) -> Result<Vec<Top>> {
        let mut tops: Vec<Top> = lanes
            .iter()
            .map(|lane| Top { name: lane.name, rates: Vec::new(), cpu: Vec::new() })
            .collect();
        for round in 0..=self.plan.rounds {
            for (lane, top) in lanes.iter().zip(&mut tops) {
                note(&format!("top rate with {size} B, round {round}: {}", lane.name));
                let turn = self.turn(lane, size, Pace::Closed)?;
                // The first round warms up: processes start, connections open, Python compiles.
                if round > 0 {
                    top.rates.push(turn.measured.rate);
                    top.cpu.extend(turn.cpu);
                }
            }
        }
        Ok(tops)
    }

    fn latencies(&mut self, lanes: &[Lane<'_>], size: usize, rate: f64) -> Result<Vec<Latency>> {
        let mut latencies: Vec<Latency> = lanes
            .iter()
            .map(|lane| Latency { name: lane.name, p50: Vec::new(), p99: Vec::new() })
            .collect();
        for round in 1..=self.plan.rounds {
            for (lane, latency) in lanes.iter().zip(&mut latencies) {
                note(&format!("{rate:.0}/s with {size} B, round {round}: {}", lane.name));
                let measured = self.turn(lane, size, Pace::Open(rate))?.measured;
                latency.p50.push(measured.quantile(0.5).as_secs_f64() * 1e3);
                latency.p99.push(measured.quantile(0.99).as_secs_f64() * 1e3);
            }
        }
        Ok(latencies)
    }

    /// Gives a turn, again if others took of it. Of some that all lost time, the one that lost the least counts; what
    /// it found has no part in that.
    fn turn(&mut self, lane: &Lane<'_>, size: usize, pace: Pace) -> Result<Turn> {
        // A top rate is a mean: a moment is not seen in it, and all cores have a part in it.
        let (length, quiet, of_load, of_proxy) = match pace {
            Pace::Closed => (self.plan.turn, 1.0, Cores::All, Cores::All),
            Pace::Open(rate) => {
                let length = self.plan.turn.max(Duration::from_secs_f64(FEWEST / rate));
                // LiteLLM has a worker for each core.
                let of_proxy = if lane.name == LITELLM { Cores::All } else { Cores::Rest };
                (length, QUIET, Cores::First, of_proxy)
            }
        };
        if let Some(proxy) = lane.proxy {
            of_proxy.keep(&proxy.process)?;
        }
        let quiet = quiet * std::thread::available_parallelism()?.get() as f64;
        let tries = if self.plan.is_smoke { 1 } else { TRIES };
        let mut least: Option<(Duration, Turn)> = None;
        self.lost.turns += 1;
        for ix in 0..tries {
            self.lost.repeated += u32::from(ix > 0);
            let (stolen, others, cpu) = (facts::stolen()?, Others::now()?, lane.cpu_time()?);
            let start = Instant::now();
            let measured = of_load.run(|| load(length, lane, size, pace))?;
            let allowed = start.elapsed().mul_f64(quiet);
            let taken = Others::now()?.since(&others).saturating_sub(allowed);
            let lost = taken + facts::stolen()?.saturating_sub(stolen);
            let cpu = lane
                .cpu_time()?
                .zip(cpu)
                .map(|(after, before)| (after - before).as_secs_f64() / measured.answers as f64);
            if least.as_ref().is_none_or(|(least, _)| lost < *least) {
                least = Some((lost, Turn { measured, cpu }));
            }
            if lost.is_zero() {
                break;
            }
        }
        let (lost, turn) = least.ok_or("BUG: a turn should have been tried")?;
        self.lost.kept += u32::from(!lost.is_zero());
        self.lost.most = self.lost.most.max(lost);
        Ok(turn)
    }
}

/// Returns half of a contender's top rate.
fn half(tops: &[Top], name: &str) -> Result<f64> {
    let top = top(tops, name).ok_or("BUG: who is asked for should have had turns")?;
    // The short turn of a smoke run on a busy machine may have no answer in it.
    Ok((median(&top.rates) / 2.0).max(10.0))
}

/// Puts the load on some addresses, once, and prints what came of it.
pub(crate) fn once(at: &[Address], rate: Option<f64>, size: usize, length: Duration) -> Result<()> {
    let lane = Lane { name: "load", at, proxy: None };
    let pace = rate.map_or(Pace::Closed, Pace::Open);
    let measured = load(length, &lane, size, pace)?;
    let at = |share| measured.quantile(share).as_secs_f64() * 1e3;
    println!("{:.0}/s, p50 {:.3} ms, p99 {:.3} ms", measured.rate, at(0.5), at(0.99));
    println!("{} answers", measured.answers);
    Ok(())
}

fn load(length: Duration, lane: &Lane<'_>, size: usize, pace: Pace) -> Result<Measured> {
    let request = wire::request("", &sse::request_body(size));
    let load = Load {
        at: lane.at,
        connections: CONNECTIONS,
        request: &request,
        expected: sse::ANSWER.as_bytes(),
        pace,
        warm_up: length / 6,
        length,
    };
    load::run(&load).map_err(of(lane.name))
}

/// Returns what says whose error it is.
fn of(name: &str) -> impl FnOnce(Failure) -> Failure {
    move |error| format!("{name}: {error}").into()
}

pub(crate) fn top<'a>(tops: &'a [Top], name: &str) -> Option<&'a Top> {
    tops.iter().find(|top| top.name == name)
}

/// Returns the middle of some numbers; 0 if there is none.
pub(crate) fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

fn note(what: &str) {
    eprintln!("==> {what}");
}
