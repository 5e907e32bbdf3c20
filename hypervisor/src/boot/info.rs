//! What the boot loader says: Multiboot 1 (section 3.3) and Multiboot2 (section 3.6)
use core::ops::Range;

use crate::mem::physical;

/// Multiboot 1's value in EAX.
const MAGIC1: u32 = 0x2bad_b002;
/// Multiboot2's value in EAX.
const MAGIC2: u32 = 0x36d7_6289;

/// Longest command line taken from the loader, in bytes.
pub const CMDLINE_MAX: usize = 2048;

/// The loader's information, copied: nothing refers to the loader's memory any more.
pub struct BootInfo {
    /// Usable RAM.
    pub ram: List<Range<u64>, 64>,
    /// Boot modules in the loader's order.
    pub modules: List<Range<u64>, 4>,
    /// The ACPI root pointer, or zeros.
    pub rsdp: [u8; 36],
    cmdline: [u8; CMDLINE_MAX],
    cmdline_len: usize,
}

/// A list of bounded length.
pub struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Default, const N: usize> List<T, N> {
    fn new() -> Self {
        Self { items: core::array::from_fn(|_| T::default()), len: 0 }
    }
    /// Appends; what does not fit is left out (memory the guest then does not get).
    pub fn push(&mut self, item: T) {
        if let Some(slot) = self.items.get_mut(self.len) {
            *slot = item;
            self.len += 1;
        }
    }
    /// The items.
    pub fn get(&self) -> &[T] {
        &self.items[..self.len]
    }
}

/// Why the loader's information cannot be used.
pub enum Error {
    /// EAX held neither magic.
    NotMultiboot,
    /// There is no memory map.
    NoMemoryMap,
    /// The command line is too long.
    CommandLine,
}

impl BootInfo {
    fn new() -> Self {
        Self { ram: List::new(), modules: List::new(), rsdp: [0; 36], cmdline: [0; CMDLINE_MAX], cmdline_len: 0 }
    }

    /// Reads what EAX and EBX gave.
    pub fn read(magic: u32, info: u32) -> Result<Self, Error> {
        let mut this = Self::new();
        match magic {
            MAGIC1 => this.multiboot1(info as u64)?,
            MAGIC2 => this.multiboot2(info as u64)?,
            _ => return Err(Error::NotMultiboot),
        }
        if this.ram.get().is_empty() {
            return Err(Error::NoMemoryMap);
        }
        if this.rsdp[0] == 0 {
            this.find_rsdp();
        }
        Ok(this)
    }

    /// The loader's command line.
    pub fn cmdline(&self) -> &[u8] {
        &self.cmdline[..self.cmdline_len]
    }

    fn take_cmdline(&mut self, text: &[u8]) -> Result<(), Error> {
        let len = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        self.cmdline.get_mut(..len).ok_or(Error::CommandLine)?.copy_from_slice(&text[..len]);
        self.cmdline_len = len;
        Ok(())
    }

    fn multiboot1(&mut self, info: u64) -> Result<(), Error> {
        // SAFETY: the loader left its structure there (3.3); nothing else runs.
        let info = unsafe { physical::bytes(info, 116) };
        let flags = u32_at(info, 0);
        if flags & 1 << 2 != 0 {
            // SAFETY: as above; the string ends before `CMDLINE_MAX` or is refused.
            let text = unsafe { physical::bytes(u32_at(info, 16) as u64, CMDLINE_MAX + 256) };
            // The first word is the image's own path.
            let start = text.iter().position(|b| *b == b' ' || *b == 0).unwrap_or(0);
            let skip = start + (text[start] == b' ') as usize;
            self.take_cmdline(&text[skip..])?;
        }
        if flags & 1 << 3 != 0 {
            let count = u32_at(info, 20).min(4) as usize;
            // SAFETY: as above.
            let modules = unsafe { physical::bytes(u32_at(info, 24) as u64, count.max(1) * 16) };
            for m in modules.chunks_exact(16).take(count) {
                self.modules.push(u32_at(m, 0) as u64..u32_at(m, 4) as u64);
            }
        }
        if flags & 1 << 6 != 0 {
            let len = u32_at(info, 44) as usize;
            // SAFETY: as above.
            let map = unsafe { physical::bytes(u32_at(info, 48) as u64, len) };
            let mut at = 0;
            while at + 24 <= len {
                self.memory(u64_at(map, at + 4), u64_at(map, at + 12), u32_at(map, at + 20));
                at += u32_at(map, at) as usize + 4;
            }
        }
        Ok(())
    }

    fn multiboot2(&mut self, info: u64) -> Result<(), Error> {
        // SAFETY: the loader left its structure there (3.6); nothing else runs.
        let len = u32_at(unsafe { physical::bytes(info, 8) }, 0) as usize;
        // SAFETY: as above.
        let info = unsafe { physical::bytes(info, len.max(8)) };
        let mut at = 8;
        while at + 8 <= len {
            let (kind, size) = (u32_at(info, at), u32_at(info, at + 4) as usize);
            if size < 8 || size > len - at {
                break;
            }
            let body = &info[at + 8..at + size];
            match kind {
                0 => break,
                1 => self.take_cmdline(body)?,
                3 if body.len() >= 8 => self.modules.push(u32_at(body, 0) as u64..u32_at(body, 4) as u64),
                6 if body.len() >= 8 => {
                    let entry = (u32_at(body, 0) as usize).max(24);
                    for e in body[8..].chunks_exact(entry) {
                        self.memory(u64_at(e, 0), u64_at(e, 8), u32_at(e, 16));
                    }
                }
                // ACPI 1.0 (20 bytes) and 2.0 (36 bytes) root pointers; the newer one wins.
                14 | 15 if body.len() >= 20 && (kind == 15 || self.rsdp[0] == 0) => {
                    let n = body.len().min(36);
                    self.rsdp[..n].copy_from_slice(&body[..n]);
                }
                _ => {}
            }
            at += size.next_multiple_of(8);
        }
        Ok(())
    }

    fn memory(&mut self, base: u64, len: u64, kind: u32) {
        let (start, end) = (base.next_multiple_of(4096), base.saturating_add(len) & !4095);
        if kind == 1 && start < end {
            self.ram.push(start..end);
        }
    }

    /// Looks for the ACPI root pointer where a BIOS keeps it (ACPI 6.5, 5.2.5.1).
    fn find_rsdp(&mut self) {
        // SAFETY: the BIOS area is mapped and nothing writes it.
        let bios = unsafe { physical::bytes(0xe_0000, 0x2_0000) };
        let sum = |b: &[u8]| b.iter().fold(0u8, |a, b| a.wrapping_add(*b));
        let found = bios.chunks_exact(16).position(|c| c.starts_with(b"RSD PTR ")).map(|i| &bios[i * 16..]);
        if let Some(rsdp) = found.filter(|r| r.len() >= 36 && sum(&r[..20]) == 0) {
            let len = if rsdp[15] >= 2 { 36 } else { 20 };
            self.rsdp[..len].copy_from_slice(&rsdp[..len]);
        }
    }
}

/// A number in a table of the firmware's or the loader's.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As above.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at + 4) as u64) << 32
}
