use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::WorkerConfig;
use tempfile::TempDir;

use super::*;
use crate::config::Flags;
use crate::failure::FailureKind;
use crate::gateways::Gateways;

/// Installations with workers of those names; `home-…` sign in by themselves.
struct Stage {
    dir: TempDir,
    workers: BTreeMap<WorkerId, Worker>,
}

impl Stage {
    fn new(workers: &[&str]) -> Self {
        let worker = |name: &&str| {
            let auth = if name.starts_with("home") { "auth = \"home\"\n" } else { "" };
            let id: WorkerId = name.parse().unwrap();
            let worker = Worker {
                id: id.clone(),
                config: WorkerConfig::from_toml(&format!("description = \"x\"\n{auth}")).unwrap(),
                system_prompt: String::new(),
                subagents: serde_json::Map::new(),
                mcp: None,
            };
            (id, worker)
        };
        Self { dir: tempfile::tempdir().unwrap(), workers: workers.iter().map(worker).collect() }
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> &Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let volatile = protocol::atomic_file::Durability::Volatile;
        protocol::atomic_file::replace(&path, text.as_bytes(), volatile).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    async fn load(&self, config: &str, environment: Option<&str>) -> Result<Keys, Failure> {
        let (installation, config) = self.config(config, environment);
        Keys::load(&installation, &config, &self.workers).await
    }

    fn config(&self, config: &str, environment: Option<&str>) -> (Installation, Config) {
        self.file("supervisor.toml", config, 0o644);
        let installation = Installation::at(self.dir.path()).unwrap();
        let get = |name| environment.filter(|_| name == "ANTHROPIC_API_KEY").map(str::to_owned);
        let config = Config::load(&installation, Flags::default(), get).unwrap();
        (installation, config)
    }

    /// Returns the refusal, as it is shown, without the names of folders that differ each time.
    async fn refusal(&self, config: &str, environment: Option<&str>) -> String {
        let failure = self.load(config, environment).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::BadInput, "{failure:?}");
        let text = anstream::adapter::strip_str(&crate::cli::show_failure(&failure)).to_string();
        let root = fs::canonicalize(self.dir.path()).unwrap();
        assert!(!text.contains(SECRET) && !format!("{failure:?}").contains(SECRET), "{text}");
        text.replace(root.to_str().unwrap(), "/srv/team")
    }
}

/// It must be in no text.
const SECRET: &str = "topsecret-4f1c0a55e77";

fn id(worker: &str) -> WorkerId {
    worker.parse().unwrap()
}

fn is(keys: &Keys, worker: &str, key: &str) -> bool {
    let own = keys.credential(&id(worker)).unwrap();
    own.is_same_as(&Credential::api_key(key.to_owned()).unwrap())
}

#[tokio::test]
async fn own_key_goes_before_that_for_all_and_the_same_key_is_the_same_account() {
    let stage = Stage::new(&["a", "b", "c", "d", "home-1", "home-2"]);
    stage.file("keys/b", "key-b\n", 0o600).file("keys/all", "key-all\n", 0o600);
    let config = r#"
        [keys]
        file = "keys/all"
        [keys.workers.b]
        file = "keys/b"
        [keys.workers.c]
        command = ["echo", "key-all"]
    "#;
    let keys = stage.load(config, None).await.unwrap();
    assert!(is(&keys, "a", "key-all") && is(&keys, "b", "key-b"));
    assert!(is(&keys, "c", "key-all") && is(&keys, "d", "key-all"));
    assert!(keys.credential(&id("home-1")).is_none());
    let account = |worker| keys.account(&id(worker));
    assert_eq!(account("a"), account("c"));
    assert_eq!(account("a"), account("d"));
    let accounts = std::collections::BTreeSet::from(["a", "b", "home-1", "home-2"].map(account));
    assert_eq!(accounts.len(), 4, "{accounts:?}");
    let origins: Vec<_> =
        keys.origins().into_iter().map(|(from, workers)| (from, workers.len())).collect();
    let own = |text: &str, workers| (text.to_owned(), workers);
    let expected =
        [own("the command `echo`", 1), own("the file `keys/all`", 2), own("the file `keys/b`", 1)];
    assert_eq!(origins, expected);
}

#[tokio::test]
async fn key_of_the_environment_is_for_those_without_their_own() {
    let stage = Stage::new(&["a", "b"]);
    stage.file("keys/b", "key-b", 0o400);
    let keys = stage.load("[keys.workers.b]\nfile = \"keys/b\"", Some("key-e")).await.unwrap();
    assert!(is(&keys, "a", "key-e") && is(&keys, "b", "key-b"));
    let keys = stage.load("", Some("key-e")).await.unwrap();
    assert!(is(&keys, "b", "key-e"));
    assert_eq!(keys.account(&id("a")), keys.account(&id("b")));
    // Those without any key are one account, which is nobody's.
    let keys = stage.load("[keys.workers.b]\nfile = \"keys/b\"", None).await.unwrap();
    assert!(keys.credential(&id("a")).is_none());
    assert_ne!(keys.account(&id("a")), keys.account(&id("b")));
}

