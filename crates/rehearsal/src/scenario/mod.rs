//! What the stand-in answers: rules from a file, tried in order. `SCENARIOS.md` is the manual.

mod error;
mod matching;
mod step;
mod template;

use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

pub use error::{Origin, ScenarioError};
pub(crate) use step::{DropAt, ErrorAfter, Step};

use crate::conversation::Conversation;
use crate::limits::Limits;
use error::BadField;
use matching::Match;

/// An ordered list of rules. What no rule answers, the built-in behaviour does.
///
/// [`Scenario::default`] has no rules.
///
/// ```
/// let scenario = rehearsal::Scenario::from_toml(
///     r#"
///     [[rule]]
///     match = { worker = "marie", kind = "work" }
///     times = 1
///     answer = { http = 429, headers = { retry-after = "1" } }
///     "#,
/// );
/// assert!(scenario.is_ok());
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    #[serde(default, rename = "match")]
    matching: Match,
    times: Option<NonZeroU32>,
    answer: Option<Step>,
    steps: Option<Vec<Step>>,
}

impl Scenario {
    /// Reads a scenario written in TOML.
    ///
    /// # Errors
    ///
    /// When it is not TOML, has unknown fields, or a rule makes no sense.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        parse_toml(text, &Origin::default())
    }

    /// Reads a scenario written in JSON.
    ///
    /// # Errors
    ///
    /// When it is not JSON, has unknown fields, or a rule makes no sense.
    pub fn from_json(text: &str) -> Result<Self, ScenarioError> {
        parse_json(text, &Origin::default())
    }

    /// Reads a scenario from a file, as TOML or JSON by the file's extension.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or as [`from_toml`](Self::from_toml).
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => parse_toml,
            Some("json") => parse_json,
            _ => return Err(ScenarioError::UnknownFormat { path: path.to_owned() }),
        };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        parse(&text, &Origin::file(path))
    }

    fn checked(self, origin: &Origin) -> Result<Self, ScenarioError> {
        for (at, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|bad| ScenarioError::BadRule {
                origin: origin.clone(),
                rule: rule.label(at),
                field: bad.field,
                problem: bad.problem,
                cure: bad.cure,
            })?;
        }
        Ok(self)
    }
}

fn parse_toml(text: &str, origin: &Origin) -> Result<Scenario, ScenarioError> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
        ScenarioError::malformed(origin, line, error.message())
    })?;
    scenario.checked(origin)
}

fn parse_json(text: &str, origin: &Origin) -> Result<Scenario, ScenarioError> {
    let scenario: Scenario = serde_json::from_str(text)
        .map_err(|error| ScenarioError::malformed(origin, error.line(), &error.to_string()))?;
    scenario.checked(origin)
}

impl Rule {
    fn steps(&self) -> &[Step] {
        match (&self.answer, &self.steps) {
            (Some(step), _) => std::slice::from_ref(step),
            (None, Some(steps)) => steps,
            (None, None) => &[],
        }
    }

    /// Returns the step for a turn. An `answer` serves every turn; `steps` one turn each.
    fn step(&self, turn: u32) -> Option<&Step> {
        let turn = if self.answer.is_some() { 0 } else { turn as usize };
        self.steps().get(turn)
    }

    fn label(&self, at: usize) -> String {
        self.name.clone().unwrap_or_else(|| (at + 1).to_string())
    }

    fn check(&self) -> Result<(), BadField> {
        if self.answer.is_some() == self.steps.is_some() {
            let problem = "is needed, or `steps`, and not both";
            return Err(BadField::new("answer", problem, "Give the rule one of the two."));
        }
        if self.steps().is_empty() {
            let cure = "Write the steps as [[rule.steps]], one for each turn.";
            return Err(BadField::new("steps", "is empty", cure));
        }
        self.steps().iter().try_for_each(Step::check)
    }
}

/// How often each rule has answered.
#[derive(Debug)]
pub(crate) struct RuleUses(Vec<u32>);

impl RuleUses {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self(vec![0; scenario.rules.len()])
    }

    /// Returns the step that answers, with its rule's name or number, and counts the use.
    pub(crate) fn take(
        &mut self,
        scenario: &Scenario,
        conversation: &Conversation<'_>,
    ) -> Option<(String, Step)> {
        for (at, (rule, uses)) in scenario.rules.iter().zip(&mut self.0).enumerate() {
            let left = rule.times.is_none_or(|times| *uses < times.get());
            if !left || !rule.matching.holds(conversation) {
                continue;
            }
            if let Some(step) = rule.step(conversation.turn) {
                *uses = uses.saturating_add(1);
                return Some((rule.label(at), step.filled(conversation)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
