use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PLAIN: Terms = Terms { fast: false, us_only: false, web_searches: 0 };

fn one(kind: &str, count: u64) -> Tokens {
    let mut tokens = Tokens::default();
    *match kind {
        "input" => &mut tokens.input,
        "output" => &mut tokens.output,
        "write 5m" => &mut tokens.cache_write_5m,
        "write 1h" => &mut tokens.cache_write_1h,
        _ => &mut tokens.cache_read,
    } = count;
    tokens
}

fn settings(toml: &str) -> Result<BTreeMap<String, PriceSetting>, String> {
    toml::from_str(toml).map_err(|error: toml::de::Error| error.message().to_owned())
}

/// What the CLI's `costUSD` said for 10,000 tokens of one kind, on 2026-11-20.
#[test]
fn costs_are_those_that_the_cli_showed() {
    let measured = [
        ("claude-opus-5-5", [0.04, 0.2, 0.05, 0.08, 0.002]),
        ("claude-sonnet-5-5", [0.02, 0.1, 0.025, 0.04, 0.001]),
        ("claude-haiku-5-5", [0.001, 0.005, 0.00125, 0.002, 0.0001]),
        ("claude-fable-5-2", [0.08, 0.4, 0.1, 0.16, 0.002]),
        ("claude-opus-5", [0.05, 0.25, 0.0625, 0.1, 0.005]),
        ("claude-opus-4-8", [0.05, 0.25, 0.0625, 0.1, 0.005]),
        ("claude-opus-4-5", [0.05, 0.25, 0.0625, 0.1, 0.005]),
        ("claude-sonnet-5", [0.02, 0.1, 0.025, 0.04, 0.002]),
        ("claude-sonnet-4-6", [0.03, 0.15, 0.0375, 0.06, 0.003]),
        ("claude-haiku-4-5", [0.01, 0.05, 0.0125, 0.02, 0.001]),
        ("claude-fable-5", [0.1, 0.5, 0.125, 0.2, 0.01]),
        ("claude-fable-5-1", [0.1, 0.5, 0.125, 0.2, 0.0025]),
        ("claude-mythos-5-2", [0.08, 0.4, 0.1, 0.16, 0.002]),
        ("claude-3-5-haiku", [0.008, 0.04, 0.01, 0.016, 0.0008]),
    ];
    let prices = Prices::built_in();
    for (model, costs) in measured {
        let kinds = ["input", "output", "write 5m", "write 1h", "read"];
        for (kind, cost) in kinds.into_iter().zip(costs) {
            let said = prices.cost(model, &one(kind, 10_000), PLAIN);
            assert_eq!(said, Usd::from_dollars(cost), "{model} {kind}");
        }
    }
}

#[test]
fn long_prompts_fast_answers_and_places_change_the_cost_as_in_the_cli() {
    let prices = Prices::built_in();
    let cost = |model, tokens: Tokens, terms| prices.cost(model, &tokens, terms).unwrap().dollars();
    let haiku = |tokens| cost("claude-haiku-5-5", tokens, PLAIN);
    assert_eq!(haiku(one("input", 100_000)), 0.01);
    assert_eq!(haiku(one("input", 100_001)), 0.050_000_5);
    assert_eq!(haiku(Tokens { cache_read: 50_001, ..one("input", 50_000) }), 0.027_500_05);
    assert_eq!(haiku(one("write 1h", 200_000)), 0.2);
    // The answer's length doesn't make a prompt long.
    assert_eq!(haiku(one("output", 200_000)), 0.1);
    assert_eq!(cost("claude-opus-5-5", one("input", 900_000), PLAIN), 3.6);

    let fast = Terms { fast: true, ..PLAIN };
    for (model, input) in [
        ("claude-opus-5-5", 0.08),
        ("claude-fable-5-2", 0.16),
        ("claude-opus-4-8", 0.1),
        ("claude-opus-4-6", 0.3),
    ] {
        assert_eq!(cost(model, one("input", 10_000), fast), input, "{model}");
    }
    assert_eq!(cost("claude-opus-5-5", one("read", 10_000), fast), 0.004);
    assert_eq!(prices.cost("claude-sonnet-5-5", &one("input", 1), fast), None);

    let searched = Terms { us_only: true, web_searches: 2, ..PLAIN };
    // The tenth is not on the searches.
    assert_eq!(cost("claude-opus-5-5", one("input", 10_000), searched), 0.064);
}

