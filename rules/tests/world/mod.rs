//! A machine in small: RAM with rights, a Linux that patches itself, and somebody who tampers
//!
//! [`Ram`] is the machine the rules see. It checks what no rule may break: nothing is writable and executable,
//! nothing becomes executable that was not frozen before, and frames that are not the guest's are left alone.
//! [`World`] puts the rules on top and plays the hypervisor's part.
#![allow(dead_code)]
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use secvisor_approval::build::seal;
use secvisor_approval::view::{self, Opened, View};
use secvisor_approval::wire::{NONE, RegionKind, cond};
use secvisor_approval::{PAGE, PageBytes};
use secvisor_rules::{
    Access, Event, Frame, FrameState, FrameTable, Machine, Memory, OutOfTables, Rule, Rules, Verdict, Violation,
};

use crate::SLIDE;
use crate::synthetic::{self as s, Kind, SiteSpec, Spec, When};

/// Frames of the machine: RAM, then the hypervisor's, then a device's, then RAM again.
pub const FRAMES: u64 = 0x90;
pub const KERNEL: Frame = Frame(0x10);
pub const HYPERVISOR: Range<u64> = 0x30..0x38;
pub const DEVICE: Range<u64> = 0x38..0x40;
/// Frames that belong to nothing at first.
pub const FREE: Range<u64> = 0x40..FRAMES;

/// What a frame may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Data,
    Frozen,
    Executable,
}

/// The machine the rules see.
pub struct Ram {
    pub pages: Vec<PageBytes>,
    pub rights: Vec<Right>,
    /// What the guest's own tables say, by page.
    pub tables: BTreeMap<u64, Frame>,
    /// How many more frames the nested tables can set apart.
    pub room: usize,
    apart: Vec<bool>,
    /// Another CPU's last write, which lands while this frame is being frozen.
    pub race: Option<(Frame, usize, u8)>,
}

/// Whether a frame is RAM of the guest.
pub fn is_ram(frame: Frame) -> bool {
    frame.0 < FRAMES && !HYPERVISOR.contains(&frame.0) && !DEVICE.contains(&frame.0)
}

impl Ram {
    /// RAM full of zeros.
    pub fn new() -> Self {
        let frames = FRAMES as usize;
        Self {
            pages: vec![[0; PAGE]; frames],
            rights: vec![Right::Data; frames],
            tables: BTreeMap::new(),
            room: usize::MAX,
            apart: vec![false; frames],
            race: None,
        }
    }

    /// Maps pages from `va` on to frames.
    pub fn map(&mut self, va: u64, frames: &[Frame]) {
        for (i, frame) in frames.iter().enumerate() {
            self.tables.insert(va + (i * PAGE) as u64, *frame);
        }
    }
}

impl Machine for Ram {
    fn page(&self, frame: Frame) -> &PageBytes {
        assert!(is_ram(frame), "{frame:?} is not the guest's RAM");
        &self.pages[frame.0 as usize]
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }

    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        assert!(is_ram(frame), "{frame:?} is not the guest's RAM");
        assert_eq!(self.rights[frame.0 as usize], Right::Frozen, "put back while somebody can write");
        self.pages[frame.0 as usize] = *bytes;
    }

    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), OutOfTables> {
        assert!(is_ram(frame), "{frame:?} is not the guest's RAM");
        let at = frame.0 as usize;
        if !self.apart[at] {
            self.room = self.room.checked_sub(1).ok_or(OutOfTables)?;
            self.apart[at] = true;
        }
        let new = match access {
            Access::Data => Right::Data,
            Access::Frozen => Right::Frozen,
            Access::Executable(_) => Right::Executable,
        };
        if new == Right::Executable {
            assert_eq!(self.rights[at], Right::Frozen, "INV-2: {frame:?} was not frozen");
        }
        if let Some((_, offset, byte)) = self.race.take_if(|r| new == Right::Frozen && r.0 == frame) {
            self.pages[at][offset] = byte;
        }
        self.rights[at] = new;
        Ok(())
    }

    fn translate(&self, va: u64) -> Option<Frame> {
        self.tables.get(&(va & !0xfff)).copied()
    }
}

