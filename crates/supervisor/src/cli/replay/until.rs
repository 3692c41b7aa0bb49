//! Up to where a journal is folded.

use std::str::FromStr;

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use protocol::{Record, Time};

/// A point in a run's history, as a person types it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// The event of that number.
    Event(u64),
    /// A point in time.
    At(Timestamp),
    /// The same, as the clocks here show it.
    Here(civil::DateTime),
    /// The last such time of the day in the run.
    Clock(civil::Time),
}

/// What is up to a point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Included {
    Event(u64),
    Time(Time),
}

impl Included {
    pub(super) fn has(self, record: &Record) -> bool {
        match self {
            Self::Event(seq) => record.seq <= seq,
            Self::Time(time) => record.at <= time,
        }
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('#').unwrap_or(text);
        if let Ok(seq) = number.parse() {
            return Ok(Self::Event(seq));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        // Before the time of the day, which would take the second half of it.
        if let Ok(time) = text.parse() {
            return Ok(Self::Here(time));
        }
        text.parse().map(Self::Clock).map_err(|_| {
            "must be the number of an event (42) or a time (12:01:07, 2026-11-20 12:01, or RFC 3339)"
                .to_owned()
        })
    }
}

impl Until {
    /// Returns what is up to here, in a run of which the last that is known happened at `end`.
    pub(super) fn point(self, end: Time, zone: &TimeZone) -> Included {
        let millis = i64::try_from(end.as_millis()).unwrap_or(i64::MAX);
        let end = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
        let here = |time: civil::DateTime| {
            let zoned = time.to_zoned(zone.clone());
            zoned.map_or(Timestamp::MAX, |zoned| zoned.timestamp())
        };
        let time = match self {
            Self::Event(seq) => return Included::Event(seq),
            Self::At(time) => time,
            Self::Here(time) => whole_second(here(time)),
            Self::Clock(time) => {
                let day = end.to_zoned(zone.clone()).date();
                let today = here(day.to_datetime(time));
                let before = day.checked_sub(1.day()).unwrap_or(day);
                whole_second(if today <= end { today } else { here(before.to_datetime(time)) })
            }
        };
        Included::Time(Time::from_millis(u64::try_from(time.as_millisecond()).unwrap_or(0)))
    }
}

/// Events are shown by the second, and happen in between.
fn whole_second(time: Timestamp) -> Timestamp {
    match time.subsec_nanosecond() {
        0 => time.checked_add(SignedDuration::from_millis(999)).unwrap_or(time),
        _ => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_176_000_000; // 2026-11-20T12:00:00Z

    fn millis(text: &str) -> u64 {
        let until: Until = text.parse().unwrap();
        match until.point(Time::from_millis(NOON + 500), &TimeZone::UTC) {
            Included::Time(time) => time.as_millis(),
            Included::Event(seq) => seq,
        }
    }

    #[test]
    fn point_is_a_number_or_a_time_as_events_shows_it() {
        assert_eq!(["42", "#42"].map(millis), [42, 42]);
        assert_eq!(millis("2026-11-20T11:59:00.250Z"), NOON - 59_750);
        assert_eq!(millis("2026-11-20 11:59"), NOON - 60_000 + 999);
        assert_eq!(millis("12:00:00"), NOON + 999);
        assert_eq!(millis("12:00:01"), NOON + 1_999 - 86_400_000, "the day before");
        assert!("soon".parse::<Until>().unwrap_err().contains("number of an event"));
    }
}
