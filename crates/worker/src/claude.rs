//! The Claude Code CLI: how it is started.
//!
//! What stands here was measured: what a flag or a variable is for is said where it surprises.
//! All replicas of a worker send the same tools, system prompt and schema, byte by byte, so that
//! the prompt cache serves them all; what differs from attempt to attempt is in the prompt.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use protocol::atomic_file::{self, Durability};
use protocol::{AgentSpec, Assignment, FailureKind, OutputContract, TaskError};
use serde_json::{Value, json};

use crate::child::Program;
use crate::environment;
use crate::gateway::Gateway;
use crate::paths::Paths;
use crate::session::Session;
use crate::slot::Place;

/// What the CLI gets in the place of a key. It must not be empty, or the CLI wants a login.
const NO_KEY: &str = "held-by-the-gateway";

/// The CLI speaks HTTP into the socket because the scheme is `http`; the name is never looked up.
const BASE_URL: &str = "http://gateway";

/// What a worker's configuration may change.
const DEFAULTS: [(&str, &str); 10] = [
    ("DISABLE_AUTOUPDATER", "1"),
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    // One process, one result: sub-agents run in the foreground, a command ends at its timeout.
    ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"),
    // An `@/path` in a task is text.
    ("CLAUDE_CODE_DISABLE_FILE_MENTIONS", "1"),
    // By default the CLI tries for three minutes; the supervisor knows better when to try again.
    ("CLAUDE_CODE_MAX_RETRIES", "4"),
    ("CLAUDE_CODE_STARTUP_FAILURE_RESULTS", "1"),
    // What an agent remembers or schedules would be gone with the attempt: it is not offered.
    ("CLAUDE_CODE_DISABLE_AUTO_MEMORY", "1"),
    ("CLAUDE_CODE_DISABLE_CRON", "1"),
    // A refusal is told, not talked around and not handed to another model.
    ("CLAUDE_CODE_DISABLE_REFUSAL_RETRY", "1"),
    ("CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK", "1"),
];

/// A header that says which client it is, in front of all that is cached and different for each
/// prompt. With a login of its own the client keeps it: it may be a condition of the subscription.
const NO_ATTRIBUTION: (&str, &str) = ("CLAUDE_CODE_ATTRIBUTION_HEADER", "0");

/// Returns the CLI with all it needs for an attempt, and writes the files that it reads at its
/// start.
///
/// # Errors
///
/// [`FailureKind::Invalid`] when it can't work as it is configured,
/// [`FailureKind::WorkerLost`] when a file can't be written.
pub(crate) fn program(
    paths: &Paths,
    assignment: &Assignment,
    place: &Place,
    session: &Session,
    home: &Path,
    cwd: PathBuf,
    prompt: String,
) -> Result<Program, TaskError> {
    let files = Files::write(&paths.start_files(), &assignment.agent).map_err(|error| {
        let message = format!("can't write into {}: {error}", paths.scratch.display());
        TaskError::new(FailureKind::WorkerLost, message)
    })?;
    let mut defaults = DEFAULTS.to_vec();
    let (loopback, secret);
    let config = place.config();
    let mut fixed: Vec<(&str, &OsStr)> = vec![
        ("CLAUDE_CONFIG_DIR", config.as_os_str()),
        ("CLAUDE_CODE_TMPDIR", paths.scratch.as_os_str()),
    ];
    match &paths.gateway {
        Gateway::Socket(path) => fixed.extend([
            ("ANTHROPIC_UNIX_SOCKET", path.as_os_str()),
            ("ANTHROPIC_BASE_URL", OsStr::new(BASE_URL)),
        ]),
        // By our own port, which finds the gateway also after a restart of the supervisor.
        gateway @ Gateway::Port { .. } => {
            loopback = format!("http://127.0.0.1:{}", paths.proxy);
            secret = gateway.header().unwrap_or_default();
            fixed.extend([
                ("ANTHROPIC_BASE_URL", OsStr::new(&loopback)),
                ("ANTHROPIC_CUSTOM_HEADERS", OsStr::new(&secret)),
            ]);
        }
    }
    if !assignment.agent.own_login {
        defaults.push(NO_ATTRIBUTION);
        fixed.push(("ANTHROPIC_API_KEY", OsStr::new(NO_KEY)));
    }
    // The client would ask for as much as the model can write. Not part of what is cached.
    let max_output = assignment.agent.max_output_tokens.map(|tokens| tokens.to_string());
    if let Some(tokens) = &max_output {
        fixed.push(("CLAUDE_CODE_MAX_OUTPUT_TOKENS", OsStr::new(tokens)));
    }
    let env = environment::of(paths, assignment, place, home, &defaults, &fixed)?;
    Ok(Program {
        name: paths.claude.clone().into_os_string(),
        args: args(assignment, session, &files),
        env: env.into_iter().collect(),
        cwd,
        stdin: prompt.into_bytes(),
    })
}

