//! What the first program of a system has to do itself

use std::ptr;
use std::time::Duration;

/// Mounts what is read.
pub fn prepare() {
    let _ = std::fs::create_dir("/proc");
    // SAFETY: constant strings.
    let mounted = unsafe { libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, ptr::null()) };
    assert_eq!(mounted, 0, "no /proc");
}

/// Leaves the system alone.
pub fn sleep(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Ends the machine.
pub fn power_off() -> ! {
    // SAFETY: nothing has to be saved.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    panic!("still there");
}
