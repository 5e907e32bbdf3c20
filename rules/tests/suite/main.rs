//! The rules, tried on a small machine; `tests/moved` tries them on the same machine with the kernel elsewhere
#[path = "all.rs"]
mod all;
#[path = "../../../approval/tests/synthetic/mod.rs"]
mod synthetic;
#[path = "../world/mod.rs"]
mod world;

/// How far above its link address the kernel lies.
const SLIDE: u64 = 0;
