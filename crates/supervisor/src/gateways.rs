//! The gateways of the replicas: each its socket, all of them the way to one model's API.

mod audit;
mod booking;
mod money;
mod way_out;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use gateway::pace::{AccountId, PaceConfig};
use gateway::{Account, EgressPolicy, Gateway, Ledger, Replica, Upstream};
use protocol::{ReplicaId, Time, WorkerId};
use rehearsal::{Rehearsal, Scenario};
use tokio::net::UnixListener;
use tracing::{info, warn};

use crate::config::Config;
use crate::failure::Failure;
use crate::install::{Installation, cant_write, private_folder};
use crate::keys::{Holder, Keys};
use crate::runtime::{ReplicaSpec, RuntimeError};
use crate::workers::Worker;
use money::Defaults;
pub use way_out::WayOut;

/// The gateways of a daemon.
#[derive(Debug)]
pub struct Gateways {
    gateway: Gateway,
    pub(crate) keys: Keys,
    /// The accounts that were used.
    accounts: Mutex<BTreeMap<Holder, Arc<Account>>>,
    /// What may be spent where nobody said otherwise.
    defaults: Defaults,
    sockets: PathBuf,
    /// Where the model's API is, to be shown.
    upstream: String,
    rehearsal: bool,
}

impl Gateways {
    /// Makes the way to the model's API, and the API itself in a rehearsal. What was spent before is read
    /// from the ledger; a rehearsal has one of its own.
    ///
    /// # Errors
    ///
    /// Bad input for an address or a scenario that can't be; unavailable when a socket can't be made or the
    /// ledger can't be read.
    pub fn start(
        installation: &Installation,
        config: &Config,
        workers: &BTreeMap<WorkerId, Worker>,
        keys: Keys,
        sockets: &Path,
        rehearsal: bool,
    ) -> Result<Self, Failure> {
        let address = if rehearsal {
            let socket = sockets.join("rehearsal.sock");
            rehearse(installation, config, &socket)?;
            format!("unix:{}", socket.display())
        } else {
            config.base_url.value.clone()
        };
        let upstream = Upstream::parse(&address).map_err(|error| {
            let hint = error.hint();
            Failure::bad_input("the model's API has no address").because(error).hint(hint)
        })?;
        let shown = if rehearsal { "rehearsal".to_owned() } else { upstream.to_string() };
        let file = installation.ledger(rehearsal);
        let (ledger, notices) = Ledger::open(Some(&file), wall_clock).map_err(|error| {
            let hint = error.hint();
            Failure::unavailable("what was spent can't be read").because(error).hint(hint)
        })?;
        tokio::spawn(booking::warn_of(notices));
        tokio::spawn(booking::keep_safe(ledger.clone()));
        let gateway = Gateway::new(upstream, config.all_prices(), ledger, pace(config, workers));
        let gateway = gateway.map_err(|error| {
            let hint = error.hint();
            Failure::unavailable("the gateway can't be made").because(error).hint(hint)
        })?;
        let gateway = if config.stagger.value { gateway } else { gateway.without_stagger() };
        let audit = audit::start(installation).map_err(|error| {
            Failure::unavailable("a thread can't be started")
                .because(error)
                .hint("Let this user have more processes: `ulimit -u`.")
        })?;
        let gateway = gateway.with_audit(audit);
        let gateways = Self {
            gateway,
            keys,
            accounts: Mutex::default(),
            defaults: Defaults::of(config, workers),
            sockets: sockets.join("gateway"),
            upstream: shown,
            rehearsal,
        };
        gateways.set_daily_budgets();
        Ok(gateways)
    }

    /// Returns the same, served by threads of their own, and not by the daemon's.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads or file descriptors.
    pub fn on_threads(self) -> Result<Self, Failure> {
        let gateway = self.gateway.clone().with_own_threads().map_err(|error| {
            Failure::unavailable("the gateway's threads can't be started")
                .because(error)
                .hint("Let this user have more processes and open files: `ulimit -u`, `ulimit -n`.")
        })?;
        Ok(Self { gateway, ..self })
    }

    /// Returns gateways that nobody can reach, and that run nothing.
    #[cfg(any(test, feature = "simulate"))]
    pub(crate) fn simulated(
        config: &Config,
        workers: &BTreeMap<WorkerId, Worker>,
        keys: Keys,
    ) -> Self {
        let upstream = Upstream::parse("http://127.0.0.1:9").unwrap_or_else(|_| unreachable!());
        let (ledger, _) = Ledger::open(None, || Time::ZERO).unwrap_or_else(|_| unreachable!());
        let gateway = Gateway::new(upstream, config.all_prices(), ledger, pace(config, workers));
        Self {
            gateway: gateway.unwrap_or_else(|_| unreachable!()),
            keys,
            accounts: Mutex::default(),
            defaults: Defaults::of(config, workers),
            sockets: PathBuf::from("/s/gateway"),
            upstream: String::new(),
            rehearsal: false,
        }
    }

