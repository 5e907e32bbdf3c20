//! The kernel as a boot loader gets it, packed in every way
use std::io::Write;

use super::{PHYSICAL, RELEASE, vmlinux};

/// How a kernel is packed.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Zstd,
    Gzip,
    Xz,
    Lz4,
}

/// All of them.
pub const PACKINGS: [Packing; 4] = [Packing::Zstd, Packing::Gzip, Packing::Xz, Packing::Lz4];

pub fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Lz4 => {
            // Literals only.
            let mut block = vec![0xf0];
            let mut left = bytes.len() - 15;
            while left >= 255 {
                block.push(255);
                left -= 255;
            }
            block.push(left as u8);
            block.extend(bytes);
            [&[0x02, 0x21, 0x4c, 0x18], &(block.len() as u32).to_le_bytes()[..], &block].concat()
        }
    }
}

/// The kernel as a boot loader gets it.
pub fn bzimage(vmlinux: &[u8], packing: Packing) -> Vec<u8> {
    let mut payload = pack(vmlinux, packing);
    // gzip ends with it anyway.
    if !matches!(packing, Packing::Gzip) {
        payload.extend((vmlinux.len() as u32).to_le_bytes());
    }
    let mut file = vec![0; 2048];
    file[0x1f1] = 3;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    let version = format!("{RELEASE} (somebody@somewhere) #1\0");
    file[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
    (file[0x211], file[0x234], file[0x236]) = (1, 1, 1);
    file[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[0x258..0x260].copy_from_slice(&PHYSICAL.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x2_0000u32.to_le_bytes());
    file.extend(payload);
    file
}

/// A kernel that is approved.
pub fn kernel() -> Vec<u8> {
    bzimage(&vmlinux(), Packing::Zstd)
}
