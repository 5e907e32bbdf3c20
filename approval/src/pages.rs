//! The pages' bytes, in place: reference bytes at first, then those last verified
use core::ops::{Index, IndexMut, Range};

use crate::view::{Table, View};
use crate::wire::Page;
use crate::{PAGE, PageBytes};

/// The bytes of all pages. A page ends in zeros that are not stored: they never change, as no site is there.
pub struct Pages<'a> {
    table: Table<'a, Page>,
    code: &'a mut [u8],
}

impl<'a> Pages<'a> {
    /// The pages of an approval, with its code section or a copy of that.
    pub fn new(view: &View<'a>, code: &'a mut [u8]) -> Self {
        Self { table: view.page_table, code }
    }

    /// Number of pages.
    #[expect(clippy::len_without_is_empty, reason = "a kernel has code")]
    pub fn len(&self) -> usize {
        self.table.len() - 1
    }

    /// Length of the code section.
    pub(crate) fn bytes(&self) -> usize {
        self.code.len()
    }

    /// Keeps the bytes of a page that was verified.
    pub fn keep(&mut self, page: u32, bytes: &PageBytes) {
        let stored = &mut self[page];
        stored.copy_from_slice(&bytes[..stored.len()]);
    }

    /// A page with the zeros it ends in.
    pub fn whole(&self, page: u32) -> PageBytes {
        let mut whole = [0; PAGE];
        whole[..self[page].len()].copy_from_slice(&self[page]);
        whole
    }

    #[inline]
    fn range(&self, page: u32) -> Range<usize> {
        self.table.at(page as usize).at as usize..self.table.at(page as usize + 1).at as usize
    }
}

/// The bytes of a page, without the zeros it ends in.
impl Index<u32> for Pages<'_> {
    type Output = [u8];
    #[inline]
    fn index(&self, page: u32) -> &[u8] {
        &self.code[self.range(page)]
    }
}

impl IndexMut<u32> for Pages<'_> {
    #[inline]
    fn index_mut(&mut self, page: u32) -> &mut [u8] {
        let range = self.range(page);
        &mut self.code[range]
    }
}
