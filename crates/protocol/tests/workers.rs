//! What is refused of a `worker.toml`, and how it is said.

use protocol::WorkerConfig;

fn said(text: &str) -> String {
    let text = format!("description = \"Counts.\"\n{text}\n");
    match WorkerConfig::from_toml(&text) {
        Ok(config) => panic!("it should be refused: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn limits_and_budgets_are_read_and_none_is_the_default() {
    let config = |text: &str| {
        WorkerConfig::from_toml(&format!("description = \"Counts.\"\n{text}")).unwrap()
    };
    let none = config("");
    assert_eq!((none.limits, none.max_output_tokens), (Default::default(), 32_000));
    assert_eq!((none.budget_usd_per_day, none.budget_tokens_per_day), (None, None));
    let some = config(
        "budget_usd_per_day = 20\nbudget_tokens_per_day = 5_000_000\nmax_output_tokens = 1000\n\
         [limits]\nmax_in_flight = 4\n",
    );
    assert_eq!(
        (some.budget_usd_per_day, some.budget_tokens_per_day),
        (Some(20.0), Some(5_000_000))
    );
    assert_eq!((some.limits.max_in_flight, some.limits.requests_per_minute), (Some(4), None));
    assert_eq!(some.max_output_tokens, 1000);
}

#[test]
fn number_that_cannot_be_is_refused_with_its_place() {
    insta::assert_snapshot!(said("budget_usd_per_day = -5"), @"
    TOML parse error at line 2, column 22
      |
    2 | budget_usd_per_day = -5
      |                      ^^
    -5 is no budget: it must be from 0.0001 to 1000000 (US dollars), or left out
    ");
    insta::assert_snapshot!(said("budget_usd = nan"), @"
    TOML parse error at line 2, column 14
      |
    2 | budget_usd = nan
      |              ^^^
    NaN is no budget: it must be from 0.0001 to 1000000 (US dollars), or left out
    ");
    insta::assert_snapshot!(said("max_output_tokens = 0"), @"
    TOML parse error at line 2, column 21
      |
    2 | max_output_tokens = 0
      |                     ^
    0 is too few: it must be at least 1, or left out
    ");
    insta::assert_snapshot!(said("[limits]\nrequests_per_minute = 0"), @"
    TOML parse error at line 3, column 23
      |
    3 | requests_per_minute = 0
      |                       ^
    0 is too few: it must be at least 1, or left out
    ");
    insta::assert_snapshot!(said("[limits]\nmax_in_flight = 5_000_000_000"), @"
    TOML parse error at line 3, column 17
      |
    3 | max_in_flight = 5_000_000_000
      |                 ^^^^^^^^^^^^^
    5000000000 is more than can be counted
    ");
    insta::assert_snapshot!(said("[limits]\nrequest_per_minute = 5"), @"
    TOML parse error at line 3, column 1
      |
    3 | request_per_minute = 5
      | ^^^^^^^^^^^^^^^^^^
    unknown field `request_per_minute`
    Did you mean `requests_per_minute`?
    ");
    for bad in ["inf", "0", "1e9", "-0.0"] {
        assert!(
            said(&format!("budget_usd_per_day = {bad}")).contains("line 2, column 22"),
            "{bad}"
        );
    }
}
