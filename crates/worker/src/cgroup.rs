//! What our control group says, in both of their versions.

use std::fs;
use std::path::PathBuf;

/// Returns the first file of that name that says something that is wanted: in the second version of control groups,
/// then in the first, where each controller has a tree of its own.
pub(crate) fn find<T>(
    controller: &str,
    names: [&str; 2],
    wanted: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let files =
        files(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), controller, names);
    files.into_iter().find_map(|path| wanted(fs::read_to_string(path).ok()?.trim()))
}

fn files(own: &str, controller: &str, [second, first]: [&str; 2]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in own.lines() {
        // "0::/path", or "4:memory:/path".
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        let (root, name) = if controllers.is_empty() {
            (PathBuf::from("/sys/fs/cgroup"), second)
        } else if controllers.split(',').any(|name| name == controller) {
            (PathBuf::from("/sys/fs/cgroup").join(controller), first)
        } else {
            continue;
        };
        // A container sees its own group as the root.
        files.extend([root.join(path).join(name), root.join(name)]);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_our_group_in_both_versions() {
        let own = "5:pids:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n";
        let found = files(own, "cpu", ["cpu.max", "cpu.cfs_quota_us"]);
        let found: Vec<_> = found.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            found,
            [
                "/sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                "/sys/fs/cgroup/docker/x/cpu.max",
                "/sys/fs/cgroup/cpu.max",
            ]
        );
    }
}
