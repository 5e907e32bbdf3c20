//! Packing a page: what never changes as an LZ4 block, and a few rare bytes of it to tell the page by
use core::ops::Range;

use lz4_flex::block::compress;

use crate::lz4::unpack;
use crate::wire::{NO_PROBE, PROBE};
use crate::{PAGE, PageBytes};

/// A packed page.
pub(crate) struct Packed {
    /// LZ4 block of the page with zeros at its sites.
    pub block: Vec<u8>,
    /// What its sites cover.
    pub fields: Vec<u8>,
    /// A few of its bytes.
    pub probe: u32,
    /// Where they are.
    pub probe_at: u16,
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
        let probe_at = probe(page, covered);
        let probe = probe_at.map_or([0; PROBE], |at| core::array::from_fn(|i| page[at + i]));
        (block.len() + fields.len() < PAGE).then_some(Self {
            block,
            fields,
            probe: u32::from_le_bytes(probe),
            probe_at: probe_at.map_or(NO_PROBE, |at| at as u16),
        })
    }
}

/// Where the bytes are that are rarest in the page, outside of its sites.
fn probe(page: &PageBytes, covered: &[Range<usize>]) -> Option<usize> {
    let mut often = [0u32; 256];
    page.iter().for_each(|b| often[*b as usize] += 1);
    let starts = core::iter::once(0).chain(covered.iter().map(|r| r.end));
    let ends = covered.iter().map(|r| r.start).chain([PAGE]);
    let windows = starts.zip(ends).flat_map(|(start, end)| start..(end + 1).saturating_sub(PROBE).max(start));
    windows.min_by_key(|at| page[*at..at + PROBE].iter().map(|b| often[*b as usize]).sum::<u32>())
}
