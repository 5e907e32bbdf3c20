//! All that the rules remember, owned in one place
use core::ops::Range;

use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_approval::view::View;
use secvisor_approval::wire::{Info, RegionKind};

use crate::choice::Choices;
use crate::{Frame, FrameTable};

/// How often what happened since launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Frames approved now.
    pub approved: u64,
    /// Pages compared byte by byte and found right.
    pub verified: u64,
    /// Fetches refused.
    pub refused: u64,
    /// Tampered pages put back.
    pub restored: u64,
    /// Writes that turned approved frames into data.
    pub writes: u64,
    /// The same after the first user-mode instruction.
    pub writes_after_boot: u64,
}

/// Memory the rules work in, given by the hypervisor at launch.
pub struct Memory<'a> {
    /// The approval.
    pub view: View<'a>,
    /// Its pages, in which the bytes last verified are kept.
    pub pages: Pages<'a>,
    /// State of every frame.
    pub frames: FrameTable<'a>,
    /// One entry per page of the approval: where it was last approved.
    pub places: &'a mut [u32],
    /// One entry per variable: its value, 0 while unbound.
    pub vars: &'a mut [u64],
}

/// No place: the page is not approved anywhere.
pub const NO_FRAME: u32 = u32::MAX;

/// The rules and all their state.
pub struct Rules<'a> {
    pub(crate) view: View<'a>,
    pub(crate) pages: Pages<'a>,
    pub(crate) frames: FrameTable<'a>,
    pub(crate) places: &'a mut [u32],
    pub(crate) vars: &'a mut [u64],
    pub(crate) choices: Choices,
    pub(crate) kernel_frame: Frame,
    /// The regions among which the tracers are.
    pub(crate) tracers: Range<usize>,
    pub(crate) booted: bool,
    pub(crate) init_pages: u32,
    pub(crate) init_approved: u32,
    pub(crate) init_over: bool,
    pub(crate) counters: Counters,
}

impl<'a> Rules<'a> {
    /// The rules for a kernel whose image begins at `kernel_frame`. The loader has put it there and gives each of
    /// its code frames execute rights through [`Rules::loaded`] next.
    pub fn new(memory: Memory<'a>, kernel_frame: Frame) -> Self {
        let Memory { view, pages, frames, places, vars } = memory;
        assert!(pages.len() == view.pages() && places.len() == pages.len() && vars.len() == view.vars.len());
        assert!(pages.len() <= crate::frame::MAX_PAGES, "the approval has more pages than a frame's state can name");
        places.fill(NO_FRAME);
        vars.fill(0);
        let init = view.regions.iter().filter(|r| r.kind == RegionKind::KernelInit as u32);
        let init_pages = init.map(|r| r.pages).sum();
        let tracer = |r: &secvisor_approval::wire::Region| r.kind == RegionKind::Tracer as u32;
        let first = view.regions.iter().position(|r| tracer(&r)).unwrap_or(0);
        let last = view.regions.iter().enumerate().filter(|(_, r)| tracer(r)).last();
        Self {
            tracers: first..last.map_or(first, |(i, _)| i + 1),
            view,
            pages,
            frames,
            places,
            vars,
            choices: Choices::new(),
            kernel_frame,
            booted: false,
            init_pages,
            init_approved: 0,
            init_over: false,
            counters: Counters::default(),
        }
    }

    /// State of every frame.
    pub fn frames(&self) -> &FrameTable<'a> {
        &self.frames
    }
    /// The approval.
    pub fn view(&self) -> &View<'a> {
        &self.view
    }
    /// How often what happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }
    /// Value of a variable, 0 while unbound.
    pub fn variable(&self, index: usize) -> u64 {
        self.vars[index]
    }
    /// Whether the first user-mode instruction has been reached.
    pub fn booted(&self) -> bool {
        self.booted
    }

    /// The frame the loader put a kernel page in, and the reverse below. `INV-4`.
    pub(crate) fn frame_of_kernel_page(&self, page: u32) -> Option<Frame> {
        let region = self.view.regions.at(self.view.region_of_page(page));
        (region.module == secvisor_approval::wire::NONE).then(|| {
            let offset = region.base - self.view.info.image_va + (page - region.first_page) as u64 * PAGE as u64;
            Frame(self.kernel_frame.0 + offset / PAGE as u64)
        })
    }

    /// The kernel page that belongs in a frame.
    pub(crate) fn kernel_page_of_frame(&self, frame: Frame) -> Option<u32> {
        let Info { image_va, .. } = self.view.info;
        let index = frame.0.checked_sub(self.kernel_frame.0)?;
        self.view.regions.iter().take_while(|r| r.module == secvisor_approval::wire::NONE).find_map(|r| {
            let first = (r.base - image_va) / PAGE as u64;
            let inside = index.checked_sub(first).filter(|i| *i < r.pages as u64)?;
            Some(r.first_page + inside as u32)
        })
    }
}
