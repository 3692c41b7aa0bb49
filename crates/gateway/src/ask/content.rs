//! Tools and blocks of content, wherever they stand in a request.

use std::{fmt, hash::Hasher};

use foldhash::quality::FoldHasher;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    IMAGE_LIKELY, Ttl,
    blocks::{Marked, hasher},
};

/// How deep blocks may stand in blocks: an image in a document's content in a tool's result is 2.
const MAX_DEPTH: u8 = 4;

/// What is found in the blocks.
#[derive(Debug, Default)]
pub(super) struct Finds {
    pub(super) images: u64,
    /// PDFs.
    pub(super) documents: u64,
    /// The base64 of both.
    pub(super) media_bytes: u64,
    /// That of the PDFs.
    pub(super) document_bytes: u64,
    /// Tools that the API knows and the client runs.
    pub(super) known_tools: u64,
    /// Tools that the API runs.
    pub(super) server_tools: bool,
    pub(super) long_lived: bool,
}

/// A string, shown to a function.
pub(super) struct Text<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

/// Which of the keys that are read were there: none may be there twice.
#[derive(Default)]
pub(super) struct Once(u16);

impl Once {
    pub(super) fn check<E: Error>(&mut self, bit: u8, name: &'static str) -> Result<(), E> {
        if self.0 & (1 << bit) != 0 {
            return Err(E::duplicate_field(name));
        }
        self.0 |= 1 << bit;
        Ok(())
    }
}

/// What blocks are: tools, or what is said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Tool,
    Content,
}

/// A list of blocks, or a text that is the same as one block of text. The CLI sends the same message
/// in both forms, in one turn so and in the next so.
pub(super) struct Content<'a, F> {
    pub(super) finds: &'a mut Finds,
    pub(super) role: Role,
    /// How many blocks it stands in.
    pub(super) depth: u8,
    /// What becomes of each block.
    pub(super) push: F,
}

impl<'de, F: FnMut(&Marked)> DeserializeSeed<'de> for Content<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&Marked)> Visitor<'de> for Content<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of blocks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { finds, role, depth, mut push } = self;
        while let Some(block) = seq.next_element_seed(Object { finds, role, depth })? {
            push(&block);
        }
        Ok(())
    }

    /// Some tools of the API have one object as their result.
    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        let object = Object { finds: self.finds, role: self.role, depth: self.depth };
        let block = object.visit_map(map)?;
        (self.push)(&block);
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        // As it stands in the block that it is the same as: with its escapes.
        let text = serde_json::to_string(text).map_err(E::custom)?;
        (self.push)(&text_block(&text));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Returns the block that a text alone stands for.
fn text_block(text: &str) -> Marked {
    let mut sum = Sum::default();
    for part in ["type", "text", "text", text] {
        sum.add(part);
    }
    sum.end()
}

/// Reads the content of a block, such as a tool's result.
///
/// It is walked over first: most of it is long texts, which need not be copied then.
fn nested<E: Error>(raw: &RawValue, finds: &mut Finds, depth: u8, sum: &mut Sum) -> Result<(), E> {
    match raw.get().as_bytes().first() {
        Some(b'"') => sum.add_block(&text_block(raw.get())),
        Some(b'[' | b'{') if depth == MAX_DEPTH => {
            return Err(E::custom(format_args!("blocks are nested more than {MAX_DEPTH} deep")));
        }
        Some(b'[' | b'{') => {
            let push = |block: &Marked| sum.add_block(block);
            let content = Content { finds, role: Role::Content, depth: depth + 1, push };
            content.deserialize(raw).map_err(E::custom)?;
        }
        _ => sum.add(raw.get()),
    }
    Ok(())
}

/// The hash and size of a block, as far as it is read.
pub(super) struct Sum {
    hasher: FoldHasher<'static>,
    size: u64,
    ends: Option<Ttl>,
}

impl Default for Sum {
    fn default() -> Self {
        Self { hasher: hasher(), size: 0, ends: None }
    }
}

impl Sum {
    pub(super) fn add(&mut self, text: &str) {
        self.hasher.write(text.as_bytes());
        self.size += text.len() as u64;
    }

    pub(super) fn add_block(&mut self, block: &Marked) {
        self.hasher.write_u64(block.hash);
        self.size += block.size;
        self.ends = block.ends.or(self.ends);
    }

    pub(super) fn end(self) -> Marked {
        Marked { hash: self.hasher.finish(), size: self.size, ends: self.ends }
    }
}

/// What is read in a block, and in the source of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Type,
    CacheControl,
    Source,
    Content,
    Data,
    Other,
}

impl Field {
    fn of(key: &str) -> (Self, &'static str) {
        match key {
            "type" => (Self::Type, "type"),
            "cache_control" => (Self::CacheControl, "cache_control"),
            "source" => (Self::Source, "source"),
            "content" => (Self::Content, "content"),
            "data" => (Self::Data, "data"),
            _ => (Self::Other, ""),
        }
    }
}

