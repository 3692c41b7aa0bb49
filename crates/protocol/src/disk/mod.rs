//! The file operations on which promises rest: those of the journal, the slots, and all that is published.
//!
//! This is `std::fs`. With the feature `simulate`, for tests only, a thread may have a `simulated` disk in
//! its place, whose power can be cut.

#[cfg(not(feature = "simulate"))]
mod real;
#[cfg(feature = "simulate")]
pub mod simulated;

#[cfg(not(feature = "simulate"))]
pub use real::*;
#[cfg(feature = "simulate")]
pub use simulated::facade::*;