#[tokio::test]
async fn two_keys_for_all_are_refused() {
    let stage = Stage::new(&["a"]);
    insta::assert_snapshot!(stage.refusal("[keys]\nfile = \"k\"", Some(SECRET)).await, @"
    Error: supervisor.toml:2:8: the key comes from the file `k`, and $ANTHROPIC_API_KEY has one too

    Hint: Unset ANTHROPIC_API_KEY, or take the other out: only you know which account is to pay.
    ");
}

#[tokio::test]
async fn file_that_gives_no_key_is_refused_with_its_place_and_its_cure() {
    let stage = Stage::new(&["a"]);
    let refusal = async |name: &str| {
        let config = format!("[keys]\nfile = \"{name}\"");
        stage.refusal(&config, None).await
    };
    let two = format!("{SECRET}\n{SECRET}\n");
    stage.file("open", SECRET, 0o644).file("empty", " \n", 0o600).file("two", &two, 0o600);
    stage.file("bin", "\u{0}", 0o600).file("long", &"x".repeat(5000), 0o600);
    stage.file("workspaces/a/key", SECRET, 0o600);
    let link = stage.dir.path().join("link");
    std::os::unix::fs::symlink("workspaces/a/key", link).unwrap();
    insta::assert_snapshot!(refusal("absent").await, @"
    Error: supervisor.toml:2:8: the key file `/srv/team/absent` can't be read
    Caused by: No such file or directory (os error 2)

    Hint: Put the key there: (umask 077; cat > /srv/team/absent), paste it, then Ctrl-D.
    ");
    insta::assert_snapshot!(refusal("~/key").await, @"
    Error: supervisor.toml:2:8: the key file `/srv/team/~/key` can't be read
    Caused by: No such file or directory (os error 2)

    Hint: Write the whole path: only a shell knows what `~` is.
    ");
    insta::assert_snapshot!(refusal("workspaces").await, @"
    Error: supervisor.toml:2:8: `/srv/team/workspaces` is no file

    Hint: Name a file with the key in it.
    ");
    insta::assert_snapshot!(refusal("open").await, @"
    Error: supervisor.toml:2:8: the key file `/srv/team/open` is open to other users (its mode is 0644)

    Hint: chmod 600 /srv/team/open
    ");
    insta::assert_snapshot!(refusal("empty").await, @"
    Error: supervisor.toml:2:8: what is in the file `empty` is no key
    Caused by: the API key is empty

    Hint: Put the key there, and nothing else.
    ");
    insta::assert_snapshot!(refusal("two").await, @"
    Error: supervisor.toml:2:8: what is in the file `two` is no key
    Caused by: the API key has a character in it that no key has

    Hint: Put the key there, and nothing else: without quotes, spaces or line breaks.
    ");
    insta::assert_snapshot!(refusal("bin").await, @"
    Error: supervisor.toml:2:8: what is in the file `bin` is no key
    Caused by: the API key has a character in it that no key has

    Hint: Put the key there, and nothing else: without quotes, spaces or line breaks.
    ");
    insta::assert_snapshot!(refusal("long").await, @"
    Error: supervisor.toml:2:8: what is in the file `/srv/team/long` is no key: it has other than a line of text

    Hint: Put the key there, and nothing else.
    ");
    insta::assert_snapshot!(refusal("workspaces/a/key").await, @"
    Error: supervisor.toml:2:8: the key file `/srv/team/workspaces/a/key` is in `workspaces/`, where agents can read it

    Hint: Move it out of the installation, and have the key replaced if an agent has run since.
    ");
    // The mount is what counts, not the name.
    insta::assert_snapshot!(refusal("link").await, @"
    Error: supervisor.toml:2:8: the key file `/srv/team/workspaces/a/key` is in `workspaces/`, where agents can read it

    Hint: Move it out of the installation, and have the key replaced if an agent has run since.
    ");
    // Nobody writes into it: opening it would never end.
    let fifo = std::process::Command::new("mkfifo").arg(stage.dir.path().join("pipe")).status();
    assert!(fifo.unwrap().success());
    insta::assert_snapshot!(refusal("pipe").await, @"
    Error: supervisor.toml:2:8: `/srv/team/pipe` is no file

    Hint: Name a file with the key in it.
    ");
}

#[tokio::test]
async fn bad_key_in_the_environment_is_refused() {
    let stage = Stage::new(&["a"]);
    insta::assert_snapshot!(stage.refusal("", Some("two words")).await, @"
    Error: $ANTHROPIC_API_KEY is no key
    Caused by: the API key has a character in it that no key has

    Hint: Copy the key again: without quotes, spaces or line breaks.
    ");
}

#[tokio::test]
async fn command_that_gives_no_key_is_refused_with_its_place_and_its_cure() {
    let stage = Stage::new(&["a"]);
    stage.file(
        "fails",
        "#!/bin/sh\necho half-a-secret; echo \"$0: no vault\" >&2; exit 7\n",
        0o755,
    );
    let refusal = async |script: &str| {
        let config = format!("[keys]\ncommand = [\"sh\", \"-c\", '''{script}''']");
        stage.refusal(&config, None).await
    };
    let of =
        async |command: &str| stage.refusal(&format!("[keys]\ncommand = {command}"), None).await;
    insta::assert_snapshot!(of(r#"["/nowhere/op", "read"]"#).await, @"
    Error: supervisor.toml:2:11: the key command `/nowhere/op` can't be started
    Caused by: No such file or directory (os error 2)

    Hint: Name the program with its whole path; check that it is installed.
    ");
    insta::assert_snapshot!(of(r#"["./fails"]"#).await, @"
    Error: supervisor.toml:2:11: the key command `./fails` failed (exit status: 7)
    Caused by: ./fails: no vault

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
    insta::assert_snapshot!(refusal("exit 1").await, @"
    Error: supervisor.toml:2:11: the key command `sh` failed (exit status: 1)

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
    insta::assert_snapshot!(refusal("kill -9 $$").await, @"
    Error: supervisor.toml:2:11: the key command `sh` failed (signal: 9 (SIGKILL))

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
    insta::assert_snapshot!(refusal("true").await, @"
    Error: supervisor.toml:2:11: what the command `sh` printed is no key
    Caused by: the API key is empty

    Hint: It must print the key, and nothing else.
    ");
    insta::assert_snapshot!(refusal("echo Signed in.; echo x").await, @"
    Error: supervisor.toml:2:11: what the command `sh` printed is no key
    Caused by: the API key has a character in it that no key has

    Hint: It must print the key, and nothing else: without quotes, spaces or line breaks.
    ");
    insta::assert_snapshot!(refusal("yes").await, @"
    Error: supervisor.toml:2:11: what the command `sh` printed is no key: it is too much

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
    // What a shell with `-x` says of it, and what looks like a key, is not repeated.
    let loud =
        refusal(&format!("echo {SECRET}; echo \"{SECRET}, sk-ant-1_2-Z!\" >&2; false")).await;
    insta::assert_snapshot!(loud, @"
    Error: supervisor.toml:2:11: the key command `sh` failed (exit status: 1)
    Caused by: …, …!

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
}

#[tokio::test]
async fn command_has_the_environment_but_not_the_key_and_no_input() {
    let stage = Stage::new(&["a"]);
    let script = "cat; test -z \"$ANTHROPIC_API_KEY$SUPERVISOR_KEY_ON_STDIN\" && test -n \"$PATH\" \
                  && basename \"$PWD\"";
    let name = fs::canonicalize(stage.dir.path()).unwrap();
    let name = name.file_name().unwrap().to_str().unwrap().to_owned();
    let config = format!("[keys]\ncommand = [\"sh\", \"-c\", '{script}']");
    let keys = stage.load(&config, None).await.unwrap();
    assert!(is(&keys, "a", name.trim_start_matches('.')) || is(&keys, "a", &name));
}

#[tokio::test]
async fn command_is_run_once_for_all_who_have_its_key() {
    let stage = Stage::new(&["a", "b", "c"]);
    let config = "[keys]\ncommand = [\"sh\", \"-c\", \"echo x >> count; wc -l < count\"]";
    let keys = stage.load(config, None).await.unwrap();
    assert!(is(&keys, "c", "1"));
}

#[tokio::test]
async fn slow_command_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pids");
    let script = format!(
        // It has printed its key when it is killed, and nobody has looked yet.
        "sleep 600 & echo topsecret; echo waiting for topsecret >&2; {}; wait",
        pids_into(&path)
    );
    let command = ["sh".to_owned(), "-c".to_owned(), script];
    let fault = command::run(dir.path(), &command, there(&path)).await.unwrap_err();
    let failure = fault.failure("sh", Failure::bad_input);
    let text = anstream::adapter::strip_str(&crate::cli::show_failure(&failure)).to_string();
    insta::assert_snapshot!(text, @"
    Error: the key command `sh` was killed: it was not done after 30 s
    Caused by: waiting for …

    Hint: Try it by hand, without a terminal (`… < /dev/null`): it must print the key, and nothing else.
    ");
    gone(&path).await;
}

#[tokio::test]
async fn command_that_nobody_waits_for_any_more_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pids");
    let script = format!("sleep 600 & {}; wait", pids_into(&path));
    let command = ["sh".to_owned(), "-c".to_owned(), script];
    tokio::select! {
        ended = command::run(dir.path(), &command, std::future::pending()) => {
            panic!("it should not end: {ended:?}")
        }
        () = there(&path) => {}
    }
    gone(&path).await;
}

/// Returns a shell's way to write its number and that of its child into a file, which then is whole.
fn pids_into(path: &Path) -> String {
    format!("echo $! $$ > {0}.new; mv {0}.new {0}", path.display())
}

async fn there(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Waits until the processes with the numbers in that file are gone.
async fn gone(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let pids: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(pids.len(), 2, "{text}");
    let lives = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while pids.iter().any(lives) {
        assert!(std::time::Instant::now() < limit, "{text} should be gone");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn key_is_read_again_for_all_who_have_it_from_there() {
    let stage = Stage::new(&["a", "b", "c", "home-1"]);
    stage.file("all", "old", 0o600).file("c", "of-c", 0o600);
    let config = "[keys]\nfile = \"all\"\n[keys.workers.c]\nfile = \"c\"";
    let keys = stage.load(config, None).await.unwrap();
    let account = keys.account(&id("a"));

    stage.file("all", "new", 0o600);
    keys.reload(&id("a")).await.unwrap();
    assert!(is(&keys, "a", "new") && is(&keys, "b", "new") && is(&keys, "c", "of-c"));
    assert_eq!(keys.account(&id("b")), account, "who pays is the same");

    // A key that can't be read leaves the old one.
    stage.file("all", "", 0o600);
    keys.reload(&id("a")).await.unwrap_err();
    assert!(is(&keys, "a", "new"));

    // The same as another's: one account from now on. And apart again: another one.
    stage.file("c", "new", 0o600);
    keys.reload(&id("c")).await.unwrap();
    assert_eq!(keys.account(&id("c")), account);
    stage.file("c", "other", 0o600);
    keys.reload(&id("c")).await.unwrap();
    let others = ["a", "home-1"].map(|worker| keys.account(&id(worker)));
    assert!(!others.contains(&keys.account(&id("c"))));
    assert!(keys.reload(&id("home-1")).await.unwrap_err().cure().unwrap().contains("auth login"));
    let keys = stage.load("", Some("key-e")).await.unwrap();
    let failure = keys.reload(&id("a")).await.unwrap_err();
    assert!(failure.to_string().contains("is read once"), "{failure}");
}

#[tokio::test]
async fn key_that_is_replaced_reaches_those_who_have_it_from_there_and_nobody_else() {
    let stage = Stage::new(&["a", "b", "c"]);
    stage.file("one", "same", 0o600).file("two", "same", 0o600);
    let toml = "[keys.workers.a]\nfile = \"one\"\n[keys.workers.b]\nfile = \"two\"\n\
                [keys.workers.c]\nfile = \"two\"";
    let (installation, config) = stage.config(toml, None);
    let keys = Keys::load(&installation, &config, &stage.workers).await.unwrap();
    let gateways = Gateways::simulated(&config, &stage.workers, keys);
    let of = |worker| gateways.account(&id(worker));
    let name = |worker| format!("{:?}", of(worker)).split('"').nth(1).unwrap().to_owned();
    // Each replica holds on to what it gets at its start.
    let [a, b, c] = ["a", "b", "c"].map(of);
    assert!(Arc::ptr_eq(&b, &c) && !Arc::ptr_eq(&a, &b));
    assert_eq!(name("a"), name("b"), "one key, one account's limits");

    // `a` moves to another account; somebody says "go on" to all.
    stage.file("one", "other", 0o600).file("two", "same", 0o600);
    gateways.renew_keys(&["a", "b", "c"].map(id)).await;
    assert!(is(&gateways.keys, "a", "other") && is(&gateways.keys, "b", "same"));
    assert_ne!(name("a"), name("b"));

    // And back: what the replica of `a` holds is still what is renewed.
    stage.file("one", "same", 0o600);
    gateways.renew_keys(&[id("a")]).await;
    assert_eq!(name("a"), name("c"));
    for (worker, held) in [("a", a), ("b", b), ("c", c)] {
        assert!(Arc::ptr_eq(&held, &of(worker)), "{worker}");
    }
}

#[test]
fn what_looks_like_a_key_is_not_shown() {
    let shown = |text: &str| without_keys(text.to_owned());
    assert_eq!(shown("key = \"sk-ant-x_Y-1\" # sk-2"), "key = \"…\" # …");
    assert_eq!(shown("task-1 and desk-2: sk-"), "task-1 and desk-2: …");
}
