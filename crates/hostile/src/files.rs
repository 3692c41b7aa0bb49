//! Files of the user: what lies in the folders that the container writes leads out of them, when somebody outside
//! reads, lists, moves, removes or hands it over.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::Order;
use crate::sys::{self, artifacts, keep_on, own_folder, own_name, results};

/// Carries out one trick. `canary` is a folder outside, which an attacker may know or guess.
pub(crate) fn run(order: &Order) {
    let (trick, canary) = (order.arg(1), Path::new(order.arg(2)));
    let secret = canary.join("secret.txt");
    println!("The trick {trick} is tried.");
    match trick {
        "files-config-projects-link" => each_config(|config| {
            let projects = config.join("projects");
            aside(&projects);
            let _ = symlink(canary.join("projects"), projects);
        }),
        "files-config-project-link" => each_config(|config| {
            let _ = fs::create_dir(config.join("projects"));
            for name in ["-elsewhere", "-workspace"] {
                aside(&config.join("projects").join(name));
                let _ =
                    symlink(canary.join("projects/-workspace"), config.join("projects").join(name));
            }
        }),
        "files-config-session-link" => each_config(|config| {
            let project = config.join("projects/-other");
            let _ = fs::create_dir_all(&project);
            let name = "0b7e2a52-9c1f-4a53-8f0e-6f3f5f1f4d11";
            let _ = symlink(canary.join("projects/-workspace"), project.join(name));
            let _ = symlink(&secret, project.join(format!("{name}.jsonl")));
        }),
        "files-config-modes" => each_config(|config| {
            let _ = symlink(canary, config.join("todos"));
            let _ = symlink(&secret, config.join(".claude.json"));
            let _ = symlink(&secret, config.join("settings.json"));
        }),
        "files-artifact-link" => symlink(&secret, artifacts().join("report.md")).unwrap(),
        "files-artifact-folder-link" => symlink(canary, artifacts().join("folder")).unwrap(),
        "files-artifacts-link" => replace(&artifacts(), &canary.join("attempt/artifacts")),
        "files-attempt-link" => replace(&own_folder(), &canary.join("attempt")),
        "files-attempt-chain" => {
            // A link to a link, relative, through a folder that is moved.
            symlink(canary.join("attempt"), results().join("step")).unwrap();
            replace(&own_folder(), Path::new("step"));
        }
        "files-transcript-link" => replace(&transcript(), &canary.join("attempt/transcript.jsonl")),
        "files-transcript-fifo" => {
            aside(&transcript());
            fifo(&transcript());
        }
        "files-transcript-folder" => {
            aside(&transcript());
            fs::create_dir(transcript()).unwrap();
            symlink(&secret, transcript().join("0")).unwrap();
        }
        "files-transcript-giant" => {
            aside(&transcript());
            fs::File::create(transcript()).unwrap().set_len(1 << 40).unwrap();
        }
        "files-transcript-flip" => {
            let (file, link) = (transcript(), own_folder().join("link"));
            let kept = own_folder().join("kept");
            symlink(&secret, &link).unwrap();
            keep_on(3, || {
                let _ = fs::rename(&file, &kept);
                let _ = fs::rename(&link, &file);
                let _ = fs::rename(&file, &link);
                let _ = fs::rename(&kept, &file);
            });
        }
        "files-artifact-flip" => {
            let (file, link) = (artifacts().join("report.md"), own_folder().join("link"));
            // Goes on after the agent's end, for as long as it is let.
            sys::detach(|| {
                keep_on(5, || {
                    let _ = fs::remove_file(&file);
                    let _ = fs::write(&file, "harmless");
                    let _ = symlink(&secret, &link);
                    let _ = fs::rename(&link, &file);
                });
            });
            sys::sleep(100);
        }
        "files-folder-flip" => {
            let (folder, link) = (artifacts().join("d"), own_folder().join("link"));
            sys::detach(|| {
                keep_on(5, || {
                    let _ = fs::create_dir(&folder);
                    let _ = fs::write(folder.join("secret.txt"), "harmless");
                    let _ = fs::rename(&folder, own_folder().join("gone"));
                    let _ = symlink(canary, &link);
                    let _ = fs::rename(&link, &folder);
                    let _ = fs::remove_file(&folder);
                    let _ = fs::remove_dir_all(own_folder().join("gone"));
                });
            });
            sys::sleep(100);
        }
        "files-artifact-magic-link" => {
            // Of whoever follows it: the daemon's environment and memory.
            for name in ["environ", "cmdline", "maps"] {
                symlink(format!("/proc/self/{name}"), artifacts().join(format!("{name}.txt")))
                    .unwrap();
            }
            symlink("/proc/self/root", artifacts().join("root")).unwrap();
            symlink("/proc/self/fd/3", artifacts().join("fd")).unwrap();
        }
        "files-artifact-dots" => {
            let up = "../".repeat(12);
            let named = [
                format!("{up}{}", secret.display()),
                secret.display().to_string(),
                "a/../../../secret.txt".to_owned(),
            ];
            println!(
                "{}",
                serde_json::json!({ "summary": "x", "findings": [], "recommendations": [], "artifacts": named })
            );
        }
        "files-artifact-names" => {
            for name in ["a\nb", "a\u{202e}txt.exe", "\u{1b}[2J", "..\u{200b}", "nul\u{7f}"] {
                let _ = fs::write(artifacts().join(name), "x");
            }
            let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe");
            let _ = fs::write(artifacts().join(bytes), "x");
        }
        "files-artifact-fifo" => fifo(&artifacts().join("pipe")),
        "files-artifact-socket" => drop(UnixListener::bind(artifacts().join("socket")).unwrap()),
        "files-hard-links" => {
            // What is mounted is another file system to a link: none of these may come about.
            let mut made = Vec::new();
            for from in
                ["/workspace/hostile", "/opt/supervisor/worker", "/etc/passwd", "/proc/self/exe"]
            {
                if fs::hard_link(from, artifacts().join("linked")).is_ok() {
                    made.push(from);
                }
            }
            let task = Path::new("/tasks").join(own_name()).join("task.json");
            if fs::hard_link(&task, artifacts().join("task")).is_ok() {
                made.push("/tasks");
            }
            crate::row::Rows.say("files-hard-links", made.is_empty(), format!("linked: {made:?}"));
        }
        "files-mounts-moved" => {
            let mut moved = Vec::new();
            for folder in ["/results", "/config", "/workspace", "/tasks", "/run/gateway"] {
                if fs::rename(folder, "/tmp/moved").is_ok() || fs::remove_dir(folder).is_ok() {
                    moved.push(folder);
                }
            }
            crate::row::Rows.say(
                "files-mounts-moved",
                moved.is_empty(),
                format!("moved: {moved:?}"),
            );
        }
        "files-result-link" => symlink(&secret, result()).unwrap(),
        "files-result-names" => {
            let name = own_name();
            for other in [".tmp", ".json.tmp", ".json ", ".JSON", ".01.json", "\u{200b}.json"] {
                symlink(&secret, results().join(format!("{name}{other}"))).unwrap();
            }
            for other in [".abcdef.tmp", ".self-test.json", ".next.1.tmp", "next.1", "next.1.json"]
            {
                symlink(canary, results().join(other)).unwrap();
            }
        }
        "files-lock-link" => {
            aside(&results().join(".worker.lock"));
            symlink(&secret, results().join(".worker.lock")).unwrap();
        }
        "files-session-note-link" => {
            aside(&own_folder().join("session"));
            symlink(&secret, own_folder().join("session")).unwrap();
        }
        "files-handed-over" => {
            // Whoever changes the owner or the mode of all that is here.
            symlink(canary, results().join("tree")).unwrap();
            symlink(&secret, own_folder().join("file")).unwrap();
            each_config(|config| {
                let _ = symlink(canary, config.join("tree"));
                let _ = symlink(&secret, config.join("file"));
            });
            let _ = fs::set_permissions(artifacts(), PermissionsExt::from_mode(0o000));
        }
        // In a workspace that the agent may write to, of a worker that goes on.
        "files-shared-prompt-link" => replace(Path::new("/workspace/ROLE.md"), &secret),
        "files-shared-prompt-fifo" => {
            aside(Path::new("/workspace/ROLE.md"));
            fifo(Path::new("/workspace/ROLE.md"));
        }
        "files-shared-agents-link" => {
            aside(Path::new("/workspace/ROLE.md"));
            fs::write("/workspace/ROLE.md", "You are harmless.").unwrap();
            fs::create_dir_all("/workspace/.claude").unwrap();
            aside(Path::new("/workspace/.claude/agents"));
            symlink(canary.join("agents"), "/workspace/.claude/agents").unwrap();
        }
        "files-shared-agent-link" => {
            aside(Path::new("/workspace/.claude/agents"));
            fs::create_dir_all("/workspace/.claude/agents").unwrap();
            symlink(canary.join("agents/spy.md"), "/workspace/.claude/agents/spy.md").unwrap();
        }
        "files-shared-claude-link" => {
            aside(Path::new("/workspace/.claude"));
            symlink(canary.join("dot-claude"), "/workspace/.claude").unwrap();
        }
        "files-shared-mcp-link" => {
            aside(Path::new("/workspace/.claude"));
            replace(Path::new("/workspace/mcp.json"), &canary.join("mcp.json"));
        }
        "files-shared-settings" => {
            let written = fs::write("/workspace/worker.toml", "description = \"x\"\n").is_ok();
            let moved = fs::rename("/workspace/worker.toml", "/workspace/other.toml").is_ok();
            let linked = symlink("/etc/hostname", "/workspace/worker.toml").is_ok();
            let saw = format!("written {written}, moved {moved}, linked {linked}");
            crate::row::Rows.say("files-shared-settings", !written && !moved && !linked, saw);
        }
        other => panic!("there is no trick `{other}`"),
    }
}

