//! Unpacking an LZ4 block (`doc/lz4_Block_format.md` of LZ4) that holds one page
//!
//! A block is a row of sequences: a token, literals, then a match, which is a copy of earlier bytes of the page. The last
//! sequence ends with its literals.
use core::cell::Cell;

use crate::{PAGE, PageBytes};

/// Shortest match in bytes.
const MIN_MATCH: usize = 4;

/// Unpacks a block; `None` if it is malformed or anything but one page.
pub(crate) fn unpack(mut block: &[u8], page: &mut PageBytes) -> Option<()> {
    let mut at = 0;
    loop {
        let token = byte(&mut block)?;
        let count = length(token >> 4, &mut block)?;
        let literals = block.split_off(..count)?;
        page.get_mut(at..at + count)?.copy_from_slice(literals);
        at += count;
        if block.is_empty() {
            return (at == PAGE).then_some(());
        }
        let distance = u16::from_le_bytes([byte(&mut block)?, byte(&mut block)?]) as usize;
        let end = at + MIN_MATCH + length(token & LONG, &mut block)?;
        if distance == 0 {
            return None;
        }
        // Byte by byte: what is copied may be part of the copy.
        let bytes = Cell::from_mut(page.get_mut(at.checked_sub(distance)?..end)?).as_slice_of_cells();
        bytes.iter().zip(&bytes[distance..]).for_each(|(from, to)| to.set(from.get()));
        at = end;
    }
}

/// In a token: further bytes of the length follow, up to one that is not 255.
const LONG: u8 = 15;

fn length(short: u8, block: &mut &[u8]) -> Option<usize> {
    let mut length = short as usize;
    let mut more = short == LONG;
    while more {
        let further = byte(block)?;
        length += further as usize;
        more = further == u8::MAX;
    }
    Some(length)
}

fn byte(block: &mut &[u8]) -> Option<u8> {
    block.split_off_first().copied()
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use lz4_flex::block::{compress, decompress_into};
    use proptest::prelude::*;

    use super::*;

    /// Pages of short pieces of a few kinds, so that matches of every length and distance come up.
    fn pages() -> impl Strategy<Value = Box<PageBytes>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..40),
            (any::<u8>(), 1..700usize).prop_map(|(byte, count)| vec![byte; count]),
            (proptest::collection::vec(any::<u8>(), 1..9), 1..90usize).prop_map(|(bytes, count)| bytes.repeat(count)),
        ];
        proptest::collection::vec(piece, 1..200).prop_map(|pieces| {
            let mut page = Box::new([0; PAGE]);
            page.iter_mut().zip(pieces.iter().flatten()).for_each(|(to, from)| *to = *from);
            page
        })
    }

    proptest! {
        #[test]
        fn a_page_comes_back(page in pages()) {
            let mut back = [0x55; PAGE];
            prop_assert_eq!(unpack(&compress(&*page), &mut back), Some(()));
            prop_assert!(back == *page);
        }

        #[test]
        fn what_is_malformed_is_what_the_library_says_is(
            page in pages(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let mut block = compress(&*page);
            for (at, byte) in changes {
                let at = at.index(block.len());
                block[at] = byte;
            }
            block.truncate(cut.map_or(block.len(), |at| at.index(block.len())));
            let (mut ours, mut theirs) = ([0; PAGE], [0; PAGE]);
            let sound = decompress_into(&block, &mut theirs).is_ok_and(|len| len == PAGE);
            prop_assert_eq!(unpack(&block, &mut ours).is_some(), sound);
            prop_assert!(!sound || ours == theirs);
        }
    }

    #[test]
    fn a_match_reaches_no_further_than_the_page() {
        let all = |rest: &[u8]| {
            // One literal, then that many copies of it and more.
            let mut block = vec![0x1f, 7, 1, 0];
            block.extend([255; 15]);
            block.extend(rest);
            unpack(&block, &mut [0; PAGE])
        };
        // 1 + 4 + 15 + 15 * 255 = 3845; 251 more are the page, with no literals behind.
        assert_eq!(all(&[251, 0]), Some(()));
        assert_eq!(all(&[252, 0]), None);
        assert_eq!(all(&[250, 0]), None);
        assert_eq!(all(&[250, 0x10, 8]), Some(()));
        assert_eq!(unpack(&[], &mut [0; PAGE]), None);
    }

    #[test]
    fn a_match_begins_within_the_page() {
        for distance in [0, 2, 0xffff_u16] {
            let [low, high] = distance.to_le_bytes();
            let mut block = vec![0x1f, 7, low, high];
            block.extend([255; 15]);
            block.extend([251, 0]);
            assert_eq!(unpack(&block, &mut [0; PAGE]), None, "{distance}");
        }
    }
}
