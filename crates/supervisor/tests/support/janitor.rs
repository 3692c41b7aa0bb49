//! Cleans up after a test that is killed, by its time limit or by Ctrl-C, and can't do so itself.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `$1` is an installation's label, and the rest are folders. The processes of a test have its first
/// folder in their environment. Twice, for what was just being started.
const CLEAN_UP: &str = r#"
    while read -r _; do :; done
    label=$1; shift
    for round in 1 2; do
        grep -lsF -e "$1" /proc/[0-9]*/environ | cut -d/ -f3 | xargs -r kill -KILL
        [ -z "$label" ] || {
            docker ps -aq --filter "label=supervisor.installation=$label" | xargs -r docker rm --force
            docker network ls -q --filter "label=supervisor.installation=$label" | xargs -r docker network rm
        }
        sleep 1
    done
    for folder in "$@"; do umount --lazy "$folder"; done
    rm -rf -- "$@"
"#;

/// Outlives the test. It does nothing when it is dropped: then the test has cleaned up.
#[derive(Debug)]
pub(crate) struct Janitor(Child);

impl Janitor {
    /// Returns the janitor of these folders and, if there may be any, of an installation's containers.
    pub(crate) fn new(installation: Option<&str>, folders: &[&Path]) -> Self {
        let child = Command::new("sh")
            .args(["-c", CLEAN_UP, "janitor", installation.unwrap_or_default()])
            .args(folders)
            // Ends with the test, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Whoever kills a test kills its whole group.
            .process_group(0)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
