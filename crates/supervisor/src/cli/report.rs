//! Failures as a person reads them.

use super::text::{BAD, NOTE, clean, indent, paint};
use crate::client::Cause;
use crate::failure::Failure;

/// Returns a failure as text: what failed, why, and what to do about it.
pub(crate) fn failure(failure: &Failure) -> String {
    let mut text = format!("{} {}\n", paint(BAD, "Error:"), hang(&failure.to_string()));
    for cause in failure.causes() {
        text.push_str(&format!("{} {}\n", paint(BAD, "Caused by:"), hang(&cause)));
    }
    if let Some(hint) = failure.cure() {
        text.push_str(&format!("\n{} {}\n", paint(NOTE, "Hint:"), hang(hint)));
    }
    text
}

/// Moves the second and further lines to the right.
fn hang(text: &str) -> String {
    match clean(text.trim_end()).split_once('\n') {
        Some((first, rest)) => format!("{first}\n{}", indent(rest, 2).trim_end()),
        None => clean(text.trim_end()),
    }
}

/// Returns the last failure that [`failure`] wrote into `log`, as one that has `message` in front.
pub(crate) fn read_back(log: &str, failed: Failure) -> Failure {
    let Some(at) = log.rfind("Error: ") else {
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return if tail.is_empty() { failed } else { failed.because(tail.join("\n")) };
    };
    let (text, hint) = match log[at..].split_once("\n\nHint: ") {
        Some((text, hint)) => (text, Some(hint.trim_end())),
        None => (log[at..].trim_end(), None),
    };
    // The further lines of a cause stand to the right; taken over, they would move again.
    let text = text.trim_start_matches("Error: ").replace("\n  ", "\n");
    let failed = match Cause::chain(text.split("\nCaused by: ").map(str::to_owned).collect()) {
        Some(cause) => failed.because(cause),
        None => failed,
    };
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(shown: &Failure) -> String {
        anstream::adapter::strip_str(&failure(shown)).to_string()
    }

    #[test]
    fn failure_says_what_why_and_what_to_do() {
        let error = Failure::bad_input("`plan.json` is not a plan")
            .because("line 3, column 5: \x1b[31mexpected `,`\nwhere the line ends")
            .hint("Mend the JSON there and save the file again.");
        insta::assert_snapshot!(show(&error), @"
        Error: `plan.json` is not a plan
        Caused by: line 3, column 5: �[31mexpected `,`
          where the line ends

        Hint: Mend the JSON there and save the file again.
        ");
    }

    #[test]
    fn failure_of_another_process_is_found_in_its_log() {
        let error =
            Failure::unavailable("no engine").because("line 1\n  |\nline 2").hint("Start it.");
        let log = format!("12:00 INFO starts\n{}", show(&error));
        let found = read_back(&log, Failure::unavailable("the supervisor did not start"));
        assert_eq!(found.causes(), ["no engine", "line 1\n  |\nline 2"]);
        assert_eq!(found.cure(), Some("Start it."));
        let found = read_back("thread panicked\n", Failure::unavailable("it did not start"));
        assert_eq!(found.causes(), ["thread panicked"]);
    }
}
