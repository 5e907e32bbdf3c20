//! The whole suite once more, with the kernel above where it was linked
#[path = "../suite/all.rs"]
mod all;
#[path = "../../../approval/tests/synthetic/mod.rs"]
mod synthetic;
#[path = "../world/mod.rs"]
mod world;

/// How far above its link address the kernel lies.
const SLIDE: u64 = 0x2b60_0000;
