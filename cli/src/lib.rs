//! The host tool: from a kernel and its modules to an approval
//!
//! Everything that parses takes bytes, so that tests and fuzzers can call it. From outside in: a kernel file is
//! a [`bzimage`], its payload an [`elf`] file with [`relocs`] behind it and [`kallsyms`] in it; its tables name the
//! places Linux patches; [`alternatives`] and [`branches`] say what Linux may put there; [`emit`] turns that into
//! templates, [`kernel`] into regions. [`inspect`] reads an approval back for people.
#![forbid(unsafe_code)]

pub mod alternatives;
pub mod approve;
pub mod branches;
pub mod bytes;
pub mod bzimage;
pub mod call_forms;
pub mod check;
pub mod code;
pub mod count;
pub mod elf;
pub mod emit;
pub mod flavor;
pub mod gather;
pub mod gzip;
pub mod insn;
pub mod inspect;
pub mod kallsyms;
pub mod kernel;
pub mod lsm;
pub mod module;
pub mod nops;
pub mod relocs;
pub mod sites;
pub mod symbols;
pub mod tracer;
pub mod trampoline;
