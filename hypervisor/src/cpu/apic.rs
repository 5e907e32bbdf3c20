//! This CPU's local APIC: APM 2, chapter 16
//!
//! The guest owns it and may be using it, in xAPIC mode through its page, in x2APIC mode through MSRs: its choice at any
//! time. The page stays where it is (`rules/src/msr.rs`).
use secvisor_amd64::msr;

use super::instr;
use crate::mem::physical;

/// Commands: delivery modes, asserted.
pub const NMI: u32 = 0x4400;
/// As above.
pub const INIT: u32 = 0x4500;
/// As above; the page of the code is in bits 0-7.
pub const STARTUP: u32 = 0x4600;

/// Physical address of the page of every local APIC (APM 2, 16.3.1).
pub const PAGE: u64 = 0xfee0_0000;

/// Offsets in the page (APM 2, table 16-2).
const ID: u64 = 0x20;
/// Interrupt command, low half.
pub const COMMAND: u64 = 0x300;
/// High half: the destination.
pub const DESTINATION: u64 = 0x310;
/// The command has not been accepted yet.
const PENDING: u32 = 1 << 12;

const BASE: u64 = 0x000f_ffff_ffff_f000;
const X2APIC_MODE: u64 = 1 << 10;
/// MSRs of x2APIC mode.
const X2APIC_ID: u32 = 0x802;
const X2APIC_COMMAND: u32 = 0x830;

fn base() -> u64 {
    // SAFETY: every processor with SVM has an APIC.
    unsafe { instr::rdmsr(msr::APIC_BASE) }
}

/// Whether the firmware has left this CPU's page where it usually is.
pub fn in_its_place() -> bool {
    base() & BASE == PAGE
}

/// Whether MSRs are used in place of the page.
pub fn x2apic_mode() -> bool {
    base() & X2APIC_MODE != 0
}

/// Identifier of this CPU.
pub fn id() -> u32 {
    if x2apic_mode() {
        // SAFETY: in x2APIC mode there is this MSR.
        return unsafe { instr::rdmsr(X2APIC_ID) as u32 };
    }
    read(PAGE + ID) >> 24
}

/// Sends a command to one CPU.
pub fn send(to: u32, command: u32) {
    if x2apic_mode() {
        // SAFETY: in x2APIC mode there is this MSR; these commands are legal.
        unsafe { instr::wrmsr(X2APIC_COMMAND, (to as u64) << 32 | command as u64) };
        return;
    }
    // The guest may have written the first half of a command of its own.
    let destination = read(PAGE + DESTINATION);
    wait();
    write(PAGE + DESTINATION, to << 24);
    write(PAGE + COMMAND, command);
    wait();
    write(PAGE + DESTINATION, destination);
}

/// Waits until the last command has been accepted.
fn wait() {
    while read(PAGE + COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
}

/// Reads a register of an APIC's page.
pub fn read(at: u64) -> u32 {
    // SAFETY: a register, aligned; reading it changes no memory.
    unsafe { physical::register(at).read_volatile() }
}

/// Writes a register of an APIC's page.
pub fn write(at: u64, value: u32) {
    // SAFETY: a register, aligned; writing it changes no memory of ours.
    unsafe { physical::register(at).write_volatile(value) };
}
