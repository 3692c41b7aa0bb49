//! Reads a request's body in one pass.
//!
//! What matters is looked at where the parser stands; all else is hashed as the raw bytes that it is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Ttl,
    blocks::{Blocks, Marked},
    content::{Content, Control, Finds, Once, Role, Sum, Text},
};

/// All that is read from a body.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) model: String,
    pub(super) max_tokens: u64,
    pub(super) fast: bool,
    pub(super) finds: Finds,
    pub(super) blocks: Blocks,
}

impl Reading {
    pub(super) fn of(text: &str) -> serde_json::Result<Self> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let reading = parser.deserialize_map(Body)?;
        parser.end()?;
        Ok(reading)
    }
}

#[derive(Clone, Copy)]
enum Key {
    Model,
    MaxTokens,
    Speed,
    CacheControl,
    Tools,
    System,
    Messages,
    Other,
}

impl Key {
    fn of(key: &str) -> (Self, &'static str) {
        match key {
            "model" => (Self::Model, "model"),
            "max_tokens" => (Self::MaxTokens, "max_tokens"),
            "speed" => (Self::Speed, "speed"),
            "cache_control" => (Self::CacheControl, "cache_control"),
            "tools" => (Self::Tools, "tools"),
            "system" => (Self::System, "system"),
            "messages" => (Self::Messages, "messages"),
            _ => (Self::Other, ""),
        }
    }
}

struct Body;

impl<'de> Visitor<'de> for Body {
    type Value = Reading;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request for a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Reading, A::Error> {
        let (mut model, mut max_tokens, mut fast) = (None, None, false);
        let (mut tools, mut system, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        let mut finds = Finds::default();
        let mut once = Once::default();
        while let Some((key, name)) = map.next_key_seed(Text(Key::of))? {
            if !matches!(key, Key::Other) {
                once.check(key as u8, name)?;
            }
            let finds = &mut finds;
            match key {
                Key::Model => model = Some(map.next_value_seed(Text(str::to_owned))?),
                Key::MaxTokens => max_tokens = Some(map.next_value::<u64>()?),
                Key::Speed => {
                    fast = !matches!(map.next_value::<&RawValue>()?.get(), "null" | "\"standard\"");
                }
                Key::CacheControl => {
                    let control = map.next_value::<Option<Control>>()?;
                    finds.long_lived |= control.is_some_and(|control| control.ttl() == Ttl::Long);
                }
                Key::Tools => {
                    let push = |block: &Marked| tools.push(*block);
                    map.next_value_seed(Content { finds, role: Role::Tool, depth: 0, push })?;
                }
                Key::System => {
                    let push = |block: &Marked| system.push(*block);
                    map.next_value_seed(Content { finds, role: Role::Content, depth: 0, push })?;
                }
                Key::Messages => {
                    map.next_value_seed(Messages { finds, messages: &mut messages })?
                }
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Reading {
            model: model.ok_or_else(|| A::Error::missing_field("model"))?,
            max_tokens: max_tokens.ok_or_else(|| A::Error::missing_field("max_tokens"))?,
            fast,
            finds,
            blocks: Blocks::new(&tools, &system, &messages),
        })
    }
}

struct Messages<'a> {
    finds: &'a mut Finds,
    messages: &'a mut Vec<Marked>,
}

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(message) = seq.next_element_seed(Message { finds: self.finds })? {
            self.messages.push(message);
        }
        Ok(())
    }
}

struct Message<'a> {
    finds: &'a mut Finds,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = Marked;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Marked, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = Marked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Marked, A::Error> {
        let mut sum = Sum::default();
        let mut once = Once::default();
        while let Some(is_content) = map.next_key_seed(Text(|key: &str| {
            sum.add(key);
            key == "content"
        }))? {
            if is_content {
                once.check(0, "content")?;
                let push = |block: &Marked| sum.add_block(block);
                let finds = &mut *self.finds;
                map.next_value_seed(Content { finds, role: Role::Content, depth: 0, push })?;
            } else {
                sum.add(map.next_value::<&RawValue>()?.get());
            }
        }
        Ok(sum.end())
    }
}
