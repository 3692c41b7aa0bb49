//! Files of the user: links that lead out of each folder that a container can write.

use std::fs;

use super::canary::{Canary, has_secret};
use super::{Attack, Bounded, has_setting};
use crate::world::KEY;

/// In a worker's own folders, each for an attempt.
const TRICKS: [&str; 28] = [
    "files-config-projects-link",
    "files-config-project-link",
    "files-config-session-link",
    "files-config-modes",
    "files-artifact-link",
    "files-artifact-folder-link",
    "files-artifacts-link",
    "files-attempt-link",
    "files-attempt-chain",
    "files-transcript-link",
    "files-transcript-fifo",
    "files-transcript-folder",
    "files-transcript-giant",
    "files-transcript-flip",
    "files-artifact-flip",
    "files-folder-flip",
    "files-artifact-magic-link",
    "files-artifact-dots",
    "files-artifact-names",
    "files-artifact-fifo",
    "files-artifact-socket",
    "files-hard-links",
    "files-mounts-moved",
    "files-result-link",
    "files-result-names",
    "files-lock-link",
    "files-session-note-link",
    "files-handed-over",
];

/// In a workspace that the agent may write to.
const SHARED: [&str; 7] = [
    "files-shared-prompt-link",
    "files-shared-prompt-fifo",
    "files-shared-agents-link",
    "files-shared-agent-link",
    "files-shared-claude-link",
    "files-shared-mcp-link",
    "files-shared-settings",
];

#[test]
fn docker_links_that_lead_out_of_a_container_lead_nobody_out() {
    const TEST: &str = "docker_links_that_lead_out_of_a_container_lead_nobody_out";
    let Some(attack) = Attack::of(TEST) else { return };
    attack.make_worker("mallory", "replicas = 1\ncontainer = \"resident\"\n");
    let mut canary = Canary::make();
    let mut attack = attack.start();
    for trick in TRICKS {
        try_trick(&mut attack, &mut canary, "mallory", trick);
        if !attack.verdicts.holds(trick) {
            attack.mend("mallory");
        }
    }
    // Whoever starts the worker again hands its folders over.
    attack.world.expect(0, &["down"]);
    attack.world.forget_daemon();
    attack.world.start_daemon();
    let after = attack.task("mallory", "after-restart", "innocent", &["--retries", "0"]);
    attack.verdicts.say("files-handed-over", after.is_complete(), &after.told());
    judge(&mut attack, &mut canary, "files-handed-over", Vec::new());
    attack.verdicts.finish();
}

#[test]
fn docker_links_in_a_shared_workspace_lead_nobody_out() {
    const TEST: &str = "docker_links_in_a_shared_workspace_lead_nobody_out";
    let Some(attack) = Attack::of(TEST) else { return };
    let settings =
        "workspace = \"shared\"\nsystem_prompt = \"ROLE.md\"\nmcp = \"mcp.json\"\nreplicas = 1\n";
    attack.make_worker("sharer", settings);
    attack.world.write("workspaces/sharer/ROLE.md", "You are harmless.\n");
    attack.world.write("workspaces/sharer/mcp.json", "{\"mcpServers\":{}}\n");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(attack.world.path("workspaces/sharer"), open).unwrap();
    let mut canary = Canary::make();
    let mut attack = attack.start();
    assert!(has_setting(&attack.world, "shared"));
    for trick in SHARED {
        try_trick(&mut attack, &mut canary, "sharer", trick);
        // The next attempt is given what the daemon has read there.
        let shown =
            attack.task("sharer", &format!("{trick}-shown"), "own-task", &["--retries", "0"]);
        attack.verdicts.say(trick, shown.status.is_some(), &shown.told());
        judge(&mut attack, &mut canary, trick, Vec::new());
    }
    attack.verdicts.finish();
}

/// Has the agent carry out a trick, while somebody follows its log, and has the daemon do all that it does with what
/// an attempt leaves.
fn try_trick(attack: &mut Attack, canary: &mut Canary, worker: &str, trick: &str) {
    let order = format!("files {trick} {}", canary.path().display());
    attack.begin(worker, trick, &order, &["--retries", "0"]);
    let mut follower = attack.world.command();
    follower.args(["logs", "--follow", trick]);
    let follower = Bounded::start(follower);
    let ended = attack.end(worker, trick);
    attack.verdicts.say(trick, ended.status.is_some(), &ended.told());
    attack.take_rows(trick);
    let mut shown = Vec::new();
    let mut look = |attack: &mut Attack, command: Bounded, what: &str| match command.output() {
        Some(output) => shown.push(output),
        None => attack.verdicts.say(trick, false, &format!("`supervisor {what}` does not end")),
    };
    look(attack, follower, "logs --follow");
    for args in [
        &["logs", trick][..],
        &["result", trick],
        &["events", "adhoc", "--json"],
        &["gc", "--keep", "0s", "--json"],
        &["status", "--json"],
    ] {
        let mut command = attack.world.command();
        command.args(args);
        look(attack, Bounded::start(command), &args.join(" "));
    }
    if !ended.is_complete() && trick.ends_with("attempt-link") {
        attack.world.run(&["retry", trick]);
        attack.end(worker, trick);
    }
    judge(attack, canary, trick, shown);
}

/// Sees that nothing outside has changed and that nothing of it has come out.
fn judge(attack: &mut Attack, canary: &mut Canary, trick: &str, shown: Vec<Vec<u8>>) {
    if let Some(changes) = canary.changes() {
        attack.verdicts.say(trick, false, &changes);
    }
    if let Some(bytes) = shown.iter().find(|bytes| has_secret(bytes)) {
        let line = String::from_utf8_lossy(bytes);
        let line = line.lines().find(|line| has_secret(line.as_bytes())).unwrap_or_default();
        attack.verdicts.say(trick, false, &format!("shown: {line}"));
    }
    let leaks = canary.leaks(&attack.world.path(""));
    if !leaks.is_empty() {
        attack.verdicts.say(trick, false, &format!("it is in {leaks:?}"));
    }
    let key = |bytes: &Vec<u8>| bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
    if shown.iter().any(key) {
        attack.verdicts.say(trick, false, "the key is shown");
    }
}
