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
fn wrong_values_are_refused_with_their_name() {
    for (file, said) in [
        ("max_runing = 1", "Did you mean `max_running`?"),
        ("max_running = 0", "`max_running` must be at least 1"),
        ("backoff_base = -1.0", "`backoff_base` must be from 0"),
        ("stop_grace = nan", "`stop_grace` must be from 0"),
        ("runtime = \"vm\"", "`runtime` must be"),
        ("version = 2", "`version` is 2"),
    ] {
        let failure = load(file, &[], Flags::default()).unwrap_err();
        let shown = format!("{failure} {:?}", failure.causes());
        assert!(shown.contains(said), "{file}: {shown}");
    }
    let wrong = load("", &[("SUPERVISOR_REHEARSAL", "maybe")], Flags::default()).unwrap_err();
    assert!(wrong.to_string().contains("SUPERVISOR_REHEARSAL"), "{wrong}");
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
