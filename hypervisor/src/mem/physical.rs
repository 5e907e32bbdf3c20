//! Physical memory, mapped one to one
//!
//! All memory below 512 GiB is mapped writable at its own address. The functions here are the only way to it.
use secvisor_approval::PageBytes;
use secvisor_rules::Frame;

/// One behind the last physical address that is mapped.
pub const MAPPED: u64 = 1 << 39;

/// Memory that this program has taken for itself at launch, as a slice that lives for ever.
///
/// # Safety
/// The range is RAM below [`MAPPED`], belongs to this program alone, is aligned for `T`, is handed out once, and any
/// bytes are a valid `T`.
pub unsafe fn claim<T>(address: u64, count: usize) -> &'static mut [T] {
    assert!(address != 0 && address.is_multiple_of(align_of::<T>() as u64));
    assert!(address + (count * size_of::<T>()) as u64 <= MAPPED);
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts_mut(address as *mut T, count) }
}

/// Bytes a boot loader or firmware left in memory.
///
/// # Safety
/// The range is mapped memory that nothing changes while the slice lives.
pub unsafe fn bytes<'a>(address: u64, len: usize) -> &'a [u8] {
    assert!(address != 0 && address + len as u64 <= MAPPED);
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts(address as *const u8, len) }
}

/// The bytes of a frame of guest RAM.
///
/// # Safety
/// The frame is RAM of the guest, and nobody writes it while the reference lives.
pub unsafe fn frame<'a>(frame: Frame) -> &'a PageBytes {
    assert!(frame.address() < MAPPED);
    // SAFETY: every address is a valid array of bytes; for the rest the caller's.
    unsafe { &*(frame.address() as *const PageBytes) }
}

/// Overwrites guest RAM.
///
/// # Safety
/// The range is RAM of the guest, not of this program.
pub unsafe fn write(address: u64, bytes: &[u8]) {
    assert!(address + bytes.len() as u64 <= MAPPED);
    // SAFETY: the caller's; guest RAM and `bytes` (ours) do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
}

/// Moves bytes, ranges may overlap.
///
/// # Safety
/// Both ranges are RAM, and the destination holds nothing that is still needed.
pub unsafe fn relocate(from: u64, to: u64, len: u64) {
    assert!(from + len <= MAPPED && to + len <= MAPPED);
    // SAFETY: the caller's.
    unsafe { core::ptr::copy(from as *const u8, to as *mut u8, len as usize) };
}

/// Fills guest RAM with zeros.
///
/// # Safety
/// The range is RAM and holds nothing that is still needed.
pub unsafe fn zero(address: u64, len: u64) {
    assert!(address + len <= MAPPED);
    // SAFETY: the caller's.
    unsafe { core::ptr::write_bytes(address as *mut u8, 0, len as usize) };
}

/// Reads an aligned 8-byte word of guest RAM once.
///
/// # Safety
/// The address is in guest RAM and a multiple of 8.
#[inline]
pub unsafe fn word(address: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { (address as *const u64).read_volatile() }
}

/// Copies guest RAM that somebody may be writing, byte by byte.
///
/// # Safety
/// The range is RAM of the guest.
pub unsafe fn read(address: u64, bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *byte = unsafe { self::byte(address + i as u64) };
    }
}

/// Reads two bytes of guest RAM, each once: somebody may write between them.
///
/// # Safety
/// Both are in guest RAM.
#[inline]
pub unsafe fn pair(address: u64) -> u16 {
    // SAFETY: the caller's.
    u16::from_le_bytes(unsafe { [byte(address), byte(address + 1)] })
}

/// Reads a byte of guest RAM once.
///
/// # Safety
/// The address is in guest RAM.
#[inline]
pub unsafe fn byte(address: u64) -> u8 {
    // SAFETY: the caller's.
    unsafe { (address as *const u8).read_volatile() }
}

/// A device's register of 4 bytes.
pub fn register(address: u64) -> *mut u32 {
    assert!(address != 0 && address + 4 <= MAPPED && address.is_multiple_of(4));
    address as *mut u32
}
