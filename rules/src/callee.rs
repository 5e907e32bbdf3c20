//! What a page calls is looked at before the page, where it must be
//!
//! A page is approved when it is fetched, and so before what it calls has run. Two kinds of sites may call only what is
//! approved, or has its place: function entries a tracer ([`crate::tracer`]), static calls a function. Linux puts a
//! function of a module there before anything but the module's init text has run, or even nothing (`libeth_attach_xdp`,
//! `drivers/net/ethernet/intel/libeth`). So a page that is wrong otherwise has what it calls looked at first, as if that had
//! been fetched. This gives nobody anything: whoever can write the call can make the fetch.
use secvisor_approval::wire::SiteKind;
use secvisor_approval::{PAGE, PageBytes};

use crate::page::Circumstances;
use crate::{Access, Frame, FrameState, Machine, Rules, Verdict};

/// Most pages that are looked at for one.
const MOST: usize = 8;

/// Addresses of pages, each once.
#[derive(Default)]
struct Pages {
    pages: [u64; MOST],
    count: usize,
}

impl Pages {
    fn add(&mut self, page: u64) {
        if self.count < MOST && !self.iter().any(|known| known == page) {
            self.pages[self.count] = page;
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.pages.into_iter().take(self.count)
    }
}

impl Rules<'_> {
    /// Looks at what the frozen `frame`, a page at `va`, calls in the modules' range: what begins a page, which may be a
    /// tracer, and the static calls of the page of the approval that it should be, if that is known. Whether anything has
    /// been approved.
    pub(crate) fn meet_callees(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        page: Option<u32>,
    ) -> bool {
        if !self.booted {
            return false;
        }
        let bytes = machine.page(frame);
        let (mut tracers, mut functions) = (Pages::default(), Pages::default());
        for at in (0..=PAGE - 5).filter(|_| !self.tracers.is_empty()) {
            self.target(bytes, va, at).filter(|t| t.is_multiple_of(4096)).inspect(|t| tracers.add(*t));
        }
        for site in page.into_iter().flat_map(|page| self.view.sites_of(page as usize)) {
            let site = self.view.sites.at(site);
            let calls = matches!(site.kind(), Some(SiteKind::StaticCall | SiteKind::StaticJump | SiteKind::Trampoline));
            if calls && site.offset() <= PAGE - 5 {
                self.target(bytes, va, site.offset()).inspect(|t| functions.add(t & !0xfff));
            }
        }
        let (some, all) = (self.tracers.clone(), 0..self.view.regions.len());
        let callees = tracers.iter().map(|t| (t, some.clone())).chain(functions.iter().map(|f| (f, all.clone())));
        // Not `any`: all of them.
        callees.filter(|(va, regions)| self.meet(machine, frame, *va, regions.clone())).count() > 0
    }

    /// Where a branch at an offset leads, if into the modules' range. Its first byte may be INT3 for now.
    fn target(&self, bytes: &PageBytes, va: u64, at: usize) -> Option<u64> {
        let [0xe8 | 0xe9 | 0xcc, a, b, c, d] = bytes[at..at + 5] else { return None };
        let target = (va + at as u64 + 5).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]) as i64);
        (self.view.info.modules_start..self.view.info.modules_end).contains(&target).then_some(target)
    }

    /// Approves the page at `va`, if it is not approved yet and one of these regions'.
    fn meet(&mut self, machine: &mut impl Machine, caller: Frame, va: u64, regions: core::ops::Range<usize>) -> bool {
        let Some(frame) = machine.translate(va) else { return false };
        // The caller is under comparison: it is frozen, and stays so.
        let data = frame != caller && self.frames.get(frame) == FrameState::Data;
        if !data || self.tracers().live().any(|live| live == va) {
            return false;
        }
        if machine.set_access(frame, Access::Frozen).is_err() {
            return false;
        }
        let found = self.search(machine, frame, va, Circumstances::default(), regions);
        let met = matches!(found, Some(Verdict::Resume));
        if !met {
            machine.set_access(frame, Access::Data).expect("a frame that was set apart stays so");
        }
        met
    }
}
