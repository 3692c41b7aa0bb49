//! An answer of the model: metered while it passes, booked when it ends.

use std::sync::Arc;

use crate::{
    governor::Governor,
    ledger::{Reservation, Spent},
    meter::Meter,
    pace::{Turn, Waits},
    prefix::Sent,
    stagger::Place,
    tokens::Tokens,
};

/// What is settled when an answer has ended, in whatever way: that is when this is dropped.
#[derive(Debug)]
pub(crate) struct Booking {
    governor: Arc<Governor>,
    /// The model that was asked.
    model: Arc<str>,
    /// The sub-agent that asked, if one did.
    agent: Option<String>,
    waits: Waits,
    meter: Meter,
    place: Place,
    /// All three are there until it is dropped.
    money: Option<(Turn, Reservation, Sent)>,
}

impl Booking {
    pub(crate) fn new(
        governor: Arc<Governor>,
        model: Arc<str>,
        agent: Option<String>,
        waits: Waits,
        content_type: &str,
        place: Place,
        money: (Turn, Reservation, Sent),
    ) -> Self {
        let meter = Meter::new(content_type);
        Self { governor, model, agent, waits, meter, place, money: Some(money) }
    }

    /// Takes note of the next bytes of the answer.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        self.meter.feed(bytes);
        if self.meter.has_begun() {
            self.place.first_byte();
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        let Some((mut turn, reservation, sent)) = self.money.take() else { return };
        let reading = self.meter.reading();
        if reading.error.as_deref() == Some("overloaded_error") {
            turn.overloaded();
        }
        if reading.tokens == Tokens::default() {
            // Nobody knows what it took; unless the API said that it took nothing.
            drop(turn);
            if reading.error.is_some() {
                return reservation.release();
            }
        } else {
            turn.settle(&reading.tokens);
            if let Some(report) = self.governor.prefixes.answered(sent, &reading.tokens) {
                tracing::warn!(%report, "The prompt cache was not read.");
            }
        }
        let prices = &self.governor.prices;
        // The one that was asked is billed, whatever name the answer has (measured with the CLI); the
        // other one only where the first has no price.
        let model = match (prices.of(&self.model), &reading.model) {
            (None, Some(answered)) => answered,
            _ => &self.model,
        };
        let cost = prices.cost(model, &reading.tokens, reading.terms);
        if cost.is_none() && reading.tokens != Tokens::default() {
            self.governor.warn_of_no_price(model);
        }
        reservation.settle(Spent {
            tokens: reading.tokens,
            cost,
            uncached: prices.uncached(model, &reading.tokens, reading.terms),
            complete: reading.complete,
            waits: self.waits.in_millis(),
            agent: self.agent.take(),
        });
    }
}
