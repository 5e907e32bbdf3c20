//! A kernel in memory, and the rules that watch it

use cpu_time::ThreadTime;
use secvisor_approval::view::{self, View};
use secvisor_approval::wire::{NONE, SiteKind};
use secvisor_approval::{PAGE, PageBytes};
use secvisor_rules::{Access, Event, Frame, FrameTable, Machine, Memory, OutOfTables, Rules, Verdict};
use std::time::Duration;

const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Memory from the kernel's first frame on; rights are not kept.
struct Ram {
    first: Frame,
    pages: Vec<PageBytes>,
}

impl Ram {
    fn index(&self, frame: Frame) -> usize {
        (frame.0 - self.first.0) as usize
    }
}

impl Machine for Ram {
    fn page(&self, frame: Frame) -> &PageBytes {
        &self.pages[self.index(frame)]
    }
    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }
    fn restore(&mut self, frame: Frame, _: &PageBytes) {
        panic!("{frame:?} is not as it should be");
    }
    fn set_access(&mut self, _: Frame, _: Access) -> Result<(), OutOfTables> {
        Ok(())
    }
    fn translate(&self, _: u64) -> Option<Frame> {
        None
    }
}

/// A kernel whose sites hold what Linux has put there.
pub struct Kernel {
    rules: Rules<'static>,
    ram: Ram,
    /// Every page of code, and its address.
    code: Vec<(Frame, u64)>,
    sites: usize,
}

impl Kernel {
    /// The kernel of this approval, with all its sites patched.
    pub fn patched(approval: Vec<u8>) -> Kernel {
        let (_, view, pages) = view::open(approval.leak()).expect("an approval of this version");
        let first = Frame::containing(view.info.image_phys);
        let frames = view.info.image_span / PAGE as u64;
        let mut ram = Ram { first, pages: vec![[0; PAGE]; frames as usize] };
        let mut code = Vec::new();
        let mut sites = 0;
        for region in view.regions.iter().filter(|region| region.module == NONE) {
            for page in 0..region.pages {
                let va = region.base + u64::from(page) * PAGE as u64;
                let frame = Frame(first.0 + (va - view.info.image_va) / PAGE as u64);
                let index = ram.index(frame);
                let number = (region.first_page + page) as usize;
                ram.pages[index] = *pages.get(region.first_page + page, &mut [0; PAGE]).unwrap();
                patch(&view, number, &mut ram.pages[index]);
                sites += view.sites_of(number).len();
                code.push((frame, va));
            }
        }
        let mut frame_table = FrameTable::new(vec![0; (first.0 + frames) as usize].leak());
        frame_table.add_ram(0..first.0 + frames);
        let places = vec![0; pages.len()].leak();
        let vars = vec![0; view.vars.len()].leak();
        let rules = Rules::new(Memory { view, pages, frames: frame_table, places, vars }, first);
        Kernel { rules, ram, code, sites }
    }

    /// How many pages of code it has.
    pub fn pages(&self) -> usize {
        self.code.len()
    }

    /// How many sites begin in them.
    pub fn sites(&self) -> usize {
        self.sites
    }

    /// Fetches from each page once, which must be right; how long that took, other programs' time aside. Then the pages
    /// are writable again.
    pub fn verify_all(&mut self) -> Duration {
        let start = ThreadTime::now();
        for &(frame, va) in &self.code {
            let verdict =
                self.rules.step(&mut self.ram, Event::KernelFetch { frame, va, patching: false, tries: None });
            assert!(matches!(verdict, Verdict::Resume), "{va:#x} is not as it should be");
        }
        let time = start.elapsed();
        for &(frame, _) in &self.code {
            let verdict = self.rules.step(&mut self.ram, Event::Write { frame, from_within: false });
            assert!(matches!(verdict, Verdict::Resume));
        }
        time
    }
}

/// Gives each choice its last form that is the same everywhere, so that all before it are tried in vain, and switches
/// tracing off.
fn patch(view: &View<'_>, page: usize, bytes: &mut PageBytes) {
    for site in view.sites_of(page).map(|index| view.sites.at(index)) {
        let (offset, len) = (site.offset(), view.site_len(&site));
        if offset + len > PAGE {
            continue;
        }
        let at = &mut bytes[offset..offset + len];
        match site.kind() {
            Some(SiteKind::Ftrace) => at.copy_from_slice(&NOP5),
            Some(SiteKind::Choice) => {
                let template = view.templates.at(site.index() as usize);
                let mut variants = view.variants.range(template.first_variant as usize, template.variants as usize);
                if let Some(last) = variants.rfind(|variant| variant.fixes == 0) {
                    at.copy_from_slice(view.variant_bytes(&last, len));
                }
            }
            _ => {}
        }
    }
}
