//! Numbers that people write into configuration files. They are checked where they are read, so that the
//! error shows the line and the column.
//!
//! Each function is for `#[serde(default, deserialize_with = "…")]` of an optional field.

use serde::{Deserialize, Deserializer, de::Error as _};

/// The largest budget, in US dollars: more than anybody means, and exact as `f64` down to a billionth.
const MAX_DOLLARS: f64 = 1_000_000.0;

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

/// Reads a budget in US dollars: more than 0, at most a million.
///
/// # Errors
///
/// The deserializer's, with the number that was found and what it has to be.
pub fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let found = f64::deserialize(deserializer)?;
    if found > 0.0 && found <= MAX_DOLLARS {
        return Ok(Some(found));
    }
    Err(D::Error::custom(format!(
        "{found} is no budget: it must be more than 0 and at most {MAX_DOLLARS} (US dollars), or left out"
    )))
}
