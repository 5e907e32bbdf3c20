//! Approvals at less than half their size: gzip, which GRUB unpacks while it loads them
use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use secvisor_approval::wire::GZIP;

/// Longest approval that is unpacked: more than 65,533 pages, a kernel and all tables need.
const LONGEST: u64 = 1 << 30;

/// An approval's file, compressed. The same input gives the same bytes.
pub fn pack(plain: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(plain)?;
    Ok(packed.finish()?)
}

/// An approval's file, unpacked if it is compressed.
pub fn unpack(file: Vec<u8>) -> Result<Vec<u8>> {
    if !file.starts_with(&GZIP) {
        return Ok(file);
    }
    let mut plain = Vec::new();
    let mut packed = GzDecoder::new(&file[..]).take(LONGEST);
    packed.read_to_end(&mut plain).context("the compressed file is truncated or damaged")?;
    ensure!((plain.len() as u64) < LONGEST, "longer than any approval once unpacked");
    ensure!(packed.into_inner().into_inner().is_empty(), "the compressed file has trailing bytes");
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let plain: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let packed = pack(&plain).unwrap();
        assert!(packed.len() < plain.len() && packed == pack(&plain).unwrap());
        assert_eq!(unpack(packed).unwrap(), plain);
        assert_eq!(unpack(plain.clone()).unwrap(), plain, "a plain one stays what it is");
    }

    #[test]
    fn damage_is_an_error() {
        let packed = pack(&[7; 10_000]).unwrap();
        assert!(unpack(packed[..packed.len() - 1].to_vec()).is_err());
        assert!(unpack([&packed[..], &packed[..]].concat()).is_err(), "GRUB unpacks the first only");
        let mut damaged = packed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(unpack(damaged).is_err());
    }
}
