//! The whole suite once more, with the kernel above where it was linked
#[path = "../suite/kernel.rs"]
mod kernel;
#[path = "../suite/modules.rs"]
mod modules;
#[path = "../suite/patching.rs"]
mod patching;
#[path = "../suite/properties.rs"]
mod properties;
#[path = "../suite/references.rs"]
mod references;
#[path = "../suite/sites.rs"]
mod sites;
#[path = "../../../approval/tests/synthetic/mod.rs"]
mod synthetic;
#[path = "../suite/tracer.rs"]
mod tracer;
#[path = "../suite/trampoline.rs"]
mod trampoline;
#[path = "../world/mod.rs"]
mod world;

/// How far above its link address the kernel lies.
const SLIDE: u64 = 0x2b60_0000;
