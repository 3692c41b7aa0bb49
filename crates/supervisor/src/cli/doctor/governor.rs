//! What the gateway governs: keys, limits, budgets, prices.

use std::collections::BTreeMap;

use gateway::{Ledger, Scope};
use protocol::{Auth, Limits, WorkerId};

use super::Finding;
use crate::cli::text::{count, list, now};
use crate::config::{Config, Origin, is_alias};
use crate::install::Installation;
use crate::keys::Keys;
use crate::workers::{self, Worker};

/// Checks what only all workers together can say; nothing where their folders have something wrong, which is
/// told by another check.
pub(super) async fn check_governor(installation: &Installation, config: &Config) -> Vec<Finding> {
    let Ok(workers) = workers::load_all(installation) else { return Vec::new() };
    let live = super::credentials::check_key(installation, config).state == super::State::Ok;
    let keys = check_keys(installation, config, &workers, live).await;
    let limits = check_limits(config, &workers);
    let budgets = check_budgets(config, &workers, live);
    let (prices, egress) = (check_prices(config, &workers), check_egress(&workers));
    vec![keys, limits, budgets, prices, check_ledger(installation), egress]
}

/// Reads every key, as the daemon would at its start.
pub(super) async fn check_keys(
    installation: &Installation,
    config: &Config,
    workers: &BTreeMap<WorkerId, Worker>,
    live: bool,
) -> Finding {
    const CHECK: &str = "keys";
    if let Err(failure) = config.check_workers(workers) {
        return Finding::failed(CHECK, &failure);
    }
    if !live {
        return Finding::ok(CHECK, "none is read: no model is asked");
    }
    let keys = match Keys::load(installation, config, workers).await {
        Ok(keys) => keys,
        Err(failure) => return Finding::failed(CHECK, &failure),
    };
    let without = |worker: &&Worker| {
        worker.config.auth == Auth::Gateway && keys.credential(&worker.id).is_none()
    };
    let without: Vec<&WorkerId> = workers.values().filter(without).map(|w| &w.id).collect();
    // An API of one's own may need none.
    if !without.is_empty() && config.base_url.origin == Origin::BuiltIn {
        let message = format!("there is no key for {}", list(without));
        let cure = "Name one for all in supervisor.toml, with `file` or `command` in [keys], or export \
                    ANTHROPIC_API_KEY.";
        return Finding::problem(CHECK, message, cure);
    }
    let origins = keys.origins();
    let origins: Vec<_> =
        origins.iter().map(|(from, workers)| format!("{}: {from}", list(workers))).collect();
    match origins.is_empty() {
        true => Finding::ok(CHECK, "none is added"),
        false => Finding::ok(CHECK, origins.join("\n")),
    }
}

