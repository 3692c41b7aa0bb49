//! The end of what a replica printed.

/// How many lines of it are kept: enough for a panic and what led to it.
pub(super) const LINES: usize = 20;

/// How many lines of what a check printed are kept: all that [`BYTES`] can hold.
pub(super) const CHECK_LINES: usize = BYTES;

/// How many bytes of it are kept: it travels in events and is shown on a screen.
pub(super) const BYTES: usize = 4096;

/// Returns the last [`LINES`] lines of a text, of these the last [`BYTES`] bytes.
pub(super) fn tail(text: &[u8]) -> String {
    tail_of(text, LINES)
}

/// Returns that many last lines of a text, of these the last [`BYTES`] bytes.
pub(super) fn tail_of(text: &[u8], most: usize) -> String {
    let text = text.trim_ascii_end();
    let start = text.len().saturating_sub(BYTES);
    let text = String::from_utf8_lossy(&text[start..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_the_last_bytes() {
        let text: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        let kept = tail(text.as_bytes());
        assert_eq!(kept.lines().next(), Some("line 11"));
        assert_eq!(kept.lines().last(), Some("line 30"));
        assert_eq!(tail(&[b'x'; 10_000]).len(), BYTES);
        assert_eq!(tail(b""), "");
        assert_eq!(tail(b"a\xff\n\n"), "a\u{fffd}");
    }
}
