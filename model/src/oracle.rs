//! What must hold, said without the rules
//!
//! The oracle knows what pages of memory hold in the words of [`Content`], never as bytes, and what Linux has chosen.
use std::fmt;

use crate::bytes::{Call, Choice, Content, DATA, EDGE, LABEL, LABEL_LEN, Label, MODULES, Page};
use crate::machine::Machine;
use crate::state::{NONE, Purpose, Right, SCRATCH, State, View, W, X};
use crate::vcpu::Step;
use crate::world::{ANY, DEVICE, FRAMES, HYPERVISOR, KERNEL};

const MIXED: &str = "halves of two values are executable at CPL 0";

/// Most bytes that run before a trap counts.
const REACH: usize = 30;

impl Machine<'_> {
    /// The property that a state breaks.
    pub fn judge(&self, state: &State) -> Option<&'static str> {
        for cpu in &state.cpus[..self.options.cpus] {
            if cpu.view == View::User && !cpu.user {
                return Some("CPL 0 in the user view");
            }
            if let Some(window) = cpu.window {
                if !window.trapped {
                    return Some("a window stays open for more than its instruction");
                }
                if window.purpose != Purpose::Absent && window.frames.iter().any(|f| *f as usize == HYPERVISOR) {
                    return Some("the hypervisor's memory can be reached");
                }
                let approved = |f: &u8| !window.closed && *f != NONE && state.rights[*f as usize] != Right::Data;
                if window.purpose == Purpose::Segment && window.frames.iter().any(approved) {
                    return Some("a user program may write to code");
                }
            }
        }
        (0..FRAMES).find_map(|frame| self.judge_frame(state, frame))
    }

    fn judge_frame(&self, state: &State, frame: usize) -> Option<&'static str> {
        let (mut write, mut execute) = (false, false);
        for (number, cpu) in state.cpus[..self.options.cpus].iter().enumerate() {
            let within = cpu.window.is_some_and(|w| w.frames.contains(&(frame as u8)));
            let any = cpu.tlb.iter().fold(0, |all, tlb| all | tlb[frame]);
            if frame == HYPERVISOR && any & !SCRATCH != 0 || any & SCRATCH != 0 && !within {
                return Some("the hypervisor's memory can be reached");
            }
            if within {
                // One instruction, that may write: nobody else may execute there meanwhile.
                write |= cpu.window.is_some_and(|w| !w.closed && w.purpose != Purpose::Absent);
                continue;
            }
            // An ASID that is not in use counts once it is.
            let now = cpu.tlb[cpu.current_asid()][frame] | self.nested(state, number, cpu.view, frame);
            let kernel = cpu.tlb[0][frame] | self.nested(state, number, View::Kernel, frame);
            write |= (now | kernel) & W != 0;
            execute |= kernel & X != 0;
        }
        if execute && frame == DEVICE {
            return Some("a device's memory is executable at CPL 0");
        }
        if execute && write {
            return Some("memory is executable at CPL 0 and writable");
        }
        if execute { self.judge_content(state, frame) } else { None }
    }

    /// Whether what a frame holds may run at CPL 0.
    fn judge_content(&self, state: &State, frame: usize) -> Option<&'static str> {
        const UNAPPROVED: Option<&str> = Some("unapproved bytes are executable at CPL 0");
        if state.content[frame] == ANY {
            return UNAPPROVED;
        }
        let (c, ghost) = (self.world.content(state.content[frame]), &state.ghost);
        let Some(page) = c.page.filter(|_| c.sound) else { return UNAPPROVED };
        match self.world.kernel_page(frame) {
            Some(own) if own != Page::Init || !ghost.freed => {
                if page != own || c.label == Label::Half || c.edge == Label::Half || c.call == Call::Evil {
                    return UNAPPROVED;
                }
                if own == Page::K0 && ghost.booted && c.choice != ghost.pinned {
                    return Some("what boot has chosen is changed");
                }
                if c.choice == Choice::Evil { UNAPPROVED } else { self.judge_edge(state, c, page) }
            }
            Some(_) if page == Page::Init => Some("freed init text is executable at CPL 0"),
            _ if !page.module() => Some("a page of the kernel is executable in another frame"),
            _ if !ghost.booted => Some("a module runs before user mode was reached"),
            _ => self.judge_module(state, frame, c, page),
        }
    }

    /// The other half of the jump label across the border, where that is executable, too.
    fn judge_edge(&self, state: &State, c: &Content, page: Page) -> Option<&'static str> {
        let other = match page {
            Page::K0 if self.world.kernel_page(KERNEL + 1) == Some(Page::K1) => KERNEL + 1,
            Page::K1 => KERNEL,
            _ => return None,
        };
        if state.rights[other] != Right::Executable || state.content[other] == ANY {
            return None;
        }
        mixed(c, self.world.content(state.content[other])).then_some(MIXED)
    }

    fn judge_module(&self, state: &State, frame: usize, c: &Content, page: Page) -> Option<&'static str> {
        let data =
            !matches!(page, Page::A0 | Page::A1 | Page::A) || c.data == c.edge_data && DATA[c.data as usize] < DATA[2];
        let chooses = matches!(page, Page::A0 | Page::C0);
        let wrong = c.choice == Choice::Evil || chooses && c.choice == Choice::Linked || c.edge == Label::Half;
        if !data || wrong {
            return Some("unapproved bytes are executable at CPL 0");
        }
        if !MODULES.contains(&c.place()) {
            return Some("a page of a module is executable outside of the modules' range");
        }
        if chooses && state.ghost.chosen.is_some_and(|chosen| chosen != c.choice) {
            return Some("a module disagrees with what boot has chosen");
        }
        let text = |c: &Content| match c.page {
            Some(Page::A0 | Page::A1 | Page::A | Page::C0 | Page::C1) => Some(c.slot),
            Some(Page::B) => Some(c.text),
            _ => None,
        };
        for other in (0..FRAMES).filter(|f| *f != frame && state.rights[*f] == Right::Executable) {
            if state.content[other] == ANY {
                continue;
            }
            let beside = self.world.content(state.content[other]);
            if beside.page == Some(page) {
                return Some("a page is executable in two frames");
            }
            let Some(beside_page) = beside.page.filter(|p| p.module()) else { continue };
            let both = page <= Page::A1 && beside_page <= Page::A1;
            if c.place() == beside.place() {
                return Some("two pages are executable that belong at one address");
            }
            if text(c) != text(beside) || both && c.data != beside.data {
                return Some("pages of two instances of a module are executable at CPL 0");
            }
            if matches!(page, Page::C0 | Page::C1) && mixed(c, beside) {
                return Some(MIXED);
            }
        }
        None
    }
}

