//! Every part of the suite; who includes it by its path says with `SLIDE` where the kernel lies
mod kernel;
mod modules;
mod patching;
mod properties;
mod references;
mod reloading;
mod sites;
mod straddling;
mod tracer;
mod trampoline;
