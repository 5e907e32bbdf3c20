//! The device of the module `vulnerable`; its header says what each request does.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// The bits of CR4 that keep kernel mode from executing, and from touching, user pages.
pub const SMEP_AND_SMAP: u64 = 1 << 20 | 1 << 21;

/// The bit of CR0 that makes kernel mode heed read-only pages.
const WRITE_PROTECT: u64 = 1 << 16;

const LONGEST: usize = 64;

#[repr(C)]
struct Bytes {
    address: u64,
    length: u64,
    bytes: [u8; LONGEST],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    cr0_clear: u64,
    cr0_set: u64,
    cr4_clear: u64,
    cr4_set: u64,
    cr0: u64,
    cr4: u64,
}

/// Which protections are on.
#[derive(Clone, Copy)]
pub struct Protections {
    cr0: u64,
    cr4: u64,
}

const IN: u64 = 1;
const OUT: u64 = 2;

/// include/uapi/asm-generic/ioctl.h: direction, size, type, number.
const fn request(direction: u64, size: usize, number: u64) -> u64 {
    direction << 30 | (size as u64) << 16 | (b'V' as u64) << 8 | number
}

const READ: u64 = request(IN | OUT, size_of::<Bytes>(), 1);
const WRITE: u64 = request(IN, size_of::<Bytes>(), 2);
const CALL: u64 = request(IN | OUT, size_of::<u64>(), 3);
const ALLOCATE: u64 = request(OUT, size_of::<u64>(), 4);
const EXECUTABLE: u64 = request(IN, size_of::<u64>(), 5);
const CONTROL: u64 = request(IN | OUT, size_of::<Control>(), 6);

impl Protections {
    /// Whether user pages are out of kernel mode's reach.
    pub fn keep_kernel_out(self) -> bool {
        self.cr4 != 0
    }
}

/// The open device.
pub struct Vulnerable(File);

impl Vulnerable {
    /// Opens it.
    pub fn open() -> io::Result<Vulnerable> {
        Ok(Vulnerable(OpenOptions::new().read(true).write(true).open("/dev/vulnerable")?))
    }

    /// Reads at a kernel address.
    pub fn read<const N: usize>(&self, address: u64) -> io::Result<[u8; N]> {
        const { assert!(N <= LONGEST) };
        let mut bytes = Bytes { address, length: N as u64, bytes: [0; LONGEST] };
        self.ask(READ, &mut bytes)?;
        Ok(std::array::from_fn(|at| bytes.bytes[at]))
    }

    /// Writes at a kernel address, even if it is mapped read-only.
    pub fn write<const N: usize>(&self, address: u64, content: [u8; N]) -> io::Result<()> {
        const { assert!(N <= LONGEST) };
        let mut bytes = Bytes { address, length: N as u64, bytes: [0; LONGEST] };
        bytes.bytes[..N].copy_from_slice(&content);
        self.ask(WRITE, &mut bytes)
    }

    /// Calls what is at an address, in kernel mode.
    pub fn call(&self, mut address: u64) -> io::Result<u64> {
        self.ask(CALL, &mut address)?;
        Ok(address)
    }

    /// A page of kernel heap.
    pub fn allocate(&self) -> io::Result<u64> {
        let mut address = 0;
        self.ask(ALLOCATE, &mut address)?;
        Ok(address)
    }

    /// Clears NX in the page-table entries of an address.
    pub fn make_executable(&self, mut address: u64) -> io::Result<()> {
        self.ask(EXECUTABLE, &mut address)
    }

    /// Clears bits of CR4.
    pub fn clear_cr4(&self, bits: u64) -> io::Result<()> {
        self.ask(CONTROL, &mut Control { cr4_clear: bits, ..Default::default() })
    }

    /// The protections as they are.
    pub fn protections(&self) -> io::Result<Protections> {
        let mut control = Control::default();
        self.ask(CONTROL, &mut control)?;
        Ok(Protections { cr0: control.cr0 & WRITE_PROTECT, cr4: control.cr4 & SMEP_AND_SMAP })
    }

    /// Switches protections on again.
    pub fn restore(&self, before: Protections) -> io::Result<()> {
        self.ask(CONTROL, &mut Control { cr0_set: before.cr0, cr4_set: before.cr4, ..Default::default() })
    }

    fn ask<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: every request is made with the size of the argument it is passed, and the module touches no more.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