impl Step<'_, '_> {
    /// User mode is reached.
    pub fn first_user(&mut self) {
        let world = self.machine.world;
        let state = &mut self.state;
        state.ghost.booted = true;
        if state.rights[KERNEL] == Right::Executable && state.content[KERNEL] != ANY {
            state.ghost.chosen = known(world.content(state.content[KERNEL]).choice);
        }
        self.remember();
    }

    /// What the oracle must know of what has happened.
    pub fn remember(&mut self) {
        let world = self.machine.world;
        let State { rights, content, ghost, .. } = &mut self.state;
        if !ghost.booted {
            if rights[KERNEL] == Right::Executable && content[KERNEL] != ANY {
                ghost.pinned = world.content(content[KERNEL]).choice;
            }
            return;
        }
        ghost.freed |= rights[world.init] == Right::Data;
        for frame in (0..FRAMES).filter(|f| rights[*f] == Right::Executable && content[*f] != ANY) {
            let c = world.content(content[frame]);
            let Some(page) = c.page.filter(|page| page.module()) else { continue };
            if page != Page::B {
                ghost.last[world.number(page).expect("a page there is")] = frame as u8;
            }
            if ghost.chosen.is_none() && matches!(page, Page::A0 | Page::C0) {
                ghost.chosen = known(c.choice);
            }
        }
    }

