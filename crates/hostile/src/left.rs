//! What an attempt leaves behind, and whether an innocent one that comes after it is hurt.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::SocketAddr;
use std::path::Path;

use crate::Order;
use crate::row::Rows;
use crate::sys::{self, call_with, checked, detach, keep_on, results, sleep, try_fork};

const MIB: usize = 1 << 20;

pub(crate) fn leave(order: &Order) {
    let trick = order.arg(1);
    println!("The trick {trick} is tried.");
    match trick {
        "left-shared-memory" => println!("{:?}", shared_memory(900 * MIB).map(|_| ())),
        "left-many-segments" => {
            let made = (0..5000).take_while(|_| shared_memory(4096).is_ok()).count();
            println!("{made} segments");
        }
        "left-semaphores" => {
            // SAFETY: no memory is involved.
            let made =
                (0..40_000).take_while(|_| unsafe { libc::semget(0, 100, 0o600) } != -1).count();
            println!("{made} sets");
        }
        "left-messages" => {
            let made = (0..1000).take_while(|_| message().is_ok()).count();
            println!("{made} queues");
        }
        "left-posix-queues" => {
            println!("{} queues", (0..300).take_while(|n| queue(*n).is_ok()).count())
        }
        "left-dev-shm" => println!("{:?}", fill(Path::new("/dev/shm/.full"), 4096)),
        "left-tmp" => {
            let _ = fs::create_dir_all("/tmp/.hidden/deep");
            println!("{:?}", fill(Path::new("/tmp/.hidden/deep/full"), 8192));
            lock_folders("/tmp/.hidden");
        }
        "left-tmp-inodes" => {
            let made =
                (0..60_000).take_while(|n| fs::File::create(format!("/tmp/{n}")).is_ok()).count();
            println!("{made} files");
        }
        "left-scratch-links" => {
            for name in ["home", ".worker", "workspace", "worker"] {
                let path = Path::new("/tmp").join(name);
                let _ = fs::rename(&path, format!("/tmp/{name}.aside"));
                let _ = symlink("/results", &path);
            }
            let _ = fs::set_permissions("/tmp/home.aside", PermissionsExt::from_mode(0o000));
        }
        "left-deep-folders" => nest(Path::new("/tmp"), 3000),
        "left-detached" => {
            for _ in 0..20 {
                detach(|| keep_on(3600, || sleep(1000)));
            }
        }
        "left-fork-bomb" => {
            detach(bomb);
            sleep(300);
        }
        "left-open-files" => detach(|| {
            let file = fs::File::create("/tmp/held");
            let _ = fs::remove_file("/tmp/held");
            let _ = file.as_ref().map(|file| file.set_len(64 << 20));
            let _ = fs::File::create("/dev/shm/held").map(|file| file.set_len(64 << 20));
            keep_on(3600, || sleep(1000));
        }),
        "left-inotify" => detach(|| {
            // SAFETY: no memory is involved.
            while unsafe { libc::inotify_init1(0) } != -1 {}
            keep_on(3600, || sleep(1000));
        }),
        "left-abstract-sockets" => detach(|| {
            for name in ["claude", "worker", "gateway", "supervisor", "dbus", "X0"] {
                let address = SocketAddr::from_abstract_name(name).unwrap();
                std::mem::forget(std::os::unix::net::UnixListener::bind_addr(&address));
            }
            keep_on(3600, || sleep(1000));
        }),
        "left-ports" => detach(|| {
            let held: Vec<_> = (1024..9000)
                .filter_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok())
                .collect();
            keep_on(3600, || sleep(1000));
            drop(held);
        }),
        "left-closed-folders" => {
            for folder in ["/results", "/config", "/tmp"] {
                let _ = fs::set_permissions(folder, PermissionsExt::from_mode(0o000));
            }
        }
        "left-closed-files" => {
            let folder = results().join("old.1/artifacts/a");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("f"), "x").unwrap();
            lock_folders(results().join("old.1").to_str().unwrap());
            let _ = fs::set_permissions(sys::own_folder(), PermissionsExt::from_mode(0o000));
        }
        "left-next-names" => {
            let (next, kind) = (order.arg(2), order.arg(3));
            let (folder, file) =
                (results().join(format!("{next}.1")), results().join(format!("{next}.1.json")));
            match kind {
                "link" => {
                    symlink("/etc", &folder).unwrap();
                    symlink("/etc/passwd", &file).unwrap();
                }
                "fifo" => {
                    fs::create_dir_all(folder.join("artifacts")).unwrap();
                    crate::files::fifo(&folder.join("transcript.jsonl"));
                    crate::files::fifo(&folder.join("session"));
                    fs::create_dir_all(file.join("x")).unwrap();
                }
                other => panic!("there is no kind `{other}`"),
            }
        }
        "left-lock-fifo" => {
            let _ = fs::remove_file(results().join(".worker.lock"));
            crate::files::fifo(&results().join(".worker.lock"));
        }
        "left-lock-held" => detach(|| {
            let lock = fs::File::open(results().join(".worker.lock")).unwrap();
            // SAFETY: the file lives.
            unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&lock), libc::LOCK_SH) };
            keep_on(3600, || sleep(1000));
        }),
        "left-terminated" => {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(1, libc::SIGTERM) };
            sleep(20_000);
        }
        "left-keyring" => {
            let (kind, name) = (CString::new("user").unwrap(), CString::new("planted").unwrap());
            for keyring in [-3_i64, -4, -5] {
                let _ = call_with(
                    libc::SYS_add_key,
                    &[
                        kind.as_ptr() as u64,
                        name.as_ptr() as u64,
                        kind.as_ptr() as u64,
                        4,
                        keyring as u64,
                    ],
                );
            }
        }
        other => panic!("there is no trick `{other}`"),
    }
}

