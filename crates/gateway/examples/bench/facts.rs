//! On what and with what it was measured.

use std::{fs, process::Command, thread, time::Duration};

use crate::{Result, contenders};

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

/// Returns the processor time that the hypervisor has given to others while this machine wanted it, of all cores
/// since the start. It counts in ticks of the kernel's, 10 ms as a rule. (`man 5 proc_stat`, `steal`)
pub(crate) fn stolen() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    // `cpu`, and after it the times for user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks = stat.split_whitespace().nth(8).ok_or("no such field in /proc/stat")?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(Duration::from_secs(ticks.parse()?) / per_second)
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
