//! The machine the rules see: memory that holds, and page tables that show, whatever the adversary likes
use std::cell::{Cell, RefCell};

use secvisor_approval::PageBytes;
use secvisor_rules::{Access, Event, Frame, Machine, OutOfTables};

use crate::bytes::Page;
use crate::chooser::Chooser;
use crate::machine::Options;
use crate::state::{Right, State};
use crate::switch::Part;
use crate::world::{ANY, DEVICE, FRAMES, HYPERVISOR, Id, KERNEL, World};

/// Memory and nested tables, while the rules decide one event.
pub struct Ram<'a> {
    world: &'a World,
    chooser: &'a Chooser,
    options: Options,
    /// As it was when the event came.
    state: &'a State,
    event: Event,
    pub content: [Cell<Id>; FRAMES],
    pub rights: [Cell<Right>; FRAMES],
    /// What the guest's tables show just now, as far as it was asked for.
    shown: RefCell<Vec<(u64, Option<Frame>)>>,
    open: Cell<u8>,
    pub flush: Cell<bool>,
    pub narrowed: Cell<bool>,
    pub wrong: Cell<Option<&'static str>>,
}

impl<'a> Ram<'a> {
    /// Both as `state` has them. `open`: frames, as bits, that another CPU may write in a window.
    pub fn new(
        world: &'a World,
        options: Options,
        chooser: &'a Chooser,
        state: &'a State,
        open: u8,
        event: Event,
    ) -> Self {
        Self {
            world,
            chooser,
            options,
            state,
            event,
            content: state.content.map(Cell::new),
            rights: state.rights.map(Cell::new),
            shown: RefCell::default(),
            open: Cell::new(open),
            flush: Cell::new(false),
            narrowed: Cell::new(false),
            wrong: Cell::new(None),
        }
    }

    fn break_property(&self, what: &'static str) {
        self.wrong.set(self.wrong.get().or(Some(what)));
    }
}

impl Machine for Ram<'_> {
    fn page(&self, frame: Frame) -> &PageBytes {
        let frame = frame.0 as usize;
        let outside = frame == HYPERVISOR || frame == DEVICE && self.options.has(Part::DeviceMarked);
        if outside {
            self.break_property("the rules read memory that is not the guest's");
        }
        if self.content[frame].get() == ANY {
            let id = match self.event {
                Event::KernelFetch { frame: fetched, .. } if fetched.0 as usize != frame => {
                    self.chooser.among(&self.world.beside)
                }
                _ => self.chooser.among(&self.world.options[frame]),
            };
            self.chooser.tell(|| format!("{} holds {}", self.world.frame_name(frame), self.world.content(id)));
            self.content[frame].set(id);
        }
        self.world.bytes(self.content[frame].get())
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }

    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        let frame = frame.0 as usize;
        let (old, new) = (self.world.content(self.content[frame].get()), self.world.id(bytes));
        let page = self.world.content(new).page.expect("a page of the approval");
        if page == Page::Init {
            self.break_property("freed init text is put back");
        }
        let belongs = match self.world.number(page).filter(|_| page.module()) {
            Some(number) => old.page == Some(page) && page != Page::B && self.state.ghost.last[number] == frame as u8,
            None => self.world.kernel_page(frame) == Some(page),
        };
        if !belongs {
            self.break_property("a page is put back into a recycled frame");
        }
        self.chooser.tell(|| format!("{} is put back", self.world.content(new)));
        self.content[frame].set(new);
    }

    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), OutOfTables> {
        let frame = frame.0 as usize;
        let was = self.rights[frame].get();
        let right = match access {
            Access::Data => Right::Data,
            Access::Frozen => Right::Frozen,
            Access::Executable(_) => Right::Executable,
        };
        if right == Right::Frozen && was == Right::Data && self.chooser.choose(2) == 1 {
            self.chooser.tell(|| "the tables are full".into());
            return Err(OutOfTables);
        }
        if self.options.has(Part::CloseWindows) {
            self.open.set(0);
        }
        // Somebody else who can still write does so now: another CPU, or a device.
        let writable = was == Right::Data || (self.state.aliased | self.open.get()) >> frame & 1 != 0;
        if right == Right::Executable && writable && self.chooser.choose(2) == 1 {
            self.chooser.tell(|| format!("somebody else writes {} meanwhile", self.world.frame_name(frame)));
            self.break_property("bytes change between comparison and approval");
        }
        self.rights[frame].set(right);
        self.flush.set(true);
        // Frozen pages have no right that others lack, and gain some.
        self.narrowed.set(self.narrowed.get() || was != right && was != Right::Frozen);
        Ok(())
    }

    /// Whatever the adversary likes: nothing, code, the page itself, or memory that holds anything. Of several frames of
    /// the last kind one will do; what is not RAM is as good as nothing.
    fn translate(&self, va: u64) -> Option<Frame> {
        let mut shown = self.shown.borrow_mut();
        if let Some((_, known)) = shown.iter().find(|(known, _)| *known == va) {
            return *known;
        }
        let known = |f: &usize| self.content[*f].get() != ANY;
        let unknown = (KERNEL..FRAMES).rev().find(|f| !known(f));
        let frames: Vec<usize> = (KERNEL..FRAMES).filter(known).chain(unknown).collect();
        let frame = frames.get(self.chooser.choose(frames.len() + 1)).copied();
        if let Some(frame) = frame {
            self.chooser.tell(|| format!("beside it the guest's tables show {}", self.world.frame_name(frame)));
        }
        let frame = frame.map(|f| Frame(f as u64));
        shown.push((va, frame));
        frame
    }
}
