//! The network of containers that can't be given a socket: there is no way out of it, and on it only the
//! daemon.
//!
//! It keeps less out than no network does. A container reaches what listens on the host at any of its
//! addresses, if a firewall does not say otherwise; and that containers do not reach each other is the
//! engine's doing.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::InspectNetworkOptions;
use tracing::info;

use super::container::INSTALLATION;
use super::engine::Engine;
use super::error::status;
use crate::runtime::RuntimeError;

/// Docker's name for the wish that containers on a network do not reach each other.
const ICC: &str = "com.docker.network.bridge.enable_icc";

/// Makes sure that the network is there, and returns the host's address on it.
///
/// # Errors
///
/// [`RuntimeError::NotOurs`], and what any call may say.
pub(super) async fn make(
    engine: &Engine,
    name: &str,
    installation: &str,
) -> Result<IpAddr, RuntimeError> {
    let found = match inspect(engine, name).await? {
        Some(found) => found,
        None => {
            let wanted = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some("bridge".to_owned()),
                internal: Some(true),
                enable_ipv6: Some(false),
                options: Some(HashMap::from([(ICC.to_owned(), "false".to_owned())])),
                labels: Some(HashMap::from([(INSTALLATION.to_owned(), installation.to_owned())])),
                ..NetworkCreateRequest::default()
            };
            match engine.docker.create_network(wanted).await {
                Ok(_) => info!(network = name, "Network made."),
                // In the meantime, for another replica.
                Err(e) if status(&e) == Some(409) => {}
                Err(e) => return Err(engine.failed("make network", name, e)),
            }
            inspect(engine, name).await?.unwrap_or_default()
        }
    };
    if !is_ours(&found, installation) || found.internal != Some(true) {
        return Err(RuntimeError::NetworkNotOurs { name: name.to_owned() });
    }
    let pools = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    // As an address, or as one with the length of its network.
    let address = |text: String| text.split('/').next().and_then(|address| address.parse().ok());
    pools.into_iter().filter_map(|pool| pool.gateway).find_map(address).ok_or_else(|| {
        let (action, name) = ("find the host on network", name.to_owned());
        RuntimeError::Refused { action, name, source: "it has no address there".into() }
    })
}

/// Removes the network, if it is there and ours.
///
/// # Errors
///
/// What any call may say: that containers are on it.
pub(super) async fn remove(
    engine: &Engine,
    name: &str,
    installation: &str,
) -> Result<(), RuntimeError> {
    match inspect(engine, name).await? {
        Some(found) if is_ours(&found, installation) => {}
        _ => return Ok(()),
    }
    match engine.docker.remove_network(name).await {
        Err(e) if status(&e) != Some(404) => Err(engine.failed("remove network", name, e)),
        _ => Ok(()),
    }
}

async fn inspect(engine: &Engine, name: &str) -> Result<Option<NetworkInspect>, RuntimeError> {
    match engine.docker.inspect_network(name, None::<InspectNetworkOptions>).await {
        Ok(found) => Ok(Some(found)),
        Err(e) if status(&e) == Some(404) => Ok(None),
        Err(e) => Err(engine.failed("inspect network", name, e)),
    }
}

fn is_ours(found: &NetworkInspect, installation: &str) -> bool {
    let label = found.labels.as_ref().and_then(|labels| labels.get(INSTALLATION));
    label.is_some_and(|label| label == installation)
}
