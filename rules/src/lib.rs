//! The rules: which bytes may run in kernel mode
//!
//! This crate decides and touches no hardware. The hypervisor reports events ([`step`](Rules::step)), this
//! crate answers with a [`Verdict`] and changes rights only through the [`Machine`] it is given.
//!
//! Invariants, and where each is kept:
//! - **INV-1** A frame is executable in kernel mode only while it is [`FrameState::Approved`], and becomes so only
//!   with an [`Approved`], whose two constructors are in [`page`]: behind the comparison of every byte, and for what the
//!   loader has just written.
//! - **INV-2** What is compared can no longer change: a frame is frozen before it is compared ([`fetch`]).
//! - **INV-3** An approved frame is not writable; the first write makes it data ([`write`](mod@write)).
//! - **INV-4** Kernel pages are approved only in the frames the loader put them in; module pages only as part of
//!   one consistently placed instance ([`module`]). Below 1 MiB there is the AP trampoline only, one to one, at one
//!   place for good.
//! - **INV-5** What only boot may choose is fixed from the first user-mode instruction on ([`pin`]).
//! - **INV-6** Hypervisor and device frames never change state ([`frame`]).
#![no_std]
#![forbid(unsafe_code)]
// The modules named above are private: their documentation is for who reads the code.
#![allow(rustdoc::private_intra_doc_links)]

#[cfg(feature = "model")]
extern crate std;

pub mod apic;
mod callee;
pub mod check;
mod choice;
mod fetch;
pub mod frame;
#[cfg(feature = "model")]
pub mod model;
mod module;
pub mod msr;
mod page;
mod pin;
pub mod place;
pub mod port;
mod site;
mod state;
mod step;
mod tracer;
mod violation;
mod write;

pub use frame::{Frame, FrameState, FrameTable};
pub use page::Approved;
pub use state::{Counters, Memory, NO_FRAME, Rules};
pub use step::{Access, Event, Machine, OutOfTables, Verdict};
pub use violation::{Rule, Violation};