/// Prints what the supervisor has put before this attempt: nothing from outside may be in it.
pub(crate) fn own_task() {
    let task = Path::new("/tasks").join(own_name()).join("task.json");
    println!("{}", fs::read_to_string(task).unwrap());
}

fn transcript() -> PathBuf {
    own_folder().join("transcript.jsonl")
}

/// Returns where the worker reports.
pub(crate) fn result() -> PathBuf {
    results().join(format!("{}.json", own_name()))
}

/// Does something in every folder that may be the agent's configuration.
fn each_config(work: impl Fn(&Path)) {
    let home = std::env::var("HOME").unwrap_or_default();
    let named = std::env::var("CLAUDE_CONFIG_DIR").unwrap_or_else(|_| "/config".to_owned());
    for folder in ["/config".into(), PathBuf::from(named), Path::new(&home).join(".claude")] {
        let _ = fs::create_dir_all(&folder);
        if folder.is_dir() {
            work(&folder);
        }
    }
}

/// Moves away what is there.
fn aside(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy();
    let _ = fs::rename(path, path.with_file_name(format!("{name}.aside")));
}

fn replace(path: &Path, by: &Path) {
    aside(path);
    symlink(by, path).unwrap();
}

pub(crate) fn fifo(path: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path lives.
    let made = unsafe { libc::mkfifo(path.as_ptr(), 0o666) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
}
