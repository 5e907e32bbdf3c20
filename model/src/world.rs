//! The small machines that are explored: their frames, and what these may be made to hold
use std::collections::{HashMap, HashSet};

use secvisor_approval::view::View;
use secvisor_approval::{PAGE, PageBytes, open};

use crate::bytes::{self, Call, Choice, Content, IMAGE, Label, MODULES, Modules, PAGES, Page, SLOTS};

/// Number of frames of a machine: the hypervisor's, a device's, the kernel's and its init text's, and ordinary memory.
pub const FRAMES: usize = 7;
/// The hypervisor's frame.
pub const HYPERVISOR: usize = 0;
/// A device's frame.
pub const DEVICE: usize = 1;
/// The frame of the kernel's first page.
pub const KERNEL: usize = 2;

/// Number of a [`Content`].
pub type Id = u8;
/// What a frame holds that anybody may write: whatever the adversary likes when it matters.
pub const ANY: Id = Id::MAX;

/// One of the machines.
pub struct World {
    /// Its name.
    pub name: &'static str,
    /// What it is there for.
    pub what: &'static str,
    /// Its approval.
    pub view: View<'static>,
    /// The approval's code section.
    pub code: Vec<u8>,
    /// Pages of the approval, in its order.
    pub pages: Vec<Page>,
    /// The frame of the init text, the last of the kernel's.
    pub init: usize,
    /// Number of address-space identifiers; the user view has all but one in turn.
    pub asids: usize,
    /// What each frame may be made to hold.
    pub options: [Vec<Id>; FRAMES],
    /// What makes a difference in a frame beside the one that is looked at: of that only the ends are looked at, where
    /// sites lie across the border.
    pub beside: Vec<Id>,
    /// Virtual pages at which the kernel executes what is not its own: where code of modules belongs, and outside of
    /// the modules' range.
    pub addresses: Vec<u64>,
    /// What there is.
    contents: Vec<Content>,
    bytes: Vec<PageBytes>,
    known: HashMap<PageBytes, Id>,
    reference: Vec<Id>,
}

impl World {
    /// All of them, the smallest first.
    pub fn all() -> Vec<Self> {
        vec![Self::views(), Self::kernel(), Self::module(), Self::modules(), Self::label()]
    }

    fn kernel() -> Self {
        let mut all = Vec::new();
        for choice in [Choice::Linked, Choice::Weak, Choice::Strong] {
            for label in [Label::Nop, Label::Jump] {
                for edge in [Label::Nop, Label::Jump, Label::Changing] {
                    all.push(Content { choice, label, edge, ..Content::of(Page::K0) });
                }
            }
        }
        let strong = Content { choice: Choice::Strong, ..Content::of(Page::K0) };
        all.extend([
            Content { sound: false, ..strong },
            Content { choice: Choice::Evil, ..strong },
            Content { label: Label::Half, ..strong },
            Content { label: Label::Changing, ..strong },
            Content { edge: Label::Half, ..strong },
            Content { label: Label::Half, edge: Label::Half, ..strong },
        ]);
        for edge in [Label::Nop, Label::Jump] {
            all.extend([Call::Linked, Call::Nop].map(|call| Content { edge, call, ..Content::of(Page::K1) }));
        }
        all.extend([
            Content { sound: false, ..Content::of(Page::K1) },
            Content { call: Call::Evil, ..Content::of(Page::K1) },
            Content { edge: Label::Half, ..Content::of(Page::K1) },
        ]);
        all.extend(init());
        let what = "a kernel of two pages that patches itself, with every kind of change its sites know";
        Self::new("kernel", what, 2, Modules::None, 2, all)
    }

    pub(crate) fn views() -> Self {
        let with = |label| Content { label, ..Content::of(Page::K0) };
        let mut all: Vec<_> = [Label::Nop, Label::Jump, Label::Half].map(with).into();
        all.extend(init());
        let what = "a kernel of one page that does little, and a CPU whose ASIDs last for more than one turn";
        Self::new("views", what, 1, Modules::None, 3, all)
    }

    fn module() -> Self {
        let mut all = choices();
        all.extend(init());
        let at = |slot, data| Content { slot, data, edge_data: data, choice: Choice::Strong, ..Content::of(Page::A0) };
        all.extend([at(0, 0), at(1, 0), at(0, 1), at(0, 2)]);
        all.extend([Choice::Linked, Choice::Weak, Choice::Evil].map(|choice| Content { choice, ..at(0, 0) }));
        all.extend([Content { sound: false, ..at(0, 0) }, Content { edge_data: 1, ..at(0, 0) }]);
        let at = |slot, data| Content { slot, data, edge_data: data, ..Content::of(Page::A1) };
        all.extend([at(0, 0), at(1, 0), at(0, 1)]);
        all.extend([Content { sound: false, ..at(0, 0) }, Content { edge_data: 1, ..at(0, 0) }]);
        let what = "a module of two pages that is loaded, tampered with, unloaded and moved";
        Self::new("module", what, 1, Modules::One, 2, all)
    }