#[test]
fn a_model_has_many_spellings_and_another_number_is_another_model() {
    let prices = Prices::built_in();
    let same = |a: &str, b: &str| assert_eq!(prices.of(a), prices.of(b), "{a}");
    for name in [
        "claude-haiku-5-5-20261001",
        "claude-haiku-5-5@20261001",
        "claude-haiku-5-5-latest",
        "claude-haiku-5-5[1m]",
        "anthropic/claude-haiku-5-5",
        "us.anthropic.claude-haiku-5-5-20261001-v1:0",
        "anthropic.claude-haiku-5-5",
    ] {
        assert!(prices.of(name).is_some(), "{name}");
        same(name, "claude-haiku-5-5");
    }
    same("claude-opus-5-20260401", "claude-opus-5");
    same("claude-opus-4-20250514", "claude-opus-4-0");
    same("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet");
    for unknown in [
        "",
        "-",
        "claude",
        "claude-opus-5-6",
        "claude-opus-5-5-turbo",
        "claude-opus-5-5-2026",
        "claude-opus-5-5-20261001-mini",
        "claude-opus-5-5x",
        "my-claude-opus-5-5",
        "gpt.anthropic claude-opus-5-5",
        "claude-opus-5-v",
        "claude-opus-5--20261001",
    ] {
        assert_eq!(prices.of(unknown), None, "{unknown}");
    }
}

#[test]
fn prices_of_the_configuration_replace_and_add() {
    let given = settings(
        "[claude-haiku-5-5]\ninput = 1\noutput = 2.5\n\
         [local]\ninput = 0\noutput = 0\ncache_read = 0\n\
         [odd]\ninput = 0.003\noutput = 1\ncache_write_5m = 7\nweb_search = 0\n\
         fast = { input = 9, output = 9 }\nlong_prompt = { above = 10, input = 4, output = 5 }",
    )
    .unwrap();
    let prices = Prices::built_in().with(&given);
    let nanos = |model: &str| {
        let rates = prices.of(model).unwrap().rates;
        [rates.input, rates.output, rates.cache_write_5m, rates.cache_write_1h, rates.cache_read]
            .map(Usd::nanos)
    };
    assert_eq!(nanos("claude-haiku-5-5-20261001"), [1_000, 2_500, 1_250, 2_000, 100]);
    assert_eq!(nanos("local"), [0; 5]);
    // What is derived is rounded up.
    assert_eq!(nanos("odd"), [3, 1_000, 7_000, 6, 1]);
    let odd = prices.of("odd").unwrap();
    assert_eq!((odd.long_prompt.unwrap().above, odd.web_search), (10, Usd::ZERO));
    assert_eq!(prices.of("claude-haiku-5-5").unwrap().long_prompt, None);
    let origins = ["odd", "claude-opus-5-5"].map(|model| prices.of(model).unwrap().origin);
    assert_eq!(
        origins.map(|origin| origin.to_string()),
        ["configuration", "list price of Claude Code 2.1.327, 2026-11-20"]
    );
    // What is shown can be written into the configuration.
    let shown = toml::to_string(&given).unwrap();
    assert_eq!(settings(&shown).unwrap(), given);
}

#[test]
fn a_price_that_can_not_be_is_refused_with_its_reason() {
    let said = |line: &str| settings(&format!("[m]\ninput = 1\n{line}")).unwrap_err();
    let range = "is no price: write the dollars for a million tokens, 0 to 10000";
    assert_eq!(said("output = -1"), format!("-1 {range}"));
    assert_eq!(said("output = 1e9"), format!("1000000000 {range}"));
    assert_eq!(said("output = nan"), format!("NaN {range}"));
    assert_eq!(said("output = inf"), format!("inf {range}"));
    assert!(said("output = 0.0001").contains("three decimals"));
    assert!(said("output = \"1\"").contains("invalid type"));
    assert!(said("output = 1\noutputs = 2").contains("unknown field `outputs`"));
    assert!(said("output = 1\nfast = { input = 1 }").contains("missing field `output`"));
    assert!(said("output = 1\nweb_search = -1").contains("dollars for one search"));
    assert!(said("output = 1\nlong_prompt = { above = -1, input = 1, output = 1 }").contains("-1"));
}

