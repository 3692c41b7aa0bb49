//! Prices in the configuration.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{LongPrompt, Origin, Price, Rates, list};
use crate::Usd;

/// The most dollars for a million tokens that are believed. The dearest list price is 150.
const MOST_PER_MILLION: f64 = 10_000.0;
/// The most dollars for one search that are believed. The list price is 0.01.
const MOST_PER_SEARCH: f64 = 100.0;

/// A price of one token, written as dollars for a million: 0 to 10,000, in steps of 0.001.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMillion(Usd);

impl<'de> Deserialize<'de> for PerMillion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        if !(0.0..=MOST_PER_MILLION).contains(&dollars) {
            return Err(D::Error::custom(format_args!(
                "{dollars} is no price: write the dollars for a million tokens, 0 to {MOST_PER_MILLION}"
            )));
        }
        // A thousandth of a dollar for a million tokens is a billionth for one.
        let nanos = dollars * 1_000.0;
        if (nanos - nanos.round()).abs() > 1e-6 {
            return Err(D::Error::custom(format_args!(
                "{dollars} is too fine a price: the dollars for a million tokens have three decimals"
            )));
        }
        Ok(Self(Usd::from_nanos(nanos.round() as u64)))
    }
}

impl Serialize for PerMillion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.nanos() as f64 / 1_000.0)
    }
}

/// The price of one search of the web, in dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PerSearch(Usd);

impl<'de> Deserialize<'de> for PerSearch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        let price = Usd::from_dollars(dollars).filter(|_| dollars <= MOST_PER_SEARCH);
        price.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{dollars} is no price: write the dollars for one search, 0 to {MOST_PER_SEARCH}"
            ))
        })
    }
}

macro_rules! with_rates {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Input.
            pub input: PerMillion,
            /// Output.
            pub output: PerMillion,
            /// Cache writes for five minutes; 1.25 times the input's price if not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cache_write_5m: Option<PerMillion>,
            /// Cache writes for an hour; twice the input's price if not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cache_write_1h: Option<PerMillion>,
            /// Cache reads; a tenth of the input's price if not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cache_read: Option<PerMillion>,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn rates(&self) -> Rates {
                let input = self.input.0;
                let or = |given: Option<PerMillion>, (times, parts): (u64, u64)| {
                    let derived = Usd::from_nanos((input.nanos() * times).div_ceil(parts));
                    given.map_or(derived, |price| price.0)
                };
                Rates {
                    input,
                    output: self.output.0,
                    cache_write_5m: or(self.cache_write_5m, (5, 4)),
                    cache_write_1h: or(self.cache_write_1h, (2, 1)),
                    cache_read: or(self.cache_read, (1, 10)),
                }
            }
        }
    };
}

with_rates! {
    /// Rates in the configuration.
    RatesSetting {}
}

with_rates! {
    /// Rates for long prompts in the configuration.
    LongPromptSetting {
        /// They hold for prompts of more tokens than this.
        above: u64,
    }
}

with_rates! {
    /// A model's price in the configuration.
    ///
    /// # Examples
    ///
    /// ```toml
    /// [prices."claude-haiku-5-5"]
    /// input = 0.1
    /// output = 0.5
    /// long_prompt = { above = 100_000, input = 0.5, output = 2.5 }
    /// ```
    PriceSetting {
        /// The rates for long prompts; none if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        long_prompt: Option<LongPromptSetting>,
        /// The rates for fast answers; none if not given: such answers have no price then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fast: Option<RatesSetting>,
        /// One search of the web by the server; the list price if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        web_search: Option<PerSearch>,
    }
}

impl PriceSetting {
    pub(super) fn price(&self) -> Price {
        let long_prompt =
            |long: LongPromptSetting| LongPrompt { above: long.above, rates: long.rates() };
        Price {
            rates: self.rates(),
            long_prompt: self.long_prompt.map(long_prompt),
            fast: self.fast.map(|fast| fast.rates()),
            web_search: self.web_search.map_or(list::WEB_SEARCH, |price| price.0),
            origin: Origin::Configured,
        }
    }
}
