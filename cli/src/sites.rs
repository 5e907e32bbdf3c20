//! A place where a kernel patches itself: what may stand there, and how the approval stores it
use anyhow::{Context, Result};
use secvisor_approval::build::SiteDef;
use secvisor_approval::wire::{ConstClass, KERNEL, SiteKind};
use serde::Serialize;

use crate::branches::Retpoline;
use crate::code::{Address, Variant};
use crate::emit::Emitter;

/// How many of each the kernel's tables list.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Runs of code pages.
    pub regions: usize,
    /// Code pages.
    pub pages: usize,
    /// Entries of `.altinstructions`.
    pub alternative_entries: usize,
    /// Places they apply to.
    pub alternative_sites: usize,
    /// Paravirt calls (6.1).
    pub paravirt: usize,
    /// Branches through registers.
    pub retpolines: usize,
    /// Returns.
    pub returns: usize,
    /// ENDBR that are removed.
    pub endbr: usize,
    /// LOCK prefixes.
    pub locks: usize,
    /// Static calls.
    pub static_calls: usize,
    /// Static call trampolines.
    pub trampolines: usize,
    /// Jump labels.
    pub jump_labels: usize,
    /// Function entries.
    pub ftrace: usize,
    /// Run-time constants.
    pub constants: usize,
    /// Entries that lie outside of code that runs.
    pub outside: usize,
}

/// What may stand at a site.
#[derive(Clone, Debug)]
pub enum What {
    /// Any of these.
    Choice(Vec<Variant>),
    /// A return.
    Return,
    /// A branch through a register.
    Retpoline(Retpoline),
    /// An ENDBR that is removed.
    Endbr,
    /// A LOCK prefix.
    Lock,
    /// A jump label and its displacement.
    Jump(i32),
    /// A function entry.
    Ftrace,
    /// The call in ftrace's own code.
    FtraceCall,
    /// A static call and its link target.
    StaticCall(u64),
    /// A static tail call and its link target.
    StaticJump(u64),
    /// A static call's trampoline and its link target.
    Trampoline(u64),
    /// A run-time constant: class, name, link value.
    Const(ConstClass, String, u64),
}

impl What {
    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Choice(_) => "alternative",
            Self::Return => "return",
            Self::Retpoline(_) => "retpoline",
            Self::Endbr => "ENDBR",
            Self::Lock => "LOCK prefix",
            Self::Jump(_) => "jump label",
            Self::Ftrace => "function entry",
            Self::FtraceCall => "ftrace call",
            Self::StaticCall(_) | Self::StaticJump(_) => "static call",
            Self::Trampoline(_) => "static call trampoline",
            Self::Const(..) => "run-time constant",
        }
    }
}

/// A place the kernel patches.
#[derive(Clone, Debug)]
pub struct Site {
    /// Link address.
    pub address: u64,
    /// Length in bytes.
    pub len: usize,
    /// What may stand there.
    pub what: What,
}

impl Site {
    /// The site as the approval stores it.
    pub fn emit(self, emitter: &mut Emitter, base: u64) -> Result<SiteDef> {
        let at = Address::kernel(self.address);
        let context = || format!("{} at {:#x}", self.what.name(), self.address);
        let target = |emitter: &mut Emitter, target| emitter.builder.local_expr(KERNEL, target);
        let (kind, index, arg) = match &self.what {
            What::Choice(v) => (SiteKind::Choice, emitter.template(at, v).with_context(context)?, 0),
            What::Return => (SiteKind::Choice, emitter.return_template(at)?, 0),
            What::Retpoline(r) => (SiteKind::Choice, emitter.retpoline_template(*r)?, 0),
            What::Endbr => (SiteKind::Choice, emitter.endbr_template()?, 0),
            What::Lock => (SiteKind::Choice, emitter.lock_template()?, 0),
            What::Jump(rel) => (if self.len == 2 { SiteKind::Jump2 } else { SiteKind::Jump5 }, 0, *rel),
            What::Ftrace => (SiteKind::Ftrace, 0, 0),
            What::FtraceCall => (SiteKind::FtraceCall, 0, 0),
            What::StaticCall(t) => (SiteKind::StaticCall, target(emitter, *t)?, 0),
            What::StaticJump(t) => (SiteKind::StaticJump, target(emitter, *t)?, 0),
            What::Trampoline(t) => (SiteKind::Trampoline, target(emitter, *t)?, 0),
            What::Const(class, name, link) => (SiteKind::Const, emitter.constant(*class, name, *link), 0),
        };
        Ok(SiteDef { offset: self.address - base, kind, index, arg })
    }
}
