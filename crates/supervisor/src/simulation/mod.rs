//! A simulation of the daemon: scheduler, journal, slots, keepers and the dispatch loop as they are, on files
//! and under an engine and a clock that are played. All from one seed, on one thread: the same seed leads to
//! the same end by the same way.
//!
//! A run is a row of lives of the daemon. A life has a tokio runtime of its own, with its clock paused, and
//! ends by `kill -9`, by a power cut, or because the daemon itself gives up; the [`world`] (containers,
//! people, the disk) is no part of the runtime and goes on. After some time the world becomes kind, and
//! everything has to come to its end.

mod checks;
mod engine;
pub mod program;
mod worker;
mod workload;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use protocol::disk::simulated::{self as disk, Crash, Weather};
use protocol::mutants::{self, Mutant};
use protocol::{RunId, TaskSource, Time};
use scheduler::{Input, Target};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admit::{self, Admission};
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::daemon;
use crate::dispatch::{Beginning, Brief, Dispatcher};
use crate::drops::Drops;
use crate::gateways::Gateways;
use crate::inbox::{Inbox, Message};
use crate::install::Installation;
use crate::journal::{CommitError, JournalError, Journals};
use crate::keys::Keys;
use crate::replica::Surroundings;
use crate::replicas::Replicas;
use crate::runtime::Owner;
use crate::watch::Watch;
use crate::workers;
use engine::SimulatedEngine;
use workload::What;
use world::{Deed, World};

/// What a run of the simulation came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was violated, if anything.
    pub violation: Option<String>,
    /// A number that stands for all that happened.
    pub hash: u64,
    /// How often what happened.
    pub seen: BTreeMap<String, u64>,
    /// The last lines of the trace, where it was kept.
    pub trace: Vec<String>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static GATEWAYS: RefCell<Option<Arc<Gateways>>> = const { RefCell::new(None) };
}

/// Does something with this thread's world.
fn with<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|world| match &mut *world.borrow_mut() {
        Some(world) => work(world),
        None => panic!("BUG: this thread has no world"),
    })
}

/// Takes a moment, in which others may come first.
pub(crate) async fn moment() {
    let millis = with(|world| match world.rng.below(10) {
        0..6 => 0,
        6..9 => world.rng.below(20),
        _ => world.rng.below(200),
    });
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// Returns the time that the wall's clock shows.
pub(crate) fn wall() -> Time {
    with(|world| world.wall())
}

fn random() -> u64 {
    with(|world| world.ids.next_u64())
}

/// Plays one seed, with a fault planted or none. A panic is a violation like another.
pub fn run(seed: u64, mutant: Option<Mutant>, keep_trace: bool) -> Report {
    mutants::plant(mutant);
    let played = catch_unwind(|| play_seed(seed, keep_trace));
    mutants::plant(None);
    WORLD.with(|slot| *slot.borrow_mut() = None);
    match played {
        Ok(report) => report,
        Err(panic) => {
            let what = panic.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            disk::with(|disk| Report {
                seed,
                violation: Some(format!("it panicked: {what}")),
                hash: disk.hash(),
                seen: BTreeMap::new(),
                trace: disk.lines(),
            })
        }
    }
}

fn play_seed(seed: u64, keep_trace: bool) -> Report {
    disk::install(seed, keep_trace);
    let world = World::new(seed);
    WORLD.with(|slot| *slot.borrow_mut() = Some(world));
    let installation = Installation::simulated();
    with(|world| world.begin(&installation));
    disk::with(|disk| {
        disk.set_judge(Box::new(|disk, path| with(|world| world.judge(disk, path))));
    });
    let mut lives = 0;
    while violation().is_none() && !with(|world| world.is_over()) {
        lives += 1;
        if lives > 400 {
            violate("the daemon comes up and goes down for ever".to_owned());
            break;
        }
        live(&installation);
    }
    let mut seen = with(|world| std::mem::take(&mut world.seen));
    for (what, times) in disk::with(|disk| disk.injected().clone()) {
        *seen.entry(format!("fails: {what}")).or_default() += times;
    }
    seen.insert("lives".to_owned(), lives);
    disk::with(|disk| Report {
        seed,
        violation: disk.violation().map(str::to_owned),
        hash: disk.hash(),
        seen,
        trace: disk.lines(),
    })
}

fn violation() -> Option<String> {
    disk::with(|disk| disk.violation().map(str::to_owned))
}

fn violate(what: String) {
    disk::with(|disk| disk.violate(what));
}

/// How a life ended by itself.
#[derive(Debug)]
enum End {
    /// It was ended.
    Frozen,
    /// It could not begin, or had to give up.
    GaveUp(String),
    /// Somebody wanted it to end.
    Stopped,
    /// All is done.
    Over,
}

/// Plays one life of the daemon, and the time until the next.
fn live(installation: &Installation) {
    let crash = with(|world| world.next_crash());
    disk::with(|disk| disk.begin_life(crash));
    with(|world| world.watch_again());
    with(|world| world.life_began = world.now);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("no runtime can be made: {error}"));
    let end = runtime.block_on(async {
        with(|world| world.since = Some((Instant::now(), world.now)));
        let end = daemon(installation).await;
        // Only in here does the daemon's clock show the time.
        with(|world| {
            world.now = world.time();
            world.since = None;
        });
        end
    });
    // All at once, as a process ends.
    let crash = disk::with(|disk| {
        if disk.frozen().is_none() {
            disk.freeze(Crash::Kill);
        }
        disk.frozen()
    });
    drop(runtime);
    match &end {
        End::GaveUp(why) => disk::trace(format_args!("the daemon gives up: {why}")),
        end => disk::trace(format_args!("the daemon is gone: {end:?}")),
    }
    if crash == Some(Crash::PowerCut) {
        with(World::lose_power);
        disk::with(disk::Disk::cut_power);
    }
    if matches!(end, End::Over) || violation().is_some() {
        return;
    }
    with(World::be_without_daemon);
}

