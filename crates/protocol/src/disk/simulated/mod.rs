//! A disk in memory, whose power can be cut.
//!
//! It holds what the programs see (the page cache) and what is sure to be on the platters. A power cut keeps
//! the latter, and of the rest what the seed chooses: of a file's unsynced writes the first few, the next one
//! cut at any byte or with its end full of zeros; of the unsynced names either the first few over the whole
//! disk, as a journalling file system does, or any of them. A rename is in force for both names or for none.
//!
//! Each thread has one disk. What the daemon does counts, may fail, and may be its last operation; what the
//! world does (workers, people) is done by [`as_world`].

mod chance;
pub mod facade;
mod folder;
mod operations;
mod power;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::task::Waker;

use rustix::io::Errno;

pub use chance::{Crash, Rng, Weather};
pub use folder::SimulatedFolder;
use operations::Opening;

type Ino = usize;
const ROOT: Ino = 0;

#[derive(Debug)]
enum Node {
    File(Contents),
    Folder(Names),
}

#[derive(Debug, Default)]
struct Contents {
    /// As programs see it.
    data: Vec<u8>,
    /// As it is for sure.
    synced: Vec<u8>,
    /// What leads from the one to the other.
    unsynced: Vec<Change>,
    modified: u64,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                if to.len() < at + bytes.len() {
                    to.resize(at + bytes.len(), 0);
                }
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Len(len) => to.resize(*len, 0),
        }
    }
}

#[derive(Debug, Default)]
struct Names {
    now: BTreeMap<String, Ino>,
    synced: BTreeMap<String, Ino>,
}

/// Changes of names that are in force together.
type Renaming = Vec<(Ino, String, Option<Ino>)>;

/// Whose operations are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Daemon,
    World,
}

/// What happened to a name that somebody watches: the folder, the name, and whether it is there now.
pub type Seen = (PathBuf, String, bool);

/// Judges a file that the daemon makes, or puts under a name; returns what is wrong.
pub type Judge = Box<dyn Fn(&Disk, &Path) -> Option<String>>;

/// The disk of a thread.
pub struct Disk {
    nodes: Vec<Node>,
    renamings: Vec<Renaming>,
    rng: Rng,
    weather: Weather,
    actor: Actor,
    /// What the daemon has done so far.
    operations: u64,
    /// At which operation the daemon ends.
    crash_at: Option<(u64, Crash)>,
    /// The daemon has ended: nothing that it still tries has an effect.
    frozen: Option<Crash>,
    /// How often what was injected.
    injected: BTreeMap<&'static str, u64>,
    temporary: u64,
    clock: u64,
    watched: BTreeSet<PathBuf>,
    seen: Vec<Seen>,
    waker: Option<Waker>,
    judge: Option<Judge>,
    violation: Option<String>,
    hash: u64,
    line: String,
    /// The last lines of the trace, when they are kept.
    lines: Option<VecDeque<String>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("operations", &self.operations).finish_non_exhaustive()
    }
}

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

/// More operations than any run needs.
const MOST: u64 = 100_000;

/// How many lines of a trace are kept.
const KEPT: usize = 4000;

/// Gives this thread an empty disk.
pub fn install(seed: u64, keep_trace: bool) {
    let disk = Disk {
        nodes: vec![Node::Folder(Names::default())],
        renamings: Vec::new(),
        rng: Rng::new(seed ^ 0x00d1_5c00_d15c),
        weather: Weather::default(),
        actor: Actor::Daemon,
        operations: 0,
        crash_at: None,
        frozen: None,
        injected: BTreeMap::new(),
        temporary: 0,
        clock: 0,
        watched: BTreeSet::new(),
        seen: Vec::new(),
        waker: None,
        judge: None,
        violation: None,
        hash: 0xcbf2_9ce4_8422_2325,
        line: String::new(),
        lines: keep_trace.then(VecDeque::new),
    };
    DISK.with(|slot| *slot.borrow_mut() = Some(disk));
}

/// Returns whether this thread has a disk.
pub fn is_there() -> bool {
    DISK.with(|slot| slot.borrow().is_some())
}

