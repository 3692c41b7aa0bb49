//! Whether the container is what its supervisor asked for: an engine may leave out a limit and say so nowhere.

use std::fs;
use std::path::Path;

use protocol::atomic_file::{self, Durability};
use protocol::{SELF_TEST_FILE, SelfTest, Wall};
use rustix::fs::{Access, access};

use crate::args::Args;
use crate::paths::Paths;
use crate::service::Fault;
use crate::{cgroup, mounts};

/// Looks at the limits and the rights of this container, and says what does not hold: in the log, and in a file for the
/// supervisor.
///
/// # Errors
///
/// [`Fault::Unfit`] where something does not hold that the operator has not put up with.
pub(crate) fn check(args: &Args, paths: &Paths, filter: &Result<(), String>) -> Result<(), Fault> {
    let mut found = limits(args);
    found.extend(rights(&fs::read_to_string("/proc/self/status").unwrap_or_default()));
    if let Err(error) = filter {
        found.push((Wall::Seccomp, format!("the filter of system calls is not taken: {error}")));
    }
    found.extend(folders(args, paths));
    for (wall, why) in &found {
        tracing::warn!(%wall, why, "A wall does not hold.");
    }
    let mut holes: Vec<_> = found.iter().map(|(wall, _)| *wall).collect();
    holes.dedup();
    let said = serde_json::to_vec(&SelfTest { holes }).unwrap_or_default();
    let file = paths.results.join(SELF_TEST_FILE);
    if let Err(error) = atomic_file::replace(&file, &said, Durability::Volatile) {
        tracing::warn!(%error, "What does not hold can't be told.");
    }
    match found.into_iter().find(|(wall, _)| !args.r#unsafe.contains(wall)) {
        Some((wall, why)) => Err(Fault::Unfit(format!(
            "{why}. {} Or put up with it: `unsafe = [\"{wall}\"]` in supervisor.toml",
            wall.cure()
        ))),
        None => Ok(()),
    }
}

/// Compares the limits of our control group with those that were asked for.
fn limits(args: &Args) -> Vec<(Wall, String)> {
    let number = |text: &str| text.parse::<u64>().ok();
    let mut found = Vec::new();
    let mut compare = |wall, what: &str, asked: u64, is: Option<u64>| {
        if is.is_none_or(|is| is > asked) {
            let is = is.map_or("there is none".to_owned(), |is| format!("it is {is}"));
            found.push((wall, format!("the limit on {what} of {asked} is not kept: {is}")));
        }
    };
    if let Some(mib) = args.memory_mib {
        let names = ["memory.max", "memory.limit_in_bytes"];
        let asked = mib << 20;
        compare(Wall::Memory, "memory", asked, cgroup::find("memory", names, number));
        // The second version counts swap apart, the first together with memory.
        let swap = cgroup::find("memory", ["memory.swap.max", ""], number)
            .map(|swap| asked.saturating_add(swap));
        let both =
            swap.or_else(|| cgroup::find("memory", ["", "memory.memsw.limit_in_bytes"], number));
        if has_swap() {
            compare(Wall::Swap, "memory with swap", asked, both);
        }
    }
    if let Some(pids) = args.pids {
        compare(Wall::Pids, "processes", pids, cgroup::find("pids", ["pids.max"; 2], number));
    }
    if let Some(cpus) = args.cpus {
        // In microseconds of 100,000, as engines have it; one more for what they round.
        let asked = (cpus * 1e5).round() as u64 + 1;
        compare(Wall::Cpus, "processor time (in 1/100000)", asked, share());
    }
    found
}

/// Returns how much processor time we may have, in 1/100000 of a processor's.
fn share() -> Option<u64> {
    let number = |text: &str| text.parse::<u64>().ok();
    let of = |quota: u64, period: u64| quota.saturating_mul(100_000).checked_div(period);
    cgroup::find("cpu", ["cpu.max", ""], |text| {
        let (quota, period) = text.split_once(' ')?;
        of(number(quota)?, number(period)?)
    })
    .or_else(|| {
        let quota = cgroup::find("cpu", ["", "cpu.cfs_quota_us"], number)?;
        of(quota, cgroup::find("cpu", ["", "cpu.cfs_period_us"], number)?)
    })
}

fn has_swap() -> bool {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    total.is_none_or(|total| total.split_whitespace().next() != Some("0"))
}

/// Reads what the kernel says of a process: who it is and what it may.
fn rights(status: &str) -> Vec<(Wall, String)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    };
    let mut found = Vec::new();
    if field("Uid").split_whitespace().any(|id| id == "0") || field("Uid").is_empty() {
        found.push((Wall::User, "the agent is root".to_owned()));
    }
    for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        let set = field(name);
        if !set.bytes().all(|b| b == b'0') || set.is_empty() {
            found
                .push((Wall::Capabilities, format!("the agent has capabilities: {name} is {set}")));
            break;
        }
    }
    if field("NoNewPrivs") != "1" {
        found.push((Wall::Capabilities, "programs may give the agent new privileges".to_owned()));
    }
    if field("Seccomp") != "2" {
        found.push((Wall::Seccomp, "no system call is denied".to_owned()));
    }
    found
}

/// Finds folders that can be written and should not.
fn folders(args: &Args, paths: &Paths) -> Vec<(Wall, String)> {
    let mut allowed = mounts::in_memory();
    allowed.extend([paths.results.clone(), paths.scratch.clone()]);
    if args.shared_workspace {
        allowed.push(paths.workspace.clone());
    }
    let mut looked_at =
        vec![Path::new("/").to_owned(), paths.tasks.clone(), paths.workspace.clone()];
    looked_at.extend(mounts::all().into_iter().map(|mount| mount.point));
    // Files there are the kernel's, one by one.
    let kernels = [Path::new("/proc"), Path::new("/sys")];
    looked_at.retain(|path| {
        !allowed.contains(path) && !kernels.iter().any(|kernel| path.starts_with(kernel))
    });
    looked_at.sort();
    looked_at.dedup();
    let is_open = |path: &Path| path.is_dir() && access(path, Access::WRITE_OK).is_ok();
    let open = looked_at.into_iter().filter(|path| is_open(path));
    open.map(|path| (Wall::Folders, format!("{} can be written", path.display()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_that_an_agent_should_not_have_are_seen() {
        let status = "Name:\tworker\nUid:\t1000\t1000\t1000\t1000\nCapInh:\t0\nCapPrm:\t0000000000000000\n\
                      CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
                      NoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(rights(status), []);
        for (from, to, wall) in [
            ("1000\t1000\t1000\t1000", "0\t0\t0\t0", Wall::User),
            ("CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb", Wall::Capabilities),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", Wall::Capabilities),
            ("Seccomp:\t2", "Seccomp:\t0", Wall::Seccomp),
        ] {
            let found: Vec<_> =
                rights(&status.replace(from, to)).into_iter().map(|f| f.0).collect();
            assert_eq!(found, [wall], "{to}");
        }
        assert_eq!(rights("").len(), 4);
    }
}
