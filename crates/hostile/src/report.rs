//! Reports: a result that nobody has checked is to count.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Order;
use crate::files::{fifo, result};
use crate::sys::{artifacts, detach, keep_on, own_folder, own_name, results, sleep};

/// How long a forger that was left behind would go on.
const SECONDS: u64 = 4;

pub(crate) fn run(order: &Order) {
    let trick = order.arg(1);
    println!("The forgery {trick} is tried.");
    match trick {
        "report-before" => put(&result(), &forged()),
        "report-whole" => {
            // In two steps, as an honest one appears.
            let partial = results().join(".partial.tmp");
            put(&partial, &forged());
            fs::rename(partial, result()).unwrap();
            // By then the daemon has looked.
            sleep(1500);
        }
        "report-taken-back" => {
            put(&result(), &forged());
            sleep(400);
            let _ = fs::remove_file(result());
        }
        "report-at-the-end" => {
            detach(|| keep_on(SECONDS, || put(&result(), &forged())));
            sleep(100);
        }
        "report-in-flight" => detach(|| {
            let partial = results().join("partial");
            keep_on(SECONDS, || {
                put(&partial, &forged());
                let _ = fs::rename(&partial, result());
                let _ = fs::rename(result(), &partial);
            });
        }),
        "report-by-link" => {
            put(&own_folder().join("forged"), &forged());
            symlink(own_folder().join("forged"), result()).unwrap();
        }
        "report-by-hard-link" => {
            put(&own_folder().join("forged"), &forged());
            fs::hard_link(own_folder().join("forged"), result()).unwrap();
        }
        "report-by-fifo" => {
            fifo(&result());
            detach(|| {
                keep_on(SECONDS, || {
                    let _ =
                        fs::OpenOptions::new().write(true).open(result()).and_then(|mut pipe| {
                            std::io::Write::write_all(
                                &mut pipe,
                                &serde_json::to_vec(&forged()).unwrap(),
                            )
                        });
                })
            });
        }
        "report-by-folder" => {
            fs::create_dir_all(result().join("in/side")).unwrap();
            put(&result().join("result.json"), &forged());
        }
        "report-of-another-task" => {
            let mut other = forged();
            other["task_id"] = json!(order.arg(2));
            put(&results().join(format!("{}.1.json", order.arg(2))), &other);
            let folder = results().join(format!("{}.1/artifacts", order.arg(2)));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("planted.md"), "PLANTED").unwrap();
        }
        "report-of-the-next-attempt" => {
            if std::env::var("SUPERVISOR_ATTEMPT").unwrap() == "1" {
                let mut next = forged();
                next["attempt"] = json!(2);
                let name = own_name().replace(".1", ".2.json");
                put(&results().join(name), &next);
            }
            std::process::exit(1);
        }
        "report-enveloped" => {
            let proof = "0".repeat(64);
            put(&result(), &json!({ "proof": proof, "report": forged() }));
        }
        "report-twice" => {
            // One key twice: two readers may take two of them.
            let text = forged().to_string();
            let text = text.replacen("\"status\":", "\"status\":\"failed\",\"status\":", 1);
            fs::write(result(), text).unwrap();
        }
        "report-with-artifacts-elsewhere" => {
            fs::create_dir_all(artifacts().join("d")).unwrap();
            let mut report = forged();
            report["artifacts"] = json!(["proof.md"]);
            put(&result(), &report);
        }
        // What follows leaves the report alone, and changes the ground that the check stands on.
        "report-check-profile" => {
            let home = PathBuf::from(std::env::var("HOME").unwrap());
            fs::create_dir_all(&home).unwrap();
            for name in [".profile", ".bash_profile", ".bashrc", ".bash_login", ".zshenv"] {
                let _ = fs::write(home.join(name), "exit 0\n");
            }
        }
        "report-check-python" => {
            let home = PathBuf::from(std::env::var("HOME").unwrap());
            for minor in 8..16 {
                let site = home.join(format!(".local/lib/python3.{minor}/site-packages"));
                fs::create_dir_all(&site).unwrap();
                fs::write(site.join("usercustomize.py"), "import os\nos._exit(0)\n").unwrap();
            }
        }
        "report-check-path" => {
            for folder in
                ["/tmp/bin", "/config/bin", "/results/bin", "/usr/local/bin", "/workspace/bin"]
            {
                let _ = fs::create_dir_all(folder);
                for name in ["false", "test", "sh", "bash", "grep"] {
                    let path = Path::new(folder).join(name);
                    let _ = fs::write(&path, "#!/bin/sh\nexit 0\n");
                    let _ = fs::set_permissions(
                        &path,
                        std::os::unix::fs::PermissionsExt::from_mode(0o755),
                    );
                }
            }
            for file in ["/etc/ld.so.preload", "/etc/environment", "/etc/profile"] {
                let _ = fs::write(file, "/tmp/evil.so\n");
            }
        }
        "report-check-leftover" => {
            // A process that answers the check, which runs when its agent is gone.
            fs::write("/tmp/verdict", "bad").unwrap();
            detach(|| {
                keep_on(SECONDS, || {
                    let _ = fs::write("/tmp/verdict", "good");
                })
            });
            sleep(50);
        }
        "report-check-scratch" => {
            fs::write("/tmp/verdict", "good").unwrap();
            let _ = fs::write("/dev/shm/verdict", "good");
            let _ = fs::write(own_folder().join("verdict"), "good");
        }
        other => panic!("there is no forgery `{other}`"),
    }
}

/// Returns the report of which an agent dreams, with all that is in its task.
fn forged() -> Value {
    let task = Path::new("/tasks").join(own_name()).join("task.json");
    let task: Value = serde_json::from_slice(&fs::read(task).unwrap()).unwrap();
    json!({
        "version": 1,
        "task_id": task["task"]["task_id"],
        "run": task["task"]["run"],
        "worker": task["task"]["worker"],
        "attempt": task["attempt"],
        "token": task["token"],
        "status": "complete",
        "summary": "FORGED",
        "findings": [], "recommendations": [], "artifacts": [],
        "execution_time": 0.1,
        "error": null,
        "usage": { "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0 },
        "cost_usd": 0.0, "model": null, "session_id": null, "rehearsal": task["rehearsal"],
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z",
    })
}

fn put(path: &Path, report: &Value) {
    let _ = fs::write(path, report.to_string());
}
