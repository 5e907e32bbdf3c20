//! Many CPUs: a right that shrinks has shrunk on all of them
//!
//! Whoever narrows the nested tables asks every other CPU to flush, then waits for each to be outside of the guest or to
//! have taken the request. A CPU says that it enters the guest *before* it looks for requests the last time, so either it
//! sees the request, or it is seen and gets an NMI, which makes it exit. Inside SecVisor a CPU uses no translation of the
//! guest's, so being there counts as an answer: nobody waits for a CPU that waits for a lock.
//!
//! Other requests (INIT, start-up, stop) go the same way.
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use secvisor_rules::apic::To;

use crate::cpu::apic;
use crate::stats::{Counter, Stats};

/// Requests to a CPU: stop for good, wait for a start-up, start (the page is in bits 0-7), flush the TLB.
pub mod request {
    /// See above.
    pub const STOP: u32 = 1 << 31;
    /// See above.
    pub const INIT: u32 = 1 << 30;
    /// See above.
    pub const STARTUP: u32 = 1 << 29;
    /// See above.
    pub const FLUSH: u32 = 1 << 28;
}

/// What every CPU may know of one of them.
#[repr(align(128))]
pub struct Cpu {
    /// Identifier of its APIC.
    pub apic_id: u32,
    /// It runs the guest, or is about to.
    in_guest: AtomicBool,
    /// A window is open on it.
    pub window: AtomicBool,
    /// What it is asked to do, see [`request`].
    request: AtomicU32,
    /// An NMI of ours is on its way to it.
    nmi: AtomicBool,
    /// It has been started.
    pub online: AtomicBool,
    /// Its counters.
    pub stats: Stats,
}

impl Cpu {
    /// Not started yet.
    pub fn new(apic_id: u32) -> Self {
        Self {
            apic_id,
            in_guest: AtomicBool::new(false),
            window: AtomicBool::new(false),
            request: AtomicU32::new(0),
            nmi: AtomicBool::new(false),
            online: AtomicBool::new(false),
            stats: Stats::default(),
        }
    }

    /// It is about to enter the guest. `false`: not before it has done what it is asked for.
    #[inline]
    pub fn enter(&self) -> bool {
        self.in_guest.swap(true, SeqCst);
        let clear = self.request.load(SeqCst) == 0;
        if !clear {
            self.leave();
        }
        clear
    }

    /// It has left the guest. A locked operation: what the guest has stored must be in memory, write-combining buffers
    /// included (APM 2, chapter 7), before anybody compares a page with it.
    #[inline]
    pub fn leave(&self) {
        self.in_guest.swap(false, SeqCst);
    }

    /// Takes what it was asked for.
    pub fn requested(&self) -> u32 {
        self.request.swap(0, SeqCst)
    }

    /// It flushes before it enters the guest and has seen the tables as they are. For who holds the core's lock.
    pub fn will_flush(&self) {
        self.request.fetch_and(!request::FLUSH, SeqCst);
    }

    /// Asks it for something.
    pub fn ask(&self, what: u32) {
        if what == request::INIT {
            // A start-up that came before counts no more.
            self.request.fetch_and(request::STOP | request::FLUSH, SeqCst);
        }
        self.request.fetch_or(what, SeqCst);
    }

    /// It has taken an NMI: whether it was ours.
    pub fn took_nmi(&self) -> bool {
        self.nmi.swap(false, SeqCst)
    }

    fn kick(&self) {
        if !self.nmi.swap(true, SeqCst) {
            apic::send(self.apic_id, apic::NMI);
        }
    }
}

/// All CPUs; the first is the one that was launched on.
pub struct Crowd {
    /// The CPUs.
    pub cpus: &'static [Cpu],
    /// How often others were waited for.
    pub shootdowns: Counter,
}

impl Crowd {
    fn others(&self, me: usize) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().enumerate().filter(move |(i, _)| *i != me).map(|(_, cpu)| cpu)
    }

    /// Rights have shrunk in the tables: when this returns no other CPU uses them any more, and no window is open. The
    /// caller holds the core's lock, and flushes before it enters the guest itself.
    pub fn shoot(&self, me: usize) {
        let uses = |cpu: &Cpu| cpu.in_guest.load(SeqCst) && cpu.request.load(SeqCst) & request::FLUSH != 0;
        let mut waits = false;
        for cpu in self.others(me) {
            cpu.ask(request::FLUSH);
            if uses(cpu) {
                waits = true;
                cpu.kick();
            }
        }
        if waits {
            self.shootdowns.add();
            for cpu in self.others(me) {
                while uses(cpu) {
                    core::hint::spin_loop();
                }
            }
        }
    }

    /// Rights are about to grow: closes every window, in which they would count before the instruction is over. The caller
    /// holds the core's lock.
    pub fn close_windows(&self, me: usize) {
        if self.others(me).any(|cpu| cpu.window.load(SeqCst)) {
            self.shoot(me);
        }
    }

    /// Asks CPUs for something.
    pub fn ask(&self, me: usize, to: To, what: u32) {
        for (i, cpu) in self.cpus.iter().enumerate() {
            let meant = match to {
                To::Id(id) => cpu.apic_id == id,
                To::Others => i != me,
            };
            if meant {
                cpu.ask(what);
            }
            if meant && i != me {
                cpu.kick();
            }
        }
    }
}
