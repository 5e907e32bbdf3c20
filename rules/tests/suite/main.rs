//! The rules, tried on a small machine; `tests/moved` tries them on the same machine with the kernel elsewhere
mod kernel;
mod modules;
mod patching;
mod properties;
mod references;
mod sites;
#[path = "../../../approval/tests/synthetic/mod.rs"]
mod synthetic;
mod tracer;
mod trampoline;
#[path = "../world/mod.rs"]
mod world;

/// How far above its link address the kernel lies.
const SLIDE: u64 = 0;
