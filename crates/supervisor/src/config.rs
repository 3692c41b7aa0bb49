//! The configuration: built-in, then `supervisor.toml`, then the environment, then flags; each value
//! with its origin.

use std::fmt;
use std::fs;

use serde::Deserialize;

use crate::cli::args::RuntimeChoice;
use crate::failure::Failure;
use crate::install::Installation;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is built in.
    BuiltIn,
    /// It stands in `supervisor.toml`.
    File,
    /// It is in the environment variable of that name.
    Environment(&'static str),
    /// It was given on the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File => f.write_str(Installation::CONFIG),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn built_in(value: T) -> Self {
        Self { value, origin: Origin::BuiltIn }
    }

    fn set(&mut self, value: Option<T>, origin: Origin) {
        if let Some(value) = value {
            *self = Self { value, origin };
        }
    }
}

/// A secret: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a secret)")
    }
}

/// The configuration of a daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// What runs the workers.
    pub runtime: Setting<RuntimeChoice>,
    /// Whether the built-in stand-in is used even where there is a key.
    pub rehearsal: Setting<bool>,
    /// A script for the stand-in, relative to the installation.
    pub scenario: Setting<Option<String>>,
    /// The model's API.
    pub base_url: Setting<String>,
    /// The key of the model's API.
    pub api_key: Setting<Option<Secret>>,
    /// The image of the workers' containers.
    pub image: Setting<String>,
    /// The Claude Code CLI for the process runtime; by default the one that `make up` fetched.
    pub claude: Setting<Option<String>>,
    /// The worker's program; by default the one beside this program.
    pub worker: Setting<Option<String>>,
    /// The most attempts at once.
    pub max_running: Setting<usize>,
    /// The most tasks of a plan.
    pub plan_max_tasks: Setting<usize>,
    /// The longest chain of a plan.
    pub plan_max_depth: Setting<usize>,
    /// Seconds: the longest wait before a second attempt.
    pub backoff_base: Setting<f64>,
    /// Seconds: the longest wait before any attempt.
    pub backoff_max: Setting<f64>,
    /// Seconds that an attempt has to stop before its replica is stopped.
    pub stop_grace: Setting<f64>,
}

/// The version of the CLI that the image and the cache hold.
pub const CLI_VERSION: &str = "2.1.327";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    version: Option<u32>,
    runtime: Option<String>,
    rehearsal: Option<bool>,
    scenario: Option<String>,
    base_url: Option<String>,
    image: Option<String>,
    claude: Option<String>,
    worker: Option<String>,
    max_running: Option<usize>,
    plan_max_tasks: Option<usize>,
    plan_max_depth: Option<usize>,
    backoff_base: Option<f64>,
    backoff_max: Option<f64>,
    stop_grace: Option<f64>,
}

/// What the command line says about the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// `--runtime`
    pub runtime: Option<RuntimeChoice>,
    /// `--rehearsal`
    pub rehearsal: bool,
}

impl Config {
    /// Returns the configuration of an installation.
    ///
    /// # Errors
    ///
    /// Bad input for a file that can't be read or has a wrong value, with its place.
    pub fn load(
        installation: &Installation,
        flags: Flags,
        environment: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let mut config = Self::built_in();
        config.take_file(read(installation)?)?;
        config.take_environment(environment)?;
        config.runtime.set(flags.runtime, Origin::Flag("--runtime"));
        config.rehearsal.set(flags.rehearsal.then_some(true), Origin::Flag("--rehearsal"));
        config.check()?;
        Ok(config)
    }

    fn built_in() -> Self {
        Self {
            runtime: Setting::built_in(RuntimeChoice::Auto),
            rehearsal: Setting::built_in(false),
            scenario: Setting::built_in(None),
            base_url: Setting::built_in("https://api.anthropic.com".to_owned()),
            api_key: Setting::built_in(None),
            image: Setting::built_in(format!("supervisor-worker:{CLI_VERSION}")),
            claude: Setting::built_in(None),
            worker: Setting::built_in(None),
            max_running: Setting::built_in(8),
            plan_max_tasks: Setting::built_in(200),
            plan_max_depth: Setting::built_in(50),
            backoff_base: Setting::built_in(1.0),
            backoff_max: Setting::built_in(60.0),
            stop_grace: Setting::built_in(15.0),
        }
    }

    fn take_file(&mut self, file: File) -> Result<(), Failure> {
        if let Some(version) = file.version.filter(|&version| version != protocol::FORMAT_VERSION) {
            return Err(bad("version", &format!("is {version}, and this supervisor reads 1")));
        }
        let from = Origin::File;
        let runtime = file.runtime.as_deref().map(parse_runtime).transpose()?;
        self.runtime.set(runtime, from);
        self.rehearsal.set(file.rehearsal, from);
        self.scenario.set(file.scenario.map(Some), from);
        self.base_url.set(file.base_url, from);
        self.image.set(file.image, from);
        self.claude.set(file.claude.map(Some), from);
        self.worker.set(file.worker.map(Some), from);
        self.max_running.set(file.max_running, from);
        self.plan_max_tasks.set(file.plan_max_tasks, from);
        self.plan_max_depth.set(file.plan_max_depth, from);
        self.backoff_base.set(file.backoff_base, from);
        self.backoff_max.set(file.backoff_max, from);
        self.stop_grace.set(file.stop_grace, from);
        Ok(())
    }