/// The daemon, as `daemon::run` makes it of its parts.
async fn daemon(installation: &Installation) -> End {
    let gave_up = |why: String| {
        if disk::is_frozen() { End::Frozen } else { End::GaveUp(why) }
    };
    if let Err(failure) = daemon::make_folders(installation) {
        return gave_up(failure.to_string());
    }
    let workers = match workers::load_all(installation) {
        Ok(workers) => workers,
        Err(failure) => return gave_up(failure.to_string()),
    };
    let mut config = match Config::load(installation, Flags::default(), |_| None) {
        Ok(config) => config,
        Err(failure) => return gave_up(failure.to_string()),
    };
    config.max_running.value = with(|world| world.workload.max_running);
    let (mut journals, records) = match Journals::open(installation) {
        Ok(opened) => opened,
        Err(error @ JournalError::Io { .. }) => return gave_up(error.to_string()),
        Err(error) => {
            violate(format!("a crash has damaged a journal: {error}"));
            return End::GaveUp(error.to_string());
        }
    };
    if disk::is_frozen() {
        return End::Frozen;
    }
    journals.set_growth(with(|world| world.workload.growth));
    if let Some(what) = with(|world| world.check_records(&records)) {
        for record in &records {
            disk::trace(format_args!("  event {} {}", record.seq, Brief(&record.event)));
        }
        violate(what);
        return End::Frozen;
    }
    let scheduler = daemon::replay(&config, &workers, &records);
    let (inbox, messages) = Inbox::new();
    let latest = records.last().map_or(Time::ZERO, |record| record.at);
    let clock = Clock::starting_after(latest);
    let gateways = GATEWAYS.with(|slot| {
        let mut slot = slot.borrow_mut();
        let make = || Arc::new(Gateways::simulated(&config, &workers, Keys::none(installation)));
        Arc::clone(slot.get_or_insert_with(make))
    });
    let watch = Watch::start();
    let tell = watch.teller();
    let dispatcher = Dispatcher::new(Beginning {
        installation: installation.clone(),
        scheduler,
        journals,
        workers: workers.clone(),
        replicas: Replicas {
            installation: installation.clone(),
            gateways: Arc::clone(&gateways),
            image: "image".to_owned(),
            program: "/worker".into(),
            report_key: protocol::ReportKey::new([7; 32]),
            claude: None,
            user: Owner { uid: 1, gid: 1 },
            hand_over: false,
            walls: with(|world| world.workload.walls),
            accepted: Vec::new(),
        },
        surroundings: Surroundings {
            runtime: Arc::new(SimulatedEngine),
            gateways,
            inbox: inbox.clone(),
            clock,
            stop_grace: Duration::from_secs(15),
        },
        watch,
        rehearsal: false,
        random,
    });
    let stop = CancellationToken::new();
    let work = tokio::spawn(dispatcher.run(messages, stop.clone()));
    for worker in workers.keys() {
        if let Err(error) = Drops::start(installation.clone(), worker.clone(), inbox.clone()) {
            return gave_up(error.to_string());
        }
    }
    play(work, &inbox, &stop, tell).await
}

