//! On what and with what it was measured.

use std::{fs, process::Command, thread};

use crate::contenders;

/// Returns lines of a Markdown list.
pub(crate) fn lines(with_litellm: bool) -> Vec<String> {
    let mut lines = vec![
        format!(
            "- Machine: {} × {}, {} of memory",
            thread::available_parallelism().map_or(0, usize::from),
            field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            memory().unwrap_or_else(|| "unknown size".to_owned()),
        ),
        format!(
            "- System: {}, Linux {}",
            release().unwrap_or_else(|| "unknown".to_owned()),
            read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        ),
        format!(
            "- Gateway: version {}, {} with {}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "built WITHOUT optimisation" } else { "release build" },
            said("rustc", &["--version"]).unwrap_or_default(),
        ),
    ];
    if let Some(nginx) = contenders::nginx() {
        let version = said(&nginx.to_string_lossy(), &["-v"]).unwrap_or_default();
        lines.push(format!("- {}", version.replace("nginx version: ", "Upstream and floor: ")));
    }
    if with_litellm {
        let version = contenders::litellm_version().unwrap_or_default();
        lines.push(format!("- Peer: LiteLLM {version}, a worker process for each core"));
    }
    lines
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<String> {
    let kib: u64 = field("/proc/meminfo", "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(format!("{} GiB", (kib + (1 << 19)) >> 20))
}

fn release() -> Option<String> {
    let text = read("/etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// Returns what a program says first, on either of its outputs.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let all = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&all).lines().next()?.to_owned())
}
