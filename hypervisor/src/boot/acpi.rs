//! How many CPUs there are: ACPI 6.5, 5.2.5 to 5.2.12
//!
//! A CPU that the guest could start outside SecVisor would make everything else void, so launch refuses a machine with
//! more than the one it runs on.
use crate::mem::physical;

/// Length of the header every table begins with.
const HEADER: usize = 36;
/// Longest table that is believed.
const LONGEST: usize = 1 << 20;

/// Number of CPUs the firmware names as usable, now or later. `None` if its tables cannot be read.
pub fn cpus(rsdp: &[u8; 36]) -> Option<usize> {
    let extended = rsdp[15] >= 2 && u64_at(rsdp, 24) != 0;
    let root = if extended { u64_at(rsdp, 24) } else { u32_at(rsdp, 16) as u64 };
    let width = if extended { 8 } else { 4 };
    let entries = table(root)?.get(HEADER..)?.chunks_exact(width);
    let address = |e: &[u8]| if extended { u64_at(e, 0) } else { u32_at(e, 0) as u64 };
    let madt = entries.filter_map(|e| table(address(e))).find(|t| t.starts_with(b"APIC"))?;
    // The local APIC's address and flags come before the first entry.
    let mut rest = madt.get(HEADER + 8..)?;
    let mut count = 0;
    while let [kind, len, ..] = *rest {
        let entry = rest.get(..len as usize).filter(|e| e.len() >= 2)?;
        // Enabled, or may be brought online.
        let usable = |at: usize| entry.len() >= at + 4 && u32_at(entry, at) & 3 != 0;
        count += match kind {
            0 => usable(4) as usize,
            9 => usable(8) as usize,
            _ => 0,
        };
        rest = &rest[len as usize..];
    }
    Some(count)
}

/// A table with a valid checksum.
fn table(address: u64) -> Option<&'static [u8]> {
    let end = physical::MAPPED - LONGEST as u64;
    if !(1..end).contains(&address) {
        return None;
    }
    // SAFETY: mapped memory that the firmware filled and nobody changes before the guest runs.
    let len = u32_at(unsafe { physical::bytes(address, HEADER) }, 4) as usize;
    if !(HEADER..LONGEST).contains(&len) {
        return None;
    }
    // SAFETY: as above.
    let bytes = unsafe { physical::bytes(address, len) };
    (bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0).then_some(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at + 4) as u64) << 32
}
