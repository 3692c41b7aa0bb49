//! Reports: nothing counts as complete that was not checked.

use super::Attack;

/// The forgeries, each with what the task says of its check. All of these checks fail on honest work, too.
const FORGERIES: [(&str, &[&str]); 18] = [
    ("report-before", &["--verify-command", "false"]),
    ("report-whole", &["--verify-command", "false"]),
    ("report-taken-back", &["--verify-command", "false"]),
    ("report-at-the-end", &["--verify-command", "false"]),
    ("report-in-flight", &["--verify-command", "false"]),
    ("report-by-link", &["--verify-command", "false"]),
    ("report-by-hard-link", &["--verify-command", "false"]),
    ("report-by-fifo", &["--verify-command", "false"]),
    ("report-by-folder", &["--verify-command", "false"]),
    ("report-enveloped", &["--verify-command", "false"]),
    ("report-twice", &["--verify-command", "false"]),
    ("report-of-the-next-attempt", &["--verify-command", "false"]),
    ("report-with-artifacts-elsewhere", &["--verify-artifact", "proof.md"]),
    ("report-check-profile", &["--verify-command", "bash -lc false"]),
    ("report-check-python", &["--verify-command", "python3 -c 'raise SystemExit(1)'"]),
    ("report-check-path", &["--verify-command", "env false"]),
    ("report-check-leftover", &["--verify-command", "test \"$(cat /tmp/verdict)\" = good"]),
    ("report-check-scratch", &["--verify-command", "test \"$(cat /tmp/verdict)\" = good"]),
];

#[test]
fn docker_nothing_is_complete_that_was_not_checked() {
    const TEST: &str = "docker_nothing_is_complete_that_was_not_checked";
    let Some(attack) = Attack::of(TEST) else { return };
    attack.make_worker("mallory", "replicas = 1\ncontainer = \"resident\"\n");
    let mut attack = attack.start();
    for (forgery, check) in FORGERIES {
        let retries = if forgery == "report-of-the-next-attempt" { "1" } else { "0" };
        let more = [check, &["--retries", retries]].concat();
        let ended = attack.task("mallory", forgery, &format!("report {forgery}"), &more);
        let held = ended.status.is_some() && !ended.is_complete();
        attack.verdicts.say(forgery, held, &ended.told());
        if forgery == "report-whole" {
            // The daemon has seen it: that somebody forges is not to be hidden behind another reason.
            attack.verdicts.say(
                "report-forger-is-named",
                ended.kind() == "tampered",
                &ended.told(),
            );
        }
    }
    let order = "report report-of-another-task report-victim";
    attack.task("mallory", "report-of-another-task", order, &["--retries", "0"]);
    let victim = attack.task("mallory", "report-victim", "innocent", &["--retries", "0"]);
    let own = victim.result["artifacts"].to_string();
    let held = victim.is_complete() && own.contains("mine.md") && !own.contains("planted");
    attack.verdicts.say("report-of-another-task", held, &format!("{} {own}", victim.told()));
    // A check that honest work passes is passed.
    let check =
        ["--verify-command", "test -s mine.md", "--verify-artifact", "*.md", "--retries", "0"];
    let honest = attack.task("mallory", "report-honest", "innocent", &check);
    attack.verdicts.say("report-honest", honest.is_complete(), &honest.told());
    attack.verdicts.finish();
}
