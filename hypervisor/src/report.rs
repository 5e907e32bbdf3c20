//! The report: one line per event, on a channel the guest can neither write nor mute
//!
//! Lines go to the second UART (ports 2F8h-2FFh), which the guest does not have: its accesses exit and come to
//! nothing. Before the guest starts, and when it is stopped, they also go to the first UART, which it shares.
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::instr::{inb, outb};
use crate::mem::lock::Lock;

/// First UART, the guest's console.
const COM1: u16 = 0x3f8;
/// Second UART, ours.
pub const COM2: u16 = 0x2f8;

static GUEST_RUNS: AtomicBool = AtomicBool::new(false);

/// From now on the first UART is the guest's.
pub fn guest_starts() {
    GUEST_RUNS.store(true, Ordering::Relaxed);
}

/// The guest is stopped for good; the first UART is ours again.
pub fn guest_stopped() {
    GUEST_RUNS.store(false, Ordering::Relaxed);
}

/// Sets both UARTs to 115200 8N1.
pub fn init() {
    for port in [COM1, COM2] {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
            outb(port + register, value);
        }
    }
}

struct Uart(u16);

impl Write for Uart {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

impl Uart {
    fn send(&self, byte: u8) {
        // Line status: transmitter empty. A UART that is not there reads as all ones.
        for _ in 0..100_000 {
            if inb(self.0 + 5) & 0x20 != 0 {
                break;
            }
        }
        outb(self.0, byte);
    }
}

static LINES: Lock<()> = Lock::new(());

/// Writes one line.
pub fn line(args: fmt::Arguments<'_>) {
    let _one_at_a_time = LINES.lock();
    let _ = writeln!(Uart(COM2), "secvisor: {args}");
    if !GUEST_RUNS.load(Ordering::Relaxed) {
        let _ = writeln!(Uart(COM1), "secvisor: {args}");
    }
}

/// Writes one line of the report.
#[macro_export]
macro_rules! report {
    ($($arg:tt)*) => { $crate::report::line(format_args!($($arg)*)) };
}
