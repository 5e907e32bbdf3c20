//! Packed pages: what is there, what is kept, what damage is noticed
use secvisor_approval::PAGE;
use secvisor_approval::build::seal;
use secvisor_approval::view::{self, Error};
use secvisor_approval::wire::*;

use crate::synthetic::Spec;
use crate::{damaged, error, file, section};

/// Number and record of every page that is packed, and the length of its block.
fn packed(file: &[u8]) -> Vec<(usize, Page, u32)> {
    let (at, len) = section(file, Section::Pages);
    let pages: Vec<Page> = file[at..at + len].chunks_exact(Page::SIZE).map(Page::read).collect();
    let pairs = (0..).zip(pages.windows(2)).map(|(n, pair)| (n, pair[0], pair[1].packed - pair[0].packed));
    pairs.filter(|(_, _, len)| *len > 0).collect()
}

#[test]
fn damaged_packed_pages_are_refused() {
    let whole = file();
    let all = packed(&whole);
    let modules: usize = Spec::new().regions.iter().filter(|r| r.module != NONE).map(|r| r.pages).sum();
    assert!(!all.is_empty() && all.len() < modules, "pages of modules of either kind: {} of {modules}", all.len());
    let (blocks, _) = section(&whole, Section::Packed);
    let mut sound = file();
    let view = view::open(&mut sound).unwrap().1;
    let covered = |number| view.covered(number).map(|range| range.len()).sum::<usize>();
    for (number, page, len) in all {
        let record = (Section::Pages, number * Page::SIZE);
        let next = (record.0, record.1 + Page::SIZE + 8);
        let block = (Section::Packed, page.packed as usize);
        let last = whole[blocks + (page.packed + len) as usize - 1];
        for (at, bytes) in [
            (next, page.packed.to_le_bytes().to_vec()),
            // Less or more in place than the sites cover.
            ((record.0, next.1 - 4), (page.at + covered(number) as u32 + 1).to_le_bytes().to_vec()),
        ] {
            let got = error(damaged(at, &bytes));
            let last = at.0 == next.0 && at.1 > record.1 + Page::SIZE && number + 1 == Spec::new().pages();
            assert_eq!(got, Some(Error::Record(Section::Pages, number + last as usize)), "{at:?}");
        }
        // More literals than there are.
        let mut malformed = damaged(block, &[0xff; 18]);
        let (_, _, pages) = view::open(&mut malformed).unwrap();
        assert_eq!(pages.malformed(), Some(number as u32));
        assert!(pages.get(number as u32, &mut [0; PAGE]).is_none());
        // One literal more or less is a block of another length; another literal is another approval.
        let another = damaged((block.0, block.1 + len as usize - 1), &[last ^ 1]);
        assert_eq!(error(another), None);
    }
}

#[test]
fn a_kernels_pages_are_plain() {
    // The block of a module's page, as if it were that of the kernel's last one.
    let whole = file();
    let (first, page, len) = packed(&whole)[0];
    assert_eq!(page.packed, 0);
    let kernel: usize = Spec::new().regions.iter().filter(|r| r.module == NONE).map(|r| r.pages).sum();
    let mut bytes = whole.clone();
    let at = section(&whole, Section::Pages).0;
    for number in kernel..=first {
        let field = at + number * Page::SIZE + 8;
        bytes[field..field + 4].copy_from_slice(&len.to_le_bytes());
    }
    seal(&mut bytes);
    assert_eq!(error(bytes), Some(Error::Record(Section::Pages, kernel - 1)));
}

#[test]
fn a_page_is_told_by_bytes_that_never_change() {
    let mut whole = file();
    let all = packed(&whole);
    let (_, view, pages) = view::open(&mut whole).unwrap();
    let mut room = [0; PAGE];
    for (number, page, _) in all {
        let bytes = *pages.get(number as u32, &mut room).unwrap();
        assert!(pages.may_be(number as u32, &bytes));
        for (at, byte) in page.probes() {
            assert!(view.covered(number).all(|covered| !covered.contains(&at)));
            assert_eq!(bytes[at], byte);
            let mut other = bytes;
            other[at] ^= 1;
            assert!(!pages.may_be(number as u32, &other));
        }
    }
}

#[test]
fn a_packed_page_holds_what_was_verified_last() {
    let mut file = file();
    let numbers: Vec<usize> = packed(&file).into_iter().map(|(number, ..)| number).collect();
    let (_, view, mut pages) = view::open(&mut file).unwrap();
    let mut room = [0; PAGE];
    let before: Vec<_> = (0..pages.len() as u32).map(|page| *pages.get(page, &mut room).unwrap()).collect();
    let mut straddling = 0;
    for number in numbers {
        let page = number as u32;
        let mut verified = before[number];
        let covered: Vec<_> = view.covered(number).collect();
        covered.iter().flat_map(Clone::clone).for_each(|at| verified[at] ^= 0xff);
        pages.keep(page, &verified);
        assert!(*pages.get(page, &mut room).unwrap() == verified);
        let (first, last) = (&covered[0], covered.last().unwrap());
        assert_eq!(*pages.first(page, first.len()), verified[first.clone()]);
        if last.end == PAGE {
            assert_eq!(*pages.last(page, last.len()), verified[last.clone()]);
        }
        straddling += (last.end == PAGE) as usize;
        let others = (0..pages.len()).filter(|other| *other != number);
        for other in others.collect::<Vec<_>>() {
            assert!(*pages.get(other as u32, &mut room).unwrap() == before[other], "page {other} changed with {page}");
        }
        pages.keep(page, &before[number]);
        assert!(*pages.get(page, &mut room).unwrap() == before[number]);
    }
    assert!(straddling > 0, "no packed page has a site that ends in the next");
}
