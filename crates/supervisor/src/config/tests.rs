use std::fs;
use std::path::Path;

use super::*;

fn load(file: &str, environment: &[(&'static str, &str)], flags: Flags) -> Result<Config, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(Installation::CONFIG);
    let volatile = protocol::atomic_file::Durability::Volatile;
    protocol::atomic_file::create(&path, file.as_bytes(), volatile).unwrap();
    let installation = Installation::at(dir.path()).unwrap();
    Config::load(&installation, flags, |name| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn each_source_goes_before_the_one_below_it_and_every_value_knows_where_it_is_from() {
    let file = "runtime = \"docker\"\nmax_running = 3\n";
    let environment = [("SUPERVISOR_RUNTIME", "auto")];
    let flags = Flags { runtime: Some(RuntimeChoice::Process), rehearsal: false };

    let config = load(file, &[], Flags::default()).unwrap();
    assert_eq!(
        (config.runtime.value, config.runtime.origin),
        (RuntimeChoice::Docker, Origin::File)
    );
    assert_eq!((config.max_running.value, config.max_running.origin), (3, Origin::File));
    assert_eq!(config.stop_grace.origin, Origin::BuiltIn);

    let config = load(file, &environment, Flags::default()).unwrap();
    assert_eq!(config.runtime.origin, Origin::Environment("SUPERVISOR_RUNTIME"));
    assert_eq!(config.runtime.value, RuntimeChoice::Auto);

    let config = load(file, &environment, flags).unwrap();
    assert_eq!(config.runtime.origin, Origin::Flag("--runtime"));
    assert_eq!(config.runtime.value, RuntimeChoice::Process);
}

#[test]
fn an_empty_variable_means_none() {
    let config =
        load("", &[("ANTHROPIC_API_KEY", ""), ("ANTHROPIC_BASE_URL", "")], Flags::default());
    let config = config.unwrap();
    assert!(config.api_key.value.is_none());
    assert!(config.is_rehearsal(false));
}

#[test]
fn a_key_or_an_address_or_a_login_ends_the_rehearsal_unless_it_is_asked_for() {
    let key = [("ANTHROPIC_API_KEY", "sk-x")];
    let address = [("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")];
    assert!(load("", &[], Flags::default()).unwrap().is_rehearsal(false));
    assert!(!load("", &[], Flags::default()).unwrap().is_rehearsal(true));
    assert!(!load("", &key, Flags::default()).unwrap().is_rehearsal(false));
    assert!(!load("", &address, Flags::default()).unwrap().is_rehearsal(false));
    let asked = Flags { rehearsal: true, ..Flags::default() };
    assert!(load("", &key, asked).unwrap().is_rehearsal(true));
}

#[test]
fn address_that_is_none_is_refused_and_a_password_in_it_is_not_repeated() {
    for address in ["http://me:hunter2@host", "https://host/?token=hunter2", "ftp://hunter2@host"] {
        let failure = load("", &[("ANTHROPIC_BASE_URL", address)], Flags::default()).unwrap_err();
        let text = shown(&failure);
        assert!(text.contains("`base_url` ($ANTHROPIC_BASE_URL) is no address"), "{text}");
        assert!(text.contains("Hint: "), "{text}");
        assert!(!text.contains("hunter2") && !format!("{failure:?}").contains("hunter2"), "{text}");
    }
    assert!(refusal("base_url = \"somewhere\"").contains("`base_url` (supervisor.toml)"));
}

/// Returns the refusal of a file, as it is shown.
fn refusal(file: &str) -> String {
    shown(&load(file, &[], Flags::default()).unwrap_err())
}

fn shown(failure: &Failure) -> String {
    assert_eq!(failure.kind(), crate::failure::FailureKind::BadInput, "{failure:?}");
    anstream::adapter::strip_str(&crate::cli::show_failure(failure)).to_string()
}

#[test]
fn wrong_value_is_refused_with_its_place_and_its_cure() {
    insta::assert_snapshot!(refusal("image = \"x\"\nmax_runing = 1"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 1
        |
      2 | max_runing = 1
        | ^^^^^^^^^^
      unknown field `max_runing`
      Did you mean `max_running`?

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("max_running = 0"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 15
        |
      1 | max_running = 0
        |               ^
      0 is too few: it must be at least 1, or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("stop_grace = nan"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 14
        |
      1 | stop_grace = nan
        |              ^^^
      NaN must be from 0 to 86400 (seconds)

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("runtime = \"vm\""), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 11
        |
      1 | runtime = "vm"
        |           ^^^^
      must be `auto`, `docker` or `process`

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    insta::assert_snapshot!(refusal("version = 2"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 11
        |
      1 | version = 2
        |           ^
      `version` is 2, and this supervisor reads 1

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("gateway = \"sockt\""), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 11
        |
      1 | gateway = "sockt"
        |           ^^^^^^^
      unknown variant `sockt`
      Did you mean `socket`?

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    let wrong = load("", &[("SUPERVISOR_REHEARSAL", "maybe")], Flags::default()).unwrap_err();
    insta::assert_snapshot!(shown(&wrong), @"
    Error: the setting `SUPERVISOR_REHEARSAL` must be `true` or `false`

    Hint: `supervisor doctor --config` shows each setting with its origin.
    ");
    let wrong = load("", &[("SUPERVISOR_RUNTIME", "vm")], Flags::default()).unwrap_err();
    insta::assert_snapshot!(shown(&wrong), @"
    Error: the setting `SUPERVISOR_RUNTIME` must be `auto`, `docker` or `process`

    Hint: `supervisor doctor --config` shows each setting with its origin.
    ");
}

#[test]
fn bad_limit_is_refused_with_its_place_and_its_cure() {
    insta::assert_snapshot!(refusal("[limits]\nrequests_per_minute = -1"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 23
        |
      2 | requests_per_minute = -1
        |                       ^^
      -1 is too few: it must be at least 1, or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[limits]\nrequests_per_min = 1"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 1
        |
      2 | requests_per_min = 1
        | ^^^^^^^^^^^^^^^^
      unknown field `requests_per_min`
      Did you mean `requests_per_minute`?

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[limits.models.\"claude-*\"]\nmax_in_flight = 0"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 17
        |
      2 | max_in_flight = 0
        |                 ^
      0 is too few: it must be at least 1, or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[limits.models.\"claude-*-5\"]\nmax_in_flight = 1"), @"
    Error: supervisor.toml:1:16: `claude-*-5` is no name of a model

    Hint: Write its full name, or the beginning of it and a `*` as the last character.
    ");
}

#[test]
fn bad_budget_is_refused_with_its_place_and_its_cure() {
    insta::assert_snapshot!(refusal("[budgets]\nusd_per_day = -5.0"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 15
        |
      2 | usd_per_day = -5.0
        |               ^^^^
      -5 is no budget: it must be from 0.0001 to 1000000 (US dollars), or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[budgets]\nusd_per_run = nan"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 15
        |
      2 | usd_per_run = nan
        |               ^^^
      NaN is no budget: it must be from 0.0001 to 1000000 (US dollars), or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[budgets]\ntokens_per_day = 0"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 18
        |
      2 | tokens_per_day = 0
        |                  ^
      0 is too few: it must be at least 1, or left out

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[budgets]\nusd_per_month = 5"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 1
        |
      2 | usd_per_month = 5
        | ^^^^^^^^^^^^^
      unknown field `usd_per_month`
      Did you mean `usd_per_run`?

    Hint: Mend that line, or take it out: every setting has a default.
    ");
}

#[test]
fn bad_price_is_refused_with_its_place_and_its_cure() {
    insta::assert_snapshot!(refusal("[prices.\"my-model\"]\ninput = 3\noutput = -15"), @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 3, column 10
        |
      3 | output = -15
        |          ^^^
      -15 is no price: write the dollars for a million tokens, 0 to 10000

    Hint: Mend that line, or take it out: every setting has a default.
    ");
    insta::assert_snapshot!(refusal("[prices.\"my-model\"]\ninput = 3"), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 1, column 1
        |
      1 | [prices."my-model"]
        | ^^^^^^^^^^^^^^^^^^^
      missing field `output`

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    insta::assert_snapshot!(refusal("[prices.\"my-*\"]\ninput = 3\noutput = 15"), @"
    Error: supervisor.toml:1:9: `my-*` is no name of a model

    Hint: Write its full name: a price is for one model.
    ");
    insta::assert_snapshot!(
        refusal("[prices.\"my-model\"]\ninput = 3\noutput = 15\ncache_reads = 1"),
        @"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 4, column 1
        |
      4 | cache_reads = 1
        | ^^^^^^^^^^^
      unknown field `cache_reads`
      Did you mean `cache_read`?

    Hint: Mend that line, or take it out: every setting has a default.
    "
    );
}

#[test]
fn bad_place_of_a_key_is_refused_with_its_cure() {
    insta::assert_snapshot!(refusal("[keys]\nfile = \"a\"\ncommand = [\"b\"]"), @"
    Error: supervisor.toml:3:11: the key can't come from a `file` and from a `command`

    Hint: Take out one of the two.
    ");
    insta::assert_snapshot!(refusal("[keys]\nkey = \"sk-ant-its-me\""), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 1
        |
      2 | key = "…"
        | ^^^
      unknown field `key`
      Known here: file, command, workers.

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    insta::assert_snapshot!(refusal("[keys]\nkey_command = [\"b\"]"), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 1
        |
      2 | key_command = ["b"]
        | ^^^^^^^^^^^
      unknown field `key_command`
      Did you mean `command`?

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    insta::assert_snapshot!(refusal("[keys]\ncommand = \"op read x\""), @r#"
    Error: `supervisor.toml` is not a configuration
    Caused by: TOML parse error at line 2, column 11
        |
      2 | command = "op read x"
        |           ^^^^^^^^^^^
      invalid type: string "op read x", expected a sequence

    Hint: Mend that line, or take it out: every setting has a default.
    "#);
    insta::assert_snapshot!(refusal("[keys]\ncommand = []"), @r#"
    Error: supervisor.toml:2:11: `command` names no program

    Hint: Name a program that prints the key, and its arguments, as in ["op", "read", "op://Studio/Anthropic/key"].
    "#);
    insta::assert_snapshot!(refusal("[keys]\nfile = \" \""), @"
    Error: supervisor.toml:2:8: `file` names no file

    Hint: Name the file with the key, or take `file` out.
    ");
    insta::assert_snapshot!(refusal("[keys.workers.marie]"), @r#"
    Error: supervisor.toml:1:15: nothing says where the key of marie is

    Hint: Add `file = "path"` or `command = ["program", "argument"]` below it.
    "#);
    insta::assert_snapshot!(refusal("[keys.workers.Marie]\nfile = \"a\""), @"
    Error: supervisor.toml:1:15: `Marie` can't be the name of a worker
    Caused by: 'M' is not allowed at position 0 of an id (use a-z, 0-9, and after the first character also `.`, `_` and `-`)

    Hint: Name a folder of `workspaces/`, or take it out.
    ");
}

/// Returns two workers: marie, who asks for a model by an alias, and anga, with a login of her own.
fn workers() -> BTreeMap<protocol::WorkerId, crate::workers::Worker> {
    let worker = |id: &str, more: &str| {
        let text = format!("description = \"x\"\n{more}\n");
        let id: protocol::WorkerId = id.parse().unwrap();
        let worker = crate::workers::Worker {
            id: id.clone(),
            config: protocol::WorkerConfig::from_toml(&text).unwrap(),
            system_prompt: String::new(),
            subagents: serde_json::Map::new(),
            mcp: None,
        };
        (id, worker)
    };
    let own = "auth = \"home\"\nmodel = \"studio-model\"";
    [worker("marie", "model = \"haiku\""), worker("anga", own)].into()
}

#[test]
fn key_for_a_worker_that_can_have_none_is_refused() {
    let check = |file: &str| {
        let config = load(file, &[], Flags::default()).unwrap();
        config.check_workers(&workers()).map_err(|failure| shown(&failure))
    };
    insta::assert_snapshot!(check("[keys.workers.mary]\nfile = \"a\"").unwrap_err(), @"
    Error: supervisor.toml:2:8: there is no worker `mary`

    Hint: Did you mean `marie`?
    ");
    insta::assert_snapshot!(check("\n[keys.workers]\nzed.file = \"a\"").unwrap_err(), @"
    Error: supervisor.toml:3:12: there is no worker `zed`

    Hint: Name a folder of `workspaces/`, or take it out.
    ");
    insta::assert_snapshot!(check("[keys.workers.anga]\nfile = \"a\"").unwrap_err(), @r#"
    Error: supervisor.toml:2:8: anga has a login of its own, and needs no key

    Hint: Take the key out, or `auth = "home"` in workspaces/anga/worker.toml.
    "#);
    assert_eq!(check("[keys.workers.marie]\nfile = \"a\""), Ok(()));
}

#[test]
fn limit_for_a_model_that_nobody_knows_is_refused() {
    let check = |pattern: &str, more: &str| {
        let file = format!("[limits.models.\"{pattern}\"]\nmax_in_flight = 1\n{more}");
        let config = load(&file, &[], Flags::default()).unwrap();
        config.check_models(&workers()).map_err(|failure| shown(&failure))
    };
    insta::assert_snapshot!(check("claude-opsu-*", "").unwrap_err(), @r#"
    Error: supervisor.toml:1:16: `claude-opsu-*` is no model that is known

    Hint: Did you mean `claude-opus-5`? A new model is made known by its price: [prices."its-full-name"].
    "#);
    insta::assert_snapshot!(check("gpt", "").unwrap_err(), @r#"
    Error: supervisor.toml:1:16: `gpt` is no model that is known

    Hint: The results of its tasks have its full name. A new model is made known by its price: [prices."its-full-name"].
    "#);
    // No request has it: the CLI makes a full name of it.
    insta::assert_snapshot!(check("haiku", "").unwrap_err(), @r#"
    Error: supervisor.toml:1:16: `haiku` is no model that is known

    Hint: The results of its tasks have its full name. A new model is made known by its price: [prices."its-full-name"].
    "#);
    let new = "[prices.\"gpt\"]\ninput = 1\noutput = 2\n";
    for (pattern, more) in [
        ("claude-opus-*", ""),
        ("claude-haiku-5-5", ""),
        ("*", ""),
        ("studio-model", ""),
        ("gpt", new),
        ("gp*", new),
    ] {
        assert_eq!(check(pattern, more), Ok(()), "{pattern}");
    }
}

#[test]
fn what_the_file_of_the_installation_shows_is_accepted() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../supervisor.toml");
    let text = fs::read_to_string(file).unwrap();
    let is_setting = |line: &&str| {
        let word = line.split(" = ").next().unwrap_or_default();
        let is_name =
            word.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'0'..=b'9'));
        line.starts_with('[') || (is_name && line.contains(" = "))
    };
    // All but one of two that are shown as alternatives.
    let shown = text.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_setting);
    let shown: Vec<&str> = shown.filter(|line| !line.starts_with("command")).collect();
    let config = load(&shown.join("\n"), &[], Flags::default()).unwrap();
    let settings = config.table();
    let left_out: Vec<_> = settings
        .iter()
        .filter(|(_, _, origin)| *origin == Origin::BuiltIn)
        .map(|(name, ..)| name.as_str())
        .collect();
    assert_eq!(left_out, ["base_url", "api_key", "claude", "worker"]);
    // What is shown as a default is one.
    let built_in = load("", &[], Flags::default()).unwrap().table();
    let defaults = settings.iter().take_while(|(name, ..)| !name.starts_with("limits."));
    for row in defaults.filter(|(name, ..)| !name.starts_with("keys") && name != "scenario") {
        assert!(
            built_in.iter().any(|(name, value, _)| (name, value) == (&row.0, &row.1)),
            "{row:?}"
        );
    }
}

#[test]
fn every_setting_is_shown_with_its_value_and_its_origin() {
    let file = r#"
        gateway = "tcp"
        [keys]
        command = ["op", "read", "sk-secret"]
        [keys.workers.marie]
        file = "/run/secrets/marie"
        [limits]
        requests_per_minute = 50
        [limits.models."claude-opus-*"]
        max_in_flight = 4
        [budgets]
        usd_per_day = 20
        tokens_per_run = 1_000_000
        [prices."my-model"]
        input = 3
        output = 15
        cache_read = 0.3
    "#;
    let config = load(file, &[], Flags::default()).unwrap();
    let shown: String = config
        .table()
        .into_iter()
        .skip_while(|(name, ..)| name != "api_key")
        .map(|(name, value, origin)| format!("{name} = {value} [{origin}]\n"))
        .collect();
    insta::assert_snapshot!(shown, @r#"
    api_key = (none) [built in]
    keys.command = the command `op` [supervisor.toml]
    keys.workers.marie.file = the file `/run/secrets/marie` [supervisor.toml]
    gateway = tcp [supervisor.toml]
    stagger = true [built in]
    unsafe = (none) [built in]
    image = supervisor-worker:2.1.327 [built in]
    claude = (none) [built in]
    worker = (none) [built in]
    max_running = 8 [built in]
    plan_max_tasks = 200 [built in]
    plan_max_depth = 50 [built in]
    backoff_base = 1 [built in]
    backoff_max = 60 [built in]
    stop_grace = 15 [built in]
    limits.requests_per_minute = 50 [supervisor.toml]
    limits.input_tokens_per_minute = (none) [built in]
    limits.output_tokens_per_minute = (none) [built in]
    limits.max_in_flight = (none) [built in]
    limits.models."claude-opus-*".max_in_flight = 4 [supervisor.toml]
    budgets.usd_per_day = $20.00 [supervisor.toml]
    budgets.tokens_per_day = (none) [built in]
    budgets.usd_per_run = (none) [built in]
    budgets.tokens_per_run = 1000000 [supervisor.toml]
    prices."my-model" = input 3.0, output 15.0, cache_read 0.3 [supervisor.toml]
    "#);
    assert!(!config.is_rehearsal(false));
}

#[test]
fn the_key_is_never_shown() {
    let config = load("", &[("ANTHROPIC_API_KEY", "sk-secret")], Flags::default()).unwrap();
    let shown = format!("{config:?} {:?}", config.table());
    assert!(!shown.contains("sk-secret"), "{shown}");
}

#[test]
fn the_cli_that_is_looked_for_is_the_one_that_is_fetched() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/cli.lock");
    let lock = fs::read_to_string(lock).unwrap();
    assert!(lock.lines().any(|line| line == format!("CLI_VERSION={CLI_VERSION}")), "{lock}");
}
