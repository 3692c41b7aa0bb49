//! The many spellings of a model's name.

/// Returns the names that a price for `model` may be listed under, the longest first.
pub(super) fn candidates(model: &str) -> impl Iterator<Item = &str> {
    let bare = model.rsplit_once('/').map_or(model, |(_provider, bare)| bare);
    let bare = match bare.split_once("anthropic.") {
        Some((region, bare)) if region.is_empty() || is_region(region) => bare,
        _ => bare,
    };
    let bare = bare.strip_suffix("[1m]").unwrap_or(bare);
    let cuts = bare.rmatch_indices(['-', '@']).map(|(at, _)| bare.split_at(at));
    let heads = cuts.take_while(|(_, tail)| is_revision(tail)).map(|(head, _)| head);
    std::iter::once(bare).chain(heads)
}

fn is_region(region: &str) -> bool {
    let name = region.strip_suffix('.').unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// Returns whether this only says which revision of a model: a date, `v1:0`, `latest`.
fn is_revision(tail: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    tail.split(['-', '@']).skip(1).all(|part| match part.strip_prefix('v') {
        Some(version) => version.split(':').all(digits),
        None => part == "latest" || (part.len() == 8 && digits(part)),
    })
}
