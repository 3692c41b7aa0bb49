//! `supervisor doctor --would-allow`: whether a worker may reach a host.

use gateway::{EgressPolicy, Upstream};
use protocol::WorkerId;
use serde::Serialize;

use crate::cli::text::clean;
use crate::config::Config;
use crate::failure::Failure;
use crate::install::Installation;
use crate::workers;

/// Whether a worker may reach a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// By which rule of `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

/// Returns whether a worker may reach a host, or the host of a URL, as its folder and the configuration say now.
///
/// # Errors
///
/// Bad input when there is no such worker, or its folder has something wrong.
pub(super) fn answer(
    installation: &Installation,
    config: &Config,
    host: &str,
    worker: &str,
) -> Result<Answer, Failure> {
    let id: WorkerId = worker.parse().map_err(|error| {
        Failure::bad_input(format!("`{worker}` can't be the name of a worker")).because(error)
    })?;
    let rules = workers::load(installation, &id)?.config.egress;
    let upstream = Upstream::parse(&config.base_url.value).ok();
    Ok(match (EgressPolicy { rules }).would_allow(host, &id, upstream.as_ref()) {
        Ok(rule) => {
            Answer { allowed: true, rule: Some(rule.to_string()), reason: None, cure: None }
        }
        Err(why) => Answer { allowed: false, rule: None, reason: Some(why.reason), cure: why.cure },
    })
}

impl Answer {
    /// Returns the answer as a line.
    pub(super) fn render(&self) -> String {
        let text = match (self.rule.as_deref(), self.reason.as_deref(), self.cure.as_deref()) {
            (Some(rule), ..) => {
                format!("yes, by the rule \"{rule}\", where its addresses are public ones")
            }
            (None, Some(reason), Some(cure)) => format!("no: {reason}; {cure}"),
            (None, reason, _) => format!("no: {}", reason.unwrap_or_default()),
        };
        format!("{}\n", clean(&text))
    }
}