/// Does honest work that needs a little of everything, and says what of an earlier attempt it finds.
pub(crate) fn innocent(rows: &mut Rows) {
    let mut hurt = Vec::new();
    let mut try_it = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            hurt.push(format!("{what}: {error}"));
        }
    };
    try_it("shared memory", shared_memory(32 * MIB).and_then(touch));
    // SAFETY: the queue is its own, and nothing else is passed.
    let remove = |id| checked(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) });
    try_it("a message queue", message().and_then(remove).map(|_| ()));
    // SAFETY: no memory is involved.
    let set = checked(unsafe { libc::semget(0, 10, 0o600) });
    // SAFETY: the set is its own, and nothing else is passed.
    let removed = set.and_then(|id| checked(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }));
    try_it("semaphores", removed.map(|_| ()));
    try_it("a POSIX queue", queue(9999));
    // SAFETY: the name lives.
    unsafe { libc::mq_unlink(c"/q9999".as_ptr()) };
    try_it("/dev/shm", fs::write("/dev/shm/mine", vec![1; 16 * MIB]));
    try_it("/tmp", fs::write("/tmp/mine", vec![1; 16 * MIB]));
    try_it("HOME", fs::write(Path::new(&std::env::var("HOME").unwrap()).join("mine"), "x"));
    try_it("artifacts", fs::write(sys::artifacts().join("mine.md"), "x"));
    // SAFETY: no memory is involved.
    try_it("inotify", checked(unsafe { libc::inotify_init1(0) }).map(|_| ()));
    let forked: Vec<_> = (0..32).map(|_| try_fork(|| 0)).collect();
    try_it("processes", forked.into_iter().try_for_each(|pid| sys::wait(pid?).map(|_| ())));
    let mut memory = vec![0_u8; 96 * MIB];
    memory.iter_mut().step_by(4096).for_each(|page| *page = 1);
    std::hint::black_box(&memory);
    for (path, kind) in [("/dev/shm/mine", "f"), ("/tmp/mine", "f")] {
        let _ = (fs::remove_file(path), kind);
    }
    rows.say("innocent-is-not-hurt", hurt.is_empty(), hurt.join("; "));
    let found = found();
    rows.say("innocent-finds-nothing", found.is_empty(), found.join("; "));
}

