//! The pace against a stand-in for the API that has real token buckets, for hours of simulated time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use gateway::{
    Tokens,
    pace::{AccountId, Limits, Next, Pace, PaceConfig, Want},
};
use http::{HeaderMap, HeaderName, StatusCode};
use protocol::{Priority, Time};
use tokio::time::{Duration, Instant, sleep};

const CLIENTS: u64 = 32;
const MINUTE: f64 = 60.0;

/// SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A bucket of the API's: refuses what is not there.
#[derive(Clone, Debug)]
struct Bucket {
    limit: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(limit: f64) -> Self {
        Self { limit, level: limit, at: Instant::now() }
    }

    fn refill(&mut self) -> f64 {
        let now = Instant::now();
        let income = (now - self.at).as_secs_f64() * self.limit / MINUTE;
        (self.level, self.at) = ((self.level + income).min(self.limit), now);
        self.level
    }

    /// Returns for how many seconds `need` will not be there.
    fn missing(&mut self, need: f64) -> f64 {
        (need.min(self.limit) - self.refill()).max(0.0) * MINUTE / self.limit
    }
}

/// How the API behaves.
#[derive(Clone, Debug)]
struct Behaviour {
    requests: f64,
    input: f64,
    output: f64,
    /// How many requests it answers at once.
    at_once: Option<u32>,
    /// From and to when it is overloaded, in seconds, and the share of requests that it then refuses.
    storms: Vec<(f64, f64, f64)>,
    /// Tells its limits in headers.
    tells: bool,
}

/// The stand-in for the API.
struct Api {
    behaviour: Behaviour,
    start: Instant,
    state: Mutex<ApiState>,
}

struct ApiState {
    random: Random,
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    in_flight: u32,
    answers: BTreeMap<u16, u64>,
    /// Requests, input and output of each second.
    used: BTreeMap<u64, [f64; 3]>,
}

/// One request as it really is.
#[derive(Clone, Copy, Debug)]
struct Real {
    input: f64,
    output: f64,
}

impl Api {
    fn new(behaviour: Behaviour, seed: u64) -> Arc<Self> {
        let state = ApiState {
            random: Random(seed),
            requests: Bucket::new(behaviour.requests),
            input: Bucket::new(behaviour.input),
            output: Bucket::new(behaviour.output),
            in_flight: 0,
            answers: BTreeMap::new(),
            used: BTreeMap::new(),
        };
        Arc::new(Self { behaviour, start: Instant::now(), state: Mutex::new(state) })
    }

    fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Returns the head of the answer. After 200 comes [`stream`](Self::stream).
    async fn call(&self, real: Real) -> (StatusCode, HeaderMap) {
        let way = self.state.lock().unwrap().random.between(0.01, 0.05);
        sleep(seconds(way)).await;
        let (status, headers, head) = self.judge(real);
        sleep(seconds(head)).await;
        (status, headers)
    }

    fn judge(&self, real: Real) -> (StatusCode, HeaderMap, f64) {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let now = self.elapsed();
        let mut headers = HeaderMap::new();
        let storm = self.behaviour.storms.iter().find(|(from, to, _)| (*from..*to).contains(&now));
        let wait = [
            state.requests.missing(1.0),
            state.input.missing(real.input),
            // What it will write is not known: it must not be in debt.
            state.output.missing(1.0),
        ]
        .into_iter()
        .fold(0.0, f64::max);
        let status = if storm.is_some_and(|(_, _, share)| state.random.unit() < *share) {
            529
        } else if self.behaviour.at_once.is_some_and(|most| state.in_flight >= most) {
            headers.insert("retry-after", "1".parse().unwrap());
            429
        } else if wait > 0.0 {
            headers.insert("retry-after", (wait.ceil() as u64).to_string().parse().unwrap());
            429
        } else {
            state.requests.level -= 1.0;
            state.input.level -= real.input;
            state.in_flight += 1;
            let used = state.used.entry(now as u64).or_default();
            used[0] += 1.0;
            used[1] += real.input;
            200
        };
        *state.answers.entry(status).or_default() += 1;
        if self.behaviour.tells && status != 529 {
            let all = [
                ("requests", &state.requests, 1.0),
                ("input-tokens", &state.input, 1000.0),
                ("output-tokens", &state.output, 1000.0),
            ];
            for (name, bucket, rounding) in all {
                let mut insert = |what: &str, value: f64| {
                    let name = format!("anthropic-ratelimit-{name}-{what}");
                    let value = (value as i64).max(0).to_string();
                    headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
                };
                insert("limit", bucket.limit);
                insert("remaining", (bucket.level / rounding).round() * rounding);
            }
        }
        let head = if status == 200 { state.random.between(0.4, 2.0) } else { 0.02 };
        (StatusCode::from_u16(status).unwrap(), headers, head)
    }

