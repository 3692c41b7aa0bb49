//! Fuzzing: every parser of what people, containers, clients and servers write, and the intake of results.
//!
//! A [`Target`] takes any bytes, and panics when something is wrong. Its corpus is the folder
//! `corpus/<name>`: what a good one looks like, and what was once wrong. [`run`] changes these at random
//! from a seed, so that what it finds is found again; it needs no special compiler, and the tests of this
//! crate run each target for some seconds. `make fuzz` runs the intake a million times and looks at the
//! memory.

mod intake;
mod mutate;
mod targets;

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, panic};

pub use intake::Intake;
pub use mutate::Mutator;
pub use targets::TARGETS;

/// Something that takes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics when something is wrong.
    pub take: fn(&[u8]),
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// So many inputs.
    Inputs(u64),
    /// So long.
    Time(Duration),
}

/// Returns a target's corpus, in the order of its names.
///
/// # Panics
///
/// When it can't be read, or is empty.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("`{}` can't be read: {error}", folder.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus `{}` is empty", folder.display());
    let read = |path: &PathBuf| {
        fs::read(path).unwrap_or_else(|e| panic!("`{}` can't be read: {e}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// Feeds a target with its corpus and then with what a seed makes of it. Returns how many inputs it took.
///
/// # Panics
///
/// As the target, after it has said with what: put that into the corpus once it is mended.
pub fn run(target: Target, seed: u64, bound: Bound) -> u64 {
    let corpus = corpus(target.name);
    let mut mutator = Mutator::new(seed, corpus.clone());
    let start = Instant::now();
    let mut taken = 0;
    let mut feed = |input: &[u8]| {
        if let Err(cause) = panic::catch_unwind(|| (target.take)(input)) {
            let path = keep(target, input);
            eprintln!("{}: wrong with `{path}` (input {taken} of seed {seed})", target.name);
            panic::resume_unwind(cause);
        }
        taken += 1;
        match bound {
            Bound::Inputs(most) => taken < most,
            Bound::Time(most) => start.elapsed() < most,
        }
    };
    if corpus.iter().all(|input| feed(input)) {
        while feed(mutator.input()) {}
    }
    taken
}

/// Keeps an input for whoever wants to see what is wrong with it.
fn keep(target: Target, input: &[u8]) -> String {
    let kept = tempfile::Builder::new()
        .prefix(&format!("fuzz-{}-", target.name))
        .tempfile()
        .and_then(|mut file| std::io::Write::write_all(&mut file, input).map(|()| file))
        .and_then(|file| file.keep().map_err(Into::into));
    match kept {
        Ok((_, path)) => path.display().to_string(),
        Err(_) => String::from_utf8_lossy(input).into_owned(),
    }
}