/// What came of an attempt to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs.
    Runs,
    /// One instruction runs.
    Step,
    /// It tries again.
    Waits,
    /// It runs, after the page was put back.
    Restored(Violation),
    /// It does not run.
    Refused(Violation),
}

impl Outcome {
    /// The rule that was broken.
    pub fn rule(self) -> Option<Rule> {
        match self {
            Self::Restored(v) | Self::Refused(v) => Some(v.rule),
            _ => None,
        }
    }
    pub fn refused(self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// The memory the rules work in.
pub struct Stage {
    file: Vec<u8>,
    frames: Vec<u16>,
    places: Vec<u32>,
    vars: Vec<u64>,
}

impl Stage {
    /// For an approval, whose kernel is moved if it can be.
    pub fn new(mut file: Vec<u8>) -> Self {
        if let Ok(mut kernel) = Opened::new(&mut file)
            && kernel.room() > 0
        {
            kernel.slide(SLIDE);
            seal(&mut file);
        }
        let frames = vec![0; FRAMES as usize];
        Self { file, frames, places: Vec::new(), vars: Vec::new() }
    }

    /// The approval's pages, if it can be opened.
    pub fn pages(&mut self) -> Option<Vec<PageBytes>> {
        view::open(&mut self.file).ok().map(|(_, _, pages)| {
            (0..pages.len() as u32).map(|page| pages.get(page, &mut [0; PAGE]).copied().unwrap_or([0; PAGE])).collect()
        })
    }

    /// Opens the approval and puts the rules on top; the kernel is not loaded yet.
    pub fn rules(&mut self) -> Result<Rules<'_>, view::Error> {
        let (_, view, pages) = view::open(&mut self.file)?;
        self.places.resize(pages.len(), 0);
        self.vars.resize(view.vars.len(), 0);
        let mut frames = FrameTable::new(&mut self.frames);
        frames.add_ram(0..DEVICE.start);
        frames.add_ram(DEVICE.end..FRAMES);
        frames.add_hypervisor(HYPERVISOR);
        let memory = Memory { view, pages, frames, places: &mut self.places, vars: &mut self.vars };
        Ok(Rules::new(memory, KERNEL))
    }
}

/// What holds on the CPU the simulated Linux runs on, [`s::UNSHOWN`] apart.
pub fn holds(raw: u16) -> bool {
    let known = [cond::BASE, cond::RETURN_SRSO, cond::UNIPROCESSOR, s::SMAP, s::UNSHOWN];
    let plain = known.contains(&(raw & !cond::NOT));
    plain != (raw & cond::NOT != 0)
}

/// A module's place: for each page of a region its frame, and the variables.
#[derive(Clone)]
pub struct Place {
    pub vars: Vec<u64>,
    pub frames: BTreeMap<usize, Vec<Frame>>,
}

/// The machine with the rules on top.
pub struct World<'a> {
    pub spec: Spec,
    pub rules: Rules<'a>,
    pub ram: Ram,
    /// The regions' bytes, see [`Spec::bytes`].
    bytes: Vec<Vec<u8>>,
    /// The kernel's choices and constants when user mode was first reached.
    pub pinned: Vec<PageBytes>,
    /// What a site may hold, as long as the variables stay the same.
    known: RefCell<Known>,
    /// All values the variables have had: a call of a module that has gone is no call of unapproved code.
    history: Vec<Vec<u64>>,
}

/// Variables, and the values of sites by region and offset.
type Known = (Vec<u64>, BTreeMap<(usize, u64), Rc<Vec<s::Value>>>);

