//! The kernel file: setup header and compressed payload (`Documentation/arch/x86/boot.rst`)
use std::io::Read;

use anyhow::{Context, Result, bail};

use crate::bytes::{hex, u16_at, u32_at, u64_at};

/// Largest kernel this tool unpacks.
const MAX_IMAGE: usize = 1 << 29;

/// What the approval needs of the setup header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Boot protocol version.
    pub version: u16,
    /// Kernel release, the first word of the version string.
    pub release: String,
    /// Physical alignment.
    pub align: u64,
    /// Preferred physical address.
    pub pref_address: u64,
    /// Memory needed from there.
    pub init_size: u32,
    /// Longest command line.
    pub cmdline_size: u32,
    /// The compressed kernel within the file.
    pub payload: std::ops::Range<usize>,
}

/// Checks and reads the setup header.
pub fn setup(file: &[u8]) -> Result<Setup> {
    let missing = "shorter than a setup header";
    if file.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bzImage: no setup header");
    }
    let version = u16_at(file, 0x206).context(missing)?;
    if version < 0x20c {
        bail!("boot protocol {}.{:02} is too old, 2.12 is needed", version >> 8, version & 0xff);
    }
    if u16_at(file, 0x236).context(missing)? & 1 == 0 {
        bail!("not a 64-bit kernel");
    }
    if file.get(0x211).context(missing)? & 1 == 0 || file.get(0x234).context(missing)? & 1 == 0 {
        bail!("not a relocatable bzImage");
    }
    let sectors = match file[0x1f1] {
        0 => 4,
        n => n as usize,
    };
    let start = (sectors + 1) * 512 + u32_at(file, 0x248).context(missing)? as usize;
    let len = u32_at(file, 0x24c).context(missing)? as usize;
    if len < 8 || file.len() < start || file.len() - start < len {
        bail!("truncated: the compressed kernel ends behind the end of the file");
    }
    // In paragraphs. A signature may follow.
    let size = u32_at(file, 0x1f4).context(missing)? as usize * 16;
    if file.len() < (sectors + 1) * 512 + size {
        bail!("truncated: {} bytes of {}", file.len(), (sectors + 1) * 512 + size);
    }
    let at = u16_at(file, 0x20e).context(missing)? as usize + 0x200;
    let text = file.get(at..).filter(|_| at > 0x200).context("no version string")?;
    let text = &text[..text.len().min(256)];
    let word = text.split(|b| *b == 0 || *b == b' ').next().unwrap_or_default();
    let printable = |w: &&str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_graphic());
    let release = std::str::from_utf8(word).ok().filter(printable).context("no version string")?;
    Ok(Setup {
        version,
        release: release.to_owned(),
        align: u32_at(file, 0x230).context(missing)? as u64,
        pref_address: u64_at(file, 0x258).context(missing)?,
        init_size: u32_at(file, 0x260).context(missing)?,
        cmdline_size: u32_at(file, 0x238).context(missing)?,
        payload: start..start + len,
    })
}

/// Unpacks the kernel. The payload ends with its unpacked size.
pub fn unpack(file: &[u8], setup: &Setup) -> Result<Vec<u8>> {
    let payload = &file[setup.payload.clone()];
    let size = u32_at(payload, payload.len() - 4).unwrap_or_default() as usize;
    if size > MAX_IMAGE {
        bail!("the kernel unpacks to {size} bytes, more than this tool handles");
    }
    let packed = &payload[..payload.len() - 4];
    let image = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(&packed[4..], size)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            read_all(zstd::stream::read::Decoder::with_buffer(packed)?.single_frame(), size, "zstd")?
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read_all(liblzma::read::XzDecoder::new(packed), size, "xz")?,
        // The size is part of the gzip format.
        [0x1f, 0x8b, ..] => read_all(flate2::read::GzDecoder::new(payload), size, "gzip")?,
        other => bail!("unknown compression, starting with {}", hex(&other[..6])),
    };
    if image.len() != size {
        bail!("the kernel unpacks to {} bytes instead of {size}", image.len());
    }
    Ok(image)
}

fn read_all(reader: impl Read, size: usize, method: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(size);
    reader.take(size as u64 + 1).read_to_end(&mut out).with_context(|| format!("damaged {method} stream"))?;
    Ok(out)
}

/// LZ4's legacy frame: blocks of at most 8 MiB, each behind its packed length.
fn lz4_legacy(mut packed: &[u8], size: usize) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = vec![0; size];
    let mut at = 0;
    while !packed.is_empty() {
        let len = u32_at(packed, 0).context("damaged LZ4 stream: no block length")? as usize;
        let block = packed.get(4..).and_then(|p| p.get(..len)).context("damaged LZ4 stream: truncated block")?;
        let room = (at + BLOCK).min(size);
        at += lz4_flex::block::decompress_into(block, &mut out[at..room]).context("damaged LZ4 stream")?;
        packed = &packed[4 + len..];
    }
    out.truncate(at);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_legacy_blocks() {
        // Two blocks of literals: token 0x30 = 3 literals, no match.
        let packed = [4, 0, 0, 0, 0x30, b'a', b'b', b'c', 3, 0, 0, 0, 0x20, b'd', b'e'];
        assert_eq!(lz4_legacy(&packed, 5).unwrap(), b"abcde");
        assert!(lz4_legacy(&packed[..12], 5).is_err());
        assert!(lz4_legacy(&packed, 4).is_err());
    }

    fn header() -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[0x1f1] = 3;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        file[0x500..0x50a].copy_from_slice(b"6.1.0-x (b");
        (file[0x211], file[0x234], file[0x236]) = (1, 1, 1);
        file[0x24c..0x250].copy_from_slice(&16u32.to_le_bytes());
        file
    }

    #[test]
    fn setup_header() {
        let good = setup(&header()).unwrap();
        assert_eq!((good.release.as_str(), good.payload), ("6.1.0-x", 2048..2064));
        for at in [0x202, 0x207, 0x211, 0x234, 0x236] {
            let mut bad = header();
            bad[at] = 0;
            assert!(setup(&bad).is_err(), "{at:#x}");
        }
        assert!(setup(&header()[..2060]).is_err());
        assert!(setup(&header()[..0x210]).is_err());
        for (at, byte) in [(0x501, b'\n'), (0x500, 0), (0x502, 0xff), (0x1f6, 1)] {
            let mut bad = header();
            bad[at] = byte;
            assert!(setup(&bad).is_err(), "{at:#x}");
        }
        assert!(unpack(&header(), &good_payload()).unwrap_err().to_string().contains("unknown compression"));
    }

    fn good_payload() -> Setup {
        setup(&header()).unwrap()
    }
}
