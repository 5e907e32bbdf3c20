//! A module loader in small, to check approvals against
//!
//! This plays what Linux does to a module (`kernel/module/main.c`, `arch/x86/kernel/alternative.c`), byte by byte in
//! a simulated memory, from nothing but the file: it shares no code with the rest of this directory. Everything is
//! placed at random, and CPU features are random. [`super::agreement`] compares the result with an approval.
#![cfg(test)]
mod loader;
mod machine;
mod patching;

pub use loader::Loaded;
pub use machine::Machine;
pub use patching::{Patched, nop};

/// A small random number generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The memory of one module.
pub struct Memory {
    blocks: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    pub fn at(&mut self, addr: u64, len: usize) -> &mut [u8] {
        if len == 0 {
            return &mut [];
        }
        let (base, bytes) = self
            .blocks
            .iter_mut()
            .find(|(base, bytes)| (*base..base + bytes.len() as u64).contains(&addr))
            .unwrap_or_else(|| panic!("nothing at {addr:#x}"));
        let at = (addr - *base) as usize;
        &mut bytes[at..at + len]
    }
    fn write(&mut self, addr: u64, bytes: &[u8]) {
        self.at(addr, bytes.len()).copy_from_slice(bytes);
    }
    fn s32(&mut self, addr: u64) -> i64 {
        get32(self.at(addr, 4), 0) as u32 as i32 as i64
    }
    fn u64(&mut self, addr: u64) -> u64 {
        get64(self.at(addr, 8), 0)
    }
    /// `&field + field`.
    fn pointed(&mut self, addr: u64) -> u64 {
        addr.wrapping_add(self.s32(addr) as u64)
    }
}

fn get<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b[at..at + N].try_into().unwrap()
}
fn get16(b: &[u8], at: usize) -> usize {
    u16::from_le_bytes(get(b, at)) as usize
}
pub fn get32(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(get(b, at)) as usize
}
pub fn get64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(b, at))
}
