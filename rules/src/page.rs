//! Comparing a page: every byte, or not approved
use core::ops::Range;

use secvisor_approval::wire::{NONE, Site};
use secvisor_approval::{PAGE, PageBytes};

use crate::check::{Check, made};
use crate::site::{Bindings, Context, Phase, Seen};
use crate::{Frame, FrameState, Machine, Rules};

/// Proof that a frozen frame holds a page of the approval. It has two constructors: behind the comparison
/// ([`Rules::compare`]), and for the loader's copy of the kernel ([`Rules::loaded`]).
pub struct Approved(());

/// The offset of the first byte that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch(pub u16);

/// A page that was compared and is right.
pub(crate) struct Match {
    /// Proof for [`crate::Access::Executable`].
    pub proof: Approved,
    /// The one site that is being written by code in the same page, where that was allowed for: its bytes are not
    /// verified and must not be executed.
    pub unfinished: Option<Range<usize>>,
}

/// What goes on while a page is looked at.
#[derive(Clone, Copy, Default)]
pub(crate) struct Circumstances {
    /// The page has just been written by an instruction in it: one site may be unfinished.
    pub patching: bool,
    /// Another CPU may be writing the page: what is not right is left alone for now.
    pub patience: bool,
    /// What it calls has been looked at.
    pub met: bool,
}

/// Where and what a page is compared as.
pub(crate) struct Place {
    /// Page of the approval.
    pub page: u32,
    /// Guest-virtual address of its first byte.
    pub va: u64,
    /// Life phase of the code.
    pub phase: Phase,
    /// What is going on meanwhile.
    pub circumstances: Circumstances,
}

