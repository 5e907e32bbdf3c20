//! The AMD64 manual as types
//!
//! Layouts, bits and codes of AMD64 Architecture Programmer's Manual volume 2 (publication 24593, "APM 2" below),
//! with the section that fixes each. Nothing here acts, and nothing here is a rule.
#![no_std]
#![forbid(unsafe_code)]

pub mod cpuid;
pub mod event;
pub mod exit;
pub mod intercept;
pub mod msr;
pub mod npt;
pub mod paging;
pub mod reg;
pub mod vmcb;
