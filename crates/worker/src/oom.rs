//! Whether the kernel killed something of ours for memory.

use std::fs;
use std::path::PathBuf;

/// Returns how many processes the kernel has killed in our control group because of its memory
/// limit; `None` where it can't be known.
pub(crate) fn kills() -> Option<u64> {
    files().into_iter().find_map(|path| count(&fs::read_to_string(path).ok()?))
}

/// Returns where the count may be: the second version of control groups, then the first.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        // "0::/path", or "4:memory:/path".
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            files.push(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"));
            files.push(PathBuf::from("/sys/fs/cgroup/memory.events"));
        } else if controllers.split(',').any(|name| name == "memory") {
            let root = PathBuf::from("/sys/fs/cgroup/memory");
            files.push(root.join(path).join("memory.oom_control"));
            // A container sees its own group as the root.
            files.push(root.join("memory.oom_control"));
        }
    }
    files
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_found_in_both_versions() {
        assert_eq!(count("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), Some(5));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
