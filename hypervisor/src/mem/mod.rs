//! Memory: physical frames, nested tables
pub mod npt;
pub mod once;
pub mod physical;
