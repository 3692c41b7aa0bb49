//! The configuration as it is shown.

use std::fmt::Display;

use protocol::Limits;

use crate::walls;

use super::{Config, KeySource, Origin, Setting};

/// A setting: its name, its value, where that comes from.
pub(crate) type Row = (String, String, Origin);

const NONE: &str = "(none)";

fn row<T>(name: &str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> Row {
    (name.to_owned(), show(&setting.value), setting.origin)
}

/// A setting that only the file can have.
fn optional(name: String, value: Option<impl Display>) -> Row {
    match value {
        Some(value) => (name, value.to_string(), Origin::File),
        None => (name, NONE.to_owned(), Origin::BuiltIn),
    }
}

impl Config {
    /// Returns each setting as it is shown. No secret is among them.
    pub(crate) fn table(&self) -> Vec<Row> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
        let mut rows = vec![
            row("runtime", &self.runtime, |value| format!("{value:?}").to_lowercase()),
            row("rehearsal", &self.rehearsal, bool::to_string),
            row("scenario", &self.scenario, text),
            row("base_url", &self.base_url, Clone::clone),
            row("api_key", &self.api_key, |key| match key {
                Some(_) => "(set; not shown)".to_owned(),
                None => NONE.to_owned(),
            }),
        ];
        rows.extend(self.key_rows());
        rows.extend([
            row("gateway", &self.gateway, |value| format!("{value:?}").to_lowercase()),
            row("stagger", &self.stagger, bool::to_string),
            row("unsafe", &self.accepted, |walls| match walls.as_slice() {
                [] => NONE.to_owned(),
                walls => walls::names(walls),
            }),
            row("image", &self.image, Clone::clone),
            row("claude", &self.claude, text),
            row("worker", &self.worker, text),
            row("max_running", &self.max_running, usize::to_string),
            row("plan_max_tasks", &self.plan_max_tasks, usize::to_string),
            row("plan_max_depth", &self.plan_max_depth, usize::to_string),
            row("backoff_base", &self.backoff_base, f64::to_string),
            row("backoff_max", &self.backoff_max, f64::to_string),
            row("stop_grace", &self.stop_grace, f64::to_string),
        ]);
        rows.extend(limit_rows("limits", &self.limits.account));
        for (pattern, limits) in &self.limits.models {
            let name = format!("limits.models.{:?}", pattern.value);
            rows.extend(limit_rows(&name, limits).into_iter().filter(|row| row.2 == Origin::File));
        }
        let budgets = &self.budgets;
        rows.extend([
            optional("budgets.usd_per_day".to_owned(), budgets.usd_per_day),
            optional("budgets.tokens_per_day".to_owned(), budgets.tokens_per_day),
            optional("budgets.usd_per_run".to_owned(), budgets.usd_per_run),
            optional("budgets.tokens_per_run".to_owned(), budgets.tokens_per_run),
        ]);
        rows.extend(self.prices.iter().map(|(model, price)| {
            // As it is written, but for the punctuation.
            let price =
                serde_json::to_string(price).unwrap_or_default().replace(['"', '{', '}'], "");
            let name = format!("prices.{model:?}");
            (name, price.replace(':', " ").replace(',', ", "), Origin::File)
        }));
        rows
    }

    fn key_rows(&self) -> Vec<Row> {
        let one = |name: &str, source: &KeySource| {
            let field = match source {
                KeySource::File(_) => "file",
                KeySource::Command(_) => "command",
            };
            (format!("{name}.{field}"), source.to_string(), Origin::File)
        };
        let all = match &self.keys.all {
            Some(source) => one("keys", &source.value),
            None => optional("keys".to_owned(), None::<&str>),
        };
        let own = self.keys.workers.iter();
        let own = own.map(|(worker, s)| one(&format!("keys.workers.{worker}"), &s.value));
        std::iter::once(all).chain(own).collect()
    }
}

fn limit_rows(name: &str, limits: &Limits) -> [Row; 4] {
    let name = |field: &str| format!("{name}.{field}");
    [
        optional(name("requests_per_minute"), limits.requests_per_minute),
        optional(name("input_tokens_per_minute"), limits.input_tokens_per_minute),
        optional(name("output_tokens_per_minute"), limits.output_tokens_per_minute),
        optional(name("max_in_flight"), limits.max_in_flight),
    ]
}
