//! What replicas are started with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::{
    Auth, ContainerMode, ReplicaId, ReportKey, Resources, Wall, WorkerId, WorkspaceMode,
};

use crate::gateways::Gateways;
use crate::install::Installation;
use crate::requests;
use crate::runtime::{Owner, ReplicaSpec};
use crate::slot::Slot;
use crate::workers::Worker;

/// What all replicas of an installation have in common.
#[derive(Debug)]
pub struct Replicas {
    /// The installation.
    pub installation: Installation,
    /// The gateways.
    pub gateways: Arc<Gateways>,
    /// The image of workers that name none.
    pub image: String,
    /// The worker's program.
    pub program: PathBuf,
    /// The CLI, where there are no images.
    pub claude: Option<PathBuf>,
    /// Of which the secrets of replicas are made.
    pub report_key: ReportKey,
    /// Who agents run as.
    pub user: Owner,
    /// Whether we have to give folders to `user`.
    pub hand_over: bool,
    /// Whether replicas run behind walls.
    pub walls: bool,
    /// Walls without which agents run, too.
    pub accepted: Vec<Wall>,
}

impl Replicas {
    /// Returns the slot of a replica, and what starts it.
    ///
    /// A replica whose worker is not there any more can still be stopped.
    pub fn plan(
        &self,
        replica: &ReplicaId,
        workers: &BTreeMap<WorkerId, Worker>,
    ) -> (Slot, ReplicaSpec) {
        let id = worker_of(replica);
        let config = workers.get(&id).map(|worker| &worker.config);
        let owner = self.hand_over.then_some(self.user);
        let secret = self.report_key.secret(replica);
        let slot = Slot::new(
            self.installation.clone(),
            id.clone(),
            replica.clone(),
            owner,
            self.walls,
            secret.clone(),
        );
        let auth = config.map_or(Auth::Gateway, |config| config.auth);
        let spec = ReplicaSpec {
            replica: replica.clone(),
            worker: id.clone(),
            image: config.and_then(|c| c.image.clone()).unwrap_or_else(|| self.image.clone()),
            program: self.program.clone(),
            claude: self.claude.clone(),
            secret,
            tasks: slot.tasks(),
            results: slot.results(),
            workspace: self.installation.workspace(&id),
            workspace_mode: config.map_or(WorkspaceMode::ReadOnly, |config| config.workspace),
            login: (auth == Auth::Home).then(|| self.installation.auth_home(&id)),
            auth,
            scratch: self.installation.scratch(replica),
            gateway: self.gateways.folder(replica),
            asks_model: config.is_none_or(|config| config.command.is_none()),
            egress: config.map(|config| config.egress.clone()).unwrap_or_default(),
            requests: workers.get(&id).map(requests::policy).unwrap_or_default(),
            resources: config.map_or_else(Resources::default, |config| config.resources),
            user: self.user,
            container: config.map_or(ContainerMode::default(), |config| config.container),
            accepted: self.accepted.clone(),
        };
        (slot, spec)
    }
}

/// Returns the worker of a replica: the name without its number.
pub fn worker_of(replica: &ReplicaId) -> WorkerId {
    let name = replica.as_str().rsplit_once('-').map_or(replica.as_str(), |(worker, _)| worker);
    name.parse().unwrap_or_else(|_| panic!("BUG: {replica:?} is not named after a worker"))
}
