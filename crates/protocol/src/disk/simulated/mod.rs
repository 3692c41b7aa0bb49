//! A disk in memory, whose power can be cut.
//!
//! It holds what the programs see (the page cache) and what is sure to be on the platters. A power cut keeps
//! the latter, and of the rest what the seed chooses: of a file's unsynced writes the first few, the next one
//! cut at any byte or with its end full of zeros; of the unsynced names either the first few over the whole
//! disk, as a journalling file system does, or any of them. A rename is in force for both names or for none.
//!
//! Each thread has one disk. What the daemon does counts, may fail, and may be its last operation; what the
//! world does (workers, people) is done by [`as_world`].

pub mod facade;
mod folder;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::task::Waker;

use rustix::io::Errno;

pub use folder::SimulatedFolder;

/// Random numbers that are the same for the same seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone, Copy, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Returns the numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`; 0 when that is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next_u64() % n }
    }

    /// Returns an index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// Returns true that many times of a thousand.
    pub fn per_mille(&mut self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }
}

/// How often, of a thousand operations that could, one fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// There is no room at all.
    pub full: bool,
    /// A write or a new name finds no room.
    pub no_room: u64,
    /// A sync fails, and what was to be synced is lost.
    pub bad_sync: u64,
    /// Something can't be opened or made for lack of permission.
    pub denied: u64,
    /// Reading fails.
    pub bad_read: u64,
}

/// How the daemon comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// `kill -9`: what was written stays as it is.
    Kill,
    /// The host loses power.
    PowerCut,
}

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

