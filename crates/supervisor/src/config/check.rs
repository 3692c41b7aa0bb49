//! What only the rest of the installation can say of a configuration: which workers there are, and which
//! models.

use std::collections::BTreeMap;

use gateway::Prices;
use protocol::strict::nearest;
use protocol::{Auth, WorkerId};

use super::Config;
use super::key_source::NO_WORKER;
use super::place::Placed;
use crate::failure::Failure;
use crate::workers::Worker;

/// Returns whether the CLI makes a full name of this one: no request has it.
pub fn is_alias(model: &str) -> bool {
    matches!(model, "opus" | "sonnet" | "haiku" | "fable")
}

impl Config {
    /// Returns what models cost: the list prices, and those of this configuration.
    pub fn all_prices(&self) -> Prices {
        Prices::built_in().with(&self.prices)
    }

    /// Checks that the workers that have keys are there, and that the gateway can add them.
    ///
    /// # Errors
    ///
    /// Bad input for the first that is not so, with its place.
    pub fn check_workers(&self, workers: &BTreeMap<WorkerId, Worker>) -> Result<(), Failure> {
        for (name, source) in &self.keys.workers {
            let place = source.place;
            let Some(worker) = workers.get(name) else {
                let like = nearest(name.as_str(), workers.keys().map(WorkerId::as_str));
                let hint = like.map_or(NO_WORKER.to_owned(), |l| format!("Did you mean `{l}`?"));
                return Err(place.refused(format!("there is no worker `{name}`")).hint(hint));
            };
            if worker.config.auth == Auth::Home {
                let what = format!("{name} has a login of its own, and needs no key");
                return Err(place.refused(what).hint(format!(
                    "Take the key out, or `auth = \"home\"` in workspaces/{name}/worker.toml."
                )));
            }
        }
        Ok(())
    }

    /// Checks that each limit for models is about one that is known: that has a price, by the built-in list or
    /// by this configuration, or that a worker asks for. A limit on a misspelled model
    /// would hold nothing back.
    ///
    /// # Errors
    ///
    /// Bad input for the first that is not so, with its place.
    pub fn check_models(&self, workers: &BTreeMap<WorkerId, Worker>) -> Result<(), Failure> {
        let prices = self.all_prices();
        let mut known: Vec<&str> = prices.iter().map(|(model, _)| model).collect();
        let own = workers.values().filter_map(|worker| worker.config.model.as_deref());
        known.extend(own.filter(|model| !is_alias(model)));
        for (Placed { value: pattern, place }, _) in &self.limits.models {
            if known.iter().any(|model| is_like(pattern, model)) {
                continue;
            }
            let word = pattern.trim_end_matches('*');
            let hint = match nearest(word, known.iter().copied()) {
                Some(like) => format!("Did you mean `{like}`?"),
                None => "The results of its tasks have its full name.".to_owned(),
            };
            let what = format!("`{pattern}` is no model that is known");
            return Err(place.refused(what).hint(format!(
                "{hint} A new model is made known by its price: [prices.\"its-full-name\"]."
            )));
        }
        Ok(())
    }
}

/// Returns whether a model is meant by a pattern: its name, or the beginning of it and `*`.
pub fn is_like(pattern: &str, model: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => model.starts_with(beginning),
        None => model == pattern,
    }
}

/// Checks the form of a pattern or a name of models.
pub(super) fn check_pattern(name: &Placed<String>, may_be_many: bool) -> Result<(), Failure> {
    let Placed { value, place } = name;
    let stem = if may_be_many { value.strip_suffix('*').unwrap_or(value) } else { value };
    if value.is_empty() || !stem.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
        let hint = match may_be_many {
            true => "Write its full name, or the beginning of it and a `*` as the last character.",
            false => "Write its full name: a price is for one model.",
        };
        return Err(place.refused(format!("`{value}` is no name of a model")).hint(hint));
    }
    Ok(())
}
