//! pueue: a queue of shell commands, with a daemon.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::atomic_file::{self, Durability};
use serde_json::Value;

use super::{Load, Queue, must};
use crate::Result;

/// The version that is compared.
const VERSION: &str = "4.0.4";

pub(super) struct Pueue {
    programs: PathBuf,
    place: PathBuf,
    daemon: Option<Child>,
    /// How often it ended by itself right after a start, and was started once more.
    refused: usize,
}

impl Pueue {
    pub(super) fn new(folder: &Path, place: &Path) -> Result<Self> {
        let root = folder.join(format!("pueue-{VERSION}"));
        if !root.join("bin/pueued").is_file() {
            println!("Installing pueue {VERSION}: some minutes");
            let mut cargo = Command::new("cargo");
            cargo.args(["install", "--quiet", "--locked", "--root"]).arg(&root);
            must(cargo.arg(format!("pueue@{VERSION}")))?;
        }
        for folder in ["state", "run"] {
            fs::create_dir_all(place.join(folder))?;
        }
        let config = format!(
            "shared:\n  pueue_directory: {0}/state\n  runtime_directory: {0}/run\n  use_unix_socket: true\n\
             daemon:\n  default_parallel_tasks: 8\n",
            place.display()
        );
        atomic_file::replace(&place.join("pueue.yml"), config.as_bytes(), Durability::Volatile)?;
        Ok(Self { programs: root.join("bin"), place: place.to_owned(), daemon: None, refused: 0 })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.arg("--config").arg(self.place.join("pueue.yml"));
        command
    }

    fn status(&self) -> Result<Value> {
        let output = must(self.command("pueue").args(["status", "--json"]))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Counts the tasks of which this holds.
    fn count(&self, holds: impl Fn(&Value) -> bool) -> Result<usize> {
        let status = self.status()?;
        let tasks = status["tasks"].as_object().ok_or("pueue shows no tasks")?;
        Ok(tasks.values().filter(|task| holds(&task["status"])).count())
    }
}

impl Queue for Pueue {
    fn name(&self) -> String {
        format!("pueue {VERSION}")
    }

    fn how(&self) -> Vec<String> {
        let how = [
            "`pueued --config pueue.yml`; `pueue parallel 8`; each task `pueue add -- soak peer-task …`, which notes its \
             beginning and its end in a file",
            "after each kill `pueued` again and `pueue start`: it comes back with its queue paused, on purpose, and takes \
             what ran for failed",
            "when nothing was left to do: `pueue restart --all-failed --in-place`. \"Called failed\" is before that, the \
             rest after it",
        ];
        let mut how = how.map(str::to_owned).to_vec();
        if self.refused > 0 {
            how.push(format!("{} starts ended by themselves and were made again", self.refused));
        }
        how
    }

    fn add(&mut self, tasks: &[String], load: &Load) -> Result<()> {
        must(self.command("pueue").args(["parallel", &load.at_once.to_string()]))?;
        // To add one takes longer than to do one.
        must(self.command("pueue").arg("pause"))?;
        let program = std::env::current_exe()?.display().to_string();
        let (place, millis) = (self.place.display().to_string(), load.millis.to_string());
        for task in tasks {
            let seed = load.seed.to_string();
            let line = [&program, "peer-task", &place, task, &millis, &seed].map(str::to_owned);
            must(self.command("pueue").args(["add", "--"]).args(line))?;
        }
        must(self.command("pueue").arg("start"))?;
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let path = self.place.join("log");
        let start = Instant::now();
        while self.status().is_err() {
            if let Some(daemon) = &mut self.daemon
                && daemon.try_wait()?.is_none()
            {
                if start.elapsed() > Duration::from_secs(60) {
                    let log = fs::read_to_string(&path)?;
                    return Err(format!("pueued does not answer:\n{log}").into());
                }
                sleep(Duration::from_millis(5));
                continue;
            }
            if self.daemon.take().is_some() {
                self.refused += 1;
                if self.refused > 100 {
                    let log = fs::read_to_string(&path)?;
                    return Err(format!("pueued ends at its start:\n{log}").into());
                }
                sleep(Duration::from_millis(100));
            }
            let log = OpenOptions::new().create(true).append(true).open(&path)?;
            let mut command = self.command("pueued");
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            self.daemon = Some(command.spawn()?);
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<bool> {
        let is_paused = self.status()?["groups"]["default"]["status"] == "Paused";
        must(self.command("pueue").arg("start"))?;
        Ok(is_paused)
    }

    fn daemon(&mut self) -> &mut Option<Child> {
        &mut self.daemon
    }

    fn is_idle(&mut self) -> Result<bool> {
        // A state is a word, or an object whose one key it is.
        let is_over = |status: &Value| status == "Done" || status.get("Done").is_some();
        Ok(self.count(|status| !is_over(status))? == 0)
    }

    fn done(&mut self) -> Result<usize> {
        self.count(|status| status["Done"]["result"] == "Success")
    }

    fn again(&mut self) -> Result<bool> {
        let failed = self
            .count(|status| status.get("Done").is_some_and(|done| done["result"] != "Success"))?;
        if failed > 0 {
            must(self.command("pueue").args(["restart", "--all-failed", "--in-place"]))?;
        }
        Ok(failed > 0)
    }
}
