//! Steps that make no sense.

use hyper::header::{HeaderName, HeaderValue};

use super::Step;
use crate::scenario::error::BadField;

impl Step {
    /// Finds fields that contradict each other.
    pub(in crate::scenario) fn check(&self) -> Result<(), BadField> {
        let speaks = self.has_content() || self.then.is_some();
        let breaks = self.drop.is_some() || self.sse_error.is_some();
        if !(speaks || breaks || self.hang || self.http.is_some()) {
            let cure = "Add what it says, or `then = \"default\"` for the built-in behaviour.";
            return Err(BadField::new("answer", "says nothing", cure));
        }
        if self.has_content() && self.then.is_some() {
            let cure = "Leave out `then`, or the content.";
            return Err(BadField::new("then", "stands beside content of its own", cure));
        }
        if let Some(status) = self.http {
            if !(400..=599).contains(&status) {
                let cure = "Use a status from 400 to 599; for an answer, leave out `http`.";
                return Err(BadField::new("http", format!("is {status}: not an error"), cure));
            }
            if speaks || breaks {
                let cure = "Make it two rules: the error first, with `times = 1`.";
                return Err(BadField::new("http", "stands beside another answer", cure));
            }
        } else if self.error.is_some() || self.body.is_some() {
            let field = if self.error.is_some() { "error" } else { "body" };
            let cure = "Add `http` with the status, or use `sse_error`.";
            return Err(BadField::new(field, "has no status", cure));
        }
        if self.drop.is_some() && self.sse_error.is_some() {
            return Err(BadField::new("drop", "stands beside `sse_error`", "Choose one of them."));
        }
        if self.rst && self.drop.is_none() {
            let cure = "Say with `drop` where the connection breaks.";
            return Err(BadField::new("rst", "has nothing to break", cure));
        }
        if self.pings && self.stall.is_none() {
            let cure = "Say with `stall` how long the stream stands still.";
            return Err(BadField::new("pings", "has no stall to fill", cure));
        }
        for (name, value) in &self.headers {
            let name_ok = HeaderName::from_bytes(name.as_bytes()).is_ok();
            if !name_ok || HeaderValue::from_str(value).is_err() {
                let problem = format!("has `{name}`, which is not a legal header");
                return Err(BadField::new("headers", problem, "Use printable ASCII."));
            }
        }
        Ok(())
    }
}
