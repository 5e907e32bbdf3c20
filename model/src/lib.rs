//! Tries everything an adversary can do, against the real rules on small machines
//!
//! `docs/model.md` says what is covered and what is not.
mod adversary;
mod bytes;
mod chooser;
mod machine;
mod oracle;
mod ram;
mod report;
mod search;
mod state;
mod switch;
mod vcpu;
mod world;

pub use report::{Report, examine, explore, without};
pub use search::Counterexample;
pub use switch::{Switch, checks, named};
pub use world::World;
