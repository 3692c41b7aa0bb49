//! The workers: what their folders in `workspaces/` say.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use protocol::disk as fs;
use protocol::disk::Folder;
use protocol::untrusted::Refusal;
use protocol::{
    AgentSpec, Auth, ContainerMode, Driver, ReplicaId, WorkerConfig, WorkerId, WorkspaceMode,
};
use scheduler::WorkerLimits;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::install::Installation;

/// A worker, as its folder says.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its name: that of the folder.
    pub id: WorkerId,
    /// Its `worker.toml`.
    pub config: WorkerConfig,
    /// The text of its system prompt.
    pub system_prompt: String,
    /// Its sub-agents by name, as the CLI wants them.
    pub subagents: Map<String, Value>,
    /// Its MCP servers, as the CLI wants them.
    pub mcp: Option<Value>,
}

/// The largest prompt or configuration file of a workspace, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The most files in a worker's folder of sub-agents.
const MAX_AGENTS: usize = 256;

/// Returns all workers of an installation.
///
/// # Errors
///
/// Bad input for the first folder that does not hold a worker, with the file and what is wrong.
pub fn load_all(installation: &Installation) -> Result<BTreeMap<WorkerId, Worker>, Failure> {
    let dir = installation.workspaces();
    let failed = |error| {
        Failure::bad_input(format!("`{}` can't be read", dir.display()))
            .because(error)
            .hint("Put a folder with a `worker.toml` for each worker there.")
    };
    let mut workers = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if !protocol::atomic_file::is_visible(&name) || !fs::is_dir(&dir.join(&*name)) {
            continue;
        }
        let id: WorkerId = name.parse().map_err(|error| {
            Failure::bad_input(format!("the folder `workspaces/{name}` has no name for a worker"))
                .because(error)
                .hint("Rename it.")
        })?;
        workers.insert(id.clone(), load(installation, &id)?);
    }
    Ok(workers)
}

/// Returns a worker as its folder says now.
///
/// # Errors
///
/// Bad input, with the file and what is wrong.
pub fn load(installation: &Installation, id: &WorkerId) -> Result<Worker, Failure> {
    let file = format!("workspaces/{id}/worker.toml");
    // A worker that shares its workspace can put anything into it. This is read in the daemon's loop, and
    // what is read goes to the worker: so nothing is waited for, and no link is followed.
    let dir = Folder::open(&installation.workspace(id)).map_err(|e| cant_read(&file, e))?;
    let text = read(&dir, "worker.toml", &file)?;
    let config = WorkerConfig::from_toml(&text).map_err(|error| {
        Failure::bad_input(format!("`{file}` is not a worker's configuration"))
            .because(error)
            .hint("`supervisor schema worker` prints the format.")
    })?;
    let system_prompt = match &config.system_prompt {
        Some(name) => read(&dir, name, &format!("workspaces/{id}/{name}"))?,
        None => String::new(),
    };
    let mcp = config.mcp.as_ref().map(|name| {
        let file = format!("workspaces/{id}/{name}");
        let text = read(&dir, name, &file)?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::bad_input(format!("`{file}` is not JSON")).because(error))
    });
    let subagents = subagents(&dir, id)?;
    Ok(Worker { id: id.clone(), config, system_prompt, subagents, mcp: mcp.transpose()? })
}

impl Worker {
    /// Returns the rules that the scheduler keeps for this worker.
    pub fn limits(&self) -> WorkerLimits {
        WorkerLimits {
            replicas: self.config.replicas,
            per_task: self.config.container == ContainerMode::PerTask,
            timeout: Duration::from_secs(self.config.timeout.into()),
            retries: self.config.retries,
            resumes: self.config.command.is_none(),
        }
    }

    /// Returns all replicas that the worker may have: those that serve, wait and are replaced.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> {
        let numbers = 1..=self.limits().highest_number();
        numbers.filter_map(|number| ReplicaId::new(&self.id, number).ok())
    }

    /// Returns how the worker runs its agent.
    pub fn agent(&self) -> AgentSpec {
        let config = &self.config;
        AgentSpec {
            worker: self.id.clone(),
            role: config.description.clone(),
            driver: match &config.command {
                Some(command) => Driver::Command(command.clone()),
                None => Driver::Claude,
            },
            system_prompt: self.system_prompt.clone(),
            model: config.model.clone(),
            tools: config.tools.clone(),
            subagents: (!self.subagents.is_empty()).then(|| Value::Object(self.subagents.clone())),
            mcp: self.mcp.clone(),
            max_turns: config.max_turns,
            max_output_tokens: Some(config.max_output_tokens),
            copy_workspace: config.workspace == WorkspaceMode::Copy,
            own_login: config.auth == Auth::Home,
            env: config.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }

    /// Returns what the orchestrator is told of this worker.
    pub fn catalogue_entry(&self) -> Value {
        json!({
            "name": self.id,
            "description": self.config.description,
            "subagents": self.subagents.keys().collect::<Vec<_>>(),
            "replicas": self.config.replicas,
            "timeout_seconds": self.config.timeout,
        })
    }
}

fn cant_read(shown: &str, error: std::io::Error) -> Failure {
    let missing = error.kind() == ErrorKind::NotFound;
    let failure = Failure::bad_input(format!("`{shown}` can't be read")).because(error);
    if missing { failure.hint("Add the file, or remove the folder.") } else { failure }
}

