//! The little markup that prompts are written in: elements that begin on a line of their own.
//!
//! Not XML: what is inside an element is free text and is not escaped.

/// Returns the first element without attributes, and what follows it.
pub(crate) fn section<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let open = format!("<{name}>");
    let start = line_start(text, &open)? + open.len();
    Some(until_close(&text[start..], name))
}

/// Returns the elements that begin on a line of their own: (the attributes, the body).
pub(crate) fn tags<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let open = format!("<{name} ");
    let mut rest = text;
    std::iter::from_fn(move || {
        let tag = &rest[line_start(rest, &open)? + open.len()..];
        let line = &tag[..tag.find('\n').unwrap_or(tag.len())];
        // An attribute may hold a `>`; the tag's own is the last on its line.
        let end = line.rfind('>')?;
        let (body, after) = until_close(&tag[end + 1..], name);
        rest = after;
        Some((&tag[..end], body))
    })
}

fn until_close<'a>(text: &'a str, name: &str) -> (&'a str, &'a str) {
    let close = format!("</{name}>");
    match line_start(text, &close) {
        Some(at) => (text[..at].trim(), &text[at + close.len()..]),
        None => (text.trim(), ""),
    }
}

fn line_start(text: &str, wanted: &str) -> Option<usize> {
    text.match_indices(wanted).map(|(at, _)| at).find(|at| *at == 0 || text[..*at].ends_with('\n'))
}

/// Returns an attribute's value, unescaped.
pub(crate) fn attribute(tag: &str, name: &str) -> Option<String> {
    let open = format!("{name}=\"");
    let start = tag.match_indices(&open).map(|(at, _)| at);
    let start = start.into_iter().find(|at| *at == 0 || tag[..*at].ends_with(' '))? + open.len();
    let end = start + tag[start..].find('"')?;
    let unescaped = tag[start..end].replace("&quot;", "\"").replace("&lt;", "<");
    Some(unescaped.replace("&gt;", ">").replace("&amp;", "&"))
}
