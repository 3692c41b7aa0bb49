//! The way out: what reaches the model's API, and which hosts are reached.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Attack;
use super::upstream::Recorder;
use crate::world::{KEY, skip};

/// Names that somebody has pointed to where no worker belongs. The one that is listed leads to nobody (RFC 5737).
const HOSTS: &str = "127.0.0.1 localhost\n127.0.0.1 local.example.com\n10.1.2.3 private.example.com\n\
                     169.254.169.254 metadata.example.com\n192.0.2.7 listed.example.com\n";

#[test]
fn docker_nothing_leaves_but_what_the_worker_may_send() {
    const TEST: &str = "docker_nothing_leaves_but_what_the_worker_may_send";
    let Some(mut attack) = Attack::of(TEST) else { return };
    if !attack.world.set_hosts(HOSTS) {
        return skip(TEST, "no file system of its own for the daemon; that takes root")
            .unwrap_or(());
    }
    let egress =
        ["listed", "private", "local", "metadata"].map(|name| format!("{name}.example.com"));
    let settings = format!("model = \"claude-sonnet-5-5\"\nreplicas = 1\negress = {egress:?}\n");
    attack.make_worker("mallory", &settings);
    let recorder = Recorder::start("");
    let world = attack.world.start_with_upstream(&recorder.address);
    let mut attack = Attack { world, ..attack };
    let ended = attack.task("mallory", "way-out", "way-out", &["--retries", "0"]);
    attack.verdicts.say("way-out-honest", ended.is_complete(), &ended.told());
    attack.take_rows("way-out");
    // An answer can come from anybody: what counts is whether the request has left.
    for line in attack.said("way-out") {
        let Some(row) = line.split('"').nth(3).filter(|row| row.starts_with("way-out-")) else {
            continue;
        };
        let left = recorder.has_seen(&format!("\"{row}\""));
        match row {
            "way-out-honest" => attack.verdicts.say(row, left, "it has not left"),
            "way-out-own-key" => {}
            row if left => attack.verdicts.say(row, false, "it has reached the model's API"),
            _ => {}
        }
    }
    let own: Vec<_> = recorder.messages();
    let own = own.iter().filter(|sent| sent.body.contains("way-out-own-key"));
    let foreign =
        own.clone().find(|sent| sent.head.contains("of-the-attacker") || !sent.head.contains(KEY));
    attack.verdicts.say(
        "way-out-own-key",
        foreign.is_none(),
        "another key than the daemon's has left",
    );

    // The socket stays open between attempts: nobody has an account then.
    let socket = attack.world.sockets().join("gateway/mallory-1/gateway.sock");
    for (row, path) in [
        ("way-out-no-attempt", "/v1/messages"),
        ("way-out-count-no-attempt", "/v1/messages/count_tokens"),
    ] {
        let body = format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{{"role":"user","content":"{row}"}}]}}"#
        );
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(
            client,
            "POST {path} HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        let left = recorder.has_seen(&format!("\"{row}\""));
        let saw = answer.lines().next().unwrap_or_default().to_owned();
        attack.verdicts.say(row, !left && answer.starts_with("HTTP/1.1 4"), &saw);
    }
    attack.verdicts.finish();
}
