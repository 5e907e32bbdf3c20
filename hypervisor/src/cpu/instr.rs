//! Single instructions, named
use core::arch::asm;

/// Reads a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: reading the ports this program names (UARTs) changes no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: writing the ports this program names (UARTs, reset control) changes no memory of ours.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a port for the guest: 1, 2 or 4 bytes.
pub fn input(port: u16, size: u32) -> u32 {
    let value: u32;
    // SAFETY: what the guest may do to its devices; ports change no memory of ours.
    unsafe {
        match size {
            1 => {
                asm!("in al, dx", "movzx eax, al", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
            }
            2 => {
                asm!("in ax, dx", "movzx eax, ax", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
            }
            _ => asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)),
        }
    }
    value
}

/// Writes a port for the guest: 1, 2 or 4 bytes.
pub fn output(port: u16, size: u32, value: u32) {
    // SAFETY: as above; the rules have allowed it.
    unsafe {
        match size {
            1 => asm!("out dx, al", in("dx") port, in("al") value as u8, options(nomem, nostack, preserves_flags)),
            2 => asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nomem, nostack, preserves_flags)),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)),
        }
    }
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// RDMSR.
///
/// # Safety
/// The processor has this MSR, otherwise it raises #GP.
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    low as u64 | (high as u64) << 32
}

/// WRMSR.
///
/// # Safety
/// The processor has this MSR, takes this value, and nothing this program relies on changes by it.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// Writes all caches back and invalidates them.
pub fn wbinvd() {
    // SAFETY: changes no memory.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// Selector in LDTR; while the guest is stopped it is still the guest's.
pub fn sldt() -> u16 {
    let value: u16;
    // SAFETY: reads a register.
    unsafe { asm!("sldt {0:x}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR2, which is the guest's: this program takes no page fault that it survives.
pub fn write_cr2(address: u64) {
    // SAFETY: changes no memory, and nothing of ours depends on it.
    unsafe { asm!("mov cr2, {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
}

/// Time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: every processor with SVM has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets others get on for so many cycles of the time-stamp counter.
pub fn pause_for(cycles: u64) {
    let start = rdtsc();
    while rdtsc() - start < cycles {
        core::hint::spin_loop();
    }
}

/// Takes an NMI that is pending.
pub fn take_nmi() {
    // SAFETY: GIF is set for one instruction: interrupts are off, so nothing but NMIs (and SMIs) can come, and those return.
    unsafe { asm!("stgi", "nop", "clgi", options(nostack)) };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are off; nothing runs after it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