    fn take_environment(
        &mut self,
        get: impl Fn(&'static str) -> Option<String>,
    ) -> Result<(), Failure> {
        // An empty variable is what a shell leaves when somebody means "none".
        let get = |name| get(name).filter(|value| !value.is_empty());
        let from = Origin::Environment;
        let runtime = get("SUPERVISOR_RUNTIME").as_deref().map(parse_runtime).transpose()?;
        self.runtime.set(runtime, from("SUPERVISOR_RUNTIME"));
        let rehearsal = get("SUPERVISOR_REHEARSAL").map(|text| match text.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(bad("SUPERVISOR_REHEARSAL", "must be `true` or `false`")),
        });
        self.rehearsal.set(rehearsal.transpose()?, from("SUPERVISOR_REHEARSAL"));
        self.scenario.set(get("SUPERVISOR_SCENARIO").map(Some), from("SUPERVISOR_SCENARIO"));
        self.base_url.set(get("ANTHROPIC_BASE_URL"), from("ANTHROPIC_BASE_URL"));
        let key = get("ANTHROPIC_API_KEY").map(|key| Some(Secret(key)));
        self.api_key.set(key, from("ANTHROPIC_API_KEY"));
        self.image.set(get("SUPERVISOR_IMAGE"), from("SUPERVISOR_IMAGE"));
        self.claude.set(get("SUPERVISOR_CLAUDE").map(Some), from("SUPERVISOR_CLAUDE"));
        self.worker.set(get("SUPERVISOR_WORKER").map(Some), from("SUPERVISOR_WORKER"));
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let at_least_one = [
            ("max_running", self.max_running.value),
            ("plan_max_tasks", self.plan_max_tasks.value),
            ("plan_max_depth", self.plan_max_depth.value),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(bad(name, "must be at least 1"));
        }
        let seconds = [
            ("backoff_base", self.backoff_base.value),
            ("backoff_max", self.backoff_max.value),
            ("stop_grace", self.stop_grace.value),
        ];
        let good = |value: f64| value.is_finite() && (0.0..=86_400.0).contains(&value);
        match seconds.into_iter().find(|(_, value)| !good(*value)) {
            Some((name, _)) => Err(bad(name, "must be from 0 to 86400 (seconds)")),
            None => Ok(()),
        }
    }

    /// Returns each setting as it is shown: name, value, origin. No secret is among them.
    pub fn table(&self) -> Vec<(&'static str, String, Origin)> {
        fn row<T>(
            name: &'static str,
            setting: &Setting<T>,
            show: impl Fn(&T) -> String,
        ) -> (&'static str, String, Origin) {
            (name, show(&setting.value), setting.origin)
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        vec![
            row("runtime", &self.runtime, |value| format!("{value:?}").to_lowercase()),
            row("rehearsal", &self.rehearsal, bool::to_string),
            row("scenario", &self.scenario, text),
            row("base_url", &self.base_url, Clone::clone),
            row("api_key", &self.api_key, |key| match key {
                Some(_) => "(set; not shown)".to_owned(),
                None => "(none)".to_owned(),
            }),
            row("image", &self.image, Clone::clone),
            row("claude", &self.claude, text),
            row("worker", &self.worker, text),
            row("max_running", &self.max_running, usize::to_string),
            row("plan_max_tasks", &self.plan_max_tasks, usize::to_string),
            row("plan_max_depth", &self.plan_max_depth, usize::to_string),
            row("backoff_base", &self.backoff_base, f64::to_string),
            row("backoff_max", &self.backoff_max, f64::to_string),
            row("stop_grace", &self.stop_grace, f64::to_string),
        ]
    }

    /// Returns whether the model is the built-in stand-in: where it is asked for, or where there is
    /// neither a key nor an address of one's own.
    pub fn is_rehearsal(&self, some_login: bool) -> bool {
        self.rehearsal.value
            || (self.api_key.value.is_none()
                && self.base_url.origin == Origin::BuiltIn
                && !some_login)
    }
}

fn read(installation: &Installation) -> Result<File, Failure> {
    let path = installation.config();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => {
            let message = format!("`{}` can't be read", path.display());
            return Err(Failure::bad_input(message).because(error));
        }
    };
    toml::from_str(&text).map_err(|error| {
        let message = format!("`{}` is not a configuration", Installation::CONFIG);
        Failure::bad_input(message).because(protocol::strict::explain_toml(&error))
    })
}

fn parse_runtime(text: &str) -> Result<RuntimeChoice, Failure> {
    clap::ValueEnum::from_str(text, false)
        .map_err(|_| bad("runtime", "must be `auto`, `docker` or `process`"))
}

fn bad(name: &str, why: &str) -> Failure {
    Failure::bad_input(format!("the setting `{name}` {why}"))
        .hint("`supervisor doctor --config` shows each setting with its origin.")
}

#[cfg(test)]
mod tests;
