//! The key of which the secrets are made that workers prove their reports with.

use std::fs;
use std::io::ErrorKind;

use protocol::{ReportKey, atomic_file};

use crate::failure::Failure;
use crate::install::{Installation, cant_write};

/// Returns the installation's key, and makes one where there is none yet.
///
/// # Errors
///
/// Unavailable when the file can't be read, can't be made, or holds something else.
pub fn load(installation: &Installation) -> Result<ReportKey, Failure> {
    let path = installation.report_key();
    let cant_read = |error: std::io::Error| {
        Failure::unavailable(format!("`{}` can't be used", path.display()))
            .because(error)
            .hint("Remove the file: another key is made, and attempts that run begin anew.")
    };
    match fs::read(&path) {
        Ok(bytes) => ReportKey::read(&bytes)
            .ok_or_else(|| cant_read(std::io::Error::other("it does not hold 32 bytes"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut bytes = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(|error| {
                Failure::unavailable("the system has no random numbers").because(error)
            })?;
            atomic_file::create_private(&path, &*bytes).map_err(|e| cant_write(&path, e))?;
            Ok(ReportKey::new(*bytes))
        }
        Err(error) => Err(cant_read(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use protocol::atomic_file::Durability;

    use super::*;

    #[test]
    fn key_is_made_once_for_the_daemon_alone_and_a_damaged_one_is_refused_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        fs::create_dir(installation.state()).unwrap();
        let replica = "marie-1".parse().unwrap();
        let first = load(&installation).unwrap().secret(&replica);
        assert_eq!(load(&installation).unwrap().secret(&replica), first);
        let path = installation.report_key();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, 32));

        atomic_file::replace(&path, b"short", Durability::Volatile).unwrap();
        let failure = load(&installation).unwrap_err();
        assert!(failure.causes().join(" ").contains("32 bytes"), "{failure:?}");
        assert!(failure.cure().unwrap().contains("Remove the file"), "{failure:?}");
    }
}
