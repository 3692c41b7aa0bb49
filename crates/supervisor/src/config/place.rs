//! Places in `supervisor.toml`.

use std::fmt;
use std::ops::Range;

use toml::Spanned;

use crate::failure::Failure;
use crate::install::Installation;

/// A place in `supervisor.toml`, as compilers write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl Place {
    /// Returns the place at which a span of `text` begins.
    pub(super) fn of(text: &str, span: Range<usize>) -> Self {
        let before = &text[..span.start.min(text.len())];
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }

    /// Returns the failure that what stands here can't be.
    pub fn refused(self, what: impl fmt::Display) -> Failure {
        Failure::bad_input(format!("{self}: {what}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Installation::CONFIG, self.line, self.column)
    }
}

/// A value from `supervisor.toml`, with the place where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Placed<T> {
    pub(super) fn of(text: &str, spanned: Spanned<T>) -> Self {
        let place = Place::of(text, spanned.span());
        Self { value: spanned.into_inner(), place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_counted_in_lines_and_characters_from_1() {
        let text = "ä = 1\n[b]\nüü = 2\n";
        let at = |part: &str| {
            let start = text.find(part).unwrap();
            let Place { line, column } = Place::of(text, start..start + 1);
            (line, column)
        };
        assert_eq!([at("ä"), at("1"), at("[b]"), at("2")], [(1, 1), (1, 5), (2, 1), (3, 6)]);
    }
}
