//! How many instructions the firmware and the boot loader execute
//!
//! They are no part of the guest's boot, and the same with and without SecVisor: a tiny image loaded the way
//! SecVisor's is says how far the counter had got when it was entered.

use crate::guest::End;
use crate::machine::Boot;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// Where the image is loaded.
const BASE: u32 = 0x10_0000;
/// Where its code begins.
const CODE: u32 = 32;

const MAGIC: u32 = 0x1bad_b002;
/// The header says itself where the image goes.
const ADDRESSES: u32 = 1 << 16;

/// Writes the time-stamp counter's lower half to the console as 32 binary digits, and ends the machine.
const PROBE: [u8; 38] = [
    0x0f, 0x31, // rdtsc
    0x89, 0xc3, // mov ebx, eax
    0xb9, 32, 0, 0, 0, // mov ecx, 32
    0xba, 0xf8, 0x03, 0, 0, // mov edx, 3f8h
    0x31, 0xc0, // next: xor eax, eax
    0xd1, 0xe3, // shl ebx, 1
    0x14, b'0', // adc al, '0'
    0xee, // out dx, al
    0xe2, 0xf7, // loop next
    0xb0, b'\n', // mov al, 10
    0xee,  // out dx, al
    0xba, 0xf4, 0, 0, 0, // mov edx, f4h
    0xb0, 0x08, // mov al, 8
    0xee, // out dx, al
    0xeb, 0xfe, // forever: jmp forever
    0x90, 0x90,
];

/// What `PROBE` ends the machine with.
const STATUS: i32 = 8 * 2 + 1;

/// Asks.
pub fn instructions() -> Result<u64> {
    let image = workspace::target().join("guests/firmware-probe.bin");
    let end = BASE + CODE + PROBE.len() as u32;
    let header = [MAGIC, ADDRESSES, 0u32.wrapping_sub(MAGIC + ADDRESSES), BASE, BASE, end, end, BASE + CODE];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(PROBE);
    fs::write(&image, bytes)?;
    let mut machine = super::counting("firmware");
    machine.qemu.debug_exit = true;
    let mut guest = machine.start(&Boot::Multiboot { image, cmdline: String::new(), modules: Vec::new() })?;
    let line = guest.wait_for("", Duration::from_secs(60))?;
    let end = guest.wait_end(Duration::from_secs(10))?;
    ensure!(end == End::Status(STATUS), "the probe ended by {end:?}; {}", guest.where_to_look());
    guest.finish()?;
    u64::from_str_radix(&line, 2).with_context(|| format!("the probe said {line:?}"))
}
