//! What a request to the model may contain.

use std::fmt;

use protocol::{ModelRule, ServerTool, WorkerId};

use crate::{
    ask::{Demand, What},
    egress::{EgressPolicy, Refusal},
};

/// Which models a replica may ask, and what the model's API may do for it by itself. By default nothing.
///
/// From where the API may get something for it, such as an image by its URL, its [`EgressPolicy`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPolicy {
    /// A model may be asked if one of these matches it.
    pub models: Vec<ModelRule>,
    /// What the API may do.
    pub server_tools: Vec<ServerTool>,
}

impl RequestPolicy {
    /// Returns the first thing in a request that its worker's configuration does not allow.
    pub(crate) fn judge(
        &self,
        worker: &WorkerId,
        egress: &EgressPolicy,
        model: &str,
        demands: &[Demand],
    ) -> Result<(), Forbidden> {
        let policy = Judge { policy: self, worker, egress };
        policy.model(model, None)?;
        demands.iter().try_for_each(|demand| policy.demand(demand))
    }
}

/// Something in a request that is not allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forbidden {
    /// What, and where.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) hint: String,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

struct Judge<'a> {
    policy: &'a RequestPolicy,
    worker: &'a WorkerId,
    egress: &'a EgressPolicy,
}

impl Judge<'_> {
    fn demand(&self, demand: &Demand) -> Result<(), Forbidden> {
        let Self { worker, .. } = self;
        let place = demand.place.map_or_else(|| "the request".to_owned(), |at| format!("`{at}`"));
        match &demand.what {
            What::Model(model) => self.model(model, Some("fallbacks")),
            What::AnyModel => forbidden(
                "`fallbacks` lets the model's API take another model without its name",
                "name the models, or leave it out",
            ),
            What::Fetch(Ok(target)) if self.egress.allows(target) => Ok(()),
            What::Fetch(Ok(target)) => {
                let refusal = Refusal::NotListed(target.clone());
                let what =
                    format!("{place} has the model's API fetch from another host: {refusal}");
                forbidden(what, refusal.hint(worker).unwrap_or_default())
            }
            What::Fetch(Err(why)) => forbidden(
                format!("{place} has the model's API fetch from a URL that can't be judged: {why}"),
                "send the contents themselves, as base64 or text",
            ),
            What::File => forbidden(
                format!("{place} names a file that is kept at the model's API"),
                "send the contents themselves, as base64 or text",
            ),
            What::Source(kind) => forbidden(
                format!(
                    "{place} has a source of the type `{kind}`, which the gateway does not know"
                ),
                "send the contents themselves, as base64 or text",
            ),
            What::Block(kind) => forbidden(
                format!(
                    "{place} has a block of the type `{kind}`, which the gateway does not know"
                ),
                "leave it out, or use a supervisor that knows it",
            ),
            What::Tool(kind) => match Runs::of(kind) {
                Runs::Nowhere => Ok(()),
                Runs::AtTheApi(tool) => self.tool(tool, &format!("{place} is a `{kind}`")),
                Runs::Unknown => forbidden(
                    format!(
                        "{place} is a tool of the type `{kind}`, which the gateway does not know"
                    ),
                    "leave it out, or use a supervisor that knows it",
                ),
            },
            What::McpServers => self.tool(ServerTool::Mcp, "the request has `mcp_servers`"),
            What::Container => {
                self.tool(ServerTool::CodeExecution, "the request has a `container`")
            }
            What::Field(name) => forbidden(
                format!("the request has the field `{name}`, which the gateway does not know"),
                "leave it out, or use a supervisor that knows it",
            ),
        }
    }

    fn model(&self, model: &str, field: Option<&str>) -> Result<(), Forbidden> {
        let rules = &self.policy.models;
        if rules.iter().any(|rule| rule.matches(model)) {
            return Ok(());
        }
        let model: String = model.escape_default().collect();
        let field = field.map(|field| format!(", which `{field}` names,")).unwrap_or_default();
        let list: Vec<_> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
        let with = match list.is_empty() {
            true => String::new(),
            false => format!("{}, ", list.join(", ")),
        };
        forbidden(
            format!("the model `{model}`{field} is not among those that this worker may ask"),
            format!(
                "to allow it, write `models = [{with}\"{model}\"]` in workspaces/{}/worker.toml",
                self.worker
            ),
        )
    }

    fn tool(&self, tool: ServerTool, what: &str) -> Result<(), Forbidden> {
        if self.policy.server_tools.contains(&tool) {
            return Ok(());
        }
        forbidden(
            format!("{what}: the model's API would do that by itself, past the gateway"),
            format!(
                "to allow it, add \"{}\" to `server_tools` in workspaces/{}/worker.toml",
                tool.as_str(),
                self.worker
            ),
        )
    }
}

fn forbidden(what: impl Into<String>, hint: impl Into<String>) -> Result<(), Forbidden> {
    Err(Forbidden { what: what.into(), hint: hint.into() })
}

/// Where a tool runs that neither the client defines nor runs.
enum Runs {
    /// It only finds other tools of the request.
    Nowhere,
    AtTheApi(ServerTool),
    Unknown,
}

impl Runs {
    fn of(kind: &str) -> Self {
        const TOOLS: [(&str, ServerTool); 3] = [
            ("web_search", ServerTool::WebSearch),
            ("web_fetch", ServerTool::WebFetch),
            ("code_execution", ServerTool::CodeExecution),
        ];
        // A type is a name and a date.
        let is_date = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
        let name = match kind.rsplit_once('_') {
            Some((name, date)) if is_date(date) => name,
            _ => kind,
        };
        match name {
            "tool_search_tool_regex" | "tool_search_tool_bm25" => Self::Nowhere,
            "mcp_toolset" => Self::AtTheApi(ServerTool::Mcp),
            name => match TOOLS.iter().find(|(known, _)| *known == name) {
                Some((_, tool)) => Self::AtTheApi(*tool),
                None => Self::Unknown,
            },
        }
    }
}
