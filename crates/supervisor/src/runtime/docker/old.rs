//! Removing containers that have ended and images that nothing uses.

use std::collections::{BTreeSet, HashSet};

use bollard::models::{ContainerSummaryStateEnum as State, ImageSummary};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use protocol::{ReplicaId, Time};

use super::{DockerRuntime, container};
use crate::api::types::{GcItem, GcKind};
use crate::runtime::RuntimeError;
use crate::runtime::docker::error::status;

/// The label of the images that we make.
const IMAGE: &str = "supervisor.image";

/// The name of the images of workers. The base image makes the next one quick, so it stays.
const WORKER_IMAGE: &str = "supervisor-worker:";

impl DockerRuntime {
    /// Removes the containers of this installation that have ended, but for those of the replicas to keep;
    /// and images of workers that are older than `before`, that no container is of, whoever it belongs to, and
    /// that are not `wanted`. In a dry run, says what would go.
    ///
    /// # Errors
    ///
    /// What any call may say. What was removed until then is gone.
    pub async fn clear_old(
        &self,
        keep: &BTreeSet<ReplicaId>,
        wanted: &[String],
        before: Time,
        dry_run: bool,
    ) -> Result<Vec<GcItem>, RuntimeError> {
        let mut removed = Vec::new();
        let mut gone = HashSet::new();
        let label = format!("{}={}", container::INSTALLATION, self.installation);
        for found in self.engine.list(&label).await? {
            let labels = found.labels.unwrap_or_default();
            let replica = labels.get(container::REPLICA).and_then(|replica| replica.parse().ok());
            let (Some(replica), Some(id)) = (replica, found.id) else { continue };
            let name = match labels.contains_key(container::CHECK) {
                true => self.check_name(&replica),
                false => self.container_name(&replica),
            };
            let has_name = found.names.unwrap_or_default().contains(&format!("/{name}"));
            let ended = matches!(found.state, Some(State::EXITED | State::DEAD | State::CREATED));
            if !has_name || !ended || keep.contains(&replica) {
                continue;
            }
            if !dry_run {
                self.engine.remove(&name, &id).await?;
            }
            gone.insert(id);
            removed.push(GcItem { kind: GcKind::Container, name, bytes: 0 });
        }
        for image in self.unused_images(&gone, wanted, before).await? {
            let name = image.repo_tags.first().cloned().unwrap_or_else(|| image.id.clone());
            if !dry_run {
                let options = RemoveImageOptionsBuilder::new().build();
                match self.engine.docker.remove_image(&name, Some(options), None).await {
                    Ok(_) => {}
                    // Somebody else did, or uses it since.
                    Err(e) if matches!(status(&e), Some(404 | 409)) => continue,
                    Err(e) => return Err(self.engine.failed("remove image", &name, e)),
                }
            }
            let bytes = u64::try_from(image.size).unwrap_or(0);
            removed.push(GcItem { kind: GcKind::Image, name, bytes });
        }
        Ok(removed)
    }

    async fn unused_images(
        &self,
        gone: &HashSet<String>,
        wanted: &[String],
        before: Time,
    ) -> Result<Vec<ImageSummary>, RuntimeError> {
        let failed = |e| self.engine.failed("list", "images", e);
        // Of all installations on this engine, and of anybody else.
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let containers = self.engine.docker.list_containers(Some(all)).await.map_err(failed)?;
        let containers = containers.into_iter();
        let used: HashSet<_> = containers
            .filter(|found| !found.id.as_ref().is_some_and(|id| gone.contains(id)))
            .filter_map(|found| found.image_id)
            .collect();
        let filters = std::collections::HashMap::from([("label", vec![IMAGE])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self.engine.docker.list_images(Some(options)).await.map_err(failed)?;
        let mut images: Vec<_> = images
            .into_iter()
            .map(|mut image| {
                image.repo_tags.retain(|tag| tag != "<none>:<none>");
                image
            })
            .filter(|image| {
                let made = u64::try_from(image.created).unwrap_or(u64::MAX).saturating_mul(1000);
                let is_ours = image.repo_tags.iter().all(|tag| tag.starts_with(WORKER_IMAGE));
                let is_wanted = image.repo_tags.iter().any(|tag| wanted.contains(tag));
                is_ours && !is_wanted && !used.contains(&image.id) && made < before.as_millis()
            })
            .collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }
}
