//! Each prerequisite, taken away.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use protocol::atomic_file::{Durability, replace};
use tempfile::TempDir;

use super::machine::Inotify;
use super::programs::Need;
use super::*;
use crate::config::CLI_VERSION;
use crate::workers;

fn installation() -> (TempDir, Installation) {
    let dir = tempfile::tempdir().unwrap();
    for worker in ["marie", "orchestrator"] {
        let text = "description = \"Somebody who does things.\"\n";
        file(dir.path(), &format!("workspaces/{worker}/worker.toml"), text);
    }
    let installation = Installation::at(dir.path()).unwrap();
    (dir, installation)
}

fn file(dir: &Path, path: &str, text: &str) -> PathBuf {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    replace(&path, text.as_bytes(), Durability::Volatile).unwrap();
    path
}

fn config(installation: &Installation, set: &'static [(&str, &str)]) -> Result<Config, Failure> {
    Config::load(installation, Flags::default(), |name| {
        set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

/// Asserts that it is so bad, says this, and has a cure.
#[track_caller]
fn assert_finding(finding: &Finding, state: State, says: &str) {
    assert_eq!(finding.state, state, "{finding:?}");
    assert!(finding.message.contains(says), "{finding:?}");
    assert_eq!(finding.cure.is_some(), state != State::Ok, "{finding:?}");
}

#[test]
fn configuration_with_a_wrong_value_is_a_problem() {
    let (dir, at) = installation();
    let check = |at: &Installation| files::check_configuration(at, config(at, &[]).as_ref());
    assert_finding(&check(&at), State::Ok, "valid");
    file(dir.path(), "supervisor.toml", "max_running = 0\n");
    assert_finding(&check(&at), State::Problem, "max_running");
}

#[test]
fn broken_worker_and_missing_orchestrator_are_problems() {
    let (dir, at) = installation();
    let found = files::check_workers(&at);
    assert_finding(&found[0], State::Ok, "marie, orchestrator");
    file(dir.path(), "workspaces/marie/worker.toml", "description = \"x\"\nreplica = 2\n");
    let found = files::check_workers(&at);
    assert_finding(&found[0], State::Problem, "workspaces/marie/worker.toml");
    std::fs::remove_dir_all(dir.path().join("workspaces/orchestrator")).unwrap();
    let found = files::check_workers(&at);
    assert_finding(&found[1], State::Problem, "no orchestrator");
}

#[test]
fn folders_that_stop_the_start_are_problems_here_too() {
    let (dir, at) = installation();
    std::fs::create_dir(dir.path().join("workspaces/notes")).unwrap();
    std::fs::create_dir(dir.path().join("workspaces/Marie")).unwrap();
    std::fs::create_dir(dir.path().join("workspaces/.cache")).unwrap();
    let found = files::check_workers(&at);
    assert_finding(&found[0], State::Problem, "workspaces/notes/worker.toml");
    assert_finding(&found[1], State::Problem, "workspaces/Marie");
    assert_eq!(found.len(), 2, "{found:?}");
    workers::load_all(&at).unwrap_err();
}

#[test]
fn engine_is_not_missed_where_the_daemon_was_told_to_do_without() {
    use crate::cli::args::RuntimeChoice::{Auto, Docker, Process};
    use programs::engine_need;
    assert_eq!(engine_need(Auto, true, Some("process")), Need::Not);
    assert_eq!(engine_need(Auto, true, None), Need::Must);
    assert_eq!(engine_need(Auto, true, Some("docker")), Need::Must);
    // In a rehearsal processes are a makeshift, and worth a note.
    assert_eq!(engine_need(Auto, false, Some("process")), Need::Better);
    assert_eq!(engine_need(Docker, false, None), Need::Must);
    assert_eq!(engine_need(Process, true, None), Need::Not);
}

#[test]
fn dropped_file_that_nobody_takes_is_noted() {
    let (dir, at) = installation();
    assert_finding(&files::check_drops(&at), State::Ok, "no file");
    file(dir.path(), "tasks/marie/rejected/x.json", "{}");
    file(dir.path(), "tasks/marie/rejected/x.json.why.json", "{\"message\": \"too early\"}");
    assert_finding(&files::check_drops(&at), State::Note, "x.json: too early");
}

#[test]
fn folder_that_cannot_be_written_is_a_problem() {
    let (dir, at) = installation();
    assert_finding(&files::check_folders(&at), State::Ok, "tasks, results, .supervisor");
    // In place of the folder; for root there is hardly anything that can't be written.
    std::os::unix::fs::symlink("/proc/self/task", dir.path().join("tasks")).unwrap();
    assert_finding(&files::check_folders(&at), State::Problem, "tasks can't be written");
}

#[test]
fn without_a_key_it_is_a_rehearsal_and_a_missing_login_is_a_problem() {
    let (dir, at) = installation();
    let check = |set| credentials::check_key(&at, &config(&at, set).unwrap());
    assert_finding(&check(&[]), State::Note, "rehearsal");
    let key = check(&[("ANTHROPIC_API_KEY", "sk-ant-secret")]);
    assert_finding(&key, State::Ok, "with a key");
    assert!(!format!("{key:?}").contains("sk-ant-secret"));
    let text = "description = \"x\"\nauth = \"home\"\n";
    file(dir.path(), "workspaces/marie/worker.toml", text);
    assert_finding(&check(&[]), State::Problem, "no login");
    file(dir.path(), "auth-homes/marie/.credentials.json", "{}");
    assert_finding(&check(&[]), State::Ok, "logins of marie");
}

#[tokio::test]
async fn keys_are_tried_and_never_shown() {
    let (dir, at) = installation();
    let check = async |text: &str, set, live| {
        file(dir.path(), "supervisor.toml", text);
        let config = config(&at, set).unwrap();
        governor::check_keys(&at, &config, &workers::load_all(&at).unwrap(), live).await
    };
    let key = &[("ANTHROPIC_API_KEY", "sk-ant-secret")];
    let found = check("", key, true).await;
    assert_finding(&found, State::Ok, "marie, orchestrator: $ANTHROPIC_API_KEY");
    assert!(!format!("{found:?}").contains("secret"));
    let own = "[keys.workers.marie]\ncommand = [\"echo\", \"sk-ant-own\"]";
    let found = check(own, key, true).await;
    assert_finding(&found, State::Ok, "marie: the command `echo`");
    assert!(!format!("{found:?}").contains("sk-ant"));
    assert_finding(&check(own, &[], true).await, State::Problem, "no key for orchestrator");
    let local = &[("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")];
    assert_finding(&check(own, local, true).await, State::Ok, "marie: the command");
    let broken = "[keys]\ncommand = [\"false\"]";
    assert_finding(&check(broken, &[], true).await, State::Problem, "`false` failed");
    assert_finding(&check(broken, &[], false).await, State::Ok, "none is read");
    let stranger = "[keys.workers.mary]\ncommand = [\"false\"]";
    assert_finding(&check(stranger, &[], false).await, State::Problem, "no worker `mary`");
}

#[test]
fn tracked_key_file_is_a_problem() {
    let (dir, at) = installation();
    let git = |args: &[&str]| {
        let run = std::process::Command::new("git").args(args).current_dir(dir.path()).output();
        assert!(run.unwrap().status.success(), "git {args:?}");
    };
    file(dir.path(), "supervisor.toml", "[keys]\nfile = \"keys/all\"\n");
    file(dir.path(), "keys/all", "sk-ant-secret");
    git(&["init", "-q"]);
    let check = || credentials::check_tracked(&at, config(&at, &[]).as_ref().ok());
    assert_finding(&check(), State::Ok, "no login");
    git(&["add", "keys/all"]);
    assert_finding(&check(), State::Problem, "keys/all");
}

#[test]
fn limits_budgets_and_prices_are_shown() {
    let (dir, at) = installation();
    let workers = || workers::load_all(&at).unwrap();
    let none = config(&at, &[("ANTHROPIC_API_KEY", "sk-ant-secret")]).unwrap();
    assert_finding(&governor::check_limits(&none, &workers()), State::Ok, "none of ours");
    assert_finding(
        &governor::check_prices(&none, &workers()),
        State::Ok,
        "list price of Claude Code 2.1.327",
    );
    let budgets = governor::check_budgets(&none, &workers(), true);
    assert_finding(&budgets, State::Note, "nothing bounds what the key may cost");
    assert!(budgets.cure.unwrap().ends_with("\n[budgets]\nusd_per_day = 20.0"));
    assert_finding(&governor::check_budgets(&none, &workers(), false), State::Ok, "none");

    let text = "description = \"x\"\nmodel = \"studio-1\"\nbudget_usd_per_day = 5\n\
                [limits]\nmax_in_flight = 2\n";
    file(dir.path(), "workspaces/marie/worker.toml", text);
    let own = governor::check_budgets(&none, &workers(), true);
    assert_finding(&own, State::Ok, "marie, a day: $5.00");
    assert_finding(&governor::check_prices(&none, &workers()), State::Note, "studio-1 of marie");

    let text = "[limits]\nrequests_per_minute = 50\n[limits.models.\"claude-opus-*\"]\n\
                output_tokens_per_minute = 9000\n[budgets]\nusd_per_day = 20\n\
                tokens_per_day = 7\nusd_per_run = 2.5\n[prices.studio-1]\ninput = 1\noutput = 2\n";
    file(dir.path(), "supervisor.toml", text);
    let all = config(&at, &[]).unwrap();
    insta::assert_snapshot!(governor::check_limits(&all, &workers()).message, @"
    account: 50 requests/min
    claude-opus-*: 9000 tokens written/min
    marie: 2 requests at once
    ");
    insta::assert_snapshot!(governor::check_budgets(&all, &workers(), true).message, @"
    a day: $20.00 and 7 tokens
    a run that names none: $2.50
    marie, a day: $5.00
    ");
    insta::assert_snapshot!(governor::check_prices(&all, &workers()).message, @"1 price in supervisor.toml, else the list price of Claude Code 2.1.327, 2026-11-20");
    file(dir.path(), "supervisor.toml", "[limits.models.opus]\nmax_in_flight = 1\n");
    let unknown = governor::check_limits(&config(&at, &[]).unwrap(), &workers());
    assert_finding(&unknown, State::Problem, "supervisor.toml:1:16: `opus`");
}

#[test]
fn hosts_that_workers_reach_are_listed() {
    let (dir, at) = installation();
    let check = || governor::check_egress(&workers::load_all(&at).unwrap());
    assert_finding(&check(), State::Ok, "none: workers reach nothing");
    let text = "description = \"x\"\negress = [\"*.example.org\", \"docs.example.com:8443\"]\n";
    file(dir.path(), "workspaces/marie/worker.toml", text);
    insta::assert_snapshot!(check().message, @"
    marie: *.example.org, docs.example.com:8443
    orchestrator: none
    ");
}

#[test]
fn ledger_is_read_and_left_as_it_is() {
    use gateway::{Caller, Ledger, Spent, Usd, Worst};
    let (dir, at) = installation();
    let check = || governor::check_ledger(&at);
    assert_finding(&check(), State::Ok, "nothing was spent yet");
    let path = file(dir.path(), ".supervisor/ledger.jsonl", "");
    let (ledger, _notices) = Ledger::open(Some(&path), crate::cli::text::now).unwrap();
    let caller = Caller {
        replica: "marie-1".parse().unwrap(),
        worker: "marie".parse().unwrap(),
        run: protocol::RunId::Adhoc,
        task: "emma".parse().unwrap(),
        attempt: protocol::Attempt::FIRST,
        priority: protocol::Priority::Medium,
    };
    let spend = |cost| {
        let worst = Worst { usd: Usd::from_dollars(2.0), tokens: 100 };
        let spent = Spent { cost, complete: true, ..Spent::default() };
        ledger.reserve(&caller, "m", worst).unwrap().settle(spent);
    };
    spend(Usd::from_dollars(1.25));
    let is = "ledger.jsonl can be read; spent today (";
    assert_finding(&check(), State::Ok, is);
    assert!(check().message.ends_with(", UTC): $1.25"), "{:?}", check());
    spend(None);
    let two = check().message;
    assert!(two.ends_with("$1.25, and 1 without a price"), "{two}");
    drop(ledger);
    // A line that is damaged, and not the last one.
    let text = std::fs::read_to_string(&path).unwrap();
    let broken = text.replacen("\n", "\n{}\n", 1);
    replace(&path, broken.as_bytes(), Durability::Volatile).unwrap();
    assert_finding(&check(), State::Problem, "ledger");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
}

#[tokio::test]
async fn without_an_engine_it_depends_on_what_may_run_instead() {
    let (_dir, at) = installation();
    let nowhere = Some("unix:///nowhere/docker.sock");
    let must = programs::check_engine(&at, nowhere, &[], Need::Must).await;
    assert_finding(&must, State::Problem, "/nowhere/docker.sock");
    let better = programs::check_engine(&at, nowhere, &[], Need::Better).await;
    assert_finding(&better, State::Note, "plain processes");
    let unused = programs::check_engine(&at, nowhere, &[], Need::Not).await;
    assert_finding(&unused, State::Ok, "not used");
}

#[tokio::test]
async fn cli_is_tried_and_not_only_found() {
    let dir = tempfile::tempdir().unwrap();
    let program = |name, text: &str| {
        let path = file(dir.path(), name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let good = program("good", &format!("#!/bin/sh\necho '{CLI_VERSION} (Claude Code)'\n"));
    let old = program("old", "#!/bin/sh\necho '1.0.0 (Claude Code)'\n");
    let broken = program("broken", "#!/bin/sh\necho 'no GLIBC' >&2\nexit 1\n");
    let absent = dir.path().join("absent");
    let check = async |path: &Path| programs::check_cli(Some(path), Need::Must).await;
    assert_finding(&check(&good).await, State::Ok, CLI_VERSION);
    assert_finding(&check(&old).await, State::Note, "1.0.0");
    assert_finding(&check(&broken).await, State::Problem, "no GLIBC");
    assert_finding(&check(&absent).await, State::Problem, "can't be run");
    assert_finding(&programs::check_cli(None, Need::Must).await, State::Problem, "is not here");
    assert_finding(&programs::check_cli(None, Need::Better).await, State::Note, "is not here");
}

#[test]
fn worker_program_must_be_in_one_of_its_places() {
    let nowhere = [PathBuf::from("/nowhere/worker")];
    assert_finding(&programs::check_worker(&nowhere), State::Problem, "/nowhere/worker");
    assert_finding(&programs::check_worker(&["/bin/sh".into()]), State::Ok, "/bin/sh");
}

#[tokio::test]
async fn without_a_daemon_it_says_how_to_start_one() {
    let (_dir, at) = installation();
    let found = programs::check_daemon(&at).await;
    assert_finding(&found, State::Note, "no supervisor runs here");
}

#[test]
fn sockets_need_a_place_that_is_short_enough() {
    let (dir, at) = installation();
    let nowhere = machine::check_sockets(&at, &["/nowhere".into()]);
    assert_finding(&nowhere, State::Problem, "/nowhere");
    let deep = dir.path().join("x".repeat(80));
    std::fs::create_dir(&deep).unwrap();
    assert_finding(&machine::check_sockets(&at, &[deep]), State::Problem, "107");
    assert_finding(&machine::check_sockets(&at, &["/tmp".into()]), State::Ok, "/tmp/supervisor-");
}

#[test]
fn machine_that_has_too_little_is_told_of() {
    let few = Some(Inotify { instances: 128, watches: 10, is_one_left: true });
    assert_finding(&machine::check_watches(9, few), State::Note, "10 watches");
    let alone = Some(Inotify { instances: 1, watches: 65_536, is_one_left: true });
    assert_finding(&machine::check_watches(9, alone), State::Note, "1 inotify");
    let none = Some(Inotify { instances: 128, watches: 65_536, is_one_left: false });
    let used_up = machine::check_watches(9, none);
    assert_finding(&used_up, State::Note, "all 128 inotify instances");
    let cure = "sudo sysctl fs.inotify.max_user_instances=512";
    assert_eq!(used_up.cure.as_deref(), Some(cure));
    assert_finding(&machine::check_watches(9, None), State::Note, "no inotify");
    assert_finding(&machine::check_disk(Some(100 << 20)), State::Problem, "100 MiB");
    assert_finding(&machine::check_disk(Some(1 << 30)), State::Note, "1.0 GiB");
    assert_finding(&machine::check_disk(Some(9 << 30)), State::Ok, "9.0 GiB");
    assert_finding(&machine::check_memory(8, Some(100 << 20)), State::Problem, "not even one");
    assert_finding(&machine::check_memory(8, Some(1 << 30)), State::Note, "4 agents fit");
    assert_finding(&machine::check_memory(8, Some(4 << 30)), State::Ok, "8 agents");
    assert_finding(&machine::check_clock(UNIX_EPOCH), State::Problem, "before 2026");
    assert_finding(&machine::check_open_files(Some(256)), State::Note, "256");
}

#[test]
fn every_problem_has_its_cure_below_it() {
    let findings = [
        Finding::ok("configuration", "valid"),
        Finding::note("key", "none: the model is a rehearsal", "export ANTHROPIC_API_KEY=…"),
        Finding::problem("engine", "no engine answers:\nrefused", "Start Docker."),
    ];
    let text = anstream::adapter::strip_str(&render(&findings)).to_string();
    insta::assert_snapshot!(text, @"
    ok       configuration  valid
    note     key            none: the model is a rehearsal
                            export ANTHROPIC_API_KEY=…
    problem  engine         no engine answers:
                            refused
                            Start Docker.
    ");
}
