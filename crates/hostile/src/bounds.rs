//! Bounds: more of everything than an attempt may have.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use crate::Order;
use crate::left::{fill, nest};
use crate::row::Rows;
use crate::sys::{artifacts, own_folder, results, sleep, try_fork};

pub(crate) fn run(order: &Order, rows: &mut Rows) {
    let trick = order.arg(1);
    println!("The trick {trick} is tried.");
    match trick {
        // Slowly enough to be stopped: 16 MiB at a time. What is over the bound is the second argument's.
        "bounds-disk" | "bounds-disk-elsewhere" | "bounds-disk-hidden" => {
            let folder = match trick {
                "bounds-disk" => artifacts(),
                "bounds-disk-elsewhere" => results(),
                _ => own_folder(),
            };
            for number in 0..order.number(2) / 16 {
                let name = if trick == "bounds-disk-hidden" { ".hidden.tmp" } else { "part" };
                let _ = fill(&folder.join(format!("{name}{number}")), 16);
                sleep(150);
            }
            sleep(3000);
            println!("Nobody stopped it.");
        }
        "bounds-disk-deleted" => {
            // Held open, and not to be seen in any folder.
            let mut held = Vec::new();
            for number in 0..order.number(2) / 16 {
                let path = artifacts().join(format!("held{number}"));
                let _ = fill(&path, 16);
                held.push(fs::File::open(&path));
                let _ = fs::remove_file(&path);
                sleep(150);
            }
            sleep(3000);
            println!("Nobody stopped it.");
        }
        "bounds-files" => {
            for number in 0..order.number(2) {
                let folder = artifacts().join(format!("{}", number / 1000));
                if number % 1000 == 0 {
                    let _ = fs::create_dir(&folder);
                    sleep(50);
                }
                let _ = fs::File::create(folder.join(number.to_string()));
            }
            sleep(3000);
            println!("Nobody stopped it.");
        }
        "bounds-one-file" => {
            // SAFETY: no handler is installed: a signal at the limit is to be an error.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let done =
                fs::File::create(artifacts().join("giant")).and_then(|file| file.set_len(1 << 42));
            println!("A file of 4 TiB: {done:?}");
        }
        "bounds-nesting" => nest(&artifacts(), 2000),
        "bounds-memory" => {
            let mut held = Vec::new();
            for _ in 0..order.number(2) / 16 {
                held.push(vec![1_u8; 16 << 20]);
            }
            std::hint::black_box(&held);
            println!("Nobody stopped it.");
        }
        "bounds-line" => {
            // One line that never ends, and an output that is larger than what is kept.
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..64 {
                let _ = io::stdout().write_all(&piece);
            }
            println!();
        }
        "bounds-inside" => inside(order, rows),
        other => panic!("there is no trick `{other}`"),
    }
}

/// What the kernel itself bounds: `/tmp` and `/dev/shm` in MiB, processes, hundredths of a processor.
fn inside(order: &Order, rows: &mut Rows) {
    for (row, folder, most) in
        [("bounds-tmp", "/tmp", order.number(2)), ("bounds-dev-shm", "/dev/shm", order.number(3))]
    {
        let path = Path::new(folder).join("full");
        let filled = fill(&path, usize::try_from(most).unwrap() + 8);
        let had = fs::metadata(&path).map_or(0, |meta| meta.len() >> 20);
        let _ = fs::remove_file(path);
        rows.say(row, filled.is_err() && had <= most, format!("it took {had} MiB of {most}"));
    }
    let most = order.number(4);
    let mut children = Vec::new();
    for _ in 0..most + 50 {
        match try_fork(|| {
            sleep(60_000);
            0
        }) {
            Ok(pid) => children.push(pid),
            Err(_) => break,
        }
    }
    rows.say(
        "bounds-pids",
        (children.len() as u64) < most,
        format!("{} children of {most}", children.len()),
    );
    for pid in children {
        // SAFETY: they are our children.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let _ = crate::sys::wait(pid);
    }
    let (share, wall) = (order.number(5), Instant::now());
    let used = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields.get(11).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0)
    };
    let spinners: Vec<_> = (0..2)
        .map(|_| {
            crate::sys::fork(|| {
                loop {
                    std::hint::spin_loop()
                }
            })
        })
        .collect();
    sleep(1500);
    let ticks: u64 = spinners.iter().map(|pid| used(*pid)).sum();
    for pid in spinners {
        // SAFETY: they are our children.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let _ = crate::sys::wait(pid);
    }
    // A tick is a hundredth of a second. A quarter more, since a period counts as a whole.
    let got = ticks * 1000 / u64::try_from(wall.elapsed().as_millis()).unwrap().max(1);
    rows.say(
        "bounds-cpu",
        got <= share + share / 4 + 5,
        format!("{got} hundredths of a processor, of {share}"),
    );
}
