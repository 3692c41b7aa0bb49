//! What the API's headers say.
//!
//! All of it is optional and none of it is believed blindly: what does not parse was not said. The
//! times in the headers are the server's; the answer's `Date` tells how far its clock is from ours.
//!
//! The `-reset` of a plain limit is not read: it says when the bucket will be full again, and that
//! follows from the limit and what remains of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::Time;

use crate::number;

/// A limit per minute and what remains of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
}

/// The limits of a subscription, when they refuse the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// How long they will.
    pub(crate) reset: Option<Duration>,
    /// Which limit it is: `five_hour`, `seven_day`, `seven_day_opus`.
    pub(crate) claim: Option<String>,
}

/// What the headers of one answer say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) requests: Option<Count>,
    pub(crate) input: Option<Count>,
    pub(crate) output: Option<Count>,
    pub(crate) tokens: Option<Count>,
    pub(crate) retry_after: Option<Duration>,
    ///
    /// Says something only beside a 429: what is used beyond the limit may be paid for, and is answered.
    pub(crate) rejected: Option<Rejected>,
    /// The API says that the same request would be refused again.
    pub(crate) hopeless: bool,
}

/// Limits above a trillion are no limits, and keep the arithmetic exact.
const MOST: u64 = 1_000_000_000_000;

/// The two headers of one limit.
#[derive(Clone, Copy, Default)]
struct Pair {
    limit: Option<u64>,
    remaining: Option<u64>,
}

impl Pair {
    fn count(self) -> Option<Count> {
        let limit = self.limit.filter(|limit| (1..=MOST).contains(limit))?;
        Some(Count { limit, remaining: self.remaining?.min(limit) })
    }
}

impl Told {
    /// Reads the headers of an answer that came in at `now`, by our clock: names, in lower case, and values.
    pub(crate) fn read<'a>(
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        now: Time,
    ) -> Self {
        // One walk over all headers is cheaper than to look each name up.
        let (mut requests, mut input, mut output, mut tokens) =
            <(Pair, Pair, Pair, Pair)>::default();
        let (mut date, mut retry_after, mut status, mut should_retry) = (None, None, None, None);
        for (name, value) in headers.clone() {
            let place = match name {
                b"date" => {
                    date = date.or(text(value));
                    continue;
                }
                b"retry-after" => {
                    retry_after = retry_after.or(text(value));
                    continue;
                }
                b"x-should-retry" => {
                    should_retry = should_retry.or(text(value));
                    continue;
                }
                b"anthropic-ratelimit-unified-status" => {
                    status = status.or(text(value));
                    continue;
                }
                b"anthropic-ratelimit-requests-limit" => &mut requests.limit,
                b"anthropic-ratelimit-requests-remaining" => &mut requests.remaining,
                b"anthropic-ratelimit-input-tokens-limit" => &mut input.limit,
                b"anthropic-ratelimit-input-tokens-remaining" => &mut input.remaining,
                b"anthropic-ratelimit-output-tokens-limit" => &mut output.limit,
                b"anthropic-ratelimit-output-tokens-remaining" => &mut output.remaining,
                b"anthropic-ratelimit-tokens-limit" => &mut tokens.limit,
                b"anthropic-ratelimit-tokens-remaining" => &mut tokens.remaining,
                _ => continue,
            };
            *place = place.or_else(|| number::read(value.trim_ascii()));
        }
        // What is left of an answer without a date is that both clocks are right.
        let now = || {
            let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
            date.unwrap_or(UNIX_EPOCH + Duration::from_millis(now.as_millis()))
        };
        let until = |then: SystemTime| then.duration_since(now()).ok();
        let retry_after = retry_after.map(str::trim).and_then(|text| {
            let seconds = text.parse::<f64>().ok();
            match seconds.map(Duration::try_from_secs_f64) {
                Some(seconds) => seconds.ok(),
                None => until(httpdate::parse_http_date(text).ok()?),
            }
        });
        let unified = |name: &str| {
            let named = |found: &[u8]| {
                found.strip_prefix(b"anthropic-ratelimit-unified-") == Some(name.as_bytes())
            };
            let (_, value) = headers.clone().find(|(found, _)| named(found))?;
            text(value).map(str::trim)
        };
        let rejected = status.is_some_and(|status| status == "rejected").then(|| {
            let reset = |name: &str| {
                let seconds = Duration::try_from_secs_f64(unified(name)?.parse().ok()?).ok()?;
                until(UNIX_EPOCH.checked_add(seconds)?)
            };
            // Where the whole does not say when, the windows that refuse do.
            let windows = ["5h", "7d"].into_iter().filter_map(|window| {
                let refuses = unified(&format!("{window}-status")) == Some("rejected");
                refuses.then(|| reset(&format!("{window}-reset")))?
            });
            Rejected {
                reset: reset("reset").or(windows.max()),
                claim: unified("representative-claim").map(str::to_owned),
            }
        });
        Self {
            requests: requests.count(),
            input: input.count(),
            output: output.count(),
            tokens: tokens.count(),
            retry_after: retry_after.filter(|wait| !wait.is_zero()),
            rejected,
            hopeless: should_retry == Some("false"),
        }
    }
}