/// What the `type` of a block, a tool or a source says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Type {
    #[default]
    None,
    Image,
    Document,
    Base64,
    /// A source of text, which is in the request itself.
    Inline,
    /// A tool that is described in the request.
    Custom,
    /// A tool that the API knows and the client runs.
    Known,
    Other,
}

impl Type {
    fn of(name: &str) -> Self {
        match name {
            "image" => Self::Image,
            "document" => Self::Document,
            "base64" => Self::Base64,
            "text" | "content" => Self::Inline,
            "custom" => Self::Custom,
            _ => {
                let known = ["bash_", "text_editor_", "computer_", "memory_"];
                let known = known.iter().any(|family| name.starts_with(family));
                if known { Self::Known } else { Self::Other }
            }
        }
    }
}

/// A block or a tool; also the source of an image or of a document.
struct Object<'a> {
    finds: &'a mut Finds,
    role: Role,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Marked;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Marked, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Marked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a block")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Marked, A::Error> {
        let Self { finds, role, depth } = self;
        let (mut sum, mut once) = (Sum::default(), Once::default());
        let (mut kind, mut source) = (Type::None, None);
        while let Some((field, name)) = map.next_key_seed(Text(|key: &str| {
            let field = Field::of(key);
            if field.0 != Field::CacheControl {
                sum.add(key);
            }
            field
        }))? {
            if field != Field::Other {
                once.check(field as u8, name)?;
            }
            match field {
                Field::Type => {
                    kind = map.next_value_seed(Text(|name: &str| {
                        sum.add(name);
                        Type::of(name)
                    }))?;
                }
                Field::CacheControl => {
                    let control = map.next_value::<Option<Control>>()?;
                    sum.ends = control.map(|control| control.ttl()).or(sum.ends);
                    finds.long_lived |= sum.ends == Some(Ttl::Long);
                }
                Field::Source if role == Role::Content => {
                    source = Some(map.next_value_seed(Source { finds, depth, sum: &mut sum })?);
                }
                Field::Content if role == Role::Content => {
                    nested(map.next_value()?, finds, depth, &mut sum)?;
                }
                _ => sum.add(map.next_value::<&RawValue>()?.get()),
            }
        }
        match (role, kind) {
            (Role::Tool, Type::None | Type::Custom) => {}
            (Role::Tool, Type::Known) => finds.known_tools += 1,
            (Role::Tool, _) => finds.server_tools = true,
            (Role::Content, Type::Image | Type::Document) => {
                // What is text in the request counts as text.
                if let Some((from, data)) = source.filter(|(from, _)| *from != Type::Inline) {
                    let data = if from == Type::Base64 { data } else { 0 };
                    finds.media_bytes += data;
                    sum.size = sum.size - data + 4 * IMAGE_LIKELY;
                    if kind == Type::Image {
                        finds.images += 1;
                    } else {
                        finds.documents += 1;
                        finds.document_bytes += data;
                    }
                }
            }
            (Role::Content, _) => {}
        }
        Ok(sum.end())
    }
}

/// Where an image or a document comes from. Its value is the type, and how long the data is.
struct Source<'a> {
    finds: &'a mut Finds,
    depth: u8,
    sum: &'a mut Sum,
}

impl<'de> DeserializeSeed<'de> for Source<'_> {
    type Value = (Type, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(Type, u64), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Source<'_> {
    type Value = (Type, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a source")
    }

    /// A search result's source is a text.
    fn visit_str<E: Error>(self, text: &str) -> Result<(Type, u64), E> {
        self.sum.add(text);
        Ok((Type::Inline, 0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(Type, u64), A::Error> {
        let Self { finds, depth, sum } = self;
        let (mut kind, mut data, mut once) = (Type::None, 0, Once::default());
        while let Some((field, name)) = map.next_key_seed(Text(|key: &str| {
            sum.add(key);
            Field::of(key)
        }))? {
            if field != Field::Other {
                once.check(field as u8, name)?;
            }
            match field {
                Field::Type => {
                    kind = map.next_value_seed(Text(|name: &str| {
                        sum.add(name);
                        Type::of(name)
                    }))?;
                }
                Field::Content => nested(map.next_value()?, finds, depth, sum)?,
                _ => {
                    let raw = map.next_value::<&RawValue>()?.get();
                    sum.add(raw);
                    if field == Field::Data {
                        data = raw.len() as u64;
                    }
                }
            }
        }
        Ok((kind, data))
    }
}

/// The `cache_control` of a block.
#[derive(Deserialize)]
pub(super) struct Control {
    ttl: Option<String>,
}

impl Control {
    pub(super) fn ttl(&self) -> Ttl {
        match self.ttl.as_deref() {
            None | Some("5m") => Ttl::Short,
            // A time that is not known yet will hardly be cheaper than the longest that is.
            Some(_) => Ttl::Long,
        }
    }
}