    /// The rest of the answer. What was written counts when it was.
    async fn stream(&self, real: Real) {
        sleep(seconds(real.output / 80.0)).await;
        let mut state = self.state.lock().unwrap();
        state.output.refill();
        state.output.level -= real.output;
        state.in_flight -= 1;
        state.used.entry(self.elapsed() as u64).or_default()[2] += real.output;
    }
}

/// What one client asks, one request after another: prompts that grow, mostly read from the cache.
struct Session {
    random: Random,
    prompt: f64,
}

/// How the clients of a simulation are.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Tokens that a prompt starts with.
    prompt: f64,
    /// Tokens that a turn adds, at most.
    adds: f64,
    /// Tokens of an answer, at most.
    answer: f64,
    /// Seconds between an answer and the next request, at most.
    think: f64,
}

impl Session {
    /// Returns the next request: as it is, and as it looks.
    fn next(&mut self, load: Load) -> (Real, u64) {
        let cold = self.prompt > 10.0 * load.prompt || self.random.unit() < 0.02;
        if self.prompt > 10.0 * load.prompt {
            self.prompt = load.prompt;
        }
        let new = self.random.between(0.1, 1.0) * load.adds;
        self.prompt += new;
        let input = if cold { self.prompt } else { new };
        let output = self.random.between(0.05, 1.0) * self.random.unit() * load.answer;
        let looks = self.prompt * self.random.between(0.8, 1.25);
        (Real { input, output }, looks as u64)
    }
}

/// What a simulation showed.
#[derive(Debug)]
struct Figures {
    answers: BTreeMap<u16, u64>,
    used: BTreeMap<u64, [f64; 3]>,
    limits: [f64; 3],
    failed: u64,
    seconds: f64,
}

impl Figures {
    /// Returns the share of the allowed requests, input and output that was used from `from` to `to`.
    fn used(&self, from: f64, to: f64) -> [f64; 3] {
        let range = from as u64..to as u64;
        let sums = self.used.range(range).fold([0.0; 3], |sum: [f64; 3], (_, used)| {
            [0, 1, 2].map(|kind| sum[kind] + used[kind])
        });
        [0, 1, 2].map(|kind| sums[kind] / (self.limits[kind] / MINUTE * (to - from)))
    }

    /// Returns the share of the scarcest thing that was used.
    fn most(&self, from: f64, to: f64) -> f64 {
        self.used(from, to).into_iter().fold(0.0, f64::max)
    }

    fn share(&self, status: u16) -> f64 {
        let all: u64 = self.answers.values().sum();
        *self.answers.get(&status).unwrap_or(&0) as f64 / all as f64
    }

    fn line(&self, what: &str) {
        let [requests, input, output] = self.used(0.0, self.seconds).map(|share| share * 100.0);
        println!(
            "{what:<40} used {:5.1} % (requests {requests:5.1}, input {input:5.1}, output {output:5.1})  \
             429 {:5.2} %  529 {:5.2} %  answers {:?}  failed {}",
            self.most(0.0, self.seconds) * 100.0,
            self.share(429) * 100.0,
            self.share(529) * 100.0,
            self.answers,
            self.failed,
        );
    }
}

/// How clients reach the API.
#[derive(Clone)]
enum Way {
    Paced(Pace),
    /// Each retries alone, as the CLI does.
    Alone,
}

async fn simulate(behaviour: &Behaviour, load: Load, way: &Way, seed: u64, hours: f64) -> Figures {
    let api = Api::new(behaviour.clone(), seed);
    let failed = Arc::new(Mutex::new(0));
    let end = Instant::now() + seconds(hours * 3600.0);
    let clients = (0..CLIENTS).map(|client| {
        let (api, way, failed) = (Arc::clone(&api), way.clone(), Arc::clone(&failed));
        let random = Random(seed.wrapping_mul(1000) + client);
        let mut session = Session { random, prompt: load.prompt };
        tokio::spawn(async move {
            while Instant::now() < end {
                sleep(seconds(session.random.between(0.1, 1.0) * load.think)).await;
                let (real, looks) = session.next(load);
                let done = match &way {
                    Way::Paced(pace) => paced(pace, &api, real, looks, client).await,
                    Way::Alone => alone(&api, real, &mut session.random).await,
                };
                if !done {
                    *failed.lock().unwrap() += 1;
                    // Somebody starts the attempt again.
                    sleep(seconds(10.0)).await;
                }
            }
        })
    });
    futures_util::future::join_all(clients.collect::<Vec<_>>()).await;
    let state = api.state.lock().unwrap();
    let failed = *failed.lock().unwrap();
    Figures {
        answers: state.answers.clone(),
        used: state.used.clone(),
        limits: [behaviour.requests, behaviour.input, behaviour.output],
        failed,
        seconds: hours * 3600.0,
    }
}

