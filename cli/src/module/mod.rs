//! The module side: from module files to the approval's modules
//!
//! A file is read by [`ko`], placed by [`layout`], its symbols are resolved by [`link`] against the kernel and the
//! other modules; [`image`] is its code as placed, [`tables`] and [`sites`] say where that may differ. All of this
//! is done for all modules at once, in parallel; then [`Set::emit`] writes them in order of their names, so that
//! the same files give the same approval.
mod agreement;
pub mod image;
pub mod ko;
pub mod layout;
pub mod link;
mod set;
mod simulation;
pub mod sites;
pub mod tables;
mod tests;

pub use set::{LeftOut, Set, files};
