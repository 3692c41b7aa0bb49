//! What models cost.

mod list;
mod name;
mod setting;

use std::{collections::BTreeMap, fmt};

pub use self::setting::{LongPromptSetting, PerMillion, PerSearch, PriceSetting, RatesSetting};
use crate::{Tokens, Usd};

/// Dollars for one token, by how it is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Read by the model, neither from nor into the prompt cache.
    pub input: Usd,
    /// Written by the model.
    pub output: Usd,
    /// Written to the prompt cache for five minutes.
    pub cache_write_5m: Usd,
    /// Written to the prompt cache for an hour.
    pub cache_write_1h: Usd,
    /// Read from the prompt cache.
    pub cache_read: Usd,
}

impl Rates {
    fn cost(&self, tokens: &Tokens) -> Usd {
        self.input.times(tokens.input)
            + self.output.times(tokens.output)
            + self.cache_write_5m.times(tokens.cache_write_5m)
            + self.cache_write_1h.times(tokens.cache_write_1h)
            + self.cache_read.times(tokens.cache_read)
    }

    /// Returns the most that a token of input can cost.
    fn dearest_input(&self, hour: bool) -> Usd {
        let hour = if hour { self.cache_write_1h } else { Usd::ZERO };
        self.input.max(self.cache_write_5m).max(self.cache_read).max(hour)
    }
}

/// Other rates, for all tokens of a request with a long prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPrompt {
    /// They hold for prompts of more tokens than this, however these are billed.
    pub above: u64,
    /// The rates.
    pub rates: Rates,
}

/// Where a price comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the list price that Claude Code has built in.
    List,
    /// It stands in the configuration.
    Configured,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => {
                write!(f, "list price of Claude Code {}, {}", list::CLI_VERSION, list::MEASURED)
            }
            Self::Configured => f.write_str("configuration"),
        }
    }
}

/// What a model costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The rates.
    pub rates: Rates,
    /// The rates for long prompts, where they are others.
    pub long_prompt: Option<LongPrompt>,
    /// The rates for answers of `speed` `fast`, where there are such.
    pub fast: Option<Rates>,
    /// One search of the web by the server.
    pub web_search: Usd,
    /// Where all this comes from.
    pub origin: Origin,
}

/// What the cost of an answer depends on, beside its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The answer's `speed` is `fast`.
    pub fast: bool,
    /// The answer was made in the US only (`inference_geo`), which costs a tenth more.
    pub us_only: bool,
    /// How often the server searched the web.
    pub web_searches: u64,
}

/// The most that a request can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Tokens that the model reads.
    pub input: u64,
    /// Tokens that it writes: `max_tokens`.
    pub output: u64,
    /// Whether the request asks for the prompt cache to be written for an hour.
    pub hour: bool,
    /// The rest. A search's results are input too.
    pub terms: Terms,
}

/// The prices of all models that have one.
#[derive(Clone, Debug)]
pub struct Prices {
    models: BTreeMap<String, Price>,
}

impl Prices {
    /// Returns the list prices that Claude Code 2.1.327 has built in, as measured on 2026-11-20.
    ///
    /// # Examples
    ///
    /// ```
    /// use gateway::{Prices, Terms, Tokens, Usd};
    ///
    /// let prices = Prices::built_in();
    /// let tokens = Tokens { input: 1_000, output: 100, ..Tokens::default() };
    /// let cost = prices.cost("claude-sonnet-5-5", &tokens, Terms::default());
    /// assert_eq!(cost, Usd::from_dollars(0.003));
    /// assert_eq!(prices.cost("claude-sonnet-9", &tokens, Terms::default()), None);
    /// ```
    pub fn built_in() -> Self {
        Self { models: list::prices().map(|(model, price)| (model.to_owned(), price)).collect() }
    }

    /// Returns these prices with others from the configuration.
    ///
    /// A price that is given replaces the model's old one as a whole, also its rates for long prompts
    /// and for fast answers.
    #[must_use]
    pub fn with(mut self, settings: &BTreeMap<String, PriceSetting>) -> Self {
        let settings = settings.iter().map(|(model, setting)| (model.clone(), setting.price()));
        self.models.extend(settings);
        self
    }

    /// Returns the price of a model.
    ///
    /// The name may carry a provider in front (`anthropic/`, `us.anthropic.`) and a date or a revision
    /// at its end (`-20261001`, `@20261001`, `-v1:0`, `-latest`, `[1m]`). Another number at its end
    /// makes it another model: nothing is guessed.
    pub fn of(&self, model: &str) -> Option<&Price> {
        self.models
            .get(model)
            .or_else(|| name::candidates(model).find_map(|candidate| self.models.get(candidate)))
    }

    /// Returns all prices by model.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Price)> {
        self.models.iter().map(|(model, price)| (model.as_str(), price))
    }

    /// Returns what an answer of a model costs; `None` when the model has no price, or none on these
    /// terms.
    pub fn cost(&self, model: &str, tokens: &Tokens, terms: Terms) -> Option<Usd> {
        let price = self.of(model)?;
        let rates = match (terms.fast, price.long_prompt) {
            (true, _) => price.fast?,
            (false, Some(long)) if tokens.read() > long.above => long.rates,
            (false, _) => price.rates,
        };
        Some(price.on(terms, rates.cost(tokens)))
    }

    /// Returns what an answer would cost if nothing had been read from the prompt cache or written
    /// into it.
    pub fn uncached(&self, model: &str, tokens: &Tokens, terms: Terms) -> Option<Usd> {
        let plain = Tokens { input: tokens.read(), output: tokens.output, ..Tokens::default() };
        self.cost(model, &plain, terms)
    }

    /// Returns the most that a request to a model can cost: all input at the dearest of its rates, all
    /// output used. `None` when the model has no price, or none on these terms.
    pub fn worst(&self, model: &str, most: &Most) -> Option<Usd> {
        let price = self.of(model)?;
        let cost = |rates: &Rates| {
            rates.dearest_input(most.hour).times(most.input) + rates.output.times(most.output)
        };
        let standard = cost(&price.rates);
        let tokens = match (most.terms.fast, &price.long_prompt) {
            // Asked for, it may be answered at either speed.
            (true, _) => standard.max(cost(&price.fast?)),
            (false, Some(long)) if most.input > long.above => standard.max(cost(&long.rates)),
            (false, _) => standard,
        };
        Some(price.on(most.terms, tokens))
    }
}

impl Price {
    fn on(&self, terms: Terms, tokens: Usd) -> Usd {
        let tenth = if terms.us_only { tokens.nanos().div_ceil(10) } else { 0 };
        tokens + Usd::from_nanos(tenth) + self.web_search.times(terms.web_searches)
    }
}

#[cfg(test)]
mod tests;
