//! Numbers, times and other people's text, as they are shown.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::Time;

/// Headings.
pub(crate) const BOLD: Style = Style::new().bold();
/// What is only said in passing.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What deserves a look.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// What is under way.
pub(crate) const LIVE: Style = AnsiColor::Cyan.on_default();

/// Returns the text in that style. The screen takes styles away where they are not wanted.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns seconds as `0.4 s`, `12.3 s`, `1 min 12 s` or `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    // Rounded first, so that 59.96 does not become `60.0 s`.
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Returns US dollars: to a hundredth of a cent where the amount is small.
pub(crate) fn usd(amount: f64) -> String {
    if amount != 0.0 && amount < 0.095 { format!("${amount:.4}") } else { format!("${amount:.2}") }
}

/// Returns what something cost, for a column. It is not known where a model was used whose price is not.
pub(crate) fn cost(amount: Option<f64>) -> String {
    amount.map_or_else(|| "unknown".to_owned(), usd)
}

/// Returns what something cost, for a sentence.
pub(crate) fn at_cost(amount: Option<f64>) -> String {
    amount.map_or_else(|| "cost unknown".to_owned(), usd)
}

/// Returns a number with its thousands apart: `12,345`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Returns `1 task`, `2 tasks`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Returns the names with commas between.
pub(crate) fn list<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

/// Returns the time of the day: `12:01:07`.
pub(crate) fn clock(time: Time, zone: &TimeZone) -> String {
    zoned(time, zone).strftime("%H:%M:%S").to_string()
}

/// Returns the day and the time: `2026-11-20 12:01`.
pub(crate) fn moment(time: Time, zone: &TimeZone) -> String {
    zoned(time, zone).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns the time by this machine's clock.
pub(crate) fn now() -> Time {
    Time::from_millis(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default())
}

fn zoned(time: Time, zone: &TimeZone) -> jiff::Zoned {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}

/// Returns somebody else's text without what would steer the terminal. Ends of lines and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    // The second range turns text around, so that it reads as something else.
    let steers = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.replace("\r\n", "\n").replace(steers, "\u{fffd}")
}

/// Returns somebody else's text as one line of at most `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let line = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    let mut cut: String = line.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Returns the text with each of its lines moved to the right.
pub(crate) fn indent(text: &str, by: usize) -> String {
    let space = " ".repeat(by);
    let line = |line: &str| if line.is_empty() { "\n".into() } else { format!("{space}{line}\n") };
    text.lines().map(line).collect()
}

/// Returns a person's name for a task in a run: without the run's prefix.
pub(crate) fn local<'a>(task: &'a str, short: Option<&str>) -> &'a str {
    let strip = |short| task.strip_prefix(short)?.strip_prefix('.');
    short.and_then(strip).unwrap_or(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_a_person_says_them() {
        let shown = [0.04, 12.34, 59.96, 72.4, 3599.6, 7500.0, f64::NAN].map(duration);
        let said = ["0.0 s", "12.3 s", "1 min 0 s", "1 min 12 s", "1 h 00 min", "2 h 05 min", "-"];
        assert_eq!(shown, said);
    }

    #[test]
    fn money_and_numbers_keep_what_matters() {
        assert_eq!([0.0, 0.0123, 0.5, 12.345].map(usd), ["$0.00", "$0.0123", "$0.50", "$12.35"]);
        assert_eq!([Some(0.5), None].map(cost), ["$0.50", "unknown"]);
        assert_eq!([Some(0.5), None].map(at_cost), ["$0.50", "cost unknown"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\tc\r\nd\u{202e}e"), "a\u{fffd}[2Jb\tc\nd\u{fffd}e");
        assert_eq!(one_line("  two\n words and more ", 9), "two word…");
    }

    #[test]
    fn prefix_of_the_run_is_left_out_only_where_it_is_one() {
        assert_eq!(local("k3f9.review", Some("k3f9")), "review");
        assert_eq!(local("k3f9-review", Some("k3f9")), "k3f9-review");
        assert_eq!(local("sec-001", None), "sec-001");
    }
}
