//! What is mounted in our container.

use std::fs;
use std::path::{Path, PathBuf};

/// Something that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) point: PathBuf,
    /// Whether it is memory that was mounted as a whole, so that it goes with the container.
    pub(crate) is_memory: bool,
}

/// Returns what is mounted; nothing where that can't be known.
pub(crate) fn all() -> Vec<Mount> {
    parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Returns the folders in memory that are the container's alone, and have nothing else mounted in them: what an attempt
/// leaves there outlives it.
pub(crate) fn in_memory() -> Vec<PathBuf> {
    let mounts = all();
    let is_above =
        |point: &Path| mounts.iter().any(|m| m.point != point && m.point.starts_with(point));
    let own = mounts.iter().filter(|mount| mount.is_memory && !is_above(&mount.point));
    own.map(|mount| mount.point.clone()).filter(|point| point.is_dir()).collect()
}

/// Reads lines such as `36 35 98:0 /root /point rw,noatime master:1 - tmpfs source rw`.
fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (ours, theirs) = line.split_once(" - ")?;
        let mut ours = ours.split(' ').skip(3);
        let (root, point) = (ours.next()?, ours.next()?);
        let kind = theirs.split(' ').next()?;
        // A folder of a file system that others have, too, is mounted by its path in that.
        let is_memory = root == "/" && matches!(kind, "tmpfs" | "ramfs" | "mqueue");
        Some(Mount { point: unescaped(point).into(), is_memory })
    };
    text.lines().filter_map(mount).collect()
}

/// Returns a path without the kernel's escapes: spaces and the like are there in octal.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (escape, char)| path.replace(escape, char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_container_is_told_from_a_folder_of_the_hosts() {
        let text = "1 0 0:1 / / ro - overlay overlay rw\n\
                    2 1 0:2 / /dev rw,nosuid - tmpfs tmpfs rw\n\
                    3 2 0:3 / /dev/shm rw shared:7 - tmpfs shm rw\n\
                    4 1 0:4 /slots/a\\040b /results rw - tmpfs tmpfs rw\n";
        let mounts = parse(text);
        let memory: Vec<_> = mounts.iter().filter(|m| m.is_memory).map(|m| &m.point).collect();
        assert_eq!(memory, [Path::new("/dev"), Path::new("/dev/shm")]);
        assert_eq!(mounts.len(), 4);
        assert_eq!(parse("1 0 0:4 /a /x\\040y rw - ext4 /dev/x rw")[0].point, Path::new("/x y"));
    }
}
