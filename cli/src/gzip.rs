//! Approvals at some half of their size: gzip, which GRUB unpacks while it loads them
use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use secvisor_approval::wire::GZIP;

/// Longest approval that is unpacked: more than 65,533 pages, a kernel and all tables need.
const LONGEST: u64 = 1 << 30;

/// An approval's file, compressed. The same input gives the same bytes.
pub fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(plain)?;
    Ok(compressed.finish()?)
}

/// An approval's file, unpacked if it is compressed.
pub fn decompress(file: Vec<u8>) -> Result<Vec<u8>> {
    if !file.starts_with(&GZIP) {
        return Ok(file);
    }
    let mut plain = Vec::new();
    let mut compressed = GzDecoder::new(&file[..]).take(LONGEST);
    compressed.read_to_end(&mut plain).context("the compressed file is truncated or damaged")?;
    ensure!((plain.len() as u64) < LONGEST, "longer than any approval once unpacked");
    ensure!(compressed.into_inner().into_inner().is_empty(), "the compressed file has trailing bytes");
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let plain: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let compressed = compress(&plain).unwrap();
        assert!(compressed.len() < plain.len() && compressed == compress(&plain).unwrap());
        assert_eq!(decompress(compressed).unwrap(), plain);
        assert_eq!(decompress(plain.clone()).unwrap(), plain, "a plain one stays what it is");
    }

    #[test]
    fn damage_is_an_error() {
        let compressed = compress(&[7; 10_000]).unwrap();
        assert!(decompress(compressed[..compressed.len() - 1].to_vec()).is_err());
        assert!(decompress([&compressed[..], &compressed[..]].concat()).is_err(), "GRUB unpacks the first only");
        let mut damaged = compressed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(decompress(damaged).is_err());
    }
}
