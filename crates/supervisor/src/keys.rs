//! The keys to the model's API: read once, held in this process's memory, added by the gateway.
//!
//! A key comes from `ANTHROPIC_API_KEY` (see [`handover`]), from a [file](KeySource::File), or from what a
//! [command](KeySource::Command) prints; it is one for all workers, or a worker's own. Who has the same key
//! shares an [`Account`], and with it the limits that the API has for that.

mod command;
mod file;
pub mod handover;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use gateway::{Credential, InvalidCredential};
use protocol::{Auth, WorkerId};
use tokio::time::sleep;

use crate::config::{Config, KeySource, Place, Placed};
use crate::failure::Failure;
use crate::install::Installation;
use crate::workers::Worker;

/// The longest key that is read, in bytes. Those that there are have about a hundred.
const MAX_BYTES: usize = 4096;

/// Whose limits and whose bill: workers with the same key have the same account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(pub u32);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}", self.0)
    }
}

/// Who have their key from one place, and get another one together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Of(Source),
    /// Who have no key from here.
    Without(Account),
}

/// Where a worker's key comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The environment in which the daemon was started.
    Environment,
    /// The configuration.
    Configured(KeySource),
}

/// A key that was read.
#[derive(Clone, Debug)]
struct Key {
    credential: Arc<Credential>,
    account: Account,
}

/// The keys of a daemon.
pub struct Keys {
    installation: Installation,
    /// Where each worker's key comes from; those are missing that have none.
    sources: BTreeMap<WorkerId, (Source, Option<Place>)>,
    /// The accounts of workers that have none.
    others: BTreeMap<WorkerId, Account>,
    held: Mutex<Held>,
}

/// The keys that were read, and the next account.
#[derive(Debug, Default)]
struct Held {
    keys: BTreeMap<Source, Key>,
    next: u32,
}

impl Keys {
    /// Returns no keys: for a rehearsal.
    pub fn none(installation: &Installation) -> Self {
        Self {
            installation: installation.clone(),
            sources: BTreeMap::new(),
            others: BTreeMap::new(),
            held: Mutex::default(),
        }
    }

    /// Reads all keys that the workers need. A command is run once, however many workers have its key;
    /// commands run side by side.
    ///
    /// # Errors
    ///
    /// Bad input for the first source, in the order of the workers' names, that gives no key: with its place
    /// in `supervisor.toml`, never with what it gave. Also when there is a key for all in the environment
    /// and another in the file: whose account pays is not guessed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it kills the commands that run.
    pub async fn load(
        installation: &Installation,
        config: &Config,
        workers: &BTreeMap<WorkerId, Worker>,
    ) -> Result<Self, Failure> {
        if let (Some(_), Some(all)) = (&config.api_key.value, &config.keys.all) {
            let what = format!("the key comes from {}, and {} has one too", all.value, ENVIRONMENT);
            return Err(all.place.refused(what).hint(
                "Unset ANTHROPIC_API_KEY, or take the other out: only you know which account is to pay.",
            ));
        }
        let mut keys = Self::none(installation);
        for worker in workers.values().filter(|worker| worker.config.auth == Auth::Gateway) {
            if let Some(source) = source(config, &worker.id) {
                keys.sources.insert(worker.id.clone(), source);
            }
        }
        let mut wanted: Vec<&(Source, Option<Place>)> = Vec::new();
        for source in keys.sources.values() {
            if !wanted.iter().any(|other| other.0 == source.0) {
                wanted.push(source);
            }
        }
        let read = wanted.iter().map(|(source, place)| read(installation, config, source, *place));
        let mut held = Held::default();
        for ((source, _), credential) in wanted.iter().zip(join_all(read).await) {
            held.put(source, Arc::new(credential?));
        }
        // Who signs in by itself has an account of its own; the rest have none, and are taken together.
        let nobodys = held.new_account();
        for worker in workers.values().filter(|worker| !keys.sources.contains_key(&worker.id)) {
            let account = match worker.config.auth {
                Auth::Home => held.new_account(),
                Auth::Gateway => nobodys,
            };
            keys.others.insert(worker.id.clone(), account);
        }
        keys.held = Mutex::new(held);
        Ok(keys)
    }

    /// Returns the key that the gateway adds to the requests of a worker; `None` when it adds none.
    pub fn credential(&self, worker: &WorkerId) -> Option<Arc<Credential>> {
        let (source, _) = self.sources.get(worker)?;
        self.held().keys.get(source).map(|key| Arc::clone(&key.credential))
    }

    /// Returns with whom a worker has its key.
    pub(crate) fn holder(&self, worker: &WorkerId) -> Holder {
        match self.sources.get(worker) {
            Some((source, _)) => Holder::Of(source.clone()),
            None => Holder::Without(self.account(worker)),
        }
    }

    /// Returns on whose account the requests of a worker go: that of all who have the same key. It changes only by
    /// [`reload`](Self::reload).
    pub fn account(&self, worker: &WorkerId) -> Account {
        let source = self.sources.get(worker);
        let own = source.and_then(|(source, _)| Some(self.held().keys.get(source)?.account));
        own.or_else(|| self.others.get(worker).copied()).unwrap_or(Account(0))
    }

    /// Returns where keys come from, to be shown, with the workers that have theirs from there.
    pub fn origins(&self) -> BTreeMap<String, Vec<&WorkerId>> {
        let mut origins: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (worker, (source, _)) in &self.sources {
            origins.entry(source.to_string()).or_default().push(worker);
        }
        origins
    }

