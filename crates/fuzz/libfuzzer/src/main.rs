//! One target of `fuzz` under libFuzzer, which is led by what of the code an input reaches: the one that `FUZZ_TARGET`
//! names.

#![no_main]

use std::sync::LazyLock;

use fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.name == name);
    *target.unwrap_or_else(|| panic!("FUZZ_TARGET is `{name}`, and there is no such target"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.take)(bytes));
