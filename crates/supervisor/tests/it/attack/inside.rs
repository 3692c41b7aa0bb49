//! What the agent can judge by itself: the kernel's surface, and process 1.

use super::Attack;

#[test]
fn docker_agent_has_no_way_into_the_kernel() {
    let Some(attack) = Attack::of("docker_agent_has_no_way_into_the_kernel") else { return };
    attack.make_worker("mallory", "");
    let mut attack = attack.start();
    let ended = attack.task("mallory", "kernel", "kernel", &["--retries", "0"]);
    attack.take_rows("kernel");
    attack.verdicts.say("kernel-honest-end", ended.is_complete(), &ended.told());
    attack.verdicts.finish();
}

#[test]
fn docker_agent_has_no_hold_on_process_1() {
    let Some(attack) = Attack::of("docker_agent_has_no_hold_on_process_1") else { return };
    attack.make_worker("mallory", "container = \"resident\"\n");
    let mut attack = attack.start();
    let ended = attack.task("mallory", "one", "process-one", &["--retries", "0"]);
    attack.take_rows("one");
    attack.verdicts.say("one-reports-after-all", ended.is_complete(), &ended.told());
    let after = attack.task("mallory", "after", "innocent", &["--retries", "0"]);
    attack.verdicts.say("one-serves-the-next-task", after.is_complete(), &after.told());
    attack.verdicts.finish();
}
