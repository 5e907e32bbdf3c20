//! Memory that is handed out once, and what is set once
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
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

/// A static that is set by one CPU before the others run, and then read by all.
pub struct SetOnce<T> {
    place: Once<MaybeUninit<T>>,
    set: AtomicBool,
}

// SAFETY: after `set` there are shared references only.
unsafe impl<T: Sync> Sync for SetOnce<T> {}

impl<T> SetOnce<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        Self { place: Once::new(MaybeUninit::uninit()), set: AtomicBool::new(false) }
    }

    /// Sets it. Panics the second time.
    pub fn set(&'static self, value: T) -> &'static T {
        let value = self.place.take().write(value);
        self.set.store(true, Ordering::Release);
        value
    }

    /// The value, if it has been set.
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: set, so `set` has written it and kept only a shared reference.
        self.set.load(Ordering::Acquire).then(|| unsafe { (*self.place.value.get()).assume_init_ref() })
    }
}