/// Returns when the daemon has ended, something is seen in a folder, or something must not be.
async fn noticed() {
    poll_fn(|context| {
        disk::with(|disk| {
            disk.set_waker(context.waker());
            match disk.frozen().is_some() || disk.violation().is_some() || disk.has_seen() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    })
    .await;
}

/// Lets things happen, until the daemon has ended.
async fn play(
    mut work: tokio::task::JoinHandle<Result<(), CommitError>>,
    inbox: &Inbox,
    stop: &CancellationToken,
    tell: impl Fn(notify::Result<notify::Event>),
) -> End {
    let (done, mut told) = mpsc::unbounded_channel();
    let mut is_to_end = false;
    loop {
        let next = with(|world| world.next_instant());
        tokio::select! {
            biased;
            () = noticed() => {}
            ended = &mut work => {
                if disk::is_frozen() {
                    return End::Frozen;
                }
                match ended {
                    Ok(Ok(())) if is_to_end => return End::Stopped,
                    Ok(Ok(())) => violate("the dispatcher ended by itself".to_owned()),
                    Ok(Err(error)) => return End::GaveUp(error.to_string()),
                    Err(panic) => violate(format!("the dispatcher panicked: {panic}")),
                }
                return End::Frozen;
            }
            found = told.recv() => if let Some((wanted, found)) = found {
                with(|world| world.told(wanted, found));
            },
            () = sleep_until(next) => {}
        }
        if disk::is_frozen() || violation().is_some() {
            return End::Frozen;
        }
        for deed in with(World::step) {
            match deed {
                Deed::Submit(number) => {
                    let (inbox, what) = (inbox.clone(), with(|world| world.what(number)));
                    tokio::spawn(async move {
                        let acknowledged = submit(&inbox, what).await;
                        if !disk::is_frozen() {
                            with(|world| world.answered(number, acknowledged));
                        }
                    });
                }
                Deed::Cancel(target) => {
                    disk::trace(format_args!("somebody cancels {target:?}"));
                    inbox.send(Message::Input(Box::new(Input::Cancel(target))));
                }
                Deed::Retry(target) => {
                    disk::trace(format_args!("somebody retries {target:?}"));
                    inbox.send(Message::Input(Box::new(Input::Retry(target))));
                }
                Deed::Stop { drain } => {
                    disk::trace(format_args!("somebody stops the daemon, drain={drain}"));
                    is_to_end = true;
                    match drain {
                        true => {
                            let inbox = inbox.clone();
                            tokio::spawn(async move { inbox.ask(Dispatcher::drain).await });
                        }
                        false => stop.cancel(),
                    }
                }
                Deed::Hint(event) => tell(event),
                Deed::LookWhetherDone => {
                    let (inbox, done) = (inbox.clone(), done.clone());
                    let wanted = with(|world| world.wanted());
                    tokio::spawn(async move {
                        if let Some(found) = inbox.look(|d| checks::state(d.scheduler())).await {
                            let _ = done.send((wanted, found));
                        }
                    });
                }
                Deed::CutPower => {
                    disk::with(|disk| disk.freeze(Crash::PowerCut));
                    return End::Frozen;
                }
                Deed::Over => return End::Over,
            }
        }
    }
}

/// Submits something, and returns whether it was acknowledged. `None` when nobody answers.
async fn submit(inbox: &Inbox, what: What) -> Option<bool> {
    match what {
        What::Task(task) => {
            let ask = move |d: &mut Dispatcher| match admit::task(d, task, TaskSource::Api) {
                Admission::Added | Admission::Existed { .. } => true,
                Admission::Refused(_) => false,
            };
            inbox.ask(ask).await
        }
        What::Run(open) => inbox.ask(move |d| d.request(*open).is_ok()).await,
        What::Drop(..) => None,
    }
}

/// No faults.
const KIND: Weather = Weather { full: false, no_room: 0, bad_sync: 0, denied: 0, bad_read: 0 };

/// What a person can name to cancel or to retry.
fn target(run: Option<RunId>, task: &protocol::TaskId) -> Target {
    run.map_or_else(|| Target::Task(task.clone()), Target::Run)
}
