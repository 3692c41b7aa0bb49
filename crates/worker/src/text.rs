//! Cutting texts to a length.

/// Returns the text, or as much of its beginning as has at most `max` bytes, saying what was cut.
pub(crate) fn head(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max);
    format!("{}… [cut here: {end} of {} bytes]", &text[..end], text.len())
}

/// Returns the last `max` bytes of a text, from a full character on.
pub(crate) fn tail(text: &str, max: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(max))..]
}

/// Returns the first line that has text, at most `max` bytes of it.
pub(crate) fn first_line(text: &str, max: usize) -> String {
    head(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default(), max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(head("déjà", 4), "déj… [cut here: 4 of 6 bytes]");
        assert_eq!(head("déjà", 2), "d… [cut here: 1 of 6 bytes]");
        assert_eq!(head("déjà", 6), "déjà");
        assert_eq!(tail("déjà", 3), "jà");
        assert_eq!(tail("déjà", 1), "");
        assert_eq!(first_line("\n  a b \nc", 9), "a b");
    }
}
