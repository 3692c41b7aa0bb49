//! huey: a queue of Python functions, with a consumer; here with SQLite.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::atomic_file::{self, Durability};

use super::{Load, Queue, must};
use crate::Result;

/// The version that is compared.
const VERSION: &str = "3.5.4";

/// The application: tasks that note their beginning and their end, and are tried again when they fail.
const APP: &str = r#"
import os, sys, time
from huey import SqliteHuey

huey = SqliteHuey(filename=os.path.join(os.path.dirname(__file__), "huey.db"), fsync=True)
TALLY = os.path.join(os.path.dirname(__file__), "tally")

def note(what, name):
    line = f"{int(time.time() * 1000)} {what} {name} 1 {os.getpid()}\n"
    fd = os.open(TALLY, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, line.encode())
    os.close(fd)

@huey.task(retries=5)
def work(name, seconds):
    note("begins", name)
    time.sleep(seconds)
    note("ends", name)
    return name

def main(what):
    if what == "add":
        for line in sys.stdin:
            name, seconds = line.split()
            work(name, float(seconds))
    elif what == "pending":
        print(huey.pending_count() + huey.scheduled_count())
    elif what == "results":
        print(huey.result_count())
"#;

pub(super) struct Huey {
    python: PathBuf,
    place: PathBuf,
    at_once: usize,
    daemon: Option<Child>,
    /// Since when the queue has been empty, and how long a task takes at most.
    empty: Option<Instant>,
    longest: Duration,
}

impl Huey {
    pub(super) fn new(folder: &Path, place: &Path, load: &Load) -> Result<Self> {
        let root = folder.join(format!("huey-{VERSION}"));
        if !root.join("bin/huey_consumer").is_file() {
            println!("Installing huey {VERSION}");
            must(Command::new("python3").args(["-m", "venv"]).arg(&root))?;
            let pip = root.join("bin/pip");
            must(Command::new(pip).args(["install", "--quiet", &format!("huey=={VERSION}")]))?;
        }
        atomic_file::replace(&place.join("app.py"), APP.as_bytes(), Durability::Volatile)?;
        let longest = Duration::from_millis(2 * load.millis + 1000);
        let (python, at_once) = (root.join("bin/python"), load.at_once);
        Ok(Self { python, place: place.to_owned(), at_once, daemon: None, empty: None, longest })
    }

    fn app(&self, what: &str) -> Command {
        let mut command = Command::new(&self.python);
        // Imported: tasks are known by their module's name.
        let line = "import sys, app; app.main(sys.argv[1])";
        command.args(["-c", line, what]).current_dir(&self.place);
        command
    }

    fn number(&self, what: &str) -> Result<usize> {
        let output = must(&mut self.app(what))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }
}

impl Queue for Huey {
    fn name(&self) -> String {
        format!("huey {VERSION} with SQLite")
    }

    fn how(&self) -> Vec<String> {
        [
            format!(
                "`huey_consumer app.huey -w {} -k thread` (threads are its default), `SqliteHuey(fsync=True)`, tasks with \
                 `retries=5` that note their beginning and their end in a file",
                self.at_once
            ),
            "after each kill the same command again; there is nothing else to do".to_owned(),
            "a task is taken out of the queue before it runs, so what ran when the consumer was killed is known to nobody; \
             \"called failed\" counts the tasks without a result in its store"
                .to_owned(),
        ]
        .to_vec()
    }

    fn add(&mut self, tasks: &[String], load: &Load) -> Result<()> {
        let seconds = |task: &String| {
            let number = crate::random::of_name(task, load.seed);
            (load.millis / 2 + number % load.millis.max(1)) as f64 / 1e3
        };
        let lines: Vec<String> =
            tasks.iter().map(|task| format!("{task} {}\n", seconds(task))).collect();
        let file = self.place.join("tasks");
        atomic_file::replace(&file, lines.concat().as_bytes(), Durability::Volatile)?;
        let output = self.app("add").stdin(std::fs::File::open(file)?).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let path = self.place.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let before = log.metadata()?.len();
        let mut command = Command::new(&self.python);
        let consumer = self.python.with_file_name("huey_consumer");
        command
            .arg(consumer)
            .args(["app.huey", "-w", &self.at_once.to_string(), "-k", "thread"])
            .current_dir(&self.place)
            .env("PYTHONPATH", &self.place)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.daemon = Some(command.spawn()?);
        let start = Instant::now();
        // It says what it is, and which tasks it has.
        while std::fs::metadata(&path)?.len() == before {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("huey's consumer says nothing".into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn daemon(&mut self) -> &mut Option<Child> {
        &mut self.daemon
    }

    fn is_idle(&mut self) -> Result<bool> {
        // What runs is in no list: it is over once it has been long enough.
        if self.number("pending")? > 0 {
            self.empty = None;
            return Ok(false);
        }
        Ok(self.empty.get_or_insert_with(Instant::now).elapsed() > self.longest)
    }

    fn done(&mut self) -> Result<usize> {
        self.number("results")
    }

    fn again(&mut self) -> Result<bool> {
        Ok(false)
    }
}
