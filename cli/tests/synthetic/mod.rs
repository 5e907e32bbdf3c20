//! A kernel and modules as the tool reads them, made up: small enough to try thousands of variations
//!
//! The kernel is one of 6.12's kind with one patch site of every kind; the modules are two that need each other.
#![allow(dead_code)]
mod bzimage;
mod elf;
mod modules;
mod vmlinux;

// Not every test needs them all.
#[allow(unused_imports)]
pub use {
    bzimage::{PACKINGS, Packing, bzimage, kernel, pack},
    modules::{driver, helper},
    vmlinux::{at, kallsyms, vmlinux},
};

/// Where the kernel is linked, and loaded.
pub const BASE: u64 = 0xffff_ffff_8100_0000;
pub const PHYSICAL: u64 = 0x100_0000;
pub const RELEASE: &str = "6.12.0-synthetic";