    /// Reads a worker's key again, from the place that the configuration named at the start: for after a
    /// person has put a new one there. All workers with a key from there get the new one.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load): the old key is kept then. Unavailable for a key from the environment,
    /// which nobody can change from outside, and for a worker without one.
    pub async fn reload(&self, worker: &WorkerId) -> Result<Arc<Credential>, Failure> {
        let Some((source, place)) = self.sources.get(worker) else {
            let message = format!("{worker} has no key that could be read again");
            return Err(Failure::unavailable(message)
                .hint(format!("It signs in by itself: `supervisor auth login {worker}`.")));
        };
        let Source::Configured(from) = source else {
            let message =
                format!("the key of {worker} comes from {ENVIRONMENT}, which is read once");
            return Err(Failure::unavailable(message).hint(
                "Set the new key and start again: supervisor down; make up. A key from `[keys]` in \
                 supervisor.toml can be read again.",
            ));
        };
        let credential = Arc::new(read_from(&self.installation, from, *place).await?);
        self.held().put(source, Arc::clone(&credential));
        Ok(credential)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes in a key that was just read. Its account is that of others with the same key, else the one that
    /// this source had alone, else a new one.
    fn put(&mut self, source: &Source, credential: Arc<Credential>) {
        let own = self.keys.remove(source).map(|key| key.account);
        let same = self.keys.values().find(|key| key.credential.is_same_as(&credential));
        let alone = |own: &Account| self.keys.values().all(|key| key.account != *own);
        let account = same.map(|key| key.account).or_else(|| own.filter(alone));
        let account = account.unwrap_or_else(|| self.new_account());
        self.keys.insert(source.clone(), Key { credential, account });
    }

    fn new_account(&mut self) -> Account {
        self.next += 1;
        Account(self.next)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("sources", &self.sources).finish_non_exhaustive()
    }
}

const ENVIRONMENT: &str = "$ANTHROPIC_API_KEY";

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str(ENVIRONMENT),
            Self::Configured(source) => source.fmt(f),
        }
    }
}

/// Returns where a worker's key comes from: its own place, else that for all, else the environment.
fn source(config: &Config, worker: &WorkerId) -> Option<(Source, Option<Place>)> {
    let configured = config.keys.workers.get(worker).or(config.keys.all.as_ref());
    match configured {
        Some(Placed { value, place }) => Some((Source::Configured(value.clone()), Some(*place))),
        None => config.api_key.value.is_some().then_some((Source::Environment, None)),
    }
}

async fn read(
    installation: &Installation,
    config: &Config,
    source: &Source,
    place: Option<Place>,
) -> Result<Credential, Failure> {
    match source {
        Source::Configured(from) => read_from(installation, from, place).await,
        Source::Environment => {
            let key = config.api_key.value.as_ref().map(|key| key.expose().to_owned());
            Credential::api_key(key.unwrap_or_default()).map_err(|why| {
                let message = format!("{ENVIRONMENT} is no key");
                no_key(Failure::bad_input(message), why, "Copy the key again")
            })
        }
    }
}

/// Reads a key from where the configuration says.
///
/// # Errors
///
/// Bad input, as [`Keys::load`].
pub(crate) async fn read_from(
    installation: &Installation,
    source: &KeySource,
    place: Option<Place>,
) -> Result<Credential, Failure> {
    let refused = |what: String| match place {
        Some(place) => place.refused(what),
        None => Failure::bad_input(what),
    };
    match source {
        KeySource::File(path) => {
            let key = file::read(installation, path).map_err(|fault| fault.failure(refused))?;
            Credential::api_key(key).map_err(|why| {
                let what = format!("what is in {source} is no key");
                no_key(refused(what), why, "Put the key there, and nothing else")
            })
        }
        KeySource::Command(command) => {
            let key = command::run(installation.root(), command, sleep(command::LIMIT)).await;
            let key = key.map_err(|fault| fault.failure(&command[0], refused))?;
            Credential::api_key(key).map_err(|why| {
                let what = format!("what {source} printed is no key");
                no_key(refused(what), why, "It must print the key, and nothing else")
            })
        }
    }
}

fn no_key(failure: Failure, why: InvalidCredential, cure: &str) -> Failure {
    let hint = match why {
        InvalidCredential::BadCharacter => {
            format!("{cure}: without quotes, spaces or line breaks.")
        }
        _ => format!("{cure}."),
    };
    failure.because(why).hint(hint)
}

/// Returns what was read as text, without white space around it. It is the caller's to see that both are
/// overwritten.
pub(crate) fn text_of(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(|text| text.trim().to_owned())
}

/// Returns a text that is to be shown without the words in it that begin as the keys of this API do: somebody
/// may have written one into the configuration, or a command may have said it.
pub(crate) fn without_keys(mut text: String) -> String {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut from = 0;
    while let Some(at) = text[from..].find("sk-").map(|at| from + at) {
        let end = text[at..].find(|c| !is_key(c)).map_or(text.len(), |len| at + len);
        // `task-1` is a word of ours.
        let begins_a_word = !text[..at].ends_with(is_key);
        from = if begins_a_word {
            text.replace_range(at..end, HIDDEN);
            at + HIDDEN.len()
        } else {
            end
        };
    }
    text
}

/// What stands in the place of a secret.
const HIDDEN: &str = "…";
