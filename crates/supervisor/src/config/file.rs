//! `supervisor.toml` as it is written: what can be checked without knowing the rest is checked here, so
//! that the error shows the line.

use std::collections::BTreeMap;
use std::fs;

use gateway::{PriceSetting, Usd};
use protocol::{Limits, Wall, checked};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::GatewayMode;
use crate::cli::args::RuntimeChoice;
use crate::failure::Failure;
use crate::install::Installation;
use crate::keys::without_keys;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    #[serde(deserialize_with = "version")]
    version: (),
    #[serde(deserialize_with = "runtime")]
    pub(super) runtime: Option<RuntimeChoice>,
    pub(super) rehearsal: Option<bool>,
    pub(super) scenario: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) r#unsafe: Option<Vec<Wall>>,
    pub(super) image: Option<String>,
    pub(super) claude: Option<String>,
    pub(super) worker: Option<String>,
    pub(super) gateway: Option<GatewayMode>,
    pub(super) stagger: Option<bool>,
    #[serde(deserialize_with = "checked::count")]
    pub(super) max_running: Option<usize>,
    #[serde(deserialize_with = "checked::count")]
    pub(super) plan_max_tasks: Option<usize>,
    #[serde(deserialize_with = "checked::count")]
    pub(super) plan_max_depth: Option<usize>,
    #[serde(deserialize_with = "seconds")]
    pub(super) backoff_base: Option<f64>,
    #[serde(deserialize_with = "seconds")]
    pub(super) backoff_max: Option<f64>,
    #[serde(deserialize_with = "seconds")]
    pub(super) stop_grace: Option<f64>,
    pub(super) keys: KeysTable,
    pub(super) limits: LimitsTable,
    pub(super) budgets: Budgets,
    pub(super) prices: BTreeMap<Spanned<String>, PriceSetting>,
}

/// `[keys]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeysTable {
    pub(super) file: Option<Spanned<String>>,
    pub(super) command: Option<Spanned<Vec<String>>>,
    pub(super) workers: BTreeMap<Spanned<String>, KeyTable>,
}

/// `[keys.workers.<worker>]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeyTable {
    pub(super) file: Option<Spanned<String>>,
    pub(super) command: Option<Spanned<Vec<String>>>,
}

/// `[limits]`: a flattened [`Limits`] would lose the places of its numbers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsTable {
    #[serde(deserialize_with = "checked::count")]
    requests_per_minute: Option<u32>,
    #[serde(deserialize_with = "checked::count")]
    input_tokens_per_minute: Option<u64>,
    #[serde(deserialize_with = "checked::count")]
    output_tokens_per_minute: Option<u64>,
    #[serde(deserialize_with = "checked::count")]
    max_in_flight: Option<u32>,
    pub(super) models: BTreeMap<Spanned<String>, Limits>,
}

impl LimitsTable {
    /// Returns the limits of the whole account.
    pub(super) fn account(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            input_tokens_per_minute: self.input_tokens_per_minute,
            output_tokens_per_minute: self.output_tokens_per_minute,
            max_in_flight: self.max_in_flight,
        }
    }
}

/// What may be spent: `[budgets]`. What is absent has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// All workers together, in a day (UTC).
    #[serde(deserialize_with = "dollars")]
    pub usd_per_day: Option<Usd>,
    /// The same in tokens, read and written.
    #[serde(deserialize_with = "checked::count")]
    pub tokens_per_day: Option<u64>,
    /// A run that names no budget of its own.
    #[serde(deserialize_with = "dollars")]
    pub usd_per_run: Option<Usd>,
    /// The same in tokens, read and written.
    #[serde(deserialize_with = "checked::count")]
    pub tokens_per_run: Option<u64>,
}

impl Budgets {
    /// Returns whether any dollars are bounded.
    pub fn bounds_dollars(&self) -> bool {
        self.usd_per_day.is_some() || self.usd_per_run.is_some()
    }
}

/// Returns the file and its text; both empty where there is none.
///
/// # Errors
///
/// Bad input for a file that can't be read, or that has something wrong in it, with its place.
pub(super) fn read(installation: &Installation) -> Result<(File, String), Failure> {
    let path = installation.config();
    // To open a pipe would wait for whoever writes into it.
    if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Err(Failure::bad_input(format!("`{}` is no file", path.display()))
            .hint("Put a file there, or nothing: every setting has a default."));
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let message = format!("`{}` can't be read", path.display());
            return Err(Failure::bad_input(message).because(error));
        }
    };
    Ok((parse(&text)?, text))
}

/// Returns what a text says.
///
/// # Errors
///
/// Bad input, with its place.
pub(super) fn parse(text: &str) -> Result<File, Failure> {
    toml::from_str(text).map_err(|error| {
        let message = format!("`{}` is not a configuration", Installation::CONFIG);
        Failure::bad_input(message)
            // It shows the line, and that may be one where somebody has written the key itself.
            .because(without_keys(protocol::strict::explain_toml(&error)))
            .hint("Mend that line, or take it out: every setting has a default.")
    })
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match i64::deserialize(deserializer)? {
        found if found == i64::from(protocol::FORMAT_VERSION) => Ok(()),
        found => {
            let message = format!("`version` is {found}, and this supervisor reads 1");
            Err(D::Error::custom(message))
        }
    }
}

fn runtime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RuntimeChoice>, D::Error> {
    let text = String::deserialize(deserializer)?;
    super::parse_runtime(&text).map(Some).map_err(D::Error::custom)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let found = f64::deserialize(deserializer)?;
    if (0.0..=86_400.0).contains(&found) {
        return Ok(Some(found));
    }
    Err(D::Error::custom(format!("{found} must be from 0 to 86400 (seconds)")))
}

fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Usd>, D::Error> {
    Ok(checked::budget(deserializer)?.and_then(Usd::from_dollars))
}