impl Rules<'_> {
    /// The kernel's code as the loader has just put it into a frame that nobody else has touched yet.
    pub fn loaded(&mut self, frame: Frame) -> Option<Approved> {
        let page = self.kernel_page_of_frame(frame)?;
        self.note_approved(page, frame);
        Some(Approved(()))
    }

    /// Records that `frame` holds `page`.
    pub(crate) fn note_approved(&mut self, page: u32, frame: Frame) {
        self.frames.set(frame, Some(page));
        self.counters.approved += 1;
        self.places[page as usize] = frame.0 as u32;
        if self.is_init(page) {
            self.init_approved += 1;
        }
    }

    pub(crate) fn context(&self, place: &Place) -> Context<'_, '_> {
        let region = self.view.regions.at(self.view.region_of_page(place.page));
        let first_expr = match region.module {
            NONE => 0,
            module => self.view.modules.at(module as usize).first_expr as usize,
        };
        let (view, vars, choices) = (&self.view, &*self.vars, &self.choices);
        Context { view, vars, choices, tracers: self.tracers(), phase: place.phase, first_expr }
    }

    /// Compares the frozen `frame` with a page of the approval. `INV-1`, `INV-2`: the caller has frozen it.
    #[inline(never)]
    pub(crate) fn compare(
        &self,
        machine: &impl Machine,
        frame: Frame,
        place: &Place,
        binds: &mut Bindings,
    ) -> Result<Match, Mismatch> {
        let bytes = machine.page(frame);
        let mut room = [0; PAGE];
        let Some(last) = self.pages.get(place.page, &mut room) else { return Err(Mismatch(0)) };
        let context = self.context(place);
        let mut unfinished = None;
        let mut excuse = |range: Range<usize>| {
            if place.circumstances.patching && (unfinished.is_none() || !made(Check::OneUnfinished)) {
                unfinished = Some(range);
                return Ok(());
            }
            Err(Mismatch(range.start as u16))
        };
        let mut at = self.before(machine, bytes, &context, place, binds, &mut excuse)?;
        for index in self.view.sites_of(place.page as usize) {
            let site = self.view.sites.at(index);
            let (offset, len) = (site.offset(), self.view.site_len(&site));
            same(bytes, last, at, offset)?;
            let va = place.va + offset as u64;
            if offset + len > PAGE {
                if !self.straddler(machine, bytes, &context, place, &site, binds) {
                    excuse(offset..PAGE)?;
                }
                at = PAGE;
                break;
            }
            let seen = Seen { bytes: &bytes[offset..offset + len], low: 0, high: len };
            let last = &last[offset..offset + len];
            if !context.allows(&site, va, &seen, last, binds) {
                excuse(offset..offset + len)?;
            }
            at = offset + len;
        }
        same(bytes, last, at, PAGE)?;
        Ok(Match { proof: Approved(()), unfinished })
    }

    /// The end of a site that begins in the page before; where the rest of this page begins.
    fn before(
        &self,
        machine: &impl Machine,
        bytes: &PageBytes,
        context: &Context<'_, '_>,
        place: &Place,
        binds: &mut Bindings,
        excuse: &mut impl FnMut(Range<usize>) -> Result<(), Mismatch>,
    ) -> Result<usize, Mismatch> {
        let region = self.view.regions.at(self.view.region_of_page(place.page));
        if place.page == region.first_page {
            return Ok(0);
        }
        let Some(index) = self.view.sites_of(place.page as usize - 1).last() else { return Ok(0) };
        let site = self.view.sites.at(index);
        let (first, len) = (PAGE - site.offset(), self.view.site_len(&site));
        if len <= first {
            return Ok(0);
        }
        let mut whole = [0; secvisor_approval::wire::MAX_SITE];
        let mut last = whole;
        whole[first..len].copy_from_slice(&bytes[..len - first]);
        last[..first].copy_from_slice(self.pages.last(place.page - 1, first));
        last[first..len].copy_from_slice(self.pages.first(place.page, len - first));
        let neighbour = self.neighbour(machine, place.page - 1, place.va - PAGE as u64, binds);
        if let Some(other) = neighbour {
            machine.read(other, site.offset(), &mut whole[..first]);
        }
        let seen = Seen { bytes: &whole[..len], low: if neighbour.is_some() { 0 } else { first }, high: len };
        let va = place.va - first as u64;
        if !context.allows(&site, va, &seen, &last[..len], binds) {
            excuse(0..len - first)?;
        }
        Ok(len - first)
    }

    /// A site that begins in this page and ends in the next.
    fn straddler(
        &self,
        machine: &impl Machine,
        bytes: &PageBytes,
        context: &Context<'_, '_>,
        place: &Place,
        site: &Site,
        binds: &mut Bindings,
    ) -> bool {
        let (first, len) = (PAGE - site.offset(), self.view.site_len(site));
        let mut whole = [0; secvisor_approval::wire::MAX_SITE];
        let mut last = whole;
        whole[..first].copy_from_slice(&bytes[site.offset()..]);
        last[..first].copy_from_slice(self.pages.last(place.page, first));
        last[first..len].copy_from_slice(self.pages.first(place.page + 1, len - first));
        let neighbour = self.neighbour(machine, place.page + 1, place.va + PAGE as u64, binds);
        if let Some(other) = neighbour {
            machine.read(other, 0, &mut whole[first..len]);
        }
        let seen = Seen { bytes: &whole[..len], low: 0, high: if neighbour.is_some() { len } else { first } };
        let va = place.va + site.offset() as u64;
        context.allows(site, va, &seen, &last[..len], binds)
    }

    /// The frame that holds the page next to one under comparison, if it can be told. Where the neighbour is approved,
    /// its own frame counts, so that a straddling site is compared whole when the later of the two pages has its turn.
    /// Before that, where the guest's tables lead is a hint, and a wrong one costs nothing but a refusal.
    pub(crate) fn neighbour(&self, machine: &impl Machine, page: u32, va: u64, binds: &Bindings) -> Option<Frame> {
        if !made(Check::Straddler) {
            return None;
        }
        let approved = Frame(self.places[page as usize] as u64);
        let approved = Some(approved).filter(|f| self.frames.get(*f) == FrameState::Approved(page) && !binds.anew());
        let approved = approved.filter(|_| made(Check::Neighbour));
        let frame = self.frame_of_kernel_page(page).or(approved).or_else(|| machine.translate(va))?;
        let ram = matches!(self.frames.get(frame), FrameState::Data | FrameState::Approved(_));
        ram.then_some(frame)
    }

    /// Whether a page is init text that Linux has freed. Its frame is ordinary memory, where a module may lie.
    pub(crate) fn is_freed(&self, page: u32) -> bool {
        self.init_over && self.is_init(page) && made(Check::InitFreed)
    }

    /// Whether a frame is one that the loader put a page of the kernel's in, and still is.
    pub(crate) fn is_kernels(&self, frame: Frame) -> bool {
        self.kernel_page_of_frame(frame).is_some_and(|page| !self.is_freed(page))
    }

    /// Whether a page is the kernel's init text.
    pub(crate) fn is_init(&self, page: u32) -> bool {
        let region = self.view.regions.at(self.view.region_of_page(page));
        region.kind == secvisor_approval::wire::RegionKind::KernelInit as u32
    }
}

/// Compares a range, a word at a time.
fn same(a: &PageBytes, b: &PageBytes, from: usize, to: usize) -> Result<(), Mismatch> {
    let (a, b) = (&a[from..to], &b[from..to]);
    let ((words_a, rest_a), (words_b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let equal = words_a.iter().zip(words_b).all(|(x, y)| u64::from_ne_bytes(*x) == u64::from_ne_bytes(*y))
        && rest_a.iter().zip(rest_b).all(|(x, y)| x == y);
    if equal || !made(Check::Bytes) {
        return Ok(());
    }
    let first = a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0);
    Err(Mismatch((from + first) as u16))
}