/// The files that the CLI reads at its start. As files they have no limit on their length, and
/// what they hold is in no list of processes.
#[derive(Debug, Default)]
struct Files {
    system_prompt: PathBuf,
    subagents: Option<PathBuf>,
    mcp: Option<PathBuf>,
}

impl Files {
    fn write(folder: &Path, agent: &AgentSpec) -> io::Result<Self> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            atomic_file::replace(&path, text.as_bytes(), Durability::Volatile)?;
            Ok::<_, io::Error>(path)
        };
        let json = |name: &str, value: &Option<Value>| match value {
            Some(value) => write(name, &value.to_string()).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            system_prompt: write("system-prompt.md", &agent.system_prompt)?,
            subagents: json("agents.json", &agent.subagents)?,
            mcp: json("mcp.json", &agent.mcp)?,
        })
    }
}

/// Returns the arguments. The prompt is not among them: several flags take any number of values
/// and would swallow it, and a prompt on standard input may begin with `-`.
fn args(assignment: &Assignment, session: &Session, files: &Files) -> Vec<OsString> {
    let agent = &assignment.agent;
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, values: &[&OsStr]| {
        args.push(flag.into());
        args.extend(values.iter().map(OsString::from));
    };
    add("-p", &[]);
    add("--output-format", &["stream-json".as_ref()]);
    add("--verbose", &[]);
    if let Some(model) = &agent.model {
        add("--model", &[model.as_ref()]);
    }
    let id = session.id.to_string();
    add(if session.resumed { "--resume" } else { "--session-id" }, &[id.as_ref()]);
    // A resumed session would otherwise keep the system prompt that it was begun with.
    add("--system-prompt-snapshot", &["off".as_ref()]);
    add("--system-prompt-file", &[files.system_prompt.as_ref()]);
    add("--tools", &[agent.tools.join(",").as_ref()]);
    // The workspace is not trusted: its hooks and servers would run, and its settings count.
    add("--setting-sources", &["".as_ref()]);
    add("--strict-mcp-config", &[]);
    if let Some(mcp) = &files.mcp {
        add("--mcp-config", &[mcp.as_ref()]);
    }
    if let Some(subagents) = &files.subagents {
        add("--agents", &[subagents.as_ref()]);
    }
    add("--settings", &[json!({ "includeCoAuthoredBy": false }).to_string().as_ref()]);
    add("--disable-slash-commands", &[]);
    // What is not allowed is refused, and nobody is asked. The container is the boundary.
    add("--permission-mode", &["dontAsk".as_ref()]);
    let allowed = allowed(agent);
    if !allowed.is_empty() {
        add("--allowedTools", &[allowed.join(",").as_ref()]);
    }
    if let Some(turns) = agent.max_turns {
        add("--max-turns", &[turns.to_string().as_ref()]);
    }
    let schema = OutputContract(assignment.task.kind).schema().to_string();
    add("--json-schema", &[schema.as_ref()]);
    args
}