/// Does something with this thread's disk.
///
/// # Panics
///
/// Where there is none.
pub fn with<T>(work: impl FnOnce(&mut Disk) -> T) -> T {
    DISK.with(|slot| match &mut *slot.borrow_mut() {
        Some(disk) => work(disk),
        None => panic!("BUG: this thread has no simulated disk"),
    })
}

/// Does something that it is not the daemon that does.
pub fn as_world<T>(work: impl FnOnce() -> T) -> T {
    let before = with(|disk| std::mem::replace(&mut disk.actor, Actor::World));
    let done = work();
    with(|disk| disk.actor = before);
    done
}

/// Adds a line to this thread's trace.
pub fn trace(line: fmt::Arguments<'_>) {
    with(|disk| disk.trace(line));
}

/// Returns whether the daemon's process is gone, and nothing that it does has an effect any more.
pub fn is_frozen() -> bool {
    with(|disk| disk.frozen.is_some())
}

impl Disk {
    /// Begins a life of the daemon, which ends at that operation from now on.
    pub fn begin_life(&mut self, crash: Option<(u64, Crash)>) {
        self.frozen = None;
        self.crash_at = crash.map(|(after, crash)| (self.operations + after, crash));
        self.watched.clear();
        self.seen.clear();
    }

    /// Returns how the daemon has ended, if it has.
    pub fn frozen(&self) -> Option<Crash> {
        self.frozen
    }

    /// Ends the daemon now.
    pub fn freeze(&mut self, crash: Crash) {
        self.frozen = Some(crash);
        self.trace(format_args!("{crash:?}"));
        self.wake();
    }

    /// Has somebody woken when something is to be seen, or the daemon ends.
    pub fn set_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Lets the daemon live on.
    pub fn cancel_crash(&mut self) {
        self.crash_at = None;
    }

    /// Returns whether nothing fails.
    pub fn is_calm(&self) -> bool {
        let Weather { full, no_room, bad_sync, denied, bad_read } = self.weather;
        !full && no_room + bad_sync + denied + bad_read == 0
    }

    /// Returns whether something was seen in a watched folder.
    pub fn has_seen(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Returns how many operations the daemon has made.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Returns how often what was injected.
    pub fn injected(&self) -> &BTreeMap<&'static str, u64> {
        &self.injected
    }

    /// Sets what fails from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Returns what fails.
    pub fn weather(&self) -> Weather {
        self.weather
    }

    /// Sets who looks at each file that the daemon makes or puts in its place.
    pub fn set_judge(&mut self, judge: Judge) {
        self.judge = Some(judge);
    }

    /// Notes what must not be. The first one counts.
    pub fn violate(&mut self, what: String) {
        self.trace(format_args!("VIOLATION: {what}"));
        if self.violation.is_none() {
            self.violation = Some(what);
            self.wake();
        }
    }

    /// Returns what should not have been, if there is anything.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Watches a folder.
    pub fn watch(&mut self, folder: &Path) {
        self.watched.insert(folder.to_owned());
    }

    /// Takes what was seen in watched folders.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// Tells what time it is, for times of change.
    pub fn set_clock(&mut self, millis: u64) {
        self.clock = millis;
    }

    /// Adds a line to the trace.
    pub fn trace(&mut self, line: fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{} {line}", self.clock);
        for byte in self.line.bytes().chain([b'\n']) {
            // FNV-1a.
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(self.line.clone());
        }
    }

