//! Task files that are dropped by hand.

use std::fs;
use std::io::Write;

use supervisor::api::types::TaskStatus;

use crate::in_both_runtimes;
use crate::world::World;

in_both_runtimes! {
    dropped_examples_run_in_the_order_of_their_dependencies,
}

fn dropped_examples_run_in_the_order_of_their_dependencies(world: World) {
    let world = world.start("");
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/drop");
    let mut names = Vec::new();
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            fs::copy(&path, world.path(&format!("tasks/marie/{name}"))).unwrap();
            names.push(name);
        }
    }
    assert!(names.len() >= 3);
    let ids: Vec<_> = names.iter().map(|name| name.strip_suffix(".json").unwrap()).collect();
    world.wait_ref("the files are taken", |world| {
        ids.iter().all(|id| world.knows(id)).then_some(())
    });
    assert!(world.ended(&ids).iter().all(|status| *status == TaskStatus::Complete));
    for (name, id) in names.iter().zip(&ids) {
        let task = fs::read(format!("{examples}/{name}")).unwrap();
        let task: serde_json::Value = serde_json::from_slice(&task).unwrap();
        let started = world.result("marie", id)["started_at"].as_str().unwrap().to_owned();
        for needed in task["dependencies"].as_array().into_iter().flatten() {
            let needed = world.result("marie", needed.as_str().unwrap());
            assert!(needed["finished_at"].as_str().unwrap() <= started.as_str(), "{id}");
        }
    }
}

#[test]
fn a_broken_file_is_rejected_with_line_field_and_cure() {
    let Some(world) = World::of_processes("a_broken_file_is_rejected") else { return };
    let world = world.start("");
    world.write(
        "tasks/marie/broken.json",
        "{\n  \"task_id\": \"broken\",\n  \"descripton\": \"x\"\n}\n",
    );
    let why = world.wait_ref("it is rejected", |world| {
        fs::read(world.path("tasks/marie/rejected/broken.json.why.json")).ok()
    });
    let why: serde_json::Value = serde_json::from_slice(&why).unwrap();
    assert_eq!(why["line"], 3, "{why}");
    assert_eq!(why["field"], "descripton");
    assert_eq!(why["hint"], "Did you mean `description`?");
    assert!(world.path("tasks/marie/rejected/broken.json").is_file());
    assert!(!world.path("tasks/marie/broken.json").exists());
}

#[test]
fn a_half_written_file_that_is_completed_in_time_is_taken() {
    let Some(world) = World::of_processes("a_half_written_file") else { return };
    let world = world.start("");
    let path = world.path("tasks/marie/half.json");
    let mut file = fs::File::create(path).unwrap();
    file.write_all(b"{\"task_id\": \"half\",").unwrap();
    file.sync_all().unwrap();
    // Long enough for the watcher to have looked, and less than the two seconds that it waits.
    std::thread::sleep(std::time::Duration::from_millis(700));
    file.write_all(b" \"description\": \"Complete me\"}").unwrap();
    drop(file);
    world.wait_ref("it is taken", |world| world.knows("half").then_some(()));
    assert_eq!(world.ended(&["half"]), [TaskStatus::Complete]);
}

#[test]
fn an_edited_file_of_a_known_task_is_set_aside_and_the_task_stays_as_it_was() {
    let Some(world) = World::of_processes("an_edited_file_of_a_known_task") else { return };
    let world = world.start("");
    world.add("marie", "kept", "As it was", &["--after", "never"]);
    let path = "tasks/marie/kept.json";
    world.wait_ref("it is shown", |world| world.path(path).exists().then_some(()));
    world.write(path, "{\"task_id\": \"kept\", \"description\": \"Something else\"}");
    world.wait_ref("the edit is set aside", |world| {
        world.path("tasks/marie/rejected/kept.json.why.json").exists().then_some(())
    });
    let shown =
        world.wait_ref("it is shown again", |world| fs::read_to_string(world.path(path)).ok());
    assert!(shown.contains("As it was"), "{shown}");
}

#[test]
fn removing_the_file_of_a_task_that_waits_cancels_it() {
    let Some(world) = World::of_processes("removing_the_file") else { return };
    let world = world.start("");
    world.add("marie", "gone", "Wait", &["--after", "never"]);
    let path = world.path("tasks/marie/gone.json");
    world.wait_ref("it is shown", |_| path.exists().then_some(()));
    // The watch has to have seen it, or there is nothing to miss. It sees one after the other; the first
    // of these may come in the same look as the file.
    for id in ["one", "two"] {
        let task = format!(
            "{{\"task_id\": \"{id}\", \"description\": \"Wait\", \"dependencies\": [\"never\"]}}"
        );
        world.write(&format!("tasks/marie/{id}.json"), &task);
        world.wait_ref("it is taken", |world| world.knows(id).then_some(()));
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(world.ended(&["gone"]), [TaskStatus::Cancelled]);
}
