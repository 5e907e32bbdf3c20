//! Targets for `cargo fuzz`, see [`targets`]
#![forbid(unsafe_code)]

#[path = "../../cli/tests/synthetic/mod.rs"]
mod made_up;
#[path = "../../approval/tests/synthetic/mod.rs"]
mod synthetic;
pub mod targets;
#[path = "../../rules/tests/world/mod.rs"]
mod world;

/// The kernel of the synthetic approval lies where it was linked.
const SLIDE: u64 = 0;
