//! All that is not the daemon: time, containers, people, and the disk's weather.

mod people;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::EventKind;
use notify::event::{Flag, ModifyKind, RenameMode};
use protocol::atomic_file::{self, Durability};
use protocol::disk::simulated::{self as disk, Crash, Rng, Weather};
use protocol::disk::{self as fs};
use protocol::{ReplicaId, TaskId, Time, Token};
use scheduler::Target;
use tokio::time::Instant;

use super::KIND;
use super::checks::{Records, State};
use super::engine::{Container, killed};
use super::workload::Workload;
use crate::install::Installation;

/// When a run of the simulation begins: 2026-01-01.
const BEGINNING: u64 = 1_767_225_600_000;

/// How long after the world has become kind all must have ended.
const PATIENCE: u64 = 2 * 60 * 60 * 1000;

/// How long everything has to settle once all tasks have ended: a moment for files and slots.
const SETTLES: u64 = 45_000;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Happening {
    Submit(usize),
    /// A worker looks at its folder.
    Look {
        replica: ReplicaId,
        number: u64,
    },
    LookAtCancel {
        replica: ReplicaId,
        number: u64,
    },
    /// A worker's attempt ends.
    Finish {
        replica: ReplicaId,
        number: u64,
    },
    /// A worker hands in the same again.
    Again {
        replica: ReplicaId,
        number: u64,
        file: PathBuf,
        bytes: Vec<u8>,
    },
    /// Some container dies.
    Die,
    Hint(Option<PathBuf>),
    Away(bool),
    Weather(Weather),
    WriteBack,
    Meddle,
    /// Somebody wants an end to that task.
    CallOff(TaskId),
    /// Somebody wants the daemon to end: now, or once what runs has come to its end.
    Stop {
        drain: bool,
    },
    BecomeKind,
    LookWhetherDone,
    /// A result has to be taken in by now.
    Taken {
        replica: ReplicaId,
        number: u64,
        life: u64,
        task: TaskId,
        attempt: u32,
        calm: u64,
    },
}

/// Something that takes the daemon.
pub(super) enum Deed {
    Submit(usize),
    Cancel(Target),
    Retry(Target),
    Stop { drain: bool },
    Hint(notify::Result<notify::Event>),
    LookWhetherDone,
    CutPower,
    Over,
}

/// How far a run of the simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until all tasks have ended.
    Going,
    /// Until all is tidy, by then.
    Settling(u64),
    /// The power was cut after all had ended.
    Again,
    SettlingAgain(u64),
    Over,
}