fn read(dir: &Folder, path: &str, shown: &str) -> Result<String, Failure> {
    let bytes = dir.read(Path::new(path), MAX_FILE).map_err(|refusal| match refusal {
        Refusal::Io { source, .. } => cant_read(shown, source),
        Refusal::TooLarge { len, .. } => Failure::bad_input(format!(
            "`{shown}` has {len} bytes, at most {MAX_FILE} are read"
        )),
        refusal => Failure::bad_input(format!("`{shown}` can't be read")).because(refusal).hint(
            "Put the file itself there: through a link, an agent could be shown what it should not see.",
        ),
    })?;
    String::from_utf8(bytes)
        .map_err(|error| cant_read(shown, std::io::Error::new(ErrorKind::InvalidData, error)))
}

/// Reads `.claude/agents/*.md` in the order of their names, so that the prompt's prefix is the same
/// every time.
fn subagents(dir: &Folder, worker: &WorkerId) -> Result<Map<String, Value>, Failure> {
    const PLACE: &str = ".claude/agents";
    let shown = format!("workspaces/{worker}/{PLACE}");
    let refused = |refusal| Failure::bad_input(format!("`{shown}` can't be read")).because(refusal);
    let dir = match dir.folder(Path::new(PLACE)) {
        Ok(dir) => dir,
        Err(refusal) if refusal.is_missing() => return Ok(Map::new()),
        Err(refusal) => return Err(refused(refusal)),
    };
    let mut names = dir.names(MAX_AGENTS).map_err(refused)?;
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    let mut agents = Map::new();
    for file in names {
        let shown = format!("{shown}/{file}");
        let text = read(&dir, &file, &shown)?;
        let (name, agent) = subagent(&text).map_err(|why| {
            Failure::bad_input(format!("`{shown}` is not a sub-agent")).because(why).hint(
                "It begins with `---`, lines such as `name: x` and `description: y`, and `---`.",
            )
        })?;
        if agents.insert(name.clone(), agent).is_some() {
            return Err(Failure::bad_input(format!(
                "`{shown}`: there are two sub-agents `{name}`"
            )));
        }
    }
    Ok(agents)
}

/// Reads a sub-agent: a head of `key: value` lines between two `---`, then its prompt.
fn subagent(text: &str) -> Result<(String, Value), String> {
    let rest = text.strip_prefix("---\n").ok_or("it has no head")?;
    let (head, prompt) = rest.split_once("\n---\n").ok_or("its head has no end")?;
    let mut agent = Map::new();
    let mut name = None;
    for line in head.lines().filter(|line| !line.trim().is_empty()) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("`{line}` has no colon"))?;
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "name" => name = Some(value.to_owned()),
            key @ ("description" | "model") => {
                agent.insert(key.to_owned(), value.into());
            }
            "tools" => {
                let list = value.trim_start_matches('[').trim_end_matches(']').split(',');
                let list: Vec<_> = list.map(|tool| tool.trim().trim_matches('"')).collect();
                agent.insert("tools".to_owned(), json!(list));
            }
            key => {
                return Err(format!("`{key}` is not known here: name, description, tools, model"));
            }
        }
    }
    if !agent.contains_key("description") {
        return Err("`description` is missing".to_owned());
    }
    agent.insert("prompt".to_owned(), prompt.trim().into());
    Ok((name.ok_or("`name` is missing")?, Value::Object(agent)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use protocol::atomic_file::{self, Durability};
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// What an agent that shares its workspace can do to what the daemon reads there.
    #[test]
    fn link_or_pipe_in_a_shared_workspace_is_neither_followed_nor_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let installation = Installation::at(root.path()).unwrap();
        let id: WorkerId = "marie".parse().unwrap();
        let dir = installation.workspace(&id);
        fs::create_dir_all(dir.join(".claude/agents")).unwrap();
        let put = |path: &Path, text: &str| {
            atomic_file::replace(path, text.as_bytes(), Durability::Volatile).unwrap();
        };
        let config = "description = \"Does things.\"\nworkspace = \"shared\"\n\
                      system_prompt = \"role.md\"\nmcp = \"mcp.json\"\n";
        let agent = "---\nname: a\ndescription: b\n---\nprompt\n";
        let files = [
            ("worker.toml", config),
            ("role.md", "role"),
            ("mcp.json", "{}"),
            (".claude/agents/a.md", agent),
        ];
        let secret = root.path().join("secret");
        put(&secret, "secret");
        let restore = || files.iter().for_each(|(name, text)| put(&dir.join(name), text));
        restore();
        assert_eq!(load(&installation, &id).unwrap().system_prompt, "role");
        for (name, _) in files {
            let path = dir.join(name);
            for kind in ["link", "pipe", "device", "giant"] {
                fs::remove_file(&path).unwrap();
                match kind {
                    "link" => symlink(&secret, &path).unwrap(),
                    "device" => symlink("/dev/zero", &path).unwrap(),
                    "pipe" => mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
                    _ => fs::File::create(&path).unwrap().set_len(10 << 30).unwrap(),
                }
                let failure = load(&installation, &id).unwrap_err();
                assert!(failure.to_string().contains(name), "{name}, {kind}: {failure}");
                fs::remove_file(&path).unwrap();
                restore();
            }
        }
        // The folder of the sub-agents, too; and one with files without number.
        atomic_file::move_to(
            &dir.join(".claude"),
            &root.path().join("elsewhere"),
            Durability::Volatile,
        )
        .unwrap();
        symlink(root.path().join("elsewhere"), dir.join(".claude")).unwrap();
        assert!(load(&installation, &id).is_err());
        fs::remove_file(dir.join(".claude")).unwrap();
        fs::create_dir_all(dir.join(".claude/agents")).unwrap();
        for number in 0..=MAX_AGENTS {
            put(&dir.join(format!(".claude/agents/{number}.md")), agent);
        }
        assert!(load(&installation, &id).is_err());
    }
}
