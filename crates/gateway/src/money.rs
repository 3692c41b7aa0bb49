//! Dollars, exactly.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// US dollars, counted in billionths, so that sums are exact.
///
/// A price of $0.001 per million tokens is one billionth a token. All arithmetic stops at the ends:
/// a budget must not be passed by an overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

/// Billionths in a dollar.
const NANO: u64 = 1_000_000_000;

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than anything costs.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns that many billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the billionths of a dollar.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Returns that many dollars, to the nearest billionth; `None` for a negative amount, one that is no
    /// number, and one that is too large to count.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * NANO as f64).round();
        // Above 2^53 billionths (nine million dollars) `f64` has no billionths any more.
        (0.0..9_007_199_254_740_992.0).contains(&nanos).then_some(Self(nanos as u64))
    }

    /// Returns the amount in dollars, to be shown and to be written into files.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANO as f64
    }

    /// Returns the amount for so many tokens at this price of one.
    #[must_use]
    pub fn times(self, tokens: u64) -> Self {
        Self(self.0.saturating_mul(tokens))
    }

    /// Returns what is left when that much is taken away; nothing where it is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    /// In dollars and cents, and with more places where the amount is less than a dollar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = if self.0 == 0 || self.0 >= NANO { 2 } else { 4 };
        write!(f, "${:.places$}", self.dollars())
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| D::Error::custom(format!("{dollars} is not an amount of dollars")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_stop_at_the_ends() {
        let tenth = Usd::from_dollars(0.1).unwrap();
        assert_eq!((0..10).map(|_| tenth).sum::<Usd>(), Usd::from_dollars(1.0).unwrap());
        assert_eq!(Usd::MAX + tenth, Usd::MAX);
        assert_eq!(Usd::MAX.times(2), Usd::MAX);
        assert_eq!(tenth.minus(Usd::MAX), Usd::ZERO);
        for bad in [-0.01, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(Usd::from_dollars(bad), None, "{bad}");
        }
    }

    #[test]
    fn amounts_are_shown_and_written_in_dollars() {
        let shown = |dollars| Usd::from_dollars(dollars).unwrap().to_string();
        assert_eq!([0.0, 0.0183, 2.5].map(shown), ["$0.00", "$0.0183", "$2.50"]);
        let amount = Usd::from_nanos(18_300_001);
        let text = serde_json::to_string(&amount).unwrap();
        assert_eq!((text.as_str(), serde_json::from_str(&text).unwrap()), ("0.018300001", amount));
    }
}
