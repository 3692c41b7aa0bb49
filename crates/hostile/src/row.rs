//! What an attack says of a wall.

use serde_json::json;

/// The rows that are printed.
pub(crate) struct Rows;

impl Rows {
    /// Says whether a wall held, and by what that was seen.
    pub(crate) fn say(&mut self, row: &str, held: bool, saw: impl Into<String>) {
        println!("{}", json!({ "row": row, "held": held, "saw": saw.into() }));
    }

    /// Says that a wall held exactly when the attack was refused.
    pub(crate) fn refused<T>(&mut self, row: &str, tried: std::io::Result<T>) {
        match tried {
            Ok(_) => self.say(row, false, "it was done"),
            Err(error) => self.say(row, true, error.to_string()),
        }
    }
}
