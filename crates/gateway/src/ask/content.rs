//! Tools and blocks of content, wherever they stand in a request.

use std::hash::Hasher as _;

use foldhash::quality::FoldHasher;

use super::{
    IMAGE_LIKELY, Ttl, Unreadable,
    blocks::{Marked, hasher},
};
use crate::scan::Scan;

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

/// Which of the keys that are read were there: none may be there twice.
#[derive(Default)]
pub(super) struct Once(u16);

impl Once {
    pub(super) fn check(&mut self, bit: u8, name: &str) -> Result<(), Unreadable> {
        if self.0 & (1 << bit) != 0 {
            return Err(Unreadable::new(&format!("the field `{name}` is there twice")));
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

/// Reads a list of blocks, or a text that is the same as one block of text. The CLI sends the same message
/// in both forms, in one turn so and in the next so. `depth` is in how many blocks it stands.
pub(super) fn blocks(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    role: Role,
    depth: u8,
    push: &mut dyn FnMut(&Marked),
) -> Result<(), Unreadable> {
    match scan.peek() {
        Some(b'[') => scan.list("", |scan| {
            push(&object(scan, finds, role, depth)?);
            Ok(())
        }),
        // Some tools of the API have one object as their result.
        Some(b'{') => {
            push(&object(scan, finds, role, depth)?);
            Ok(())
        }
        Some(b'"') => {
            push(&text_block(scan.raw_text()?));
            Ok(())
        }
        _ if scan.value()? == "null" => Ok(()),
        _ => Err(scan.wrong("neither a text nor a list of blocks ends")),
    }
}

/// Returns the block that a text alone stands for.
fn text_block(raw: &str) -> Marked {
    let mut sum = Sum::default();
    for part in ["type", "text", "text", raw] {
        sum.add(part);
    }
    sum.end()
}

/// Reads the content of a block, such as a tool's result.
fn nested(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    depth: u8,
    sum: &mut Sum,
) -> Result<(), Unreadable> {
    match scan.peek() {
        Some(b'"') => sum.add_block(&text_block(scan.raw_text()?)),
        Some(b'[' | b'{') if depth == MAX_DEPTH => {
            let why = format!("blocks are nested more than {MAX_DEPTH} deep");
            return Err(scan.wrong(&why));
        }
        Some(b'[' | b'{') => {
            blocks(scan, finds, Role::Content, depth + 1, &mut |block| sum.add_block(block))?;
        }
        _ => sum.add(scan.value()?),
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
    fn of(key: &str) -> Self {
        match key {
            "type" => Self::Type,
            "cache_control" => Self::CacheControl,
            "source" => Self::Source,
            "content" => Self::Content,
            "data" => Self::Data,
            _ => Self::Other,
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

/// Reads a block or a tool.
fn object(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    role: Role,
    depth: u8,
) -> Result<Marked, Unreadable> {
    let (mut sum, mut once) = (Sum::default(), Once::default());
    let (mut kind, mut from) = (Type::None, None);
    scan.object("a block is expected", |scan, key| {
        let field = Field::of(key);
        if field != Field::CacheControl {
            sum.add(key);
        }
        if field != Field::Other {
            once.check(field as u8, key)?;
        }
        match field {
            Field::Type => {
                let name = scan.text()?;
                sum.add(&name);
                kind = Type::of(&name);
            }
            Field::CacheControl => {
                sum.ends = time_to_live(scan)?.or(sum.ends);
                finds.long_lived |= sum.ends == Some(Ttl::Long);
            }
            Field::Source if role == Role::Content => {
                from = Some(source(scan, finds, depth, &mut sum)?);
            }
            Field::Content if role == Role::Content => nested(scan, finds, depth, &mut sum)?,
            _ => sum.add(scan.value()?),
        }
        Ok(())
    })?;
    match (role, kind) {
        (Role::Tool, Type::None | Type::Custom) => {}
        (Role::Tool, Type::Known) => finds.known_tools += 1,
        (Role::Tool, _) => finds.server_tools = true,
        (Role::Content, Type::Image | Type::Document) => {
            // What is text in the request counts as text.
            if let Some((from, data)) = from.filter(|(from, _)| *from != Type::Inline) {
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

/// Reads where an image or a document comes from. Returns the type, and how long the data is.
fn source(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    depth: u8,
    sum: &mut Sum,
) -> Result<(Type, u64), Unreadable> {
    // A search result's source is a text.
    if scan.peek() == Some(b'"') {
        sum.add(scan.raw_text()?);
        return Ok((Type::Inline, 0));
    }
    let (mut kind, mut data, mut once) = (Type::None, 0, Once::default());
    scan.object("a source is expected", |scan, key| {
        sum.add(key);
        let field = Field::of(key);
        if field != Field::Other {
            once.check(field as u8, key)?;
        }
        match field {
            Field::Type => {
                let name = scan.text()?;
                sum.add(&name);
                kind = Type::of(&name);
            }
            Field::Content => nested(scan, finds, depth, sum)?,
            _ => {
                let raw = scan.value()?;
                sum.add(raw);
                if field == Field::Data {
                    data = raw.len() as u64;
                }
            }
        }
        Ok(())
    })?;
    Ok((kind, data))
}

/// Reads a `cache_control`. Returns for how long something is cached, if it is.
pub(super) fn time_to_live(scan: &mut Scan<'_>) -> Result<Option<Ttl>, Unreadable> {
    if scan.peek() == Some(b'n') {
        scan.value()?;
        return Ok(None);
    }
    let (mut ttl, mut once) = (Ttl::Short, Once::default());
    scan.object("a cache_control is expected", |scan, key| {
        if key == "ttl" {
            once.check(0, key)?;
            // A time that is not known yet will hardly be cheaper than the longest that is.
            let is_short = matches!(scan.value()?, "null" | "\"5m\"");
            ttl = if is_short { Ttl::Short } else { Ttl::Long };
        } else {
            scan.value()?;
        }
        Ok(())
    })?;
    Ok(Some(ttl))
}
