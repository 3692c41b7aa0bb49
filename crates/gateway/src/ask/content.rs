//! Tools and blocks of content, wherever they stand in a request.

use std::{borrow::Cow, hash::Hasher as _};

use foldhash::quality::FoldHasher;

use super::{
    IMAGE_LIKELY, Ttl, Unreadable,
    blocks::{Marked, hasher},
    demand::{Demands, What, shown},
};
use crate::scan::Scan;

/// How deep blocks may stand in blocks: an image in a document's content in a tool's result is 2.
const MAX_DEPTH: u8 = 4;

/// How deep parts may be nested that are no content, such as a citation in a list of them.
const MAX_HIDDEN: u8 = 16;

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
    /// What the worker's configuration has to allow.
    pub(super) demands: Demands,
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

    /// Returns the field that a key names.
    fn field(&mut self, key: &str) -> Result<Field, Unreadable> {
        let field = Field::of(key)?;
        if field.is_read() {
            self.check(field as u8, key)?;
        }
        Ok(field)
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
        Some(b'[') => {
            let mut at = 0_u16;
            scan.list("", |scan| {
                if depth == 0 {
                    finds.demands.at(at);
                }
                at = at.saturating_add(1);
                push(&object(scan, finds, role, depth)?);
                Ok(())
            })
        }
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
    Url,
    FileId,
    /// The tool that a block adds.
    Tool,
    Definition,
    /// What a tool is called with, and what describes that: the client's business alone, whatever it looks like.
    Opaque,
    Other,
}

impl Field {
    const READ: [(&str, Self); 12] = [
        ("type", Self::Type),
        ("cache_control", Self::CacheControl),
        ("source", Self::Source),
        ("content", Self::Content),
        ("data", Self::Data),
        ("url", Self::Url),
        ("file_id", Self::FileId),
        ("tool", Self::Tool),
        ("definition", Self::Definition),
        ("input", Self::Opaque),
        ("input_schema", Self::Opaque),
        ("input_examples", Self::Opaque),
    ];

    fn of(key: &str) -> Result<Self, Unreadable> {
        match Self::READ.iter().find(|(name, _)| key.eq_ignore_ascii_case(name)) {
            Some((name, field)) if key == *name => Ok(*field),
            // Whoever reads keys in any case would read this one.
            Some((name, _)) => {
                let why = format!("the field `{key}` could be read as `{name}`");
                Err(Unreadable::new(&why))
            }
            None => Ok(Self::Other),
        }
    }

    /// Returns whether two of them would be read in two ways.
    fn is_read(self) -> bool {
        !matches!(self, Self::Opaque | Self::Other)
    }
}

/// What the `type` of a block or a source says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Type {
    #[default]
    None,
    Image,
    Document,
    Base64,
    /// Text, or a source of text, which is in the request itself.
    Inline,
    Url,
    File,
    /// A file that goes to the API's own container.
    Upload,
    /// The tools of a server that the API is connected to.
    Listing,
    /// What a tool of the API found, and what says where: nothing is fetched from its URL any more.
    Report,
    /// Another block that is known.
    Plain,
    Other,
}

/// Other types of blocks: those that the client writes, and those that it sends back as it got them.
const PLAIN: [&str; 12] = [
    "thinking",
    "redacted_thinking",
    "tool_use",
    "server_tool_use",
    "mcp_tool_use",
    "tool_reference",
    "tool_addition",
    "tool_removal",
    "compaction",
    "fallback",
    "connector_text",
    "mid_conv_system",
];

impl Type {
    fn of(name: &str) -> Self {
        match name {
            "image" => Self::Image,
            "document" => Self::Document,
            "base64" => Self::Base64,
            "text" | "content" => Self::Inline,
            "url" => Self::Url,
            "file" => Self::File,
            "container_upload" => Self::Upload,
            "mcp_tool_listing" => Self::Listing,
            name if PLAIN.contains(&name) => Self::Plain,
            name if ["_result", "_result_error", "_result_location", "_output"]
                .iter()
                .any(|end| name.ends_with(end)) =>
            {
                Self::Report
            }
            _ => Self::Other,
        }
    }
}

