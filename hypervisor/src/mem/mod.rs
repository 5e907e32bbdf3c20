//! Memory
pub mod lock;
pub mod npt;
pub mod once;
pub mod physical;
pub mod ram;
