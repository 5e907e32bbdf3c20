//! The approval: what may run in kernel mode, as bytes
//!
//! An approval is one file, written by `secvisor approve` and read by the hypervisor at launch. It
//! holds the kernel itself, the exact bytes of every code page of the kernel and of its modules, and
//! for every place where Linux rewrites itself the finite set of values it may take. `docs/approval-format.md`
//! describes it for other readers; [`wire`] is the layout, [`mod@open`] the only reader, [`build`] the only writer.
//!
//! Vocabulary, from large to small:
//! - a *region* is a run of code pages that is placed as a whole: a stretch of kernel text, the kernel's init
//!   text, a module's text, a module's init text;
//! - a *page* is 4 KiB of a region, with its reference bytes;
//! - a *site* is a byte range in a page that may differ from the reference bytes, and how;
//! - a *template* is the list of byte strings a site may hold, each with the *condition* that selects it;
//! - an *expression* is an address: a constant, one in the kernel's image, or a *variable* (where something was placed)
//!   plus a constant;
//! - a *relocation* is a field of the kernel's image that depends on where it lies, the *slide* how far above its link
//!   address that is.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "std")]
pub mod build;
mod check;
mod lz4;
pub mod open;
#[cfg(feature = "std")]
mod pack;
pub mod pages;
mod slide;
pub mod view;
pub mod wire;

/// Bytes in a page frame and in a page of the approval.
pub const PAGE: usize = 4096;

/// The bytes of one page.
pub type PageBytes = [u8; PAGE];