    fn modules() -> Self {
        let mut all = choices();
        all.extend(init());
        let at = |slot, data| Content { slot, data, edge_data: data, ..Content::of(Page::A) };
        all.extend([at(0, 0), at(1, 0), at(0, 1), Content { sound: false, ..at(0, 0) }]);
        let at = |slot, text| Content { slot, text, ..Content::of(Page::B) };
        all.extend([at(0, 0), at(0, 1), at(1, 0), at(2, 0), at(2, 1), Content { sound: false, ..at(2, 0) }]);
        let what = "two modules of which one refers to the other, loaded anew and on each other";
        Self::new("modules", what, 1, Modules::Two, 2, all)
    }

    fn label() -> Self {
        let mut all = choices();
        all.extend(init());
        let at = |slot, edge| Content { slot, edge, choice: Choice::Strong, ..Content::of(Page::C0) };
        for slot in [0, 2] {
            all.extend([Label::Nop, Label::Jump, Label::Changing].map(|edge| at(slot, edge)));
        }
        let nop = at(0, Label::Nop);
        all.extend([Choice::Linked, Choice::Weak, Choice::Evil].map(|choice| Content { choice, ..nop }));
        all.extend([Content { sound: false, ..nop }, at(0, Label::Half)]);
        let at = |slot, edge| Content { slot, edge, ..Content::of(Page::C1) };
        for slot in [0, 2] {
            all.extend([Label::Nop, Label::Jump].map(|edge| at(slot, edge)));
        }
        all.extend([Content { sound: false, ..at(0, Label::Nop) }, at(0, Label::Half)]);
        let what = "a module with a jump label across its two pages, at either end of the modules' range";
        Self::new("label", what, 1, Modules::Label, 2, all)
    }

    fn new(
        name: &'static str,
        what: &'static str,
        text: usize,
        modules: Modules,
        asids: usize,
        contents: Vec<Content>,
    ) -> Self {
        let file: &'static mut [u8] = bytes::approval(text, modules).leak();
        let (_, view, pages) = open::open(file).expect("a sound approval");
        let mut order = vec![Page::K0, Page::K1];
        order.truncate(text);
        order.push(Page::Init);
        order.extend(modules.pages());
        assert!(order.len() == pages.len() && pages.len() <= PAGES);
        let mut world = Self {
            name,
            what,
            view,
            pages: order,
            code: pages.code().to_vec(),
            init: KERNEL + text,
            asids,
            options: Default::default(),
            beside: Vec::new(),
            addresses: Vec::new(),
            contents: Vec::new(),
            bytes: Vec::new(),
            known: HashMap::new(),
            reference: Vec::new(),
        };
        world.add(Content::data(), Content::data().bytes());
        for content in contents {
            world.add(content, content.bytes());
        }
        for (page, number) in world.pages.clone().into_iter().zip(0..) {
            let bytes = *pages.get(number, &mut [0; PAGE]).expect("a sound approval");
            let id = world.known.get(&bytes).copied();
            let id = id.unwrap_or_else(|| world.add(Content::of(page), bytes));
            world.reference.push(id);
        }
        world.options = std::array::from_fn(|frame| world.options_of(frame));
        let mut ends = HashSet::new();
        let end = |id: &Id| (world.bytes(*id)[..2].to_vec(), world.bytes(*id)[PAGE - 3..].to_vec());
        world.beside = (0..world.contents.len() as Id).filter(|id| ends.insert(end(id))).collect();
        let of_modules = world.contents.iter().filter(|c| c.page.is_some_and(Page::module));
        let mut addresses: Vec<u64> = of_modules.map(Content::place).collect();
        addresses.extend([SLOTS[0], MODULES.end, IMAGE - PAGE as u64]);
        addresses.sort_unstable();
        addresses.dedup();
        world.addresses = addresses;
        world
    }