/// Returns what somebody else has left.
fn found() -> Vec<String> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for kind in ["shm", "sem", "msg"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        // Its own are removed by then.
        let others = table.lines().skip(1).count();
        if others > 0 {
            found.push(format!("{others} of {kind}"));
        }
    }
    for folder in ["/dev/shm", "/tmp", "/dev/mqueue"] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names: Vec<_> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            // What the worker itself makes, and what is this attempt's.
            .filter(|name| {
                !["home", ".worker", "mine", "workspace", "q9999", "config", "attempt"]
                    .contains(&name.as_str())
            })
            .take(5)
            .collect();
        if !names.is_empty() {
            found.push(format!("{folder} has {names:?}"));
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_ok() && pid != "1" && pid != own {
            found.push(format!("process {pid}"));
        }
    }
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let squatted = sockets.lines().filter(|line| line.contains(" @")).count();
    if squatted > 0 {
        found.push(format!("{squatted} abstract sockets"));
    }
    let ports = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let listening =
        ports.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count();
    if listening > 1 {
        found.push(format!("{listening} ports that listen"));
    }
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    if keys.contains("planted") {
        found.push("a key in a keyring".to_owned());
    }
    found
}

fn shared_memory(bytes: usize) -> io::Result<i32> {
    // SAFETY: no memory is involved yet.
    let id = checked(unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, libc::IPC_CREAT | 0o600) })?;
    if bytes > MIB {
        // SAFETY: the kernel chooses the address, and nothing else is there.
        let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        if at as isize == -1 {
            return Err(io::Error::last_os_error());
        }
        for page in (0..bytes).step_by(4096) {
            // SAFETY: the page is in the segment.
            unsafe { at.cast::<u8>().add(page).write(1) };
        }
        // SAFETY: nothing refers to it any more.
        unsafe { libc::shmdt(at) };
    }
    Ok(id)
}

fn touch(id: i32) -> io::Result<()> {
    // SAFETY: the kernel chooses the address.
    let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    if at as isize == -1 {
        return Err(io::Error::last_os_error());
    }
    // Honest programs do this: it goes with the last who uses it.
    // SAFETY: the segment is its own, and nothing else is passed.
    checked(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    // SAFETY: nothing refers to it any more.
    unsafe { libc::shmdt(at) };
    Ok(())
}

fn message() -> io::Result<i32> {
    // SAFETY: no memory is involved.
    let id = checked(unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) })?;
    let text = [1_u64; 1000];
    // SAFETY: the message lives: a type, and what follows.
    unsafe { libc::msgsnd(id, text.as_ptr().cast(), 7900, libc::IPC_NOWAIT) };
    Ok(id)
}

fn queue(number: u32) -> io::Result<()> {
    let name = CString::new(format!("/q{number}")).unwrap();
    // SAFETY: the name lives.
    let flags = libc::O_CREAT | libc::O_RDWR;
    let fd = checked(unsafe {
        libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null::<libc::mq_attr>())
    })?;
    // SAFETY: it is closed once.
    unsafe { libc::close(fd) };
    Ok(())
}

/// Fills a file, at most so many MiB.
pub(crate) fn fill(path: &Path, mib: usize) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let piece = vec![7; MIB];
    (0..mib).try_for_each(|_| io::Write::write_all(&mut file, &piece))
}

/// Makes folders in folders.
pub(crate) fn nest(at: &Path, deep: usize) {
    std::env::set_current_dir(at).unwrap();
    for _ in 0..deep {
        let name = "d".repeat(200);
        if fs::create_dir(&name).is_err() || std::env::set_current_dir(&name).is_err() {
            break;
        }
    }
}

fn lock_folders(path: &str) {
    let _ = std::process::Command::new("chmod").args(["-R", "a-rwx", path]).status();
}

/// Doubles until there is no more room, and goes on for as long as it is let.
fn bomb() {
    loop {
        let _ = try_fork(|| {
            // SAFETY: no memory is involved.
            unsafe { libc::setsid() };
            bomb();
            0
        });
    }
}
