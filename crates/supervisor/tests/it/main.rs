//! The whole thing: the real supervisor, the real worker, the real Claude Code CLI, in real containers
//! and as plain processes. Only the model is played, by a rehearsal in the test itself, so that a test
//! sees every request that goes upstream.

#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

mod attack;
mod bad_input;
mod bounds;
mod budgets;
mod cache;
mod contents;
#[path = "../support/disk.rs"]
mod disk;
mod drops;
#[path = "../support/engine.rs"]
mod engine;
mod escape;
mod failures;
mod interruptions;
#[path = "../support/janitor.rs"]
mod janitor;
mod restart;
mod runs;
mod soak;
mod tampering;
mod upstream;
mod walls;
mod world;

/// Makes each test one for processes and one for containers.
macro_rules! in_both_runtimes {
    ($($name:ident),+ $(,)?) => {
        mod process {
            $(#[test]
            fn $name() {
                if let Some(world) = crate::world::World::of_processes(stringify!($name)) {
                    super::$name(world);
                }
            })+
        }

        mod docker {
            $(#[test]
            fn $name() {
                if let Some(world) = crate::world::World::of_containers(stringify!($name)) {
                    super::$name(world);
                }
            })+
        }
    };
}
pub(crate) use in_both_runtimes;