/// Returns what runs without a question: every tool that the agent has, and every tool of each of
/// its MCP servers.
fn allowed(agent: &AgentSpec) -> Vec<String> {
    let servers = agent.mcp.as_ref().and_then(|mcp| mcp["mcpServers"].as_object());
    let servers = servers.into_iter().flat_map(|servers| servers.keys());
    agent.tools.iter().cloned().chain(servers.map(|name| format!("mcp__{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::tests::assignment;

    fn shown(assignment: &Assignment, resumed: bool, files: &Files) -> String {
        let session = Session {
            id: assignment.session.id,
            resumed,
            used: protocol::Usage::default(),
            cost_usd: 0.0,
        };
        let args = args(assignment, &session, files);
        let shown: Vec<_> = args.iter().map(|arg| format!("{:?}", arg.to_str().unwrap())).collect();
        shown.join(" ")
    }

    #[test]
    fn command_line_has_what_was_measured_to_be_needed() {
        let mut assignment = assignment("work");
        assignment.agent.model = Some("haiku".to_owned());
        assignment.agent.tools = vec!["Read".to_owned(), "Bash".to_owned()];
        assignment.agent.mcp = Some(json!({ "mcpServers": { "tiny": { "command": "x" } } }));
        assignment.agent.max_turns = Some(5);
        let files = Files {
            system_prompt: "/tmp/s".into(),
            subagents: Some("/tmp/a".into()),
            mcp: Some("/tmp/m".into()),
        };
        let shown = shown(&assignment, false, &files);
        let id = assignment.session.id;
        let schema = "\"--json-schema\"";
        let (flags, rest) = shown.split_once(schema).unwrap();
        assert_eq!(
            flags.trim_end(),
            format!(
                r#""-p" "--output-format" "stream-json" "--verbose" "--model" "haiku" "--session-id" "{id}" "--system-prompt-snapshot" "off" "--system-prompt-file" "/tmp/s" "--tools" "Read,Bash" "--setting-sources" "" "--strict-mcp-config" "--mcp-config" "/tmp/m" "--agents" "/tmp/a" "--settings" "{{\"includeCoAuthoredBy\":false}}" "--disable-slash-commands" "--permission-mode" "dontAsk" "--allowedTools" "Read,Bash,mcp__tiny" "--max-turns" "5""#
            )
        );
        assert!(rest.contains("recommendations"), "{rest}");
    }

    #[test]
    fn agent_without_tools_gets_an_empty_list_and_nothing_to_allow() {
        let assignment = assignment("plan");
        let shown = shown(&assignment, true, &Files::default());
        assert!(shown.contains(r#""--tools" "" "--setting-sources""#), "{shown}");
        assert!(!shown.contains("--allowedTools"), "{shown}");
        assert!(shown.contains(&format!(r#""--resume" "{}""#, assignment.session.id)), "{shown}");
        assert!(!shown.contains("--session-id"), "{shown}");
    }

    #[test]
    fn configuration_cannot_replace_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            tasks: "/tasks".into(),
            results: "/results".into(),
            workspace: "/workspace".into(),
            login: None,
            gateway: Gateway::Socket("/run/g.sock".into()),
            proxy: 3128,
            claude: "claude".into(),
            home: None,
            scratch: dir.path().to_owned(),
        };
        std::fs::create_dir(paths.start_files()).unwrap();
        let place = crate::prompt::tests::place();
        let mut assignment = assignment("work");
        let env = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assignment.agent.env = vec![
            env("ANTHROPIC_BASE_URL", "https://example.org"),
            env("HOME", "/root"),
            env("HTTPS_PROXY", "http://elsewhere:1"),
            env("https_proxy", "http://elsewhere:1"),
            env("NO_PROXY", "*"),
            env("CLAUDE_CODE_MAX_RETRIES", "1"),
            env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "128000"),
            env("MINE", "yes"),
        ];
        assignment.agent.max_output_tokens = Some(1000);
        let start = |assignment: &Assignment| {
            let session = Session::choose(&assignment.session, dir.path());
            let (home, cwd) = (Path::new("/h"), "/workspace".into());
            program(&paths, assignment, &place, &session, home, cwd, "do it".to_owned())
        };
        let program = start(&assignment).unwrap();
        let value = |name: &str| {
            program.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap().to_owned())
        };
        assert_eq!(value("ANTHROPIC_BASE_URL").as_deref(), Some("http://gateway"));
        assert_eq!(value("ANTHROPIC_UNIX_SOCKET").as_deref(), Some("/run/g.sock"));
        assert_eq!(value("ANTHROPIC_API_KEY").as_deref(), Some(NO_KEY));
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            assert_eq!(value(name).as_deref(), Some("http://127.0.0.1:3128"), "{name}");
        }
        for name in ["NO_PROXY", "no_proxy"] {
            assert_eq!(value(name).as_deref(), Some("127.0.0.1,localhost,::1"), "{name}");
        }
        assert_eq!(value("CLAUDE_CODE_ATTRIBUTION_HEADER").as_deref(), Some("0"));
        assert_eq!(value("HOME").as_deref(), Some("/h"));
        assert_eq!(value("CLAUDE_CODE_MAX_RETRIES").as_deref(), Some("1"));
        assert_eq!(value("CLAUDE_CODE_MAX_OUTPUT_TOKENS").as_deref(), Some("1000"));
        assert_eq!(value("MINE").as_deref(), Some("yes"));
        assert_eq!(value("CARGO_MANIFEST_DIR"), None);

        assignment.agent.own_login = true;
        let own = start(&assignment).unwrap();
        for name in ["ANTHROPIC_API_KEY", "CLAUDE_CODE_ATTRIBUTION_HEADER"] {
            assert_eq!(own.env.iter().find(|(n, _)| n == name), None, "{name}");
        }

        assignment.agent.env = vec![env("A=B", "x")];
        assert_eq!(start(&assignment).unwrap_err().kind, FailureKind::Invalid);
    }
}
