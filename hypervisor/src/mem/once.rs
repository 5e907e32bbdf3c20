//! Memory that is handed out once
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static that one owner takes for good.
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reachable through `take` only, which gives it to one caller.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    /// Not taken yet.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value. Panics the second time.
    #[allow(clippy::mut_from_ref)] // once
    pub fn take(&'static self) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "taken twice");
        // SAFETY: the flag has made sure that there is no other reference, and none will be made.
        unsafe { &mut *self.value.get() }
    }
}