/// Returns whether a tool is one that the API knows and the client runs.
fn is_known_tool(name: &str) -> bool {
    let is_date = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let known = ["bash_", "text_editor_", "computer_", "memory_"];
    known.iter().any(|family| name.strip_prefix(family).is_some_and(is_date))
}

/// Reads a block or a tool.
fn object(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    role: Role,
    depth: u8,
) -> Result<Marked, Unreadable> {
    let (mut sum, mut once) = (Sum::default(), Once::default());
    let (mut name, mut from, mut url) = (None, None, None);
    scan.object("a block is expected", |scan, key| {
        let field = once.field(key)?;
        if field != Field::CacheControl {
            sum.add(key);
        }
        match field {
            Field::Type => name = Some(counted(scan, &mut sum)?),
            Field::CacheControl => {
                sum.ends = time_to_live(scan)?.or(sum.ends);
                finds.long_lived |= sum.ends == Some(Ttl::Long);
            }
            Field::Source if role == Role::Content => {
                from = Some(source(scan, finds, depth, &mut sum)?);
            }
            Field::Content if role == Role::Content => nested(scan, finds, depth, &mut sum)?,
            Field::Url => url = address(scan, &mut sum)?,
            Field::Tool if role == Role::Content => added_tool(scan, finds, depth, &mut sum)?,
            Field::Opaque => sum.add(scan.value()?),
            _ => {
                let raw = scan.value()?;
                sum.add(raw);
                hidden(raw, finds)?;
            }
        }
        Ok(())
    })?;
    let name = name.as_deref();
    match role {
        Role::Tool => {
            match name {
                None | Some("custom") => {}
                Some(name) if is_known_tool(name) => finds.known_tools += 1,
                Some(name) => {
                    finds.server_tools = true;
                    finds.demands.push(What::Tool(shown(name)))?;
                }
            }
            if let Some(url) = url {
                finds.demands.fetch(&url)?;
            }
        }
        Role::Content => content(name, url.as_deref(), from, finds, &mut sum)?,
    }
    Ok(sum.end())
}

/// Judges a block of content, and counts what it takes.
fn content(
    name: Option<&str>,
    url: Option<&str>,
    from: Option<(Type, u64)>,
    finds: &mut Finds,
    sum: &mut Sum,
) -> Result<(), Unreadable> {
    let kind = name.map_or(Type::None, Type::of);
    match (kind, url) {
        (Type::Url, None) => finds.demands.push(What::Source("url".to_owned()))?,
        (Type::File | Type::Upload, _) => finds.demands.push(What::File)?,
        (Type::Listing, _) => finds.demands.push(What::Tool("mcp_toolset".to_owned()))?,
        (Type::Base64 | Type::Other, _) => {
            finds.demands.push(What::Block(shown(name.unwrap_or_default())))?;
        }
        _ => {}
    }
    if let Some(url) = url.filter(|_| kind != Type::Report) {
        finds.demands.fetch(url)?;
    }
    // What is text in the request counts as text.
    let from = from.filter(|(from, _)| *from != Type::Inline);
    if let (Type::Image | Type::Document, Some((from, data))) = (kind, from) {
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
    Ok(())
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
    let (mut name, mut data, mut once) = (None, 0, Once::default());
    let (mut url, mut file) = (None, false);
    scan.object("a source is expected", |scan, key| {
        sum.add(key);
        let field = once.field(key)?;
        match field {
            Field::Type => name = Some(counted(scan, sum)?),
            Field::Content => nested(scan, finds, depth, sum)?,
            Field::Url => url = address(scan, sum)?,
            _ => {
                let raw = scan.value()?;
                sum.add(raw);
                match field {
                    Field::Data => data = raw.len() as u64,
                    Field::FileId => file |= raw != "null",
                    _ => hidden(raw, finds)?,
                }
            }
        }
        Ok(())
    })?;
    let name = name.as_deref().unwrap_or_default();
    let kind = Type::of(name);
    match (kind, &url) {
        (Type::Base64 | Type::Inline, None) | (Type::Url, Some(_)) | (Type::File, _) => {}
        _ => finds.demands.push(What::Source(shown(name)))?,
    }
    if file || kind == Type::File {
        finds.demands.push(What::File)?;
    }
    if let Some(url) = url {
        finds.demands.fetch(&url)?;
    }
    Ok((kind, data))
}

/// Reads a text and adds it to the sum.
fn counted<'a>(scan: &mut Scan<'a>, sum: &mut Sum) -> Result<Cow<'a, str>, Unreadable> {
    let text = scan.text()?;
    sum.add(&text);
    Ok(text)
}

