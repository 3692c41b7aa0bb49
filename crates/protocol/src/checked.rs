//! Numbers that people write into configuration files. They are checked where they are read, so that the
//! error shows the line and the column.
//!
//! Each function is for `#[serde(default, deserialize_with = "…")]` of an optional field.

use serde::{Deserialize, Deserializer, de::Error as _};

/// The largest budget, in US dollars: more than anybody means, and exact as `f64` down to a billionth.
const MAX_DOLLARS: f64 = 1_000_000.0;
/// The smallest: what is shown of an amount.
const MIN_DOLLARS: f64 = 0.0001;

/// Returns whether this can be a budget, in US dollars.
pub fn is_budget(usd: f64) -> bool {
    (MIN_DOLLARS..=MAX_DOLLARS).contains(&usd)
}

/// Reads how many of something there may be: at least 1, and no more than `T` can count.
///
/// # Errors
///
/// The deserializer's, with the number that was found and what it has to be.
pub fn count<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let found = i64::deserialize(deserializer)?;
    if found < 1 {
        let message = format!("{found} is too few: it must be at least 1, or left out");
        return Err(D::Error::custom(message));
    }
    let counted = T::try_from(found);
    counted.map(Some).map_err(|_| D::Error::custom(format!("{found} is more than can be counted")))
}

/// Reads a budget in US dollars: from a hundredth of a cent to a million.
///
/// # Errors
///
/// The deserializer's, with the number that was found and what it has to be.
pub fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let found = f64::deserialize(deserializer)?;
    if is_budget(found) {
        return Ok(Some(found));
    }
    Err(D::Error::custom(format!(
        "{found} is no budget: it must be from {MIN_DOLLARS} to {MAX_DOLLARS} (US dollars), or left out"
    )))
}
