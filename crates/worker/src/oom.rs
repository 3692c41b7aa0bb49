//! Whether the kernel killed something of ours for memory.

use crate::cgroup;

/// Returns how many processes the kernel has killed in our control group because of its memory
/// limit; `None` where it can't be known.
pub(crate) fn kills() -> Option<u64> {
    cgroup::find("memory", ["memory.events", "memory.oom_control"], count)
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
