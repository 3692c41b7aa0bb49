//! Somebody's own files, outside of all that a container sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// A tree that must stay as it is, and whose contents must not come out anywhere.
pub(super) struct Canary {
    dir: TempDir,
    before: BTreeMap<PathBuf, Seen>,
    /// Files that are known to hold the secret by now.
    leaked: BTreeSet<PathBuf>,
}

/// All of a file that somebody could change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    changed: i64,
    bytes: Vec<u8>,
}

/// What every file of it holds.
pub(super) const SECRET: &str = "the-canary-sings-8c31";

impl Canary {
    pub(super) fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("canary").tempdir().unwrap();
        let mut canary = Self { dir, before: BTreeMap::new(), leaked: BTreeSet::new() };
        canary.fill();
        canary.before = canary.look();
        canary
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes what a daemon might take for its own: sessions, attempts, settings; all of it old.
    fn fill(&self) {
        let session = "5f0c8a52-1c2b-4d3e-9f4a-5b6c7d8e9f01";
        let agent = format!("---\nname: spy\ndescription: {SECRET}\n---\n{SECRET}\n");
        for (name, contents) in [
            ("secret.txt", SECRET.to_owned()),
            (&format!("{session}.jsonl"), format!("{{\"text\":\"{SECRET}\"}}\n")),
            (
                &format!("projects/-workspace/{session}.jsonl"),
                format!("{{\"text\":\"{SECRET}\"}}\n"),
            ),
            (&format!("projects/-workspace/{session}/x"), SECRET.to_owned()),
            (
                "attempt/transcript.jsonl",
                format!("{{\"type\":\"stdout\",\"text\":\"{SECRET}\"}}\n"),
            ),
            ("attempt/artifacts/secret.md", SECRET.to_owned()),
            ("attempt/session", SECRET.to_owned()),
            ("agents/spy.md", agent.clone()),
            ("dot-claude/agents/spy.md", agent),
            ("mcp.json", format!("{{\"mcpServers\":{{\"x\":{{\"command\":\"{SECRET}\"}}}}}}")),
        ] {
            let path = self.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = fs::File::create(&path).unwrap();
            std::io::Write::write_all(&mut file, contents.as_bytes()).unwrap();
            file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
            let old = SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
            file.set_modified(old).unwrap();
        }
    }

    fn look(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        let mut paths = vec![self.path().to_owned()];
        while let Some(path) = paths.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let now = Seen {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                links: meta.nlink(),
                changed: meta.mtime(),
                bytes: if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() },
            };
            seen.insert(path, now);
        }
        seen
    }

    /// Returns what has changed, and puts it back.
    pub(super) fn changes(&mut self) -> Option<String> {
        let now = self.look();
        if now == self.before {
            return None;
        }
        let is_other = |path: &&PathBuf| now.get(*path) != self.before.get(*path);
        let changed: Vec<_> = self.before.keys().chain(now.keys()).filter(is_other).collect();
        let told = changed
            .iter()
            .map(|path| path.strip_prefix(self.path()).unwrap().display().to_string());
        let told = format!("changed outside: {:?}", told.collect::<Vec<_>>());
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
        }
        self.fill();
        self.before = self.look();
        Some(told)
    }

    /// Returns the files below a folder that hold the secret since the last look. Links are not followed.
    pub(super) fn leaks(&mut self, folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
                if meta.is_dir() {
                    folders.push(entry.path());
                } else if meta.is_file() && meta.len() < 4 << 20 {
                    let bytes = fs::read(entry.path()).unwrap_or_default();
                    if has_secret(&bytes) && self.leaked.insert(entry.path()) {
                        found.push(entry.path());
                    }
                }
            }
        }
        found
    }
}

/// Returns whether the secret is in it.
pub(super) fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}