const ODD: &str = "[dear-reads]\ninput = 1\noutput = 1\ncache_read = 9\n\
     [cheap-long]\ninput = 5\noutput = 5\nlong_prompt = { above = 10, input = 1, output = 1 }\n\
     [cheap-fast]\ninput = 5\noutput = 5\nfast = { input = 1, output = 1 }";

#[test]
fn the_worst_is_the_dearest_that_can_be_charged() {
    let prices = Prices::built_in().with(&settings(ODD).unwrap());
    let of = |model: &str, most: Most| prices.worst(model, &most).unwrap().dollars();
    let most = Most { input: 10_000, output: 1_000, ..Most::default() };
    let (hour, fast) = (Most { hour: true, ..most }, Terms { fast: true, ..PLAIN });
    assert_eq!(of("claude-opus-5-5", most), 0.05 + 0.02);
    assert_eq!(of("claude-opus-5-5", hour), 0.08 + 0.02);
    assert_eq!(of("claude-opus-5-5", Most { terms: fast, ..most }), 0.1 + 0.04);
    let us = Terms { us_only: true, web_searches: 3, ..PLAIN };
    assert_eq!(of("claude-opus-5-5", Most { terms: us, ..most }), 0.107);
    assert_eq!(of("claude-haiku-5-5", Most { input: 100_000, ..most }), 0.013);
    assert_eq!(of("claude-haiku-5-5", Most { input: 200_000, ..most }), 0.1275);
    assert_eq!(of("dear-reads", most), 0.091);
    assert_eq!(of("cheap-long", most), 0.0675);
    assert_eq!(of("cheap-fast", Most { terms: fast, ..most }), 0.0675);
    assert_eq!(prices.worst("claude-sonnet-5-5", &Most { terms: fast, ..most }), None);
    assert_eq!(prices.worst("unknown", &most), None);
    let monster = Most { input: u64::MAX, output: u64::MAX, ..hour };
    assert_eq!(prices.worst("claude-haiku-5-5", &monster), Some(Usd::MAX));
}

fn tokens() -> impl Strategy<Value = Tokens> {
    let count = || prop_oneof![2 => 0..300_000_u64, 6 => Just(0), 1 => any::<u64>()];
    (count(), count(), count(), count(), count()).prop_map(
        |(input, output, cache_read, cache_write_5m, cache_write_1h)| Tokens {
            input,
            output,
            cache_read,
            cache_write_5m,
            cache_write_1h,
        },
    )
}

proptest! {
    #[test]
    fn nothing_costs_more_than_its_worst(
        pick: prop::sample::Index,
        tokens in tokens(),
        spare in prop_oneof![Just(0), 0..200_000_u64],
        fast: bool,
        asked_fast: bool,
        us_only: bool,
        searches in 0..5_u64,
    ) {
        let prices = Prices::built_in().with(&settings(ODD).unwrap());
        let models: Vec<_> = prices.iter().map(|(model, _)| model).collect();
        let model = models[pick.index(models.len())];
        let terms = Terms { fast: fast && asked_fast, us_only, web_searches: searches };
        let most = Most {
            input: tokens.read().saturating_add(spare),
            output: tokens.output.saturating_add(spare),
            hour: tokens.cache_write_1h > 0,
            terms: Terms { fast: asked_fast, ..terms },
        };
        if let (Some(cost), Some(worst)) = (prices.cost(model, &tokens, terms), prices.worst(model, &most)) {
            prop_assert!(cost <= worst, "{model}: {cost} > {worst}");
        }
        prop_assert_eq!(prices.worst(model, &most).is_none(), asked_fast && prices.of(model).unwrap().fast.is_none());
    }
}
