use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::sync::mpsc;

use protocol::atomic_file::{self, Durability};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

fn nothing() -> Look {
    Arc::new(|_| {})
}

/// Waits until a condition holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn heard(watch: &Watch, folder: &Path) -> bool {
    lock(&watch.folders).get(folder).is_some_and(|w| matches!(w.hearing, Hearing::Heard))
}

/// The queue of events holds 16,384.
#[test]
fn twenty_thousand_results_that_come_while_the_watcher_is_stalled_are_all_found() {
    let dir = tempfile::tempdir().unwrap();
    let folders = ["a", "b"].map(|name| dir.path().join(name));
    let (looked, looks) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let stalled = gate.lock().unwrap();
    let mut watch = Watch::start();
    for (number, folder) in folders.iter().enumerate() {
        fs::create_dir(folder).unwrap();
        let (looked, gate) = (looked.clone(), Arc::clone(&gate));
        watch.add(
            folder,
            Arc::new(move |name| {
                drop(gate.lock().unwrap());
                looked.send((number, name.map(str::to_owned))).unwrap();
            }),
        );
    }
    for number in 0..20_000 {
        for folder in &folders {
            let (temporary, name) = (folder.join(".r.tmp"), folder.join(format!("{number}.json")));
            File::create(&temporary).unwrap();
            atomic_file::move_to(&temporary, &name, Durability::Volatile).unwrap();
        }
    }
    drop(stalled);
    // Whoever is told looks at once; what is in the folder then, it has.
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    let start = Instant::now();
    while found.iter().any(|found| found.len() < 20_000) {
        let left = PATIENCE.saturating_sub(start.elapsed());
        let Ok((number, name)) = looks.recv_timeout(left) else {
            panic!("lost: {:?} of 20000 were found", found.map(|found| found.len()));
        };
        match name {
            Some(name) => {
                found[number].insert(name);
            }
            None => found[number].extend(
                fs::read_dir(&folders[number])
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap()),
            ),
        }
    }
}

#[test]
fn probe_tells_a_folder_that_is_heard_of_from_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut watch = Watch { patience: Duration::ZERO, ..Watch::start() };
    watch.add(dir.path(), nothing());
    until("the probe is heard of", || heard(&watch, dir.path()));
    assert_eq!(watch.trouble(), None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the probe should be gone");

    // Its files can be made and removed, and no event tells of it: as on a network file system.
    let silent = dir.path().join("silent");
    fs::create_dir(&silent).unwrap();
    let watched = Watched { look: nothing(), hearing: Hearing::Probed(Instant::now()) };
    lock(&watch.folders).insert(silent.clone(), watched);
    probe(&silent).unwrap();
    std::thread::sleep(Duration::from_millis(1));
    let trouble = watch.trouble().unwrap();
    let begin = format!("`{}` is looked at every few seconds", silent.display());
    assert!(trouble.starts_with(&begin), "{trouble}");
    watch.patience = PATIENCE;
    assert_eq!(watch.trouble(), None, "an event may yet come");
}

/// `/proc` is such a file system: nobody can make a file there, so it is not known.
#[test]
fn folder_that_can_not_be_probed_is_no_trouble() {
    let mut watch = Watch { patience: Duration::ZERO, ..Watch::start() };
    watch.add(Path::new("/proc/self"), nothing());
    assert_eq!(watch.trouble(), None);
}

#[test]
fn what_is_in_the_place_of_the_probe_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    File::create(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, folder.join(PROBE)).unwrap();
    let mut watch = Watch { patience: Duration::ZERO, ..Watch::start() };
    watch.add(&folder, nothing());
    until("it is heard of", || watch.trouble().is_none());
    fs::create_dir_all(folder.join(PROBE).join("more")).unwrap();
    watch.add(&folder, nothing());
    assert_eq!(watch.trouble(), None);
    assert!(outside.exists());
}

#[test]
fn watch_that_the_system_refuses_names_the_limit_and_is_made_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let limit = getrlimit(Resource::Nofile);
    // The same error as by the limit on instances.
    let none = Rlimit { current: Some(3), ..limit };
    let mut watch = Watch::start();
    setrlimit(Resource::Nofile, none).unwrap();
    watch.add(dir.path(), nothing());
    setrlimit(Resource::Nofile, limit).unwrap();
    let trouble = watch.trouble().unwrap();
    assert!(trouble.contains("`fs.inotify.max_user_instances`"), "{trouble}");

    watch.add(dir.path(), nothing());
    until("it is heard of", || heard(&watch, dir.path()));
    assert_eq!(watch.trouble(), None);
}

#[test]
fn limit_on_watches_is_named() {
    let error = notify::Error::new(notify::ErrorKind::MaxFilesWatch);
    assert!(explain(&error).contains("`fs.inotify.max_user_watches`"));
}

#[test]
fn folder_that_is_removed_and_made_again_is_watched_anew() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let (looked, looks) = mpsc::channel();
    let look: Look = Arc::new(move |name| {
        let _ = looked.send(name.map(str::to_owned));
    });
    let mut watch = Watch::start();
    for round in 0..20 {
        fs::create_dir(&folder).unwrap();
        watch.add(&folder, Arc::clone(&look));
        let name = format!("{round}.json");
        File::create(folder.join(&name)).unwrap();
        while looks.recv_timeout(PATIENCE).expect("it should be told of") != Some(name.clone()) {}
        fs::remove_dir_all(&folder).unwrap();
    }
}
