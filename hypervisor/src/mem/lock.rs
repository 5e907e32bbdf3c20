//! A lock that is taken in turn
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::stats::Counter;

/// What it protects, and who is next. Interrupts and NMIs never reach this program (GIF is clear), so whoever holds the
/// lock gives it back soon.
pub struct Lock<T> {
    next: AtomicU32,
    serving: AtomicU32,
    /// How often somebody had to wait.
    pub contended: Counter,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a `Guard` only, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to the value, until it is dropped.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// Not taken.
    pub const fn new(value: T) -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            contended: Counter::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for its turn.
    pub fn lock(&self) -> Guard<'_, T> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        if self.serving.load(Ordering::Acquire) != ticket {
            while self.serving.load(Ordering::Acquire) != ticket {
                core::hint::spin_loop();
            }
            self.contended.add();
        }
        Guard(self)
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let ticket = self.0.serving.load(Ordering::Relaxed);
        self.0.serving.store(ticket.wrapping_add(1), Ordering::Release);
    }
}