    /// A page that has just been approved is where it belongs.
    pub fn judge_place(&mut self, frame: usize, va: u64) {
        if self.state.content[frame] == ANY {
            return;
        }
        let c = self.machine.world.content(self.state.content[frame]);
        if c.page.is_some_and(Page::module) && c.place() != va {
            self.wrong = self.wrong.or(Some("a page of a module is approved away from its place"));
        }
    }

    /// One instruction runs at an address of a page that is not approved: none of its bytes may be unapproved.
    pub fn judge_step(&mut self, frame: usize, va: u64) {
        let Step { machine, state, .. } = self;
        let c = machine.world.content(state.content[frame]);
        let beside = |f: usize| state.rights[f] == Right::Executable && state.content[f] != ANY;
        let mut bad: Vec<std::ops::Range<usize>> = Vec::new();
        if !c.sound || c.page != machine.world.kernel_page(frame) {
            bad.push(0..4096);
        }
        if c.label == Label::Half {
            bad.push(LABEL..LABEL + LABEL_LEN);
        }
        let chosen = if state.ghost.booted { c.choice == state.ghost.pinned } else { c.choice != Choice::Evil };
        if c.page == Some(Page::K0) && !chosen {
            bad.push(crate::bytes::CHOICE..crate::bytes::CHOICE + 3);
        }
        if c.call == Call::Evil {
            bad.push(crate::bytes::CALL..crate::bytes::CALL + 5);
        }
        let edge = if c.page == Some(Page::K1) { 0..2 } else { EDGE..4096 };
        let mixed = c.page.is_some_and(|p| {
            let other = if p == Page::K0 { KERNEL + 1 } else { KERNEL };
            beside(other) && machine.judge_edge(state, c, p).is_some()
        });
        if c.edge == Label::Half || mixed {
            bad.push(edge);
        }
        let at = (va & 0xfff) as usize;
        let end = at + if state.ghost.booted { REACH } else { 1 };
        // The page may be mapped twice in a row.
        let wraps = |b: &std::ops::Range<usize>| b.start + 4096 < end;
        if bad.iter().any(|b| at < b.end && b.start < end || wraps(b)) {
            self.wrong = self.wrong.or(Some("unapproved bytes are within reach of a step"));
        }
    }
}

/// Whether the halves of the jump label across two pages, of which this is one, are of two values.
fn mixed(c: &Content, beside: &Content) -> bool {
    let first = matches!(c.page, Some(Page::K0 | Page::C0));
    let (head, tail) = if first { (c.edge, beside.edge) } else { (beside.edge, c.edge) };
    head != Label::Changing && head != tail
}

/// What a choice says of the CPU.
fn known(choice: Choice) -> Option<Choice> {
    matches!(choice, Choice::Weak | Choice::Strong).then_some(choice)
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(page) = self.page else { return write!(f, "no code") };
        write!(f, "{page:?}")?;
        let mut notes = Vec::new();
        let mut note = |applies: bool, text: String| notes.extend(applies.then_some(text));
        note(!self.sound, "one byte changed".into());
        note(matches!(page, Page::K0 | Page::A0 | Page::C0), format!("choice {:?}", self.choice));
        note(matches!(page, Page::K0 | Page::Init) && self.label != Label::Nop, format!("label {:?}", self.label));
        let across = matches!(page, Page::K0 | Page::K1 | Page::C0 | Page::C1);
        note(across && self.edge != Label::Nop, format!("label across {:?}", self.edge));
        note(page == Page::K1 && self.call != Call::Linked, format!("call {:?}", self.call));
        note(page.module(), format!("for slot {}", self.slot));
        note(matches!(page, Page::A0 | Page::A1 | Page::A), format!("data {}", self.data));
        note(self.data != self.edge_data, format!("field across for data {}", self.edge_data));
        note(page == Page::B, format!("A's text in slot {}", self.text));
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join(", ")) }
    }
}