/// Reads a URL, if there is one.
fn address<'a>(scan: &mut Scan<'a>, sum: &mut Sum) -> Result<Option<Cow<'a, str>>, Unreadable> {
    if scan.peek() == Some(b'"') {
        return Ok(Some(counted(scan, sum)?));
    }
    match scan.value()? {
        raw @ "null" => {
            sum.add(raw);
            Ok(None)
        }
        _ => Err(scan.wrong("a URL that is no text ends")),
    }
}

/// Reads the `tool` of a block that adds one in the middle of a conversation.
fn added_tool(
    scan: &mut Scan<'_>,
    finds: &mut Finds,
    depth: u8,
    sum: &mut Sum,
) -> Result<(), Unreadable> {
    if scan.peek() != Some(b'{') {
        sum.add(scan.value()?);
        return Ok(());
    }
    let (mut name, mut once) = (None, Once::default());
    scan.object("a tool is expected", |scan, key| {
        sum.add(key);
        let field = once.field(key)?;
        match field {
            Field::Type => name = Some(counted(scan, sum)?),
            Field::Definition => sum.add_block(&object(scan, finds, Role::Tool, depth)?),
            _ => {
                let raw = scan.value()?;
                sum.add(raw);
                hidden(raw, finds)?;
            }
        }
        Ok(())
    })?;
    match name.as_deref() {
        None | Some("tool_definition" | "tool_reference") => Ok(()),
        // It may be a tool itself.
        Some(name) => {
            finds.server_tools = true;
            finds.demands.push(What::Tool(shown(name)))
        }
    }
}

/// Looks for what is to be fetched in a part that is nothing else that is read. Few have such parts, and small ones.
pub(super) fn hidden(raw: &str, finds: &mut Finds) -> Result<(), Unreadable> {
    if raw.starts_with(['{', '[']) { look(&mut Scan::new(raw), finds, 0) } else { Ok(()) }
}

fn look(scan: &mut Scan<'_>, finds: &mut Finds, depth: u8) -> Result<(), Unreadable> {
    if depth == MAX_HIDDEN {
        let why = format!("parts are nested more than {MAX_HIDDEN} deep");
        return Err(scan.wrong(&why));
    }
    match scan.peek() {
        Some(b'[') => scan.list("", |scan| look(scan, finds, depth + 1)),
        Some(b'{') => {
            let (mut name, mut url, mut once) = (None, None, Once::default());
            scan.object("", |scan, key| {
                let field = once.field(key)?;
                match (field, scan.peek()) {
                    (Field::Type, Some(b'"')) => name = Some(scan.text()?),
                    (Field::Url, Some(b'"')) => url = Some(scan.text()?),
                    _ => look(scan, finds, depth + 1)?,
                }
                Ok(())
            })?;
            let kind = name.as_deref().map_or(Type::None, Type::of);
            match (kind, url) {
                (Type::Report, _) => Ok(()),
                (_, Some(url)) => finds.demands.fetch(&url),
                (Type::Url, None) => finds.demands.push(What::Source("url".to_owned())),
                (Type::File | Type::Upload, None) => finds.demands.push(What::File),
                _ => Ok(()),
            }
        }
        _ => scan.value().map(|_| ()),
    }
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
        } else if scan.value()?.starts_with(['{', '[']) {
            return Err(scan.wrong("a part that no cache_control has ends"));
        }
        Ok(())
    })?;
    Ok(Some(ttl))
}
