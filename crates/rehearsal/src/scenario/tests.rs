use super::*;

const MANUAL: &str = include_str!("../../SCENARIOS.md");

fn message(text: &str) -> String {
    let error = Scenario::from_toml(text).expect_err("the scenario should be refused");
    assert!(error.hint().ends_with('.'), "{error:?}");
    error.to_string()
}

#[test]
fn examples_of_the_manual_are_scenarios() {
    let mut fences = MANUAL.split("```");
    let (mut toml, mut json) = (0, 0);
    while let (Some(_), Some(fence)) = (fences.next(), fences.next()) {
        if let Some(text) = fence.strip_prefix("toml\n") {
            toml += 1;
            Scenario::from_toml(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        } else if let Some(text) = fence.strip_prefix("json\n") {
            json += 1;
            Scenario::from_json(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
    assert!(toml >= 2 && json >= 1, "{toml} TOML and {json} JSON examples");
}

#[test]
fn manual_names_every_field() {
    for text in [
        "[[rule]]\nx = 1",
        "[[rule]]\nmatch = { x = 1 }",
        "[[rule]]\nanswer = { x = 1 }",
        "limits = { x = 1 }",
    ] {
        let message = message(text);
        let known = message.split("expected one of ").nth(1).expect("a list of fields");
        for field in known.split(", ") {
            assert!(MANUAL.contains(field.trim()), "SCENARIOS.md should explain {field}");
        }
    }
}

#[test]
fn unknown_field_is_refused_with_its_line_and_the_known_ones() {
    let message =
        message("[[rule]]\n\nmatch = { wroker = \"marie\" }\nanswer = { text = \"x\" }\n");
    assert!(message.starts_with("scenario, line 3: unknown field `wroker`, expected"), "{message}");
}

#[test]
fn unknown_kind_is_refused() {
    let message = message("[[rule]]\nmatch = { kind = \"wrok\" }\nanswer = { text = \"x\" }");
    assert!(message.contains("line 2: unknown variant `wrok`"), "{message}");
}

#[test]
fn file_is_named_and_its_extension_decides() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        let mut file = std::fs::File::create(&path).expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("a full file");
        path
    };
    let json = write("a.json", "{\"rule\": [\n {\"anwser\": {}}]}");
    let error = Scenario::load(&json).expect_err("the typo should be refused").to_string();
    assert!(error.contains("a.json`, line 2: unknown field `anwser`"), "{error}");
    assert!(Scenario::load(&write("a.toml", "")).is_ok());
    assert!(matches!(
        Scenario::load(&write("a.yaml", "")),
        Err(ScenarioError::UnknownFormat { .. })
    ));
    let missing = Scenario::load(&dir.path().join("b.toml"));
    assert!(matches!(missing, Err(ScenarioError::Unreadable { .. })), "{missing:?}");
}

#[test]
fn senseless_rules_are_refused_by_name_and_field() {
    let cases = [
        ("[[rule]]\nname = \"a\"", "scenario, rule a: `answer` is needed"),
        ("[[rule]]\nsteps = []", "rule 1: `steps` is empty"),
        ("[[rule]]\nanswer = { delay = 1 }", "`answer` says nothing"),
        ("[[rule]]\nanswer = { text = \"x\", then = \"default\" }", "`then` stands beside"),
        ("[[rule]]\nanswer = { http = 200 }", "`http` is 200: not an error"),
        ("[[rule]]\nanswer = { http = 500, text = \"x\" }", "`http` stands beside"),
        ("[[rule]]\nanswer = { text = \"x\", body = \"y\" }", "`body` has no status"),
        ("[[rule]]\nanswer = { text = \"x\", headers = { \"a b\" = \"c\" } }", "has `a b`"),
        ("[[rule]]\nanswer = { text = \"x\", delay = -1 }", "not a time in seconds"),
        ("[[rule]]\nanswer = { text = \"x\", rst = true }", "`rst` has nothing to break"),
        ("[[rule]]\nanswer = { text = \"x\", pings = true }", "`pings` has no stall"),
        ("[[rule]]\nanswer = { text = 5 }", "a string or a list of strings"),
        ("limits = { burst = 0 }", "0 is not a time to fill a bucket in"),
        ("limits = { requests_per_minute = 0 }", "line 1"),
        ("[[rule]]\ntimes = 0\nanswer = { text = \"x\" }", "line 2"),
    ];
    for (text, wanted) in cases {
        let message = message(text);
        assert!(message.contains(wanted), "{message:?} should contain {wanted:?}");
    }
}
