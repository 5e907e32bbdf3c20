//! The checks the rules make, by name, so that the model can show what each is for
//!
//! With the feature `model` one of them can be left out. Without it, which is how the hypervisor is built, [`made`] is
//! constantly true.

#[cfg(all(feature = "model", target_os = "none"))]
compile_error!("the feature `model` lets checks be left out: it is for the host only");

/// A check that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A frame is frozen before it is compared.
    Freeze,
    /// Every byte outside of sites is compared.
    Bytes,
    /// A site holds one of its values.
    Site,
    /// A half-written site begins with INT3.
    Int3,
    /// A static call leads to a function.
    Function,
    /// What only boot may choose stays as it was then.
    Pinned,
    /// A module's site agrees with what boot has chosen.
    Chosen,
    /// Forms of boot never hold later.
    BootOnly,
    /// A site across two pages is compared as a whole.
    Straddler,
    /// The neighbour of a page is the approved one, not the one the guest's tables show.
    Neighbour,
    /// Half a field of an unknown variable is refused.
    HalfField,
    /// A site that is not verified is not executed.
    Reach,
    /// Only one site may be unfinished.
    OneUnfinished,
    /// Init text is never put back.
    InitPutBack,
    /// Init text that was freed never runs again.
    InitFreed,
    /// Modules run only once user mode was reached.
    AfterBoot,
    /// Modules lie in their range.
    ModuleRange,
    /// Variables lie in their range.
    VarRange,
    /// A page of a module is at its place.
    Base,
    /// A relocated field holds the address it must.
    Relocation,
    /// A module that is placed anew is compared again with what is then known.
    Again,
    /// A module that is placed anew ends what it was before.
    Supersede,
    /// It ends what refers to it, too.
    Dependents,
    /// It ends what it is placed over.
    Overlapped,
    /// What a page is placed by is still known once that has ended.
    Placed,
    /// A page of a module is approved in one frame.
    OneFrame,
    /// Only a page that was approved in this frame is put back.
    Live,
    /// Only a page that is mostly itself is put back.
    Similar,
    /// Only a module's text is put back, not its init text.
    ModuleInit,
}

/// Whether a check is made.
#[cfg(not(feature = "model"))]
#[inline(always)]
pub(crate) const fn made(_: Check) -> bool {
    true
}

#[cfg(feature = "model")]
mod leave_out {
    use std::cell::Cell;

    use super::Check;

    std::thread_local! {
        static LEFT_OUT: Cell<Option<Check>> = const { Cell::new(None) };
    }

    /// Leaves out one check, or none, on this thread.
    pub fn leave_out(check: Option<Check>) {
        LEFT_OUT.set(check);
    }

    pub(crate) fn made(check: Check) -> bool {
        LEFT_OUT.get() != Some(check)
    }
}
#[cfg(feature = "model")]
pub use leave_out::leave_out;
#[cfg(feature = "model")]
pub(crate) use leave_out::made;