pub(super) struct World {
    pub(super) rng: Rng,
    /// What ids and tokens are made of.
    pub(super) ids: Rng,
    /// What people do at the worst moment.
    pub(super) people: Rng,
    /// Milliseconds since 1970, when nobody has looked since.
    pub(super) now: u64,
    /// When the daemon's clock began, and what time it was then.
    pub(super) since: Option<(Instant, u64)>,
    pub(super) workload: Workload,
    pub(super) seen: BTreeMap<String, u64>,
    pub(super) containers: BTreeMap<ReplicaId, Container>,
    pub(super) numbers: u64,
    pub(super) engine_away: bool,
    /// Whether nothing goes wrong any more.
    pub(super) kind: bool,
    /// How often which task has failed in a way that passes.
    pub(super) flaked: BTreeMap<TaskId, u32>,
    pub(super) tokens: BTreeMap<(TaskId, u32), Token>,
    /// What a worker has put into a slot at a time when nobody may clear it away any more.
    pub(super) strays: BTreeSet<PathBuf>,
    pub(super) records: Records,
    pub(super) installation: Option<Installation>,
    /// Which life of the daemon this is.
    pub(super) life: u64,
    pub(super) life_began: u64,
    happenings: BTreeMap<(u64, u64), Happening>,
    next: u64,
    /// How many attempts may yet be lost with their worker, in a fair run.
    losses: u32,
    /// How many may yet fail in a way that counts.
    failures: u32,
    crashes: u32,
    skew: i64,
    stage: Stage,
    kind_at: u64,
    answered: Vec<bool>,
    asked: Vec<bool>,
    /// How often people have changed what is to be done.
    wanted: u64,
    /// How far the daemon is, as it said since then.
    state: Option<State>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let workload = Workload::new(seed, &mut rng);
        let wants = workload.wants.len();
        let fair = workload.fair;
        Self {
            ids: Rng::new(rng.next_u64()),
            people: Rng::new(seed ^ 0x9e09_1e00),
            now: BEGINNING,
            since: None,
            seen: BTreeMap::new(),
            containers: BTreeMap::new(),
            numbers: 0,
            engine_away: false,
            kind: false,
            flaked: BTreeMap::new(),
            tokens: BTreeMap::new(),
            strays: BTreeSet::new(),
            records: Records::default(),
            installation: None,
            life: 0,
            life_began: 0,
            happenings: BTreeMap::new(),
            next: 0,
            losses: if fair { 4 } else { 100 },
            failures: if fair { 8 } else { 100 },
            crashes: u32::try_from(rng.below(8)).unwrap_or(0),
            skew: 0,
            stage: Stage::Going,
            kind_at: 0,
            answered: vec![false; wants],
            asked: vec![false; wants],
            wanted: 0,
            state: None,
            workload,
            rng,
        }
    }

    /// Makes what is there before the daemon is, and decides what goes wrong, and when.
    pub(super) fn begin(&mut self, installation: &Installation) {
        self.installation = Some(installation.clone());
        disk::with(|disk| disk.set_clock(self.now));
        disk::as_world(|| {
            for (name, replicas, per_task) in self.workload.workers {
                let folder = installation.workspace(&super::workload::worker(name));
                let container = if per_task { "per-task" } else { "resident" };
                let text = format!(
                    "description = \"Does things.\"\ncommand = [\"true\"]\ntimeout = 60\nretries = 20\n\
                     replicas = {replicas}\ncontainer = \"{container}\"\n"
                );
                let made = fs::create_dir_all(&folder).and_then(|()| {
                    let file = folder.join("worker.toml");
                    atomic_file::replace(&file, text.as_bytes(), Durability::Synced)
                });
                made.unwrap_or_else(|error| panic!("BUG: no workspace: {error}"));
            }
        });
        disk::with(disk::Disk::write_back);
        for (number, (at, _)) in self.workload.wants.iter().enumerate() {
            self.happenings.insert((self.now + at, number as u64), Happening::Submit(number));
        }
        self.next = self.workload.wants.len() as u64;
        let calm = self.rng.per_mille(100);
        let kind_after = if calm { 1000 } else { 60_000 + self.rng.below(240_000) };
        self.kind_at = self.now + kind_after;
        self.after(kind_after, Happening::BecomeKind);
        self.after(5000, Happening::LookWhetherDone);
        if calm {
            self.crashes = 0;
            return;
        }
        for _ in 0..self.people.below(3) {
            let at = self.people.below(kind_after);
            let drain = self.people.per_mille(250);
            self.after(at, Happening::Stop { drain });
        }
        for _ in 0..self.rng.below(4) {
            let at = self.rng.below(kind_after);
            self.after(at, Happening::Away(true));
            let length = self.rng.below(20_000);
            self.after(at + length, Happening::Away(false));
        }
        for _ in 0..self.rng.below(4) {
            let at = self.rng.below(kind_after);
            self.after(at, Happening::Die);
        }
        for _ in 0..self.rng.below(5) {
            let at = self.rng.below(kind_after);
            let weather = Weather {
                full: self.rng.per_mille(300),
                no_room: self.rng.below(60),
                bad_sync: if self.rng.per_mille(400) { self.rng.below(150) } else { 0 },
                denied: self.rng.below(30),
                bad_read: self.rng.below(20),
            };
            self.after(at, Happening::Weather(weather));
            let length = self.rng.below(15_000);
            self.after(at + length, Happening::Weather(KIND));
        }
        for _ in 0..self.rng.below(5) {
            let at = self.rng.below(kind_after);
            self.after(at, Happening::WriteBack);
        }
        if !self.workload.fair {
            for _ in 0..self.rng.below(6) {
                let at = self.rng.below(kind_after);
                self.after(at, Happening::Meddle);
            }
        }
    }

    pub(super) fn saw(&mut self, what: &str) {
        match self.seen.get_mut(what) {
            Some(times) => *times += 1,
            None => {
                self.seen.insert(what.to_owned(), 1);
            }
        }
    }

    /// Returns whether something goes wrong, that many times of a thousand.
    pub(super) fn mischief(&mut self, per_mille: u64) -> bool {
        !self.kind && self.rng.per_mille(per_mille)
    }

    /// Returns whether one more attempt may be lost with its worker.
    pub(super) fn may_lose(&mut self) -> bool {
        let may = !self.kind && self.losses > 0;
        self.losses -= u32::from(may);
        may
    }

    /// Returns whether one more attempt may fail in a way that counts.
    pub(super) fn counted(&mut self) -> bool {
        let may = self.failures > 0;
        self.failures -= u32::from(may);
        may
    }

    /// Returns the time, in milliseconds since 1970.
    pub(super) fn time(&self) -> u64 {
        match self.since {
            Some((since, began)) => began + u64::try_from(since.elapsed().as_millis()).unwrap_or(0),
            None => self.now,
        }
    }

    /// Returns the time that the wall's clock shows, which somebody may have set.
    pub(super) fn wall(&self) -> Time {
        Time::from_millis(self.time().saturating_add_signed(self.skew))
    }

    /// Lets something happen after so many milliseconds.
    pub(super) fn after(&mut self, millis: u64, what: Happening) {
        self.next += 1;
        self.happenings.insert((self.time() + millis, self.next), what);
    }

    /// Returns when the next thing happens, for a timer.
    pub(super) fn next_instant(&self) -> Instant {
        let now = self.time();
        let next = self.happenings.first_key_value().map_or(now + 1000, |((at, _), _)| *at);
        Instant::now() + Duration::from_millis(next.saturating_sub(now))
    }

    /// Decides after how many operations the next life of the daemon ends.
    pub(super) fn next_crash(&mut self) -> Option<(u64, Crash)> {
        self.life += 1;
        if self.kind || self.crashes == 0 {
            return None;
        }
        self.crashes -= 1;
        let after = 1 + match self.rng.below(4) {
            0 => self.rng.below(25),
            1 => self.rng.below(120),
            2 => self.rng.below(400),
            _ => self.rng.below(1500),
        };
        let crash = if self.rng.per_mille(500) { Crash::Kill } else { Crash::PowerCut };
        Some((after, crash))
    }

    /// Watches again what containers watch: the disk forgets it with the daemon.
    pub(super) fn watch_again(&mut self) {
        let running: Vec<_> =
            self.containers.iter().filter(|(_, c)| c.runs()).map(|(r, _)| r.clone()).collect();
        for replica in running {
            if let Some(container) = self.containers.get(&replica) {
                disk::with(|disk| {
                    disk.watch(&container.spec.tasks);
                    if let Some(work) = &container.player.work {
                        disk.watch(&work.folder);
                    }
                });
            }
            self.soon_look(&replica);
        }
    }

    /// The host is without power.
    pub(super) fn lose_power(&mut self) {
        self.saw("power cut");
        self.records.power_was_cut();
        let replicas: Vec<_> = self.containers.keys().cloned().collect();
        for replica in replicas {
            self.end(&replica, killed());
            if self.rng.per_mille(300) {
                self.containers.remove(&replica);
            }
        }
    }

    /// Lets time pass without a daemon.
    pub(super) fn be_without_daemon(&mut self) {
        self.records.daemon_was_killed();
        // What it said may not have been safe.
        self.wants_more();
        let length = match self.rng.below(3) {
            0 => 200,
            1 => 200 + self.rng.below(3000),
            _ => 200 + self.rng.below(40_000),
        };
        if self.mischief(200) {
            // Somebody sets the clock.
            let hours = i64::try_from(self.rng.below(5)).unwrap_or(0) - 2;
            self.skew = hours * 3_600_000;
            self.saw("clock set");
        }
        let until = self.now + length;
        while let Some((&(at, _), _)) = self.happenings.first_key_value()
            && at <= until
        {
            self.now = self.now.max(at);
            disk::with(|disk| disk.set_clock(self.now));
            let Some((_, happening)) = self.happenings.pop_first() else { break };
            let _ = self.happen(happening, false);
        }
        self.now = until;
        disk::with(|disk| disk.set_clock(self.now));
        self.asked.fill(false);
    }

    /// Does what is due; returns what takes the daemon.
    pub(super) fn step(&mut self) -> Vec<Deed> {
        let now = self.time();
        disk::with(|disk| disk.set_clock(now));
        for (folder, name, is_there) in disk::with(disk::Disk::take_seen) {
            self.notice(&folder, &name, is_there);
        }
        let mut deeds = Vec::new();
        while let Some((&(at, _), _)) = self.happenings.first_key_value()
            && at <= now
        {
            let Some((_, happening)) = self.happenings.pop_first() else { break };
            deeds.extend(self.happen(happening, true));
        }
        if let Some(what) = self.check_limits() {
            disk::with(|disk| disk.violate(what));
        }
        if now > self.kind_at + PATIENCE {
            let what = self.unfinished();
            disk::with(|disk| disk.violate(what));
        }
        deeds
    }

    /// Something is seen in a folder that somebody watches.
    fn notice(&mut self, folder: &Path, name: &str, is_there: bool) {
        let mut own = None;
        for (replica, container) in &self.containers {
            if container.runs() {
                let at_work = container.player.work.as_ref().map(|work| work.folder.as_path());
                if container.spec.tasks == folder && is_there {
                    own = Some((replica.clone(), false));
                } else if at_work == Some(folder) {
                    own = Some((replica.clone(), true));
                }
            }
        }
        match own {
            Some((replica, false)) => return self.soon_look(&replica),
            Some((replica, true)) => {
                let number = self.containers[&replica].number;
                let after = self.rng.below(500);
                return self.after(after, Happening::LookAtCancel { replica, number });
            }
            None => {}
        }
        if !atomic_file::is_visible(name) {
            return;
        }
        if self.mischief(150) {
            return self.saw("hint lost");
        }
        let times = if self.mischief(100) { 2 } else { 1 };
        for _ in 0..times {
            let after = self.rng.below(100);
            let hint = match self.mischief(50) {
                true => None,
                false => Some(folder.join(name)),
            };
            self.after(after, Happening::Hint(hint));
        }
    }

    fn is_there(&self, replica: &ReplicaId, number: u64) -> bool {
        self.containers.get(replica).is_some_and(|c| c.runs() && c.number == number)
    }

    fn happen(&mut self, happening: Happening, daemon: bool) -> Option<Deed> {
        match happening {
            Happening::Submit(number) => return self.submit(number, daemon),
            Happening::Look { replica, number } => {
                if self.is_there(&replica, number) {
                    self.look(&replica);
                }
            }
            Happening::LookAtCancel { replica, number } => {
                if self.is_there(&replica, number) {
                    self.look_at_cancel(&replica);
                }
            }
            Happening::Finish { replica, number } => {
                if self.is_there(&replica, number) {
                    self.finish(&replica);
                }
            }
            Happening::Again { replica, number, file, bytes } => {
                if self.is_there(&replica, number) {
                    self.hand_in_again(&replica, &file, &bytes);
                }
            }
            Happening::Die => self.die(),
            Happening::Hint(path) if daemon => {
                let event = match path {
                    Some(path) => {
                        let kind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
                        notify::Event::new(kind).add_path(path)
                    }
                    None => {
                        self.saw("overflow");
                        self.expect_prompt();
                        notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)
                    }
                };
                return Some(Deed::Hint(Ok(event)));
            }
            Happening::Hint(_) => {}
            Happening::Away(away) => {
                let away = away && !self.kind;
                if away != self.engine_away {
                    self.saw("engine away");
                    self.set_away(away);
                }
            }
            Happening::Weather(weather) => {
                let weather = if self.kind { KIND } else { weather };
                disk::trace(format_args!("{weather:?}"));
                disk::with(|disk| disk.set_weather(weather));
            }
            Happening::WriteBack => disk::with(disk::Disk::write_back),
            Happening::Meddle => return self.meddle(daemon),
            Happening::CallOff(task) if daemon && !self.kind => {
                self.saw("cancelled as it is handed in");
                self.wants_more();
                return Some(Deed::Cancel(Target::Task(task)));
            }
            Happening::CallOff(_) => {}
            Happening::Stop { drain } if daemon && !self.kind => {
                self.saw(if drain { "stopped with a drain" } else { "stopped" });
                self.trouble();
                return Some(Deed::Stop { drain });
            }
            Happening::Stop { .. } => {}
            Happening::BecomeKind => {
                disk::trace(format_args!("the world becomes kind"));
                self.kind = true;
                self.set_away(false);
                disk::with(|disk| {
                    disk.set_weather(KIND);
                    disk.cancel_crash();
                });
            }
            Happening::LookWhetherDone => {
                self.after(5000, Happening::LookWhetherDone);
                return daemon.then(|| self.go_on()).flatten();
            }
            Happening::Taken { replica, number, life, task, attempt, calm } => {
                self.check_taken(&replica, number, life, &task, attempt, calm);
            }
        }
        None
    }

    fn die(&mut self) {
        let running: Vec<_> =
            self.containers.iter().filter(|(_, c)| c.runs()).map(|(r, _)| r.clone()).collect();
        if running.is_empty() || !self.may_lose() {
            return;
        }
        let replica = running[self.rng.index(running.len())].clone();
        self.saw("container dies");
        if self.rng.per_mille(500) {
            self.remove_by_hand(&replica);
        } else {
            self.end(&replica, killed());
        }
    }

    fn remove_by_hand(&mut self, replica: &ReplicaId) {
        self.remove(replica);
    }

    /// Returns whether all is over.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Goes on to the next stage when this one is over.
    fn go_on(&mut self) -> Option<Deed> {
        let now = self.time();
        let done = self.kind
            && self.answered.iter().all(|answered| *answered)
            && self.state.as_ref().is_some_and(|state| state.done);
        match self.stage {
            Stage::Going if done => self.stage = Stage::Settling(now + SETTLES),
            Stage::Again if done => self.stage = Stage::SettlingAgain(now + SETTLES),
            Stage::Settling(until) if now >= until => {
                if let Some(what) = self.check_end() {
                    disk::with(|disk| disk.violate(what));
                    return None;
                }
                (self.stage, self.state) = (Stage::Again, None);
                self.records.nothing_more();
                return Some(Deed::CutPower);
            }
            Stage::SettlingAgain(until) if now >= until => {
                if let Some(what) = self.check_end() {
                    disk::with(|disk| disk.violate(what));
                    return None;
                }
                self.stage = Stage::Over;
                return Some(Deed::Over);
            }
            _ => {}
        }
        Some(Deed::LookWhetherDone)
    }

    fn unfinished(&self) -> String {
        let missing: Vec<_> = (0..self.answered.len()).filter(|i| !self.answered[*i]).collect();
        let state = self.state.as_ref().map(|state| state.open.join(", ")).unwrap_or_default();
        format!(
            "it does not end, two hours after all faults: not acknowledged {missing:?}; open: {state}; \
             stage {:?}",
            self.stage
        )
    }

    /// Returns what the daemon says of its tasks.
    pub(super) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }
}
