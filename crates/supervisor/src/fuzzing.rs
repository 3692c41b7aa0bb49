//! Parsers of this crate that are nobody else's business, for the crate `fuzz`: each takes any bytes.

use std::path::Path;

use crate::cli::render_line;
use crate::config::Config;
use crate::failure::Failure;
use crate::{journal, keys};

/// A journal, as it is and with its lines sealed.
pub fn journal(bytes: &[u8]) {
    journal::read_any(Path::new("journal.jsonl"), bytes);
    let _ = journal::records(bytes);
}

/// A line of a transcript, as `logs` shows it.
///
/// # Panics
///
/// When it could steer a terminal.
pub fn transcript(bytes: &[u8]) {
    let shown = render_line(&String::from_utf8_lossy(bytes));
    // What is left without our own colours must not steer.
    let plain = anstream::adapter::strip_str(&shown).to_string();
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!plain.chars().any(steers), "{plain:?}");
}

/// What is in a key file.
///
/// # Panics
///
/// When an error shows what might be a key.
pub fn key(bytes: &[u8]) {
    let shown = |key: &str| Some(gateway::Credential::api_key(key.to_owned()).err()?.to_string());
    if let Some(shown_of_it) = keys::text_of(bytes).and_then(|text| shown(&text)) {
        // The words are the same for every key: nothing of this one is among them.
        let words = [shown(""), shown("a b")];
        assert!(words.contains(&Some(shown_of_it.clone())), "{shown_of_it}");
    }
}

/// `supervisor.toml`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(failure) = Config::of_text(text) {
        shown(&failure);
    }
}

/// A failure is shown in full, whatever it quotes.
fn shown(failure: &Failure) {
    let _ = (failure.to_string(), failure.causes(), failure.cure());
}
