//! The scheduler has no way to do anything: no runtime, no sockets, no log.

#[test]
#[expect(clippy::disallowed_types, reason = "asks Cargo; the scheduler itself runs nothing")]
fn scheduler_depends_on_no_runtime_no_engine_and_no_log() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "scheduler", "-e", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("Cargo runs this test, so it is there");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));

    let tree = String::from_utf8_lossy(&tree.stdout);
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"protocol"), "this is not the tree of the scheduler: {names:?}");
    for banned in [
        "async-std",
        "bollard",
        "futures",
        "hyper",
        "log",
        "mio",
        "notify",
        "rand",
        "reqwest",
        "smol",
        "socket2",
        "tokio",
        "tracing",
    ] {
        let found = names.iter().find(|name| {
            **name == banned || name.strip_prefix(banned).is_some_and(|rest| rest.starts_with('-'))
        });
        assert_eq!(found, None, "{tree}");
    }
}