/// Returns a header's value, if it is printable ASCII.
fn text(value: &[u8]) -> Option<&str> {
    let printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    std::str::from_utf8(value).ok().filter(|_| value.iter().all(printable))
}

impl Rejected {
    /// Returns whether the limit is one of this model's family alone: `seven_day_opus`.
    pub(crate) fn is_of(&self, model: &str) -> bool {
        let family = self.claim.as_deref().and_then(|claim| claim.strip_prefix("seven_day_"));
        family.is_some_and(|family| !family.is_empty() && model.contains(family))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-10-12T14:00:00Z
    const NOW: u64 = 1_791_813_600;

    fn read(lines: &[(&str, &str)]) -> Told {
        let names: Vec<_> =
            lines.iter().map(|(name, _)| name.replace("~", "anthropic-ratelimit")).collect();
        let values = lines.iter().map(|(_, value)| value.as_bytes());
        let headers = names.iter().map(String::as_bytes).zip(values);
        Told::read(headers, Time::from_millis(NOW * 1000))
    }

    #[test]
    fn limits_are_read_whole_or_not_at_all() {
        let told = read(&[
            ("~-requests-limit", "50"),
            ("~-requests-remaining", "49"),
            ("~-input-tokens-limit", "30000"),
            ("~-input-tokens-remaining", "99999999999"),
            ("~-output-tokens-limit", "8000"),
            ("~-output-tokens-remaining", "-4"),
            ("~-tokens-limit", "0"),
            ("~-tokens-remaining", "0"),
        ]);
        let expected = Told {
            requests: Some(Count { limit: 50, remaining: 49 }),
            input: Some(Count { limit: 30_000, remaining: 30_000 }),
            ..Told::default()
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let after = |lines: &[_]| read(lines).retry_after.map(|wait| wait.as_secs_f64());
        assert_eq!(after(&[("retry-after", "20")]), Some(20.0));
        assert_eq!(after(&[("retry-after", " 1.5 ")]), Some(1.5));
        assert_eq!(after(&[("retry-after", "Mon, 12 Oct 2026 14:00:30 GMT")]), Some(30.0));
        // The server's clock is an hour off.
        let date = ("date", "Mon, 12 Oct 2026 15:00:00 GMT");
        assert_eq!(after(&[date, ("retry-after", "Mon, 12 Oct 2026 15:00:30 GMT")]), Some(30.0));
        for bad in ["0", "-3", "soon", "NaN", "inf", "1e300", "", "Mon, 12 Oct 2020 14:00:30 GMT"] {
            assert_eq!(after(&[("retry-after", bad)]), None, "{bad}");
        }
    }

    #[test]
    fn subscription_refuses_until_its_reset() {
        let status = |status| ("~-unified-status", status);
        let at = (NOW + 3600).to_string();
        let reset = |lines: &[_]| read(lines).rejected.map(|it| it.reset.map(|it| it.as_secs()));
        assert_eq!(reset(&[status("rejected"), ("~-unified-reset", &at)]), Some(Some(3600)));
        assert_eq!(reset(&[status("allowed_warning"), ("~-unified-reset", &at)]), None);
        assert_eq!(reset(&[status("rejected"), ("~-unified-reset", "12")]), Some(None));
        let windows = [
            status("rejected"),
            ("~-unified-5h-status", "allowed"),
            ("~-unified-5h-reset", "9999999999"),
            ("~-unified-7d-status", "rejected"),
            ("~-unified-7d-reset", &at),
        ];
        assert_eq!(reset(&windows), Some(Some(3600)));

        let of = |claim| {
            let claim = ("~-unified-representative-claim", claim);
            read(&[status("rejected"), claim]).rejected.unwrap().is_of("claude-opus-4-8")
        };
        assert_eq!(
            ["five_hour", "seven_day", "seven_day_opus", "seven_day_sonnet"].map(of),
            [false, false, true, false]
        );
    }

    proptest! {
        #[test]
        fn nothing_in_a_header_can_break_the_reader(values in prop::collection::vec("[ -~]{0,24}", 8)) {
            let names = [
                "retry-after", "date", "~-requests-limit", "~-requests-remaining", "~-unified-reset",
                "~-unified-5h-reset", "~-tokens-limit", "~-tokens-remaining",
            ];
            let mut lines: Vec<_> =
                names.into_iter().zip(values.iter().map(String::as_str)).collect();
            lines.push(("~-unified-status", "rejected"));
            lines.push(("~-unified-5h-status", "rejected"));
            read(&lines);
        }
    }
}
