//! What a worker's requests to the model may contain, as its folder says.

use gateway::RequestPolicy;
use protocol::{ModelRule, ServerTool};

use crate::config::is_alias;
use crate::workers::Worker;

/// The variables by which a model is named to the CLI.
const VARIABLES: [&str; 7] = [
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
];

/// What the CLI asks where nobody names a model: with a key, and with a login.
const DEFAULTS: [&str; 2] = ["opus", "sonnet"];

/// What the CLI has read the pages that it fetches.
const READER: &str = "haiku";

/// Returns what the requests of a worker may contain.
///
/// The models are those of its list. Without one they are those that its configuration names; a program that is not the
/// CLI, and for which none is named, may ask none.
pub fn policy(worker: &Worker) -> RequestPolicy {
    let config = &worker.config;
    let has = |tool: &str| config.tools.iter().any(|name| name == tool);
    let mut server_tools = config.server_tools.clone();
    if has("WebSearch") && !server_tools.contains(&ServerTool::WebSearch) {
        server_tools.push(ServerTool::WebSearch);
    }
    let models = config.models.clone().unwrap_or_else(|| {
        let subagents = worker.subagents.values().filter_map(|agent| agent["model"].as_str());
        let variables = VARIABLES.iter().filter_map(|name| config.env.get(*name));
        let mut names: Vec<&str> = config.model.as_deref().into_iter().collect();
        if config.command.is_none() {
            names.extend(subagents);
            names.extend(DEFAULTS.iter().filter(|_| config.model.is_none()));
            names.extend(has("WebFetch").then_some(READER));
        }
        names.extend(variables.map(String::as_str));
        let mut rules: Vec<ModelRule> = Vec::new();
        for rule in names.into_iter().flat_map(rules_of) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    });
    RequestPolicy { models, server_tools }
}

/// Returns the models that a name stands for in the CLI; none for the model of whoever names it.
fn rules_of(name: &str) -> Vec<ModelRule> {
    // The CLI asks for a longer context by a header, and leaves the mark out.
    let name = name.strip_suffix("[1m]").unwrap_or(name);
    let rules = match name {
        "inherit" | "default" => Vec::new(),
        "opusplan" => DEFAULTS.map(family).to_vec(),
        alias if is_alias(alias) => vec![family(alias)],
        name => vec![name.to_owned()],
    };
    // What is no name of a model is refused by the API, too.
    rules.iter().filter_map(|rule| rule.parse().ok()).collect()
}

fn family(alias: &str) -> String {
    format!("claude-{alias}-*")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worker(toml: &str, subagents: serde_json::Value) -> Worker {
        let config = format!("description = \"Does things.\"\n{toml}");
        Worker {
            id: "marie".parse().unwrap(),
            config: protocol::WorkerConfig::from_toml(&config).unwrap(),
            system_prompt: String::new(),
            subagents: subagents.as_object().unwrap().clone(),
            mcp: None,
        }
    }

    fn models(toml: &str) -> String {
        let subagents = json!({
            "a": {"model": "haiku"}, "b": {"model": "inherit"}, "c": {"model": "claude-x-1"}, "d": {},
        });
        let policy = policy(&worker(toml, subagents));
        policy.models.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn models_are_those_that_the_configuration_names() {
        for (toml, expected) in [
            ("", "claude-haiku-* claude-x-1 claude-opus-* claude-sonnet-*"),
            ("model = \"sonnet\"", "claude-sonnet-* claude-haiku-* claude-x-1"),
            ("model = \"claude-sonnet-5-5[1m]\"", "claude-sonnet-5-5 claude-haiku-* claude-x-1"),
            ("model = \"opusplan\"", "claude-opus-* claude-sonnet-* claude-haiku-* claude-x-1"),
            (
                "model = \"claude-x-1\"\n[env]\nANTHROPIC_SMALL_FAST_MODEL = \"m\"",
                "claude-x-1 claude-haiku-* m",
            ),
            ("model = \"claude-x-1\"\n[env]\nPATH = \"m\"", "claude-x-1 claude-haiku-*"),
            ("model = \"opus\"\nmodels = [\"a*\", \"b\"]", "a* b"),
            ("model = \"opus\"\nmodels = []", ""),
            ("command = [\"true\"]", ""),
            ("command = [\"true\"]\nmodel = \"fable\"", "claude-fable-*"),
            ("command = [\"true\"]\nmodels = [\"*\"]", "*"),
        ] {
            assert_eq!(models(toml), expected, "{toml}");
        }
    }

    #[test]
    fn tool_that_fetches_asks_the_small_model_and_the_one_that_searches_is_the_apis() {
        let none = json!({});
        let of = |toml: &str| policy(&worker(toml, none.clone()));
        let fetch = of("model = \"opus\"\ntools = [\"WebFetch\"]");
        assert_eq!(fetch.models, ["claude-opus-*", "claude-haiku-*"].map(|m| m.parse().unwrap()));
        assert_eq!(fetch.server_tools, []);
        assert_eq!(of("tools = [\"WebSearch\"]").server_tools, [ServerTool::WebSearch]);
        let both = of("tools = [\"WebSearch\"]\nserver_tools = [\"mcp\", \"web_search\"]");
        assert_eq!(both.server_tools, [ServerTool::Mcp, ServerTool::WebSearch]);
        assert_eq!(of("").server_tools, []);
    }
}
