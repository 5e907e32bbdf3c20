//! Packing a page: what never changes as an LZ4 block
use core::ops::Range;

use lz4_flex::block::compress;

use crate::lz4::unpack;
use crate::wire::{NO_PROBE, PROBES};
use crate::{PAGE, PageBytes};

/// A packed page.
pub(crate) struct Packed {
    /// LZ4 block of the page with zeros at its sites.
    pub block: Vec<u8>,
    /// What its sites cover.
    pub fields: Vec<u8>,
}

impl Packed {
    /// A page whose sites cover these ranges, in order; `None` if it is not smaller so.
    pub(crate) fn new(page: &PageBytes, covered: &[Range<usize>]) -> Option<Self> {
        let mut fixed = *page;
        let mut fields = Vec::new();
        for range in covered {
            fields.extend_from_slice(&page[range.clone()]);
            fixed[range.clone()].fill(0);
        }
        let block = compress(&fixed);
        let mut back = [0x55; PAGE];
        assert!(unpack(&block, &mut back).is_some() && back == fixed, "LZ4 does not give back what it was given");
        (block.len() + fields.len() < PAGE).then_some(Self { block, fields })
    }
}

/// The bytes to tell a page by, and where they are: those that are rarest in the page, neither at its sites nor zero.
pub(crate) fn probes(page: &PageBytes, covered: &[Range<usize>]) -> (u32, u64) {
    let mut often = [0u32; 256];
    page.iter().for_each(|b| often[*b as usize] += 1);
    let starts = core::iter::once(0).chain(covered.iter().map(|r| r.end));
    let ends = covered.iter().map(|r| r.start).chain([PAGE]);
    let fixed = starts.zip(ends).flat_map(|(start, end)| start..end);
    let mut rarest: Vec<usize> = fixed.filter(|at| page[*at] != 0).collect();
    rarest.sort_by_key(|at| often[page[*at] as usize]);
    (0..PROBES).fold((0, 0), |(bytes, places), i| {
        let at = rarest.get(i).copied();
        let byte = at.map_or(0, |at| page[at]);
        let place = at.map_or(NO_PROBE, |at| at as u16);
        (bytes | (byte as u32) << (8 * i), places | (place as u64) << (16 * i))
    })
}