impl<'a> World<'a> {
    /// A machine on which the kernel has just been loaded.
    pub fn new(stage: &'a mut Stage) -> Self {
        let spec = Spec::new();
        let bytes = (0..spec.regions.len()).map(|r| spec.bytes(r)).collect();
        let mut world = Self {
            spec,
            bytes,
            rules: stage.rules().unwrap(),
            ram: Ram::new(),
            pinned: Vec::new(),
            known: RefCell::default(),
            history: Vec::new(),
        };
        for region in [s::TEXT, s::FAR_TEXT, s::INIT] {
            let bytes = world.bytes[region].clone();
            for (i, page) in bytes.as_chunks::<PAGE>().0.iter().enumerate() {
                let frame = world.kernel_frame(region, i);
                let va = world.spec.regions[region].base + (i * PAGE) as u64;
                world.ram.pages[frame.0 as usize] = *page;
                world.ram.map(va, &[frame]);
                let proof = world.rules.loaded(frame).expect("a frame of the kernel's code");
                world.ram.rights[frame.0 as usize] = Right::Frozen;
                world.ram.set_access(frame, Access::Executable(proof)).unwrap();
            }
        }
        world.check();
        world
    }

    /// A machine whose kernel has patched itself and is about to enter user mode.
    pub fn booted(stage: &'a mut Stage) -> Self {
        let mut world = Self::new(stage);
        world.boot();
        world.first_user();
        world
    }

    /// The frame of a page of the kernel.
    pub fn kernel_frame(&self, region: usize, page: usize) -> Frame {
        Frame(KERNEL.0 + (self.spec.regions[region].base - s::IMAGE) / PAGE as u64 + page as u64)
    }

    /// Frame and offset of an offset in a region of the kernel.
    pub fn kernel_at(&self, region: usize, offset: u64) -> (Frame, usize) {
        (self.kernel_frame(region, offset as usize / PAGE), offset as usize % PAGE)
    }

    /// What Linux does to its own text at boot.
    pub fn boot(&mut self) {
        for region in [s::TEXT, s::FAR_TEXT, s::INIT] {
            for site in self.spec.regions[region].sites.clone() {
                let bytes = self.settled(region, &site, &[0; s::VARS]);
                self.write_kernel(region, site.offset, &bytes);
            }
        }
    }

    /// What Linux makes of a site.
    pub fn settled(&self, region: usize, site: &SiteSpec, vars: &[u64]) -> Vec<u8> {
        let va = self.spec.base(region, vars) + site.offset;
        let values = self.spec.values(site, va, vars);
        match &site.kind {
            Kind::Choice(_) => {
                let right = |v: &&s::Value| matches!(v.when, When::If(c) if holds(c));
                values.iter().rfind(right).expect("a form that holds").bytes.clone()
            }
            Kind::Const(..) => values[0].bytes.clone(),
            Kind::Ftrace => s::NOP5.to_vec(),
            _ => self.spec.linked(site, va, vars),
        }
    }

    /// The first instruction in user mode.
    pub fn first_user(&mut self) {
        let verdict = self.rules.step(&mut self.ram, Event::FirstUser);
        assert!(matches!(verdict, Verdict::Resume));
        self.check();
        if self.pinned.is_empty() {
            let frame = |n: usize| KERNEL.0 as usize + n;
            self.pinned = (0..s::SPAN as usize / PAGE).map(|n| self.ram.pages[frame(n)]).collect();
        }
    }

