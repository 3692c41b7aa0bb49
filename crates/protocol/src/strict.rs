//! Reading JSON that somebody else wrote: nothing is guessed, and what is wrong is said with its
//! place.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};
use thiserror::Error;

/// The largest task, plan or result file, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// How much of a name or a message is quoted: whoever wrote the text may have made a megabyte of one name, and
/// what is quoted goes into journals, prompts and onto screens.
const MAX_QUOTED: usize = 300;

/// The deepest nesting of arrays and objects. The formats need six; `context` may hold more.
const MAX_DEPTH: usize = 32;

/// Why a text is not what it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ParseFault {
    /// There are too many bytes.
    #[error("it has {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// How many there are.
        len: u64,
        /// How many there may be.
        max: usize,
    },
    /// A byte is not UTF-8.
    #[error("byte {at} is not UTF-8 text")]
    NotUtf8 {
        /// Its offset, from 0.
        at: usize,
    },
    /// The text ends too early. It may be that somebody is still writing.
    #[error("line {line}: the JSON ends too early")]
    Truncated {
        /// The last line.
        line: usize,
    },
    /// It is not JSON.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// It is JSON, but not of this format.
    #[error("line {line}, column {column}{}: {message}", at_field(.field))]
    Shape {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The path of the field; empty for the whole.
        field: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

fn at_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(", field `{field}`") }
}

impl ParseFault {
    /// Returns whether the rest may still come: the file is empty or cut off.
    pub fn may_be_unfinished(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }

    /// Returns what the writer of the file can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::TooLarge { .. } => {
                "Put large material into a file of the workspace and name it.".to_owned()
            }
            Self::NotUtf8 { .. } => "Save the file as UTF-8.".to_owned(),
            Self::Truncated { .. } => "Complete the file and save it again.".to_owned(),
            Self::Syntax { .. } => "Mend the JSON there and save the file again.".to_owned(),
            Self::Shape { hint: Some(hint), .. } => hint.clone(),
            Self::Shape { .. } => {
                "Compare it with the format: `supervisor schema task` prints it.".to_owned()
            }
        }
    }
}

/// Returns what `bytes` hold, as JSON.
///
/// Refuses more than [`MAX_BYTES`], what is not UTF-8, nesting deeper than 32, a name that comes
/// twice in one object, unknown fields (with the nearest known name), and anything after the end.
///
/// # Errors
///
/// See [`ParseFault`]: each names the place.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ParseFault> {
    if bytes.len() > MAX_BYTES {
        return Err(ParseFault::TooLarge { len: bytes.len() as u64, max: MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ParseFault::NotUtf8 { at: error.valid_up_to() })?;
    if text.starts_with('\u{feff}') {
        return Err(ParseFault::Syntax {
            line: 1,
            column: 1,
            message: "the file begins with a byte order mark".to_owned(),
        });
    }
    if text.trim_ascii().is_empty() {
        return Err(ParseFault::Truncated { line: 1 });
    }
    // The first pass sees every object, also those that the type would skip or fold together.
    let mut json = serde_json::Deserializer::from_str(text);
    Plain { depth: 0 }
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|e| fault(&e, ""))?;
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        fault(error.inner(), if path == "." { "" } else { &path })
    })
}

fn fault(error: &serde_json::Error, field: &str) -> ParseFault {
    let (line, column) = (error.line().max(1), error.column().max(1));
    // serde_json puts the place at the end of its message; ours stands in front.
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(text, _)| text);
    let field = brief(field);
    match error.classify() {
        serde_json::error::Category::Eof => ParseFault::Truncated { line },
        serde_json::error::Category::Data => {
            let (message, hint) = unknown_name(message);
            ParseFault::Shape { line, column, field, message: brief(&message), hint }
        }
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => {
            ParseFault::Syntax { line, column, message: brief(message) }
        }
    }
}

/// Returns a text, or its beginning and its end.
fn brief(text: &str) -> String {
    if text.len() <= MAX_QUOTED {
        return text.to_owned();
    }
    let begin = text.floor_char_boundary(MAX_QUOTED / 2);
    let end = text.ceil_char_boundary(text.len() - MAX_QUOTED / 2);
    format!("{}…{}", &text[..begin], &text[end..])
}

/// Turns serde's "unknown field `x`, expected one of …" into a suggestion. Returns other messages
/// as they are.
fn unknown_name(message: &str) -> (String, Option<String>) {
    let Some((head, expected)) = message.split_once(", expected ") else {
        return (message.to_owned(), None);
    };
    let Some(found) = head.strip_prefix("unknown ").and_then(|rest| rest.split('`').nth(1)) else {
        return (message.to_owned(), None);
    };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let hint = match nearest(found, known.iter().copied()) {
        Some(name) => format!("Did you mean `{name}`?"),
        None => format!("Known here: {}.", known.join(", ")),
    };
    (head.to_owned(), Some(hint))
}

/// Returns the candidate that is most like `word`, if one is like it at all.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    // No name is that long, and to compare a giant takes a while.
    if word.len() > MAX_QUOTED {
        return None;
    }
    candidates
        .map(|name| (strsim::jaro_winkler(word, name), name))
        // Below that, suggestions confuse more than they help (tried on the fields of a task).
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

/// Returns a TOML error as text: the message, the line it is about, and a suggestion.
pub fn explain_toml(error: &toml::de::Error) -> String {
    let (message, hint) = unknown_name(error.message());
    // The library's own text shows the line with a mark below the place.
    let shown = error.to_string().replace(error.message(), &message);
    match hint {
        Some(hint) => format!("{}\n{hint}", shown.trim_end()),
        None => shown.trim_end().to_owned(),
    }
}

/// Walks JSON and refuses names that come twice and nesting that is too deep.
#[derive(Clone, Copy)]
struct Plain {
    depth: usize,
}

impl Plain {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("the name `{name}` comes twice")));
            }
            map.next_value_seed(inner)?;
            names.insert(name);
        }
        Ok(())
    }
}
