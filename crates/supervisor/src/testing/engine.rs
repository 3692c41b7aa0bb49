//! A container engine that can be away.

use std::time::Duration;

use async_trait::async_trait;
use protocol::ReplicaId;
use tokio::sync::watch;

use crate::runtime::fake::FakeRuntime;
use crate::runtime::{CheckSpec, Exit, Found, ReplicaSpec, Runtime, RuntimeError};

/// A [`FakeRuntime`] whose engine can be away: its replicas go on meanwhile, and every call fails.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) replicas: FakeRuntime,
    away: watch::Sender<bool>,
    /// The replica about which it takes calls and never answers.
    hangs: watch::Sender<Option<ReplicaId>>,
}

impl Engine {
    pub(crate) fn new(replicas: FakeRuntime) -> Self {
        Self { replicas, away: watch::Sender::new(false), hangs: watch::Sender::new(None) }
    }

    /// Makes the engine go away or come back.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// Makes the engine take calls about a replica and never answer, or answer again.
    pub(crate) fn set_hanging(&self, replica: Option<&str>) {
        self.hangs.send_replace(replica.map(|replica| replica.parse().unwrap()));
    }

    async fn answers_about(&self, replica: &ReplicaId) {
        let mut hangs = self.hangs.subscribe();
        // It ends with the sender, which is ours.
        let _ = hangs.wait_for(|hangs| hangs.as_ref() != Some(replica)).await;
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.replicas.calls()
    }

    fn reach(&self) -> Result<(), RuntimeError> {
        if *self.away.borrow() {
            return Err(RuntimeError::Unreachable {
                endpoint: "unix:///run/docker.sock".to_owned(),
                source: "connection refused".into(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for Engine {
    fn name(&self) -> &'static str {
        self.replicas.name()
    }

    async fn check(&self, images: &[String]) -> Result<(), RuntimeError> {
        self.reach()?;
        self.replicas.check(images).await
    }

    async fn ensure(&self, spec: &ReplicaSpec, busy: bool) -> Result<(), RuntimeError> {
        self.reach()?;
        self.answers_about(&spec.replica).await;
        self.replicas.ensure(spec, busy).await
    }

    async fn wait(&self, replica: &ReplicaId) -> Result<Exit, RuntimeError> {
        self.reach()?;
        let mut away = self.away.subscribe();
        tokio::select! {
            exit = self.replicas.wait(replica) => exit,
            _ = away.wait_for(|away| *away) => {
                self.reach()?;
                Ok(Exit::unknown())
            }
        }
    }

    async fn stop(&self, replica: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        self.reach()?;
        self.answers_about(replica).await;
        self.replicas.stop(replica, grace).await
    }

    async fn verify(&self, check: &CheckSpec) -> Result<Exit, RuntimeError> {
        self.reach()?;
        self.replicas.verify(check).await
    }

    async fn end_check(&self, replica: &ReplicaId) -> Result<(), RuntimeError> {
        self.reach()?;
        self.replicas.end_check(replica).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.reach()?;
        self.replicas.list().await
    }
}
