//! The program `simulate`: plays seeds, and says which one violates a promise.

use std::process::ExitCode;

fn main() -> ExitCode {
    supervisor::simulation::program::main()
}
