//! Memory: physical frames, nested tables
pub mod npt;
pub mod physical;