/// Checks the limits, and shows them.
pub(super) fn check_limits(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> Finding {
    const CHECK: &str = "limits";
    if let Err(failure) = config.check_models(workers) {
        return Finding::failed(CHECK, &failure);
    }
    let account = ("account".to_owned(), &config.limits.account);
    let models = config.limits.models.iter().map(|(model, limits)| (model.value.clone(), limits));
    let own = workers.values().map(|worker| (worker.id.to_string(), &worker.config.limits));
    let all = std::iter::once(account).chain(models).chain(own);
    let shown: Vec<String> =
        all.filter_map(|(whose, limits)| Some(format!("{whose}: {}", in_words(limits)?))).collect();
    match shown.is_empty() {
        true => Finding::ok(CHECK, "none of ours; those of the model's API are kept"),
        false => Finding::ok(CHECK, shown.join("\n")),
    }
}

fn in_words(limits: &Limits) -> Option<String> {
    let parts = [
        limits.requests_per_minute.map(|n| format!("{n} requests/min")),
        limits.input_tokens_per_minute.map(|n| format!("{n} tokens read/min")),
        limits.output_tokens_per_minute.map(|n| format!("{n} tokens written/min")),
        limits.max_in_flight.map(|n| format!("{n} requests at once")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Shows the budgets, and says when nothing bounds what a key may cost.
pub(super) fn check_budgets(
    config: &Config,
    workers: &BTreeMap<WorkerId, Worker>,
    live: bool,
) -> Finding {
    const CHECK: &str = "budgets";
    let budgets = &config.budgets;
    let daily = |usd: Option<String>, tokens: Option<u64>| {
        let tokens = tokens.map(|tokens| format!("{tokens} tokens"));
        let parts: Vec<String> = usd.into_iter().chain(tokens).collect();
        (!parts.is_empty()).then(|| parts.join(" and "))
    };
    let mut shown = Vec::new();
    if let Some(day) = daily(budgets.usd_per_day.map(|usd| usd.to_string()), budgets.tokens_per_day)
    {
        shown.push(format!("a day: {day}"));
    }
    if let Some(run) = daily(budgets.usd_per_run.map(|usd| usd.to_string()), budgets.tokens_per_run)
    {
        shown.push(format!("a run that names none: {run}"));
    }
    let mut bounded = budgets.bounds_dollars();
    for Worker { id, config, .. } in workers.values() {
        let usd = config.budget_usd_per_day.map(|usd| format!("${usd:.2}"));
        bounded |= usd.is_some();
        if let Some(day) = daily(usd, config.budget_tokens_per_day) {
            shown.push(format!("{id}, a day: {day}"));
        }
    }
    let shown = if shown.is_empty() { "none".to_owned() } else { shown.join("\n") };
    if live && config.has_key() && !bounded {
        let message = format!("{shown}: nothing bounds what the key may cost in a day");
        let cure = "To sleep well, add to supervisor.toml:\n[budgets]\nusd_per_day = 20.0";
        return Finding::note(CHECK, message, cure);
    }
    Finding::ok(CHECK, shown)
}

/// Looks for models that have no price: their tokens are counted, their dollars are not.
pub(super) fn check_prices(config: &Config, workers: &BTreeMap<WorkerId, Worker>) -> Finding {
    const CHECK: &str = "prices";
    let prices = config.all_prices();
    let has_price = |model: &str| prices.of(model).is_some() || is_alias(model);
    let without: Vec<String> = workers
        .values()
        .filter_map(|w| w.config.model.as_ref().filter(|m| !has_price(m)).map(|m| (m, &w.id)))
        .map(|(model, worker)| format!("{model} of {worker}"))
        .collect();
    let list = || gateway::Origin::List.to_string();
    let own = config.prices.len();
    let shown = match own {
        0 => list(),
        _ => format!("{} in supervisor.toml, else the {}", count(own, "price"), list()),
    };
    if without.is_empty() {
        return Finding::ok(CHECK, shown);
    }
    let message = format!(
        "{shown}; none for {}: its tokens are counted, its dollars are not",
        without.join(", ")
    );
    let cure = "Add what it costs for a million tokens to supervisor.toml:\n[prices.\"its-name\"]\ninput = 3.0\n\
                output = 15.0";
    Finding::note(CHECK, message, cure)
}

/// Reads what was spent, as the daemon does at its start, and leaves the file alone.
pub(super) fn check_ledger(installation: &Installation) -> Finding {
    const CHECK: &str = "ledger";
    let file = installation.ledger(false);
    let ledger = match Ledger::read(&file, now) {
        Ok(ledger) => ledger,
        Err(error) => return Finding::problem(CHECK, super::with_causes(&error), error.hint()),
    };
    if !file.exists() {
        return Finding::ok(CHECK, "nothing was spent yet");
    }
    let standing = ledger.standing(&Scope::Day);
    let spent = standing.spent.usd.unwrap_or_default();
    let spent = match standing.unpriced {
        0 => spent.to_string(),
        unpriced => format!("{spent}, and {unpriced} without a price"),
    };
    let path = installation.relative(&file);
    Finding::ok(
        CHECK,
        format!("{path} can be read; spent today ({}, UTC): {spent}", ledger.today()),
    )
}

/// Shows which hosts each worker reaches beside the model's API.
pub(super) fn check_egress(workers: &BTreeMap<WorkerId, Worker>) -> Finding {
    const CHECK: &str = "egress";
    let of = |worker: &Worker| match worker.config.egress.as_slice() {
        [] => format!("{}: none", worker.id),
        hosts => format!("{}: {}", worker.id, list(hosts)),
    };
    match workers.values().all(|worker| worker.config.egress.is_empty()) {
        true => Finding::ok(CHECK, "none: workers reach nothing but the model's API"),
        false => Finding::ok(CHECK, workers.values().map(of).collect::<Vec<_>>().join("\n")),
    }
}
