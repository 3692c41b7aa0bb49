//! Whether a replica runs by the spec of today.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::RuntimeError;

/// Returns a text that is the same for the same spec, whatever the order of its fields, and for no
/// other.
pub(super) fn of(mut spec: Value) -> String {
    spec.sort_all_objects();
    format!("{:x}", Sha256::digest(spec.to_string()))
}

/// The content hashes of programs. Each is read again only after it has changed.
#[derive(Debug, Default)]
pub(super) struct Programs(Mutex<HashMap<PathBuf, (Stamp, String)>>);

/// What differs between two contents of a file: i-node, size, and the time of the last change of
/// either, which no program can set back.
type Stamp = (u64, u64, i64, i64);

impl Programs {
    /// Returns the content hash of a program.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::ProgramMissing`] when it is not there, not a file, or not executable.
    pub(super) async fn hash(&self, program: &Path) -> Result<String, RuntimeError> {
        let missing = |error| missing(program, error);
        let stamp = stamp(program).map_err(missing)?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
        if let Some((_, hash)) = known.filter(|(known, _)| *known == stamp) {
            return Ok(hash);
        }
        let path = program.to_owned();
        let hash = tokio::task::spawn_blocking(move || hash_file(&path))
            .await
            .map_err(io::Error::other)
            .and_then(|hash| hash)
            .map_err(missing)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(program.to_owned(), (stamp, hash.clone()));
        Ok(hash)
    }
}

/// Checks that a file is there and may be run.
///
/// # Errors
///
/// [`RuntimeError::ProgramMissing`].
pub(super) fn check_program(program: &Path) -> Result<(), RuntimeError> {
    stamp(program).map(|_| ()).map_err(|error| missing(program, error))
}

fn missing(program: &Path, error: io::Error) -> RuntimeError {
    RuntimeError::ProgramMissing { path: program.to_owned(), source: error.into() }
}

fn stamp(program: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(program)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if meta.mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"));
    }
    Ok((meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

fn hash_file(program: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(program)?, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn order_of_fields_does_not_matter_and_values_do() {
        let ab = of(json!({ "a": { "x": 1, "y": 2 }, "b": [1, 2] }));
        let ba = of(json!({ "b": [1, 2], "a": { "y": 2, "x": 1 } }));
        assert_eq!(ab, ba);
        assert_ne!(ab, of(json!({ "a": { "x": 1, "y": 2 }, "b": [2, 1] })));
    }

    #[tokio::test]
    async fn program_that_was_replaced_has_another_hash() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("worker");
        let programs = Programs::default();
        let mut hashes = Vec::new();
        for text in ["one", "one", "two"] {
            let mut file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.as_file().set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
            file.persist(&program).unwrap();
            hashes.push(programs.hash(&program).await.unwrap());
        }
        assert_eq!(hashes[0], hashes[1]);
        assert_ne!(hashes[1], hashes[2]);
    }

    #[tokio::test]
    async fn program_that_cannot_be_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("worker");
        let programs = Programs::default();
        let error = programs.hash(&program).await.unwrap_err();
        assert!(error.to_string().contains("worker"), "{error}");
        File::create(&program).unwrap();
        assert!(matches!(
            programs.hash(&program).await,
            Err(RuntimeError::ProgramMissing { path, .. }) if path == program
        ));
    }
}
