//! What the firmware says of the machine: ACPI 6.5, 5.2
//!
//! Which CPUs there are: each is started by SecVisor before the guest runs. Where the I/O APICs, the sleep registers and the
//! host bridges' configuration are: all must be kept from the guest, or looked at.
use secvisor_rules::Frame;
use secvisor_rules::port::{self, Ports};

use super::info::{u32_at, u64_at};
use crate::mem::physical;

/// Length of the header every table begins with.
const HEADER: usize = 36;
/// Longest table that is believed.
const LONGEST: usize = 1 << 20;

/// Entries of the MADT: kind and bytes. `None` if it cannot be read.
fn madt(rsdp: &[u8; 36]) -> Option<impl Iterator<Item = (u8, &'static [u8])>> {
    // The local APIC's address and flags come before the first entry.
    let mut rest = find(rsdp, b"APIC")?.get(HEADER + 8..)?;
    Some(core::iter::from_fn(move || {
        let [kind, len, ..] = *rest else { return None };
        let entry = rest.get(..len as usize).filter(|e| e.len() >= 2)?;
        rest = &rest[len as usize..];
        Some((kind, entry))
    }))
}

/// Identifiers of the APICs of the CPUs that can be started. `None` if the firmware's tables cannot be read. Those that
/// may be plugged in later are left out: nobody can start them.
pub fn cpus(rsdp: &[u8; 36]) -> Option<impl Iterator<Item = u32>> {
    let enabled = |entry: &[u8], at: usize| entry.len() >= at + 4 && u32_at(entry, at) & 1 != 0;
    let id = move |(kind, entry): (u8, &[u8])| match kind {
        0 if enabled(entry, 4) => Some(entry[3] as u32),
        9 if enabled(entry, 8) => Some(u32_at(entry, 4)),
        _ => None,
    };
    // Some firmware lists a CPU in both ways.
    let before =
        move |n: usize, id_of: u32| madt(rsdp).into_iter().flatten().filter_map(id).take(n).any(|i| i == id_of);
    Some(madt(rsdp)?.filter_map(id).enumerate().filter(move |(n, id)| !before(*n, *id)).map(|(_, id)| id))
}

/// Addresses of the I/O APICs.
pub fn io_apics(rsdp: &[u8; 36]) -> impl Iterator<Item = u64> {
    let of = |(kind, entry): (u8, &[u8])| (kind == 1 && entry.len() >= 8).then(|| u32_at(entry, 4) as u64);
    madt(rsdp).into_iter().flatten().filter_map(of)
}

/// The first table with this signature.
fn find(rsdp: &[u8; 36], signature: &[u8; 4]) -> Option<&'static [u8]> {
    let extended = rsdp[15] >= 2 && u64_at(rsdp, 24) != 0;
    let root = if extended { u64_at(rsdp, 24) } else { u32_at(rsdp, 16) as u64 };
    let entries = table(root)?.get(HEADER..)?.chunks_exact(if extended { 8 } else { 4 });
    let address = |e: &[u8]| if extended { u64_at(e, 0) } else { u32_at(e, 0) as u64 };
    entries.filter_map(|e| table(address(e))).find(|t| t.starts_with(signature))
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

/// The sleep registers: FADT (ACPI 6.5, 5.2.9) and the `_S5_` package of the DSDT (7.4.2).
pub fn ports(rsdp: &[u8; 36]) -> Ports {
    let mut ports = Ports::default();
    let Some(fadt) = find(rsdp, b"FACP") else { return ports };
    for (slot, legacy, extended) in [(0, 64, 172), (1, 68, 184)] {
        // A generic address: space (1 is I/O), width, offset, size, then the address.
        let generic = fadt.get(extended..extended + 12).filter(|g| g[0] == 1 && u64_at(g, 4) != 0);
        let legacy = fadt.get(legacy..legacy + 4).map_or(0, |b| u32_at(b, 0));
        ports.pm1_control[slot] = generic.map_or(legacy as u64, |g| u64_at(g, 4)) as u16;
    }
    let extended = fadt.get(140..148).map_or(0, |b| u64_at(b, 0));
    let dsdt = if extended != 0 { extended } else { fadt.get(40..44).map_or(0, |b| u32_at(b, 0) as u64) };
    ports.soft_off = table(dsdt).and_then(soft_off);
    ports
}

/// The first two numbers of the package named `_S5_`: package opcode, length (1 byte while below 64), count, then each
/// number as 0, 1 or a byte behind its prefix (ACPI 6.5, 20.2).
fn soft_off(dsdt: &[u8]) -> Option<[u8; 2]> {
    let at = dsdt.windows(5).position(|w| w == b"_S5_\x12")?;
    let mut rest = dsdt.get(at + 5 + 2..)?;
    let mut number = || {
        let (value, len) = match *rest {
            [value @ (0 | 1), ..] => (value, 1),
            [0x0a, value, ..] => (value, 2),
            _ => return None,
        };
        rest = &rest[len..];
        Some(value)
    };
    Some([number()?, number()?])
}

/// Frames of the host bridges' configuration space, where the firmware maps it to memory (PCI firmware 3.3, 4.1.2).
pub fn host_bridges(rsdp: &[u8; 36]) -> impl Iterator<Item = Frame> {
    let allocations = find(rsdp, b"MCFG").and_then(|t| t.get(HEADER + 8..)).unwrap_or(&[]).chunks_exact(16);
    let first_bus = allocations.filter(|a| a[10] == 0).map(|a| u64_at(a, 0));
    first_bus.flat_map(|base| {
        (0..256u64).filter(|f| port::held_in_memory(*f as u16)).map(move |f| Frame::containing(base + f * 4096))
    })
}
