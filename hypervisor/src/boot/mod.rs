//! From power-on to the kernel's first instruction
mod acpi;
mod ap;
pub mod guest;
pub mod head;
pub mod info;
mod kaslr;
pub mod launch;
