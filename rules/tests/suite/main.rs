//! The rules, tried on a small machine
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