async fn paced(pace: &Pace, api: &Api, real: Real, looks: u64, client: u64) -> bool {
    let since = Instant::now();
    loop {
        let want = Want {
            account: AccountId::new("key"),
            worker: format!("worker-{}", client % 4).parse().unwrap(),
            model: "claude-sonnet-4-5".into(),
            priority: [Priority::Low, Priority::Medium, Priority::High][client as usize % 3],
            input: looks,
            output: 32_000,
            since,
            give_up: since + seconds(300.0),
        };
        let Ok(mut turn) = pace.turn(want).await else { return false };
        let (status, headers) = api.call(real).await;
        match turn.answered(status, &headers) {
            Next::Again => {}
            Next::Deliver => {
                assert_eq!(status, StatusCode::OK);
                api.stream(real).await;
                let (input, output) = (real.input as u64, real.output as u64);
                turn.settle(&Tokens { input, output, cache_read: looks, ..Tokens::default() });
                return true;
            }
        }
    }
}

/// What the CLI does, as measured: 11 requests, 0.5, 1, 2, 4 … 38 s apart, no less than `retry-after`;
/// after three answers of 529 it gives up.
async fn alone(api: &Api, real: Real, random: &mut Random) -> bool {
    let mut overloaded = 0;
    for retry in 0..11 {
        let (status, headers) = api.call(real).await;
        match status.as_u16() {
            200 => {
                api.stream(real).await;
                return true;
            }
            529 => overloaded += 1,
            _ => {}
        }
        let after =
            headers.get("retry-after").map_or(0.0, |it| it.to_str().unwrap().parse().unwrap());
        if overloaded == 3 || after > 60.0 {
            break;
        }
        let wait = (0.5 * f64::from(1 << retry)).min(32.0) * random.between(1.0, 1.2);
        sleep(seconds(wait.max(after))).await;
    }
    false
}

/// What all figures are about: tier 2 or so, and sessions of coding agents.
const LOAD: Load = Load { prompt: 20_000.0, adds: 8_000.0, answer: 2_000.0, think: 4.0 };

fn behaviour(requests: f64, input: f64, output: f64) -> Behaviour {
    Behaviour { requests, input, output, at_once: None, storms: Vec::new(), tells: true }
}

fn config(behaviour: &Behaviour) -> PaceConfig {
    let limits = Limits {
        requests_per_minute: Some(behaviour.requests as u32),
        input_tokens_per_minute: Some(behaviour.input as u64),
        output_tokens_per_minute: Some(behaviour.output as u64),
        max_in_flight: behaviour.at_once,
    };
    PaceConfig { models: vec![("claude-*".to_owned(), limits)], ..PaceConfig::default() }
}

fn pace(config: PaceConfig, seed: u64) -> Way {
    Way::Paced(Pace::at(config, Time::from_millis(1_791_813_600_000), seed))
}

const SEEDS: [u64; 3] = [1, 2, 3];

#[tokio::test(start_paused = true)]
async fn paced_clients_use_what_is_allowed_and_are_not_refused() {
    let scarce = [
        ("input", behaviour(1_000.0, 450_000.0, 1_000_000.0)),
        ("output", behaviour(1_000.0, 10_000_000.0, 60_000.0)),
        ("requests", behaviour(100.0, 10_000_000.0, 1_000_000.0)),
        ("tier 1", behaviour(50.0, 50_000.0, 10_000.0)),
    ];
    for (what, behaviour) in &scarce {
        for seed in SEEDS {
            for (how, config) in [("told", config(behaviour)), ("learned", PaceConfig::default())] {
                let way = pace(config, seed);
                let figures = simulate(behaviour, LOAD, &way, seed, 2.0).await;
                figures.line(&format!("{what} scarce, limits {how}, seed {seed}"));
            }
            let figures = simulate(behaviour, LOAD, &Way::Alone, seed, 2.0).await;
            figures.line(&format!("{what} scarce, each alone, seed {seed}"));
        }
    }
}
