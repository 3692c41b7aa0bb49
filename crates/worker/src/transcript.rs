//! `transcript.jsonl`: all that the agent said, a JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::lines::Line;

/// The largest transcript. A day of a talkative agent is some megabytes.
const MAX_BYTES: u64 = 256 << 20;

/// How much of a line that is too long, or no JSON, is shown.
const SHOWN: usize = 64 << 10;

/// The transcript of an attempt, to which lines are added.
#[derive(Debug)]
pub(crate) struct Transcript {
    file: File,
    len: u64,
    max: u64,
}

impl Transcript {
    /// Opens the transcript, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // The agent can write into this folder; a link or a pipe of its making is not followed.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
            .open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, max: MAX_BYTES })
    }

    /// Adds a line of a stream of JSON and returns what it holds, if it holds an object.
    pub(crate) fn add_json(&mut self, line: &Line) -> Option<Value> {
        if line.bytes.trim_ascii().is_empty() {
            return None;
        }
        if line.is_cut() {
            self.add_text("text", line);
            return None;
        }
        let value = parse(&line.bytes);
        match &value {
            Some(_) => self.write(&line.bytes),
            None => self.add_text("text", line),
        }
        value
    }

    /// Adds a line of plain text as an object of that type.
    pub(crate) fn add_text(&mut self, kind: &str, line: &Line) {
        let text = String::from_utf8_lossy(&line.bytes[..line.bytes.len().min(SHOWN)]);
        let mut object = json!({ "type": kind, "text": text });
        if line.len > SHOWN as u64 {
            object["cut"] = json!({ "bytes": line.len, "shown": SHOWN });
        }
        self.write(object.to_string().as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.len >= self.max {
            return;
        }
        let whole = [bytes, b"\n"].concat();
        self.len += whole.len() as u64;
        // A full disk must not stop the attempt: the transcript is for people, the result counts.
        if let Err(error) = self.file.write_all(&whole) {
            tracing::warn!(%error, "The transcript can't be written; the attempt goes on without.");
            self.len = self.max;
        } else if self.len >= self.max {
            let note = json!({
                "type": "worker",
                "text": "The transcript is full; what follows is not kept.",
                "max_bytes": self.max,
            });
            let _ = self.file.write_all(format!("{note}\n").as_bytes());
        }
    }
}

/// Returns the JSON object that the bytes hold.
fn parse(bytes: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(bytes).or_else(|error| {
        // Half of a pair of surrogates is what is left where a program cut a text in two; it is
        // no text for Rust, but the rest of the line is as good as before.
        match mend_surrogates(bytes) {
            Some(mended) => serde_json::from_slice(&mended),
            None => Err(error),
        }
    });
    value.ok().filter(Value::is_object)
}

/// Replaces escaped surrogates that have no other half by the replacement character. `None` when
/// there are none.
fn mend_surrogates(bytes: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut mended = Vec::with_capacity(bytes.len());
    let mut found = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let len = match unit(at) {
            Some(0xd800..=0xdbff) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => 0,
            },
            Some(0xdc00..=0xdfff) => 0,
            Some(_) => 6,
            // Any other escape; `\\` before a `u` is one of them.
            None if byte == b'\\' => 2,
            None => 1,
        };
        if len == 0 {
            mended.extend_from_slice(b"\\ufffd");
            found = true;
            at += 6;
        } else {
            let end = (at + len).min(bytes.len());
            mended.extend_from_slice(&bytes[at..end]);
            at = end;
        }
    }
    found.then_some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> Line {
        Line { bytes: text.to_vec(), len: text.len() as u64 }
    }

    #[test]
    fn every_line_of_a_transcript_is_an_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("transcript.jsonl");
        let mut transcript = Transcript::open(&path).unwrap();
        assert!(transcript.add_json(&line(br#"{"type":"never seen","x":1}"#)).is_some());
        assert_eq!(transcript.add_json(&line(b"warning: plain")), None);
        assert_eq!(transcript.add_json(&line(b"[1]")), None);
        assert_eq!(transcript.add_json(&line(b"")), None);
        transcript.add_text("stdout", &line(b"bad \xff byte"));
        assert_eq!(transcript.add_json(&Line { bytes: b"{\"a\":".to_vec(), len: 1 << 30 }), None);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                r#"{"type":"never seen","x":1}"#,
                r#"{"type":"text","text":"warning: plain"}"#,
                r#"{"type":"text","text":"[1]"}"#,
                r#"{"type":"stdout","text":"bad � byte"}"#,
                r#"{"type":"text","text":"{\"a\":","cut":{"bytes":1073741824,"shown":65536}}"#,
            ]
        );
    }

    #[test]
    fn full_transcript_says_so_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("transcript.jsonl");
        let mut transcript = Transcript::open(&path).unwrap();
        transcript.max = 10;
        for _ in 0..3 {
            assert!(transcript.add_json(&line(br#"{"type":"x"}"#)).is_some());
        }
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("transcript is full"), "{text}");
    }

    #[test]
    fn half_a_character_does_not_cost_the_line() {
        let value = parse(br#"{"a":"x \ud83d y","b":"\ud83d\ude00 \\ud83d"}"#).unwrap();
        assert_eq!(value, json!({ "a": "x \u{fffd} y", "b": "😀 \\ud83d" }));
        assert_eq!(parse(b"{\"a\":"), None);
        assert_eq!(parse(b"{\"a\":\"\\ud83d"), None);
    }
}
