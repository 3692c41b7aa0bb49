//! The configuration: built-in, then `supervisor.toml`, then the environment, then flags; each value
//! with its origin.

mod check;
mod file;
mod key_source;
mod place;
mod show;

use std::collections::BTreeMap;
use std::fmt;

use gateway::PriceSetting;
use protocol::{Limits, Wall};
use serde::Deserialize;
use zeroize::Zeroizing;

pub use self::check::{is_alias, is_like};
pub use self::file::Budgets;
use self::file::File;
pub use self::key_source::{KeySettings, KeySource};
pub use self::place::{Place, Placed};
pub(crate) use self::show::Row;
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

/// A secret: it is never shown, and its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

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

/// How a container reaches its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMode {
    /// By a unix socket that it mounts.
    Socket,
    /// By TCP on an internal network, with a secret of its own: for engines that can't share a socket.
    Tcp,
}

/// The limits of the configuration: `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Of the whole account: each key has them.
    pub account: Limits,
    /// Of models: a full name, or the beginning of names and `*`.
    pub models: Vec<(Placed<String>, Limits)>,
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
    /// The key of the model's API in the environment.
    pub api_key: Setting<Option<Secret>>,
    /// Other places of keys.
    pub keys: KeySettings,
    /// How containers reach the gateway.
    pub gateway: Setting<GatewayMode>,
    /// Whether the first of the requests that share a prefix goes alone until it is in the prompt cache.
    pub stagger: Setting<bool>,
    /// How fast the model's API may be asked.
    pub limits: LimitSettings,
    /// What may be spent.
    pub budgets: Budgets,
    /// What models cost that are not in the built-in list, or cost something else here.
    pub prices: BTreeMap<String, PriceSetting>,
    /// Walls and limits of containers without which agents run, too.
    pub accepted: Setting<Vec<Wall>>,
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
        let (file, text) = file::read(installation)?;
        config.take_file(file, &text)?;
        config.take_environment(environment)?;
        config.check_address()?;
        config.runtime.set(flags.runtime, Origin::Flag("--runtime"));
        config.rehearsal.set(flags.rehearsal.then_some(true), Origin::Flag("--rehearsal"));
        Ok(config)
    }

    /// Returns the configuration that a text of `supervisor.toml` makes.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    #[cfg(feature = "fuzzing")]
    pub(crate) fn of_text(text: &str) -> Result<Self, Failure> {
        let mut config = Self::built_in();
        config.take_file(file::parse(text)?, text)?;
        Ok(config)
    }

    fn built_in() -> Self {
        Self {
            runtime: Setting::built_in(RuntimeChoice::Auto),
            rehearsal: Setting::built_in(false),
            scenario: Setting::built_in(None),
            base_url: Setting::built_in("https://api.anthropic.com".to_owned()),
            api_key: Setting::built_in(None),
            keys: KeySettings::default(),
            gateway: Setting::built_in(GatewayMode::Socket),
            stagger: Setting::built_in(true),
            limits: LimitSettings::default(),
            budgets: Budgets::default(),
            prices: BTreeMap::new(),
            accepted: Setting::built_in(Vec::new()),
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

    fn take_file(&mut self, file: File, text: &str) -> Result<(), Failure> {
        let from = Origin::File;
        self.runtime.set(file.runtime, from);
        self.rehearsal.set(file.rehearsal, from);
        self.scenario.set(file.scenario.map(Some), from);
        self.base_url.set(file.base_url, from);
        self.accepted.set(file.r#unsafe, from);
        self.image.set(file.image, from);
        self.claude.set(file.claude.map(Some), from);
        self.worker.set(file.worker.map(Some), from);
        self.max_running.set(file.max_running, from);
        self.plan_max_tasks.set(file.plan_max_tasks, from);
        self.plan_max_depth.set(file.plan_max_depth, from);
        self.backoff_base.set(file.backoff_base, from);
        self.backoff_max.set(file.backoff_max, from);
        self.stop_grace.set(file.stop_grace, from);
        self.gateway.set(file.gateway, from);
        self.stagger.set(file.stagger, from);
        self.keys = KeySettings::of(text, file.keys)?;
        self.limits.account = file.limits.account();
        for (pattern, limits) in file.limits.models {
            let pattern = Placed::of(text, pattern);
            check::check_pattern(&pattern, true)?;
            self.limits.models.push((pattern, limits));
        }
        self.budgets = file.budgets;
        for (model, price) in file.prices {
            let model = Placed::of(text, model);
            check::check_pattern(&model, false)?;
            self.prices.insert(model.value, price);
        }
        Ok(())
    }

    fn take_environment(
        &mut self,
        get: impl Fn(&'static str) -> Option<String>,
    ) -> Result<(), Failure> {
        // An empty variable is what a shell leaves when somebody means "none".
        let get = |name| get(name).filter(|value| !value.is_empty());
        let from = Origin::Environment;
        let runtime = get("SUPERVISOR_RUNTIME").as_deref().map(parse_runtime).transpose();
        let runtime = runtime.map_err(|why| bad("SUPERVISOR_RUNTIME", why))?;
        self.runtime.set(runtime, from("SUPERVISOR_RUNTIME"));
        let rehearsal = get("SUPERVISOR_REHEARSAL").map(|text| match text.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(bad("SUPERVISOR_REHEARSAL", "must be `true` or `false`")),
        });
        self.rehearsal.set(rehearsal.transpose()?, from("SUPERVISOR_REHEARSAL"));
        self.scenario.set(get("SUPERVISOR_SCENARIO").map(Some), from("SUPERVISOR_SCENARIO"));
        self.base_url.set(get("ANTHROPIC_BASE_URL"), from("ANTHROPIC_BASE_URL"));
        let key = get("ANTHROPIC_API_KEY").map(|key| Some(Secret::new(key)));
        self.api_key.set(key, from("ANTHROPIC_API_KEY"));
        self.image.set(get("SUPERVISOR_IMAGE"), from("SUPERVISOR_IMAGE"));
        self.claude.set(get("SUPERVISOR_CLAUDE").map(Some), from("SUPERVISOR_CLAUDE"));
        self.worker.set(get("SUPERVISOR_WORKER").map(Some), from("SUPERVISOR_WORKER"));
        Ok(())
    }

    /// Says what is wrong with the address of the model's API. It is not repeated: somebody may have put a password
    /// into it.
    fn check_address(&self) -> Result<(), Failure> {
        let parsed = gateway::Upstream::parse(&self.base_url.value);
        parsed.map(drop).map_err(|error| {
            let hint = error.hint();
            let what = format!("`base_url` ({}) is no address", self.base_url.origin);
            Failure::bad_input(what).because(error).hint(hint)
        })
    }

    /// Returns whether a key of the model's API is configured at all.
    pub fn has_key(&self) -> bool {
        self.api_key.value.is_some() || self.keys.is_some()
    }

    /// Returns whether the model is the built-in stand-in: where it is asked for, or where there is
    /// neither a key nor an address of one's own.
    pub fn is_rehearsal(&self, some_login: bool) -> bool {
        self.rehearsal.value
            || (!self.has_key() && self.base_url.origin == Origin::BuiltIn && !some_login)
    }
}

fn parse_runtime(text: &str) -> Result<RuntimeChoice, &'static str> {
    clap::ValueEnum::from_str(text, false).map_err(|_| "must be `auto`, `docker` or `process`")
}

fn bad(name: &str, why: &str) -> Failure {
    Failure::bad_input(format!("the setting `{name}` {why}"))
        .hint("`supervisor doctor --config` shows each setting with its origin.")
}

#[cfg(test)]
mod tests;
