use std::process::Command;

/// The benchmark is never run where the other tests are; this holds that it could be. Where nginx is not
/// installed, our own upstream takes its place, so that there is nothing to skip.
#[test]
fn benchmark_works_from_end_to_end() {
    let mut folder = std::env::current_exe().unwrap();
    // target/<profile>/deps/it-…
    folder.pop();
    folder.pop();
    let program = folder.join("examples/bench");

    let output = Command::new(&program).arg("--smoke").output().unwrap();

    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {log}", program.display());
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("bodies identical, both ways"), "{report}");
}