    /// Writes to the kernel at an offset of a region.
    pub fn write_kernel(&mut self, region: usize, offset: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (frame, at) = self.kernel_at(region, offset + i as u64);
            self.write(frame, at, &[*byte]);
        }
    }

    /// The bytes of the kernel at an offset of a region.
    pub fn kernel_bytes(&self, region: usize, offset: u64, len: usize) -> Vec<u8> {
        let byte = |i| {
            let (frame, at) = self.kernel_at(region, offset + i as u64);
            self.ram.pages[frame.0 as usize][at]
        };
        (0..len).map(byte).collect()
    }

    /// A write to a frame, which faults until it is allowed.
    pub fn write(&mut self, frame: Frame, offset: usize, bytes: &[u8]) {
        if self.ram.rights[frame.0 as usize] != Right::Data {
            let verdict = self.rules.step(&mut self.ram, Event::Write { frame, from_within: false });
            assert!(matches!(verdict, Verdict::Resume), "a write to RAM of the guest");
            assert_eq!(self.ram.rights[frame.0 as usize], Right::Data, "the guest would fault for ever");
            self.check_rights();
        }
        self.ram.pages[frame.0 as usize][offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The kernel executes at `va` in a frame.
    pub fn fetch(&mut self, frame: Frame, va: u64) -> Outcome {
        self.fetch_event(frame, va, false, false)
    }

    /// As [`Self::fetch`], after the guest has written the frame from within.
    pub fn fetch_patching(&mut self, frame: Frame, va: u64) -> Outcome {
        self.fetch_event(frame, va, true, false)
    }

    /// As [`Self::fetch`], while another CPU may be writing.
    pub fn fetch_patiently(&mut self, frame: Frame, va: u64) -> Outcome {
        self.fetch_event(frame, va, false, true)
    }

    fn fetch_event(&mut self, frame: Frame, va: u64, patching: bool, patience: bool) -> Outcome {
        if is_ram(frame) && self.ram.rights[frame.0 as usize] == Right::Executable {
            return Outcome::Runs;
        }
        let verdict =
            self.rules.step(&mut self.ram, Event::KernelFetch { frame, va, patching, tries: patience.then_some(0) });
        let outcome = match verdict {
            Verdict::Resume => Outcome::Runs,
            Verdict::Step => Outcome::Step,
            Verdict::Wait => Outcome::Waits,
            Verdict::Restored(v) => Outcome::Restored(v),
            Verdict::Refuse(v) => Outcome::Refused(v),
        };
        if is_ram(frame) {
            let right = match outcome {
                Outcome::Runs | Outcome::Restored(_) => Right::Executable,
                Outcome::Step => Right::Frozen,
                Outcome::Refused(_) | Outcome::Waits => Right::Data,
            };
            assert_eq!(self.ram.rights[frame.0 as usize], right, "{outcome:?}");
        }
        if outcome == Outcome::Step {
            // The hypervisor closes its window and reports the write.
            let verdict = self.rules.step(&mut self.ram, Event::Write { frame, from_within: false });
            assert!(matches!(verdict, Verdict::Resume));
            assert_eq!(self.ram.rights[frame.0 as usize], Right::Data, "nobody could write this frame again");
        }
        self.check_rights();
        let vars: Vec<u64> = (0..s::VARS).map(|v| self.rules.variable(v)).collect();
        if let Some(last) = self.history.last().filter(|last| **last != vars) {
            let [before, after] = [last, &vars].map(|vars| vars[s::R_TEXT as usize]);
            assert!(before == 0 || before == after, "INV-4: the trampoline has moved");
        }
        if self.history.last() != Some(&vars) {
            self.history.push(vars);
        }
        if let FrameState::Approved(page) = self.rules.frames().get(frame) {
            self.check_page(frame, page);
        }
        outcome
    }

    /// The kernel executes a page of its own.
    pub fn fetch_kernel(&mut self, region: usize, page: usize) -> Outcome {
        let frame = self.kernel_frame(region, page);
        self.fetch(frame, self.spec.regions[region].base + (page * PAGE) as u64)
    }

    /// Loads a region of a module as Linux does. `vars` are the variables of all modules.
    pub fn load(&mut self, region: usize, vars: &[u64], frames: &[Frame]) {
        let base = self.spec.base(region, vars);
        let mut bytes = self.bytes[region].clone();
        for site in &self.spec.regions[region].sites {
            let settled = self.settled(region, site, vars);
            bytes[site.offset as usize..][..settled.len()].copy_from_slice(&settled);
        }
        for (page, frame) in bytes.as_chunks::<PAGE>().0.iter().zip(frames) {
            self.write(*frame, 0, page);
        }
        self.ram.map(base, frames);
    }

    /// The kernel executes a page of a module that was loaded.
    pub fn fetch_module(&mut self, region: usize, page: usize, vars: &[u64]) -> Outcome {
        let va = self.spec.base(region, vars) + (page * PAGE) as u64;
        let frame = self.ram.tables[&va];
        self.fetch(frame, va)
    }

    /// What must hold whatever happened: rights follow states, and every executable byte is as it must be.
    pub fn check(&self) {
        self.check_rights();
        for frame in (0..FRAMES).map(Frame) {
            if let FrameState::Approved(page) = self.rules.frames().get(frame) {
                self.check_page(frame, page);
            }
        }
    }

    fn check_rights(&self) {
        let mut approved = 0;
        for frame in (0..FRAMES).map(Frame) {
            let (state, right) = (self.rules.frames().get(frame), self.ram.rights[frame.0 as usize]);
            match state {
                FrameState::Approved(_) => {
                    approved += 1;
                    assert_eq!(right, Right::Executable, "{frame:?} is approved");
                }
                FrameState::Data => assert_ne!(right, Right::Executable, "{frame:?} is data"),
                FrameState::Hypervisor => assert!(HYPERVISOR.contains(&frame.0), "INV-6: {frame:?}"),
                FrameState::Device => assert!(DEVICE.contains(&frame.0), "INV-6: {frame:?}"),
            }
            assert_eq!(HYPERVISOR.contains(&frame.0), state == FrameState::Hypervisor, "INV-6: {frame:?}");
            assert_eq!(DEVICE.contains(&frame.0), state == FrameState::Device, "INV-6: {frame:?}");
        }
        assert_eq!(self.rules.counters().approved, approved);
    }

    /// INV-1: an approved frame holds what it is approved as. INV-4: one of the kernel's text is approved as nothing else.
    fn check_page(&self, frame: Frame, page: u32) {
        for region in [s::TEXT, s::FAR_TEXT] {
            for index in 0..self.spec.regions[region].pages {
                let own = self.kernel_frame(region, index) != frame || self.locate(page) == (region, index);
                assert!(own, "INV-4: {frame:?} is approved as page {page}");
            }
        }
        if let Err(wrong) = self.judge(frame, page) {
            panic!("{frame:?}: {wrong}");
        }
    }

    /// Whether a frame holds this page, every site one of its values: INV-1 without the rules' own code.
    pub fn judge(&self, frame: Frame, page: u32) -> Result<(), String> {
        let (region, index) = self.locate(page);
        let vars: Vec<u64> = (0..s::VARS).map(|v| self.rules.variable(v)).collect();
        let r = &self.spec.regions[region];
        let base = self.spec.base(region, &vars);
        if r.module == NONE {
            assert_eq!(frame, self.kernel_frame(region, index), "INV-4");
        }
        if region == s::REALMODE {
            assert_eq!(frame.address(), base + (index * PAGE) as u64, "INV-4");
        }
        let mut want = self.bytes[region][index * PAGE..][..PAGE].to_vec();
        let have = &self.ram.pages[frame.0 as usize];
        let (start, end) = (index * PAGE, (index + 1) * PAGE);
        for site in &r.sites {
            let range = site.offset as usize..site.offset as usize + site.kind.len();
            let inside = range.start.max(start)..range.end.min(end);
            if inside.is_empty() {
                continue;
            }
            let part = &have[inside.start - start..inside.end - start];
            // The other half counts as soon as it could run together with this one.
            let mut bytes = vec![None; site.kind.len()];
            for (slot, at) in bytes.iter_mut().zip(range) {
                *slot = match at / PAGE {
                    p if p == index => Some(have[at - start]),
                    p => self.approved_byte(self.spec.page(region, p), at % PAGE),
                };
            }
            if !self.allowed(region, site, base + site.offset, &vars, &bytes) {
                return Err(format!("page {index} of region {region}: {site:x?} holds {bytes:x?}"));
            }
            want[inside.start - start..inside.end - start].copy_from_slice(part);
        }
        if want == have { Ok(()) } else { Err(format!("page {index} of region {region} differs")) }
    }

    /// A byte of an approved page.
    fn approved_byte(&self, page: u32, at: usize) -> Option<u8> {
        let holds = |f: &u64| self.rules.frames().get(Frame(*f)) == FrameState::Approved(page);
        (0..FRAMES).find(holds).map(|f| self.ram.pages[f as usize][at])
    }

    /// Region and index of a page of the approval.
    pub fn locate(&self, page: u32) -> (usize, usize) {
        let region = (0..self.spec.regions.len()).rfind(|r| self.spec.page(*r, 0) <= page).unwrap();
        (region, (page - self.spec.page(region, 0)) as usize)
    }

    /// Whether a site may hold bytes some of which are not known.
    fn allowed(&self, region: usize, site: &SiteSpec, va: u64, vars: &[u64], bytes: &[Option<u8>]) -> bool {
        let kernel = self.spec.regions[region].module == NONE;
        let booted = self.rules.booted();
        let fits = |value: &[u8]| value.iter().zip(bytes).all(|(v, b)| b.is_none_or(|b| b == *v));
        match &site.kind {
            Kind::Choice(_) | Kind::Const(..) if kernel && booted && !self.pinned.is_empty() => {
                let at = (self.spec.regions[region].base - s::IMAGE + site.offset) as usize;
                fits(&self.pinned.as_flattened()[at..at + site.kind.len()])
            }
            Kind::Const(class, link) => {
                let whole: Option<Vec<u8>> = bytes.iter().copied().collect();
                whole.is_none_or(|b| s::constant(*class, *link, &b))
            }
            kind => {
                let choice = matches!(kind, Kind::Choice(_)) && !kernel;
                let when = |w: When| match w {
                    When::Boot => !booted,
                    // Of a condition the kernel does not show nothing is known.
                    When::If(c) if choice => holds(c) || c & !cond::NOT == s::UNSHOWN,
                    _ => true,
                };
                let values = self.values(region, site, va, vars);
                let mut possible: Vec<_> = values.iter().filter(|v| when(v.when)).collect();
                let shown = |v: &&s::Value| v.when != When::If(s::UNSHOWN);
                if choice && let Some(last) = possible.iter().rposition(shown) {
                    possible.drain(..last);
                }
                // A field of a variable that no page has shown in whole yet.
                let unbound = !kernel && vars_of(kind).any(|v| vars[v as usize] == 0);
                unbound || possible.iter().any(|v| fits(&v.bytes)) || self.called_before(kind, site, va, fits)
            }
        }
    }

    /// Whether a call goes where a function, or a tracer, once was.
    fn called_before(&self, kind: &Kind, site: &SiteSpec, va: u64, fits: impl Fn(&[u8]) -> bool) -> bool {
        use Kind::{Ftrace, FtraceCall, StaticCall, StaticJump, Trampoline};
        matches!(kind, StaticCall(_) | StaticJump(_) | Trampoline(_) | FtraceCall | Ftrace)
            && self.history.iter().any(|vars| self.spec.values(site, va, vars).iter().any(|v| fits(&v.bytes)))
    }

    /// As [`Spec::values`], but each list is made once.
    fn values(&self, region: usize, site: &SiteSpec, va: u64, vars: &[u64]) -> Rc<Vec<s::Value>> {
        let mut known = self.known.borrow_mut();
        if known.0 != vars {
            *known = (vars.to_vec(), BTreeMap::new());
        }
        let list = known.1.entry((region, site.offset));
        list.or_insert_with(|| Rc::new(self.spec.values(site, va, vars))).clone()
    }

    /// Whether a page of the kernel is init text.
    pub fn is_init(&self, region: usize) -> bool {
        self.spec.regions[region].kind == RegionKind::KernelInit
    }

    /// The approval.
    pub fn view(&self) -> &View<'a> {
        self.rules.view()
    }
}

fn vars_of(kind: &Kind) -> impl Iterator<Item = u32> {
    let to = match kind {
        Kind::Abs32(to) | Kind::Rel32(to) | Kind::Abs64(to) | Kind::Segment(to) => Some(*to),
        Kind::StaticCall(to) | Kind::StaticJump(to) | Kind::Trampoline(to) => Some(*to),
        _ => None,
    };
    to.into_iter().filter_map(|to| match to {
        s::To::Var(var, _) => Some(var),
        s::To::Kernel(_) | s::To::Const(_) => None,
    })
}

/// Variables of a usual placement of all modules.
pub fn usual_vars() -> Vec<u64> {
    let at = |n: u64| s::MODULES.start + n * 0x10_0000;
    vec![at(1), at(2), at(3), at(4), at(5), at(6), at(7), 0x6_1000, at(8), at(9), at(10), 0x6_8000, at(11), at(12)]
}

/// Frames from the free ones.
pub fn frames(first: u64, count: usize) -> Vec<Frame> {
    (first..first + count as u64).map(Frame).collect()
}
