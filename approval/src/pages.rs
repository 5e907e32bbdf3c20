//! The pages' bytes: reference bytes at first, then those last verified
//!
//! A *plain* page is stored in place, whole. A *packed* one is in two parts: an LZ4 block of what never changes, with zeros
//! at its sites, and in place only what its sites cover, one after the other.
use core::ops::Range;

use crate::lz4::unpack;
use crate::view::View;
use crate::{PAGE, PageBytes};

/// The bytes of all pages.
pub struct Pages<'a> {
    view: View<'a>,
    code: &'a mut [u8],
}

impl<'a> Pages<'a> {
    /// The pages of an approval, with its code section or a copy of that.
    pub fn new(view: &View<'a>, code: &'a mut [u8]) -> Self {
        Self { view: *view, code }
    }

    /// Number of pages.
    #[expect(clippy::len_without_is_empty, reason = "a kernel has code")]
    pub fn len(&self) -> usize {
        self.view.pages()
    }

    /// The code section as it is now.
    pub fn code(&self) -> &[u8] {
        self.code
    }

    /// The bytes of a page; none if its block is malformed, which launch does not look for: such a page is nowhere found, never
    /// approved. `room` is for the bytes of a packed one: 4 KiB of the caller's stack, so that functions of the rules that have
    /// one are kept from being inlined into each other.
    pub fn get<'p>(&'p self, page: u32, room: &'p mut PageBytes) -> Option<&'p PageBytes> {
        let mut rest = self.stored(page);
        let packed = self.view.packed(page as usize);
        if packed.is_empty() {
            return rest.try_into().ok();
        }
        unpack(packed, room)?;
        for covered in self.view.covered(page as usize) {
            let field = rest.split_off(..covered.len())?;
            room[covered].copy_from_slice(field);
        }
        Some(room)
    }

    /// The first page whose block is malformed.
    pub fn malformed(&self) -> Option<u32> {
        (0..self.len() as u32).find(|page| self.get(*page, &mut [0; PAGE]).is_none())
    }

    /// Whether a page may have these bytes: a look at its probes, which rules nearly all pages out.
    #[inline]
    pub fn may_be(&self, page: u32, bytes: &PageBytes) -> bool {
        let mut probes = self.view.page_table.at(page as usize).probes();
        probes.all(|(at, byte)| bytes.get(at).is_none_or(|found| *found == byte))
    }

    /// Keeps the bytes of a page that was verified.
    pub fn keep(&mut self, page: u32, bytes: &PageBytes) {
        let view = self.view;
        let range = self.range(page);
        let mut rest = &mut self.code[range];
        if view.packed(page as usize).is_empty() {
            return rest.copy_from_slice(bytes);
        }
        for covered in view.covered(page as usize) {
            let (field, behind) = rest.split_at_mut(covered.len());
            field.copy_from_slice(&bytes[covered]);
            rest = behind;
        }
    }

    /// The first bytes of a page, no more than the end of a site that begins in the page before.
    pub fn first(&self, page: u32, count: usize) -> &[u8] {
        &self.stored(page)[..count]
    }

    /// The last bytes of a page, no more than the beginning of a site that ends in the next.
    pub fn last(&self, page: u32, count: usize) -> &[u8] {
        let stored = self.stored(page);
        &stored[stored.len() - count..]
    }

    /// What of a page is in the code section.
    #[inline]
    fn stored(&self, page: u32) -> &[u8] {
        &self.code[self.range(page)]
    }

    #[inline]
    fn range(&self, page: u32) -> Range<usize> {
        let table = self.view.page_table;
        table.at(page as usize).at as usize..table.at(page as usize + 1).at as usize
    }
}
