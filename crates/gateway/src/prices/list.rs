//! The list prices.
//!
//! Source: Claude Code 2.1.327 itself, against a stand-in API that answered 10,000 tokens of one kind
//! at a time; the costs are those of `modelUsage.costUSD` in its result. So were the threshold of
//! `claude-haiku-5-5` (100,000 tokens: old rates, 100,001: new ones, for all tokens), the rates of
//! `speed` `fast`, the tenth for `inference_geo` `us` and the price of a search. No other model's
//! price changed up to prompts of 900,000 tokens. Only the prices of Opus 4 and 4.1 are read from the
//! catalogue in the binary: the CLI asks `claude-opus-5-5` instead of them.

use super::{LongPrompt, Origin, Price, Rates};
use crate::Usd;

/// The version whose prices these are.
pub(super) const CLI_VERSION: &str = "2.1.327";
/// When they were measured.
pub(super) const MEASURED: &str = "2026-11-20";

/// One search, on every model: $0.01.
pub(super) const WEB_SEARCH: Usd = Usd::from_nanos(10_000_000);

/// Returns rates of so many thousandths of a dollar for a million tokens: billionths for one. The
/// cache writes of every model are 1.25 and 2 times its input.
const fn rates(input: u64, output: u64, cache_read: u64) -> Rates {
    Rates {
        input: Usd::from_nanos(input),
        output: Usd::from_nanos(output),
        cache_write_5m: Usd::from_nanos(input * 5 / 4),
        cache_write_1h: Usd::from_nanos(input * 2),
        cache_read: Usd::from_nanos(cache_read),
    }
}

const OPUS_4: Rates = rates(15_000, 75_000, 1_500);
const OPUS_4_5: Rates = rates(5_000, 25_000, 500);
const OPUS_5_5: Rates = rates(4_000, 20_000, 200);
const SONNET_4: Rates = rates(3_000, 15_000, 300);
const SONNET_5: Rates = rates(2_000, 10_000, 200);
const SONNET_5_5: Rates = rates(2_000, 10_000, 100);
const HAIKU_3_5: Rates = rates(800, 4_000, 80);
const HAIKU_4_5: Rates = rates(1_000, 5_000, 100);
const HAIKU_5_5: Rates = rates(100, 500, 10);
const HAIKU_5_5_LONG: LongPrompt = LongPrompt { above: 100_000, rates: rates(500, 2_500, 50) };
const FABLE_5: Rates = rates(10_000, 50_000, 1_000);
const FABLE_5_1: Rates = rates(10_000, 50_000, 250);
const FABLE_5_2: Rates = rates(8_000, 40_000, 200);

const FAST_OPUS_4_6: Rates = rates(30_000, 150_000, 3_000);
const FAST_OPUS_4_8: Rates = rates(10_000, 50_000, 1_000);
const FAST_OPUS_5_5: Rates = rates(8_000, 40_000, 400);
const FAST_FABLE_5_2: Rates = rates(16_000, 80_000, 400);

const LIST: [(&str, Rates, Option<LongPrompt>, Option<Rates>); 26] = [
    ("claude-3-5-haiku", HAIKU_3_5, None, None),
    ("claude-3-5-sonnet", SONNET_4, None, None),
    ("claude-3-7-sonnet", SONNET_4, None, None),
    ("claude-fable-5", FABLE_5, None, None),
    ("claude-fable-5-1", FABLE_5_1, None, None),
    ("claude-fable-5-2", FABLE_5_2, None, Some(FAST_FABLE_5_2)),
    ("claude-haiku-4-5", HAIKU_4_5, None, None),
    ("claude-haiku-5-5", HAIKU_5_5, Some(HAIKU_5_5_LONG), None),
    ("claude-mythos-5", FABLE_5, None, None),
    ("claude-mythos-5-1", FABLE_5_1, None, None),
    ("claude-mythos-5-2", FABLE_5_2, None, Some(FAST_FABLE_5_2)),
    // The API's own name: `claude-opus-4-20250514`.
    ("claude-opus-4", OPUS_4, None, None),
    ("claude-opus-4-0", OPUS_4, None, None),
    ("claude-opus-4-1", OPUS_4, None, None),
    ("claude-opus-4-5", OPUS_4_5, None, None),
    ("claude-opus-4-6", OPUS_4_5, None, Some(FAST_OPUS_4_6)),
    ("claude-opus-4-7", OPUS_4_5, None, Some(FAST_OPUS_4_6)),
    ("claude-opus-4-8", OPUS_4_5, None, Some(FAST_OPUS_4_8)),
    ("claude-opus-5", OPUS_4_5, None, Some(FAST_OPUS_4_8)),
    ("claude-opus-5-5", OPUS_5_5, None, Some(FAST_OPUS_5_5)),
    ("claude-sonnet-4", SONNET_4, None, None),
    ("claude-sonnet-4-0", SONNET_4, None, None),
    ("claude-sonnet-4-5", SONNET_4, None, None),
    ("claude-sonnet-4-6", SONNET_4, None, None),
    ("claude-sonnet-5", SONNET_5, None, None),
    ("claude-sonnet-5-5", SONNET_5_5, None, None),
];

pub(super) fn prices() -> impl Iterator<Item = (&'static str, Price)> {
    LIST.into_iter().map(|(model, rates, long_prompt, fast)| {
        let (web_search, origin) = (WEB_SEARCH, Origin::List);
        (model, Price { rates, long_prompt, fast, web_search, origin })
    })
}
