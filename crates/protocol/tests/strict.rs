//! What is refused of what people and containers write, and how it is said.

use protocol::strict::{MAX_BYTES, ParseFault, from_slice, nearest};
use protocol::{Plan, TaskFile};

fn fault(text: &str) -> ParseFault {
    match from_slice::<TaskFile>(text.as_bytes()) {
        Ok(task) => panic!("it should be refused: {task:?}"),
        Err(fault) => fault,
    }
}

fn said(text: &str) -> String {
    let fault = fault(text);
    format!("{fault} -- {}", fault.hint())
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_the_nearest_known_name() {
    insta::assert_snapshot!(
        said("{\n  \"task_id\": \"a\",\n  \"descripton\": \"x\"\n}"),
        @"line 3, column 14, field `descripton`: unknown field `descripton` -- Did you mean `description`?"
    );
    insta::assert_snapshot!(
        said("{\"task_id\": \"a\", \"description\": \"x\", \"verify\": {\"artefacts\": []}}"),
        @"line 1, column 59, field `verify.artefacts`: unknown field `artefacts` -- Did you mean `artifacts`?"
    );
}

#[test]
fn a_wrong_value_is_named_with_its_field() {
    insta::assert_snapshot!(
        said("{\"task_id\": \"Sec 1\", \"description\": \"x\"}"),
        @"line 1, column 19, field `task_id`: 'S' is not allowed at position 0 of an id (use a-z, 0-9, and after the first character also `.`, `_` and `-`) -- Compare it with the format: `supervisor schema task` prints it."
    );
    insta::assert_snapshot!(
        said("{\"task_id\": \"a\", \"description\": \"x\", \"priority\": \"hihg\"}"),
        @"line 1, column 55, field `priority`: unknown variant `hihg` -- Did you mean `high`?"
    );
    insta::assert_snapshot!(
        said("{\"task_id\": \"a\"}"),
        @"line 1, column 16: missing field `description` -- Compare it with the format: `supervisor schema task` prints it."
    );
}

#[test]
fn a_name_that_comes_twice_is_refused_also_where_anything_goes() {
    let top = said("{\"task_id\": \"a\", \"task_id\": \"b\", \"description\": \"x\"}");
    assert!(top.contains("`task_id` comes twice"), "{top}");
    let deep = "{\"task_id\": \"a\", \"description\": \"x\", \"context\": {\"k\": [{\"z\": 1, \"z\": 2}]}}";
    assert!(said(deep).contains("`z` comes twice"), "{}", said(deep));
}

#[test]
fn nesting_beyond_32_is_refused_and_100_000_does_not_overflow() {
    let nested = |depth: usize| {
        let value = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        format!("{{\"task_id\": \"a\", \"description\": \"x\", \"context\": {{\"k\": {value}}}}}")
    };
    assert!(from_slice::<TaskFile>(nested(30).as_bytes()).is_ok());
    assert!(said(&nested(31)).contains("nested deeper than 32"), "{}", said(&nested(31)));
    let deep = nested(100_000);
    assert!(!fault(&deep).may_be_unfinished());
}

#[test]
fn what_is_cut_off_may_be_unfinished_and_nothing_else_may() {
    let whole = "{\"task_id\": \"a\", \"description\": \"x\"}";
    for cut in 0..whole.len() {
        let fault = fault(&whole[..cut]);
        assert!(fault.may_be_unfinished(), "cut at {cut}: {fault}");
    }
    for text in ["{]", "{\"task_id\": 1}", "{\"task_id\": \"a\", \"description\": \"x\"} x", "nul!"]
    {
        assert!(!fault(text).may_be_unfinished(), "{text}");
    }
}

#[test]
fn what_is_not_utf8_or_too_large_or_marked_is_refused() {
    let mut bytes = b"{\"task_id\": \"a\", \"description\": \"x".to_vec();
    let at = bytes.len();
    bytes.extend(b"\xff\"}");
    assert_eq!(from_slice::<TaskFile>(&bytes).unwrap_err(), ParseFault::NotUtf8 { at });
    let large = vec![b' '; MAX_BYTES + 1];
    assert!(matches!(from_slice::<TaskFile>(&large).unwrap_err(), ParseFault::TooLarge { .. }));
    assert!(said("\u{feff}{}").contains("byte order mark"));
}

#[test]
fn a_plan_says_which_of_its_tasks_is_wrong() {
    let text = "{\"tasks\": [{\"id\": \"a\", \"worker\": \"w\", \"description\": \"x\"}, {\"id\": \"b\"}]}";
    let fault = from_slice::<Plan>(text.as_bytes()).unwrap_err();
    assert!(fault.to_string().contains("`tasks[1]`"), "{fault}");
}

#[test]
fn only_a_likely_name_is_suggested() {
    let known = ["marie", "anga", "fabien"];
    assert_eq!(nearest("mary", known.into_iter()).as_deref(), Some("marie"));
    assert_eq!(nearest("zzz", known.into_iter()), None);
}

#[test]
fn names_without_end_are_quoted_in_part() {
    let name = "é".repeat(200_000);
    let deep =
        (0..20).fold("1".to_owned(), |inner, _| format!("{{\"{}\":{inner}}}", "n".repeat(10_000)));
    for text in [
        format!("{{\"{name}\": 1}}"),
        format!("{{\"task_id\": \"{name}\", \"description\": \"x\"}}"),
        format!("{{\"task_id\": \"a\", \"priority\": \"{name}\", \"description\": \"x\"}}"),
        format!("{{\"context\": {{\"{name}\": 1, \"{name}\": 2}}}}"),
        format!("{{\"task_id\": \"a\", \"description\": \"x\", \"verify\": {deep}}}"),
    ] {
        let shown = said(&text);
        assert!(shown.len() < 2_000, "{} bytes are shown: {}", shown.len(), &shown[..200]);
    }
}