/// Judges a file that appears under a name; returns what is wrong.
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

    /// Sets who looks at each file that the daemon puts in its place.
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

    /// Has a file that the daemon has put in its place judged.
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

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.begin("mkdir", path)?;
        let (folder, name) = self.place(path)?;
        if self.folder(folder)?.now.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        self.room()?;
        let ino = self.add(Node::Folder(Names::default()));
        self.rename_all(vec![(folder, name, Some(ino))])?;
        self.show(path, true);
        self.end();
        Ok(())
    }

    /// Opens a file; makes it where there is none and that is wanted.
    fn open(&mut self, path: &Path, how: Opening) -> io::Result<Ino> {
        self.begin(how.name(), path)?;
        let ino = match self.find(path) {
            Ok(_) if how.new => return Err(Errno::EXIST.into()),
            Ok(ino) => {
                if how.write {
                    self.file(ino)?;
                    self.fails("denied", self.weather.denied, Errno::ACCESS)?;
                }
                ino
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && how.create => {
                let (folder, name) = self.place(path)?;
                self.fails("denied", self.weather.denied, Errno::ACCESS)?;
                self.room()?;
                let modified = self.clock;
                let ino = self.add(Node::File(Contents { modified, ..Contents::default() }));
                self.rename_all(vec![(folder, name, Some(ino))])?;
                self.show(path, true);
                ino
            }
            Err(error) => return Err(error),
        };
        if how.truncate && !self.file(ino)?.data.is_empty() {
            self.change(ino, Change::Len(0))?;
        }
        self.end();
        Ok(ino)
    }

    fn change(&mut self, ino: Ino, change: Change) -> io::Result<()> {
        let clock = self.clock;
        let file = self.file_mut(ino)?;
        change.apply(&mut file.data);
        file.unsynced.push(change);
        file.modified = clock;
        Ok(())
    }

    /// Writes as much as there is room for, and returns how much that was.
    fn write(&mut self, ino: Ino, at: Option<usize>, bytes: &[u8]) -> io::Result<usize> {
        self.begin("write", Path::new(""))?;
        let at = match at {
            Some(at) => at,
            None => self.file(ino)?.data.len(),
        };
        let mut len = bytes.len();
        if self.actor == Actor::Daemon
            && let Err(error) = self.room()
        {
            // Some of it may fit.
            len = self.rng.index(len);
            if len == 0 || self.rng.per_mille(300) {
                return Err(error);
            }
        }
        self.change(ino, Change::Write(at, bytes[..len].to_vec()))?;
        self.trace(format_args!("  {len} bytes at {at}"));
        self.end();
        Ok(len)
    }

    fn set_len(&mut self, ino: Ino, len: usize) -> io::Result<()> {
        self.begin("set_len", Path::new(""))?;
        self.change(ino, Change::Len(len))?;
        self.end();
        Ok(())
    }

    /// Makes a file's contents, or a folder's names, safe.
    fn sync(&mut self, ino: Ino) -> io::Result<()> {
        self.begin("sync", Path::new(""))?;
        self.trace(format_args!("  of {ino}"));
        let odds = self.weather.bad_sync;
        if let Err(error) = self.fails("bad sync", odds, Errno::IO) {
            // What was to be written counts as written from now on, and is not.
            if let Node::File(_) = &self.nodes[ino] {
                let kept = self.survivor(ino);
                if let Node::File(file) = &mut self.nodes[ino] {
                    file.synced = kept;
                    file.unsynced.clear();
                }
            }
            return Err(error);
        }
        self.sync_now(ino);
        self.end();
        Ok(())
    }

    fn sync_now(&mut self, ino: Ino) {
        match &mut self.nodes[ino] {
            Node::File(file) => {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
            Node::Folder(_) => {
                let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.renamings)
                    .into_iter()
                    .partition(|changes| changes.iter().any(|(folder, ..)| *folder == ino));
                self.renamings = later;
                for changes in now {
                    self.keep_names(&changes);
                }
            }
        }
    }

    fn keep_names(&mut self, changes: &Renaming) {
        for (folder, name, ino) in changes {
            if let Node::Folder(names) = &mut self.nodes[*folder] {
                match ino {
                    Some(ino) => names.synced.insert(name.clone(), *ino),
                    None => names.synced.remove(name),
                };
            }
        }
    }

    /// Makes all safe, as a kernel does from time to time.
    pub fn write_back(&mut self) {
        self.trace(format_args!("written back"));
        for changes in std::mem::take(&mut self.renamings) {
            self.keep_names(&changes);
        }
        for node in &mut self.nodes {
            if let Node::File(file) = node {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
            }
        }
    }

    /// Returns what a power cut leaves of a file.
    fn survivor(&mut self, ino: Ino) -> Vec<u8> {
        let Node::File(file) = &self.nodes[ino] else { return Vec::new() };
        if file.unsynced.is_empty() {
            return file.synced.clone();
        }
        let mut kept = file.synced.clone();
        // All, nothing, or some.
        let whole = match self.rng.below(4) {
            0 => 0,
            1 => file.unsynced.len(),
            _ => self.rng.index(file.unsynced.len() + 1),
        };
        for change in &file.unsynced[..whole] {
            change.apply(&mut kept);
        }
        match file.unsynced.get(whole) {
            Some(Change::Write(at, bytes)) if self.rng.per_mille(600) => {
                let (at, end) = (*at, *at + bytes.len());
                let cut = self.rng.index(bytes.len() + 1);
                let torn = Change::Write(at, bytes[..cut].to_vec());
                let zeros = self.rng.per_mille(300);
                torn.apply(&mut kept);
                if zeros && kept.len() < end {
                    // The new length is there, what it holds is not.
                    kept.resize(end, 0);
                }
            }
            Some(Change::Len(len)) if self.rng.per_mille(500) => kept.resize(*len, 0),
            _ => {}
        }
        kept
    }

    /// Cuts the power: what remains is what was synced, and of the rest what the seed chooses.
    pub fn cut_power(&mut self) {
        let renamings = std::mem::take(&mut self.renamings);
        let in_order = self.rng.per_mille(500);
        let first = self.rng.index(renamings.len() + 1);
        let odds = [100, 500, 900][self.rng.index(3)];
        for (i, changes) in renamings.iter().enumerate() {
            if if in_order { i < first } else { self.rng.per_mille(odds) } {
                self.keep_names(changes);
            }
        }
        for ino in 0..self.nodes.len() {
            if matches!(&self.nodes[ino], Node::File(file) if !file.unsynced.is_empty()) {
                let kept = self.survivor(ino);
                if let Node::File(file) = &mut self.nodes[ino] {
                    file.unsynced.clear();
                    file.synced = kept;
                }
            }
            match &mut self.nodes[ino] {
                // What a bad sync had lost is lost for good.
                Node::File(file) => file.data.clone_from(&file.synced),
                Node::Folder(names) => names.now.clone_from(&names.synced),
            }
        }
        let kept = if in_order { "in order" } else { "of each its own" };
        self.trace(format_args!("the power is back; names {kept}"));
    }

    fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.begin("rename", to)?;
        let ino = self.find(from)?;
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        if let Some(&there) = self.folder(to_folder)?.now.get(&to_name) {
            if !replace {
                return Err(Errno::EXIST.into());
            }
            match (&self.nodes[ino], &self.nodes[there]) {
                (Node::Folder(_), Node::Folder(names)) if !names.now.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                (Node::Folder(_), Node::File(_)) => return Err(Errno::NOTDIR.into()),
                (Node::File(_), Node::Folder(_)) => return Err(Errno::ISDIR.into()),
                _ => {}
            }
        }
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        self.fails("no room", self.weather.no_room, Errno::NOSPC)?;
        self.rename_all(vec![(from_folder, from_name, None), (to_folder, to_name, Some(ino))])?;
        self.show(from, false);
        self.show(to, true);
        self.judge(to);
        self.end();
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin("link", to)?;
        let ino = self.find(from)?;
        self.file(ino)?;
        let (folder, name) = self.place(to)?;
        if self.folder(folder)?.now.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        self.room()?;
        self.rename_all(vec![(folder, name, Some(ino))])?;
        self.show(to, true);
        self.end();
        Ok(())
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.begin("unlink", path)?;
        let ino = self.find(path)?;
        self.file(ino)?;
        self.fails("denied", self.weather.denied, Errno::ACCESS)?;
        let (folder, name) = self.place(path)?;
        self.rename_all(vec![(folder, name, None)])?;
        self.show(path, false);
        self.end();
        Ok(())
    }

    fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        self.begin("rmdir", path)?;
        let ino = self.find(path)?;
        if !self.folder(ino)?.now.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        let (folder, name) = self.place(path)?;
        self.rename_all(vec![(folder, name, None)])?;
        self.show(path, false);
        self.end();
        Ok(())
    }

    /// Removes a file, or a folder with all that is in it, one name after the other, in any order.
    fn remove_all(&mut self, path: &Path) -> io::Result<()> {
        let ino = self.find(path)?;
        if let Node::File(_) = &self.nodes[ino] {
            return self.remove_file(path);
        }
        for name in self.list(ino)? {
            self.remove_all(&path.join(name))?;
        }
        self.remove_folder(path)
    }

    /// Returns the names in a folder, in an order of the disk's own.
    fn list(&mut self, ino: Ino) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = self.folder(ino)?.now.keys().cloned().collect();
        for i in (1..names.len()).rev() {
            names.swap(i, self.rng.index(i + 1));
        }
        Ok(names)
    }

    fn read_folder(&mut self, path: &Path) -> io::Result<(Ino, Vec<String>)> {
        self.begin("list", path)?;
        let ino = self.find(path)?;
        self.fails("bad read", self.weather.bad_read, Errno::IO)?;
        let names = self.list(ino)?;
        self.end();
        Ok((ino, names))
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.begin("read", path)?;
        let ino = self.find(path)?;
        self.fails("bad read", self.weather.bad_read, Errno::IO)?;
        let data = self.file(ino)?.data.clone();
        self.end();
        Ok(data)
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

    /// Returns what is there for sure, whenever the power is cut.
    pub fn safe(&self, path: &Path) -> Option<&[u8]> {
        let mut at = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                at = *self.folder(at).ok()?.synced.get(name.to_str()?)?;
            }
        }
        self.file(at).ok().map(|file| file.synced.as_slice())
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
struct Opening {
    write: bool,
    create: bool,
    new: bool,
    truncate: bool,
}

impl Opening {
    fn name(self) -> &'static str {
        if self.create {
            "create"
        } else if self.write {
            "open to write"
        } else {
            "open"
        }
    }
}

/// What a process that is gone gets for an answer.
fn gone() -> io::Error {
    io::Error::from(Errno::IO)
}