    /// Returns where the model's API is, to be shown.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Returns whether the model is the built-in stand-in.
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal
    }

    /// Returns what decides about requests, to look at.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Returns the folder of a replica's socket: the container mounts the folder, so that a socket that
    /// is made anew is seen.
    pub fn folder(&self, replica: &ReplicaId) -> PathBuf {
        self.sockets.join(replica.as_str())
    }

    /// Opens the way out of a replica: a socket, or a port at the address `door`. It is closed when it is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Refused`] when it can't be made.
    pub async fn listen(
        &self,
        spec: &ReplicaSpec,
        door: Option<IpAddr>,
    ) -> Result<WayOut, RuntimeError> {
        #[cfg(feature = "simulate")]
        if door.is_none() {
            return Ok(WayOut::Simulated);
        }
        let refused = |source| {
            let (action, name) = ("open the gateway of", spec.replica.to_string());
            RuntimeError::Refused { action, name, source }
        };
        // Whoever can open the socket can use the key, and the folder may have been cleaned up since it
        // was made; in `/tmp` anybody could make it anew.
        if let Some(root) = self.sockets.parent() {
            let uid = rustix::process::geteuid().as_raw();
            private_folder(root, uid).map_err(|error| refused(error.into()))?;
        }
        let folder = self.folder(&spec.replica);
        let replica = Replica {
            id: spec.replica.clone(),
            worker: spec.worker.clone(),
            account: self.account(&spec.worker),
            egress: EgressPolicy { rules: spec.egress.clone() },
            requests: spec.requests.clone(),
        };
        WayOut::open(&self.gateway, replica, &folder, door).await.map_err(refused)
    }

    /// Returns the account on which a worker asks the model. Workers with a key from the same place share it; others
    /// with the same key have one of the same name, and with it the same limits.
    pub(crate) fn account(&self, worker: &WorkerId) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(self.keys.holder(worker)).or_insert_with(|| {
            Arc::new(Account::new(self.account_id(worker), self.keys.credential(worker)))
        });
        Arc::clone(account)
    }

    fn account_id(&self, worker: &WorkerId) -> AccountId {
        AccountId::new(self.keys.account(worker).to_string())
    }

    /// Reads the keys again that can be, and gives all another chance: somebody says that something was done
    /// about those that were refused. Requests wait meanwhile.
    pub async fn renew_keys(&self, workers: &[WorkerId]) {
        let mut done = BTreeSet::new();
        for worker in workers.iter().filter(|worker| done.insert(self.keys.holder(worker))) {
            let account = self.account(worker);
            let fetching = async {
                match self.keys.reload(worker).await {
                    Ok(credential) => Some((self.account_id(worker), credential)),
                    Err(failure) => {
                        let why = failure.causes().join(": ");
                        warn!(%worker, %failure, why, "The key is as it was.");
                        None
                    }
                }
            };
            account.renew(fetching).await;
        }
    }
}

/// Returns the time by the wall's clock: days are the world's.
fn wall_clock() -> Time {
    Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

fn pace(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> PaceConfig {
    let of = |limits: &protocol::Limits| gateway::pace::Limits {
        requests_per_minute: limits.requests_per_minute,
        input_tokens_per_minute: limits.input_tokens_per_minute,
        output_tokens_per_minute: limits.output_tokens_per_minute,
        max_in_flight: limits.max_in_flight,
    };
    let models = config.limits.models.iter();
    PaceConfig {
        account: of(&config.limits.account),
        models: models.map(|(pattern, limits)| (pattern.value.clone(), of(limits))).collect(),
        workers: workers.values().map(|w| (w.id.clone(), of(&w.config.limits))).collect(),
    }
}

/// Starts the stand-in for the model's API.
fn rehearse(installation: &Installation, config: &Config, socket: &Path) -> Result<(), Failure> {
    let scenario = match &config.scenario.value {
        None => Scenario::default(),
        Some(file) => Scenario::load(&installation.root().join(file)).map_err(|error| {
            let hint = error.hint();
            let message = format!("the scenario in {} can't be played", config.scenario.origin);
            Failure::bad_input(message).because(error).hint(hint)
        })?,
    };
    // The lock says that no other daemon serves this folder, so what is there is left over.
    protocol::atomic_file::remove(socket).map_err(|e| cant_write(socket, e))?;
    let listener = UnixListener::bind(socket).map_err(|e| cant_write(socket, e))?;
    info!("The model is the built-in rehearsal.");
    tokio::spawn(Rehearsal::new(scenario).serve_unix(listener, std::future::pending()));
    Ok(())
}
