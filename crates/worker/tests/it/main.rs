//! The real binary in a slot of its own.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]
#![expect(clippy::expect_used, reason = "a test that can't go on should say where")]
#![expect(clippy::disallowed_methods, reason = "a test's own files, which nobody else reads")]

mod check;
mod claude;
mod command;
mod egress;
mod messages;
mod seccomp;
mod slot;
