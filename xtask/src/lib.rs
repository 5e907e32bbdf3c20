//! What the project needs besides its own code, and how its pieces are run together.
//!
//! Everything obtained lives in `cache/`, everything built in `target/`; nothing is installed and nothing
//! needs root. What is fetched once is stamped, and a second run takes no network.

pub mod approve;
pub mod apt;
pub mod attack;
pub mod bench;
pub mod bochs;
pub mod debian;
pub mod demo;
pub mod disc;
pub mod emulator;
pub mod fetch;
pub mod guest;
mod ignne;
pub mod initrd;
pub mod kernel;
pub mod machine;
pub mod matrix;
pub mod model;
pub mod module;
pub mod patch;
pub mod play;
pub mod program;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod scenario;
pub mod size;
pub mod table;
pub mod test;
pub mod toolchain;
pub mod tools;
pub mod workspace;