    /// What makes a difference in a frame: everything of the pages that may be approved there, and of what may not, no
    /// code and one page of the kernel.
    fn options_of(&self, frame: usize) -> Vec<Id> {
        let own = self.kernel_page(frame);
        let stranger = Content { choice: Choice::Strong, ..Content::of(Page::K0) };
        let matters = |c: &Content| match c.page {
            Some(page) if own == Some(page) => true,
            Some(page) if page.module() => own.is_none_or(|own| own == Page::Init),
            Some(_) => *c == stranger,
            None => true,
        };
        (0..self.contents.len()).filter(|i| matters(&self.contents[*i])).map(|i| i as Id).collect()
    }

    fn add(&mut self, content: Content, bytes: PageBytes) -> Id {
        let id = self.contents.len() as Id;
        assert!(self.known.insert(bytes, id).is_none(), "{content:?} is there twice");
        self.contents.push(content);
        self.bytes.push(bytes);
        id
    }

    /// What a frame holds.
    pub fn content(&self, id: Id) -> &Content {
        &self.contents[id as usize]
    }

    /// Its bytes.
    pub fn bytes(&self, id: Id) -> &PageBytes {
        &self.bytes[id as usize]
    }

    /// Which content has these bytes.
    pub fn id(&self, bytes: &PageBytes) -> Id {
        self.known[bytes]
    }

    /// The approval's own bytes of a page.
    pub fn reference(&self, page: usize) -> Id {
        self.reference[page]
    }

    /// The kernel's page that belongs in a frame.
    pub fn kernel_page(&self, frame: usize) -> Option<Page> {
        self.pages.get(frame.checked_sub(KERNEL)?).copied().filter(|page| !page.module())
    }

    /// Number of a page in the approval.
    pub fn number(&self, page: Page) -> Option<usize> {
        self.pages.iter().position(|p| *p == page)
    }

    /// First of the frames that are ordinary memory.
    pub fn free(&self) -> usize {
        self.init + 1
    }

    /// Name of a frame in stories.
    pub fn frame_name(&self, frame: usize) -> String {
        match (frame, self.kernel_page(frame)) {
            (_, Some(page)) => format!("the frame of {page:?}"),
            (HYPERVISOR, _) => "the hypervisor's frame".into(),
            (DEVICE, _) => "a device's frame".into(),
            _ => format!("frame {frame}"),
        }
    }
}

/// What a kernel's page shows of the CPU.
fn choices() -> Vec<Content> {
    let with = |choice| Content { choice, ..Content::of(Page::K0) };
    let mut all: Vec<_> = [Choice::Linked, Choice::Weak, Choice::Strong].map(with).into();
    all.push(Content { sound: false, ..Content::of(Page::K0) });
    all
}

fn init() -> Vec<Content> {
    let with = |label| Content { label, ..Content::of(Page::Init) };
    let mut all: Vec<_> = [Label::Nop, Label::Jump, Label::Half].map(with).into();
    all.push(Content { sound: false, ..Content::of(Page::Init) });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_sound() {
        for world in World::all() {
            // Ordinary memory: at least two frames, so that what is in one can be compared with what is in another.
            assert!(FRAMES - world.free() >= 2, "{}", world.name);
            for (number, page) in world.pages.iter().enumerate() {
                assert_eq!(world.content(world.reference(number)).page, Some(*page), "{}", world.name);
                let changed = |c: &Content| c.page == Some(*page) && !c.sound;
                let little = world.name == "views" && *page == Page::K0;
                assert!(little || world.contents.iter().any(changed), "{}: {page:?} changed", world.name);
            }
            for frame in KERNEL..FRAMES {
                let holds = |page| world.options[frame].iter().any(|id| world.content(*id).page == page);
                assert!(holds(None), "{}: frame {frame} may hold no code", world.name);
                let wanted = world.kernel_page(frame).map_or(world.pages.last().copied(), Some);
                let ordinary = frame >= world.free() && world.pages.iter().all(|p| !p.module());
                assert!(ordinary || holds(wanted), "{}: frame {frame} may hold {wanted:?}", world.name);
            }
        }
    }

    #[test]
    fn what_is_beside_differs_at_an_end_only_if_a_site_lies_there() {
        let ends = |world: &World| world.beside.len();
        let [views, kernel, .., label] = &World::all()[..] else { panic!("five machines") };
        assert!(ends(views) < ends(kernel) && ends(views) < ends(label));
    }

    #[test]
    fn code_is_tried_where_it_belongs_and_outside() {
        let [views, .., label] = &World::all()[..] else { panic!("five machines") };
        assert_eq!(views.addresses.len(), 3);
        for at in [MODULES.start, MODULES.start + 0x1000, MODULES.end - 0x1000, MODULES.end] {
            assert!(label.addresses.contains(&at), "{at:#x}");
        }
        assert!(label.addresses.iter().any(|a| !MODULES.contains(a)));
    }
}