    /// Returns a number that stands for the whole trace.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the last lines of the trace.
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().flatten().cloned().collect()
    }

    fn inject(&mut self, what: &'static str) {
        *self.injected.entry(what).or_default() += 1;
        self.trace(format_args!("  fails: {what}"));
    }

    /// Begins an operation. An error means that it is not made.
    fn begin(&mut self, name: &str, path: &Path) -> io::Result<()> {
        if self.actor == Actor::World {
            self.trace(format_args!("  world {name} {}", path.display()));
            return Ok(());
        }
        if self.frozen.is_some() {
            return Err(gone());
        }
        if matches!(name, "open" | "open folder" | "open beneath" | "walk" | "list" | "read") {
            // Whoever only looks changes nothing: no need to end there.
            self.trace(format_args!("{name} {}", path.display()));
            return Ok(());
        }
        self.operations += 1;
        let operations = self.operations;
        self.trace(format_args!("{operations} {name} {}", path.display()));
        if operations > MOST {
            self.violate(format!("the daemon makes more than {MOST} operations"));
            self.freeze(Crash::Kill);
            return Err(gone());
        }
        if let Some((at, crash)) = self.crash_at
            && operations >= at
        {
            self.crash_at = None;
            // Before the operation, or right after it.
            if self.rng.per_mille(500) {
                self.freeze(crash);
                return Err(gone());
            }
            self.crash_at = Some((0, crash));
        }
        Ok(())
    }

    /// Ends an operation that was made: it may have been the last one.
    fn end(&mut self) {
        if self.actor == Actor::Daemon
            && let Some((0, crash)) = self.crash_at
        {
            self.crash_at = None;
            self.freeze(crash);
        }
    }

    fn fails(&mut self, what: &'static str, per_mille: u64, errno: Errno) -> io::Result<()> {
        if self.actor == Actor::Daemon && self.rng.per_mille(per_mille) {
            self.inject(what);
            return Err(errno.into());
        }
        Ok(())
    }

    fn room(&mut self) -> io::Result<()> {
        let odds = if self.weather.full { 1000 } else { self.weather.no_room };
        self.fails("no room", odds, Errno::NOSPC)
    }

    fn folder(&self, ino: Ino) -> io::Result<&Names> {
        match &self.nodes[ino] {
            Node::Folder(names) => Ok(names),
            Node::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    fn names_mut(&mut self, ino: Ino) -> io::Result<&mut Names> {
        match &mut self.nodes[ino] {
            Node::Folder(names) => Ok(names),
            Node::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    fn file(&self, ino: Ino) -> io::Result<&Contents> {
        match &self.nodes[ino] {
            Node::File(contents) => Ok(contents),
            Node::Folder(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> io::Result<&mut Contents> {
        match &mut self.nodes[ino] {
            Node::File(contents) => Ok(contents),
            Node::Folder(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn find_from(&self, from: Ino, path: &Path) -> io::Result<Ino> {
        let mut at = from;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    let name = name.to_str().ok_or(Errno::INVAL)?;
                    at = *self.folder(at)?.now.get(name).ok_or(Errno::NOENT)?;
                }
                _ => return Err(Errno::INVAL.into()),
            }
        }
        Ok(at)
    }

    fn find(&self, path: &Path) -> io::Result<Ino> {
        self.find_from(ROOT, path)
    }

    /// Returns the folder that a path is in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(Ino, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(Errno::INVAL)?;
        let folder = self.find(path.parent().unwrap_or(Path::new("/")))?;
        self.folder(folder)?;
        Ok((folder, name.to_owned()))
    }

    fn add(&mut self, node: Node) -> Ino {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn rename_all(&mut self, changes: Renaming) -> io::Result<()> {
        for (folder, name, ino) in &changes {
            let names = self.names_mut(*folder)?;
            match ino {
                Some(ino) => names.now.insert(name.clone(), *ino),
                None => names.now.remove(name),
            };
        }
        self.renamings.push(changes);
        Ok(())
    }

    fn show(&mut self, path: &Path, is_there: bool) {
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name())
            && self.watched.contains(folder)
        {
            let name = name.to_string_lossy().into_owned();
            self.seen.push((folder.to_owned(), name, is_there));
            self.wake();
        }
    }

    /// Has a file judged that the daemon makes, or puts in its place.
    fn judge(&mut self, path: &Path) {
        if self.actor == Actor::Daemon
            && let Some(judge) = self.judge.take()
        {
            let found = judge(self, path);
            self.judge = Some(judge);
            if let Some(found) = found {
                self.violate(found);
            }
        }
    }

    /// Returns what programs read there, without an operation.
    pub fn peek(&self, path: &Path) -> Option<&[u8]> {
        let ino = self.find(path).ok()?;
        self.file(ino).ok().map(|file| file.data.as_slice())
    }

    /// Returns the names in a folder, without an operation.
    pub fn peek_names(&self, path: &Path) -> Vec<String> {
        let names = self.find(path).ok().and_then(|ino| self.folder(ino).ok());
        names.map(|names| names.now.keys().cloned().collect()).unwrap_or_default()
    }
}

/// What a process that is gone gets for an answer.
fn gone() -> io::Error {
    io::Error::from(Errno::IO)
}
