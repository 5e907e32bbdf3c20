//! The code there is: a kernel and modules of a few pages, and all that their pages may be made to hold
//!
//! [`Content`] says what a page of memory holds, in the words of the oracle; [`Content::bytes`] writes that down as real
//! bytes, which is all the rules see.
use secvisor_approval::build::{Builder, RegionDef, SiteDef, SymbolDef, TemplateDef, VariantDef};
use secvisor_approval::wire::{Info, NONE, RegionKind, SiteKind, VarClass, cond};
use secvisor_approval::{PAGE, PageBytes};

/// Where the kernel is linked.
pub const IMAGE: u64 = 0xffff_ffff_8100_0000;
/// Where modules may be. Code goes to the first pages and to the last ([`SLOTS`]), data in between.
pub const MODULES: std::ops::Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_c010_0000;
/// The virtual pages at which module code begins: two side by side, and the last that modules may have.
pub const SLOTS: [u64; 3] = [MODULES.start, MODULES.start + 0x1000, MODULES.end - 0x1000];
/// Where a module's data may be: two places that differ in both halves of a 32-bit field, and one outside of the range.
pub const DATA: [u64; 3] = [MODULES.start + 0x8_0000, MODULES.start + 0xa_3000, MODULES.end + 0x5000];
/// A feature that the kernel's sites show, word 9, bit 20 as in Linux.
const SMAP: u16 = 9 * 32 + 20;

/// Variables, in the order of the approval.
pub const A_TEXT: u32 = 0;
/// As above.
pub const A_DATA: u32 = 1;
/// As above.
pub const B_TEXT: u32 = 2;
/// Where C is the only module.
pub const C_TEXT: u32 = 0;
/// Most variables.
pub const VARS: usize = 3;

/// A page of the approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Page {
    /// Kernel text: a choice, a jump label, and the first half of a jump label across the border.
    K0,
    /// Kernel text: the second half, and a static call.
    K1,
    /// Kernel init text: a jump label.
    Init,
    /// Text of module A: its data, a choice, its own address, and the first half of a field across the border.
    A0,
    /// As above: the second half, its data.
    A1,
    /// Text of a smaller module A: its data, its own address.
    A,
    /// Init text of module B, which calls A.
    B,
    /// Text of module C: a choice, its own address, and the first half of a jump label across the border.
    C0,
    /// As above: the second half, its own address.
    C1,
}

/// Most pages of an approval.
pub const PAGES: usize = 5;

/// The modules of a world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// None.
    None,
    /// A, with two pages.
    One,
    /// A, with one page, and B, which calls it.
    Two,
    /// C.
    Label,
}

impl Modules {
    /// Their pages, in the order of the approval.
    pub fn pages(self) -> &'static [Page] {
        match self {
            Self::None => &[],
            Self::One => &[Page::A0, Page::A1],
            Self::Two => &[Page::A, Page::B],
            Self::Label => &[Page::C0, Page::C1],
        }
    }
}

impl Page {
    /// Whether it is a module's.
    pub fn module(self) -> bool {
        self >= Self::A0
    }
}

/// A choice that depends on a CPU feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The link-time form, which only boot may see.
    Linked,
    /// What the feature's absence asks for.
    Weak,
    /// What the feature asks for.
    Strong,
    /// None of these.
    Evil,
}

/// A jump label, or what there is of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// A NOP.
    Nop,
    /// A jump.
    Jump,
    /// INT3, then the jump's tail: being changed.
    Changing,
    /// The jump's tail behind the NOP's head, or the other way round: half written.
    Half,
}

/// A static call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// As linked.
    Linked,
    /// A NOP.
    Nop,
    /// To something that is no function.
    Evil,
}

/// What a page of memory holds. Fields that a page does not have are as in [`Content::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The page of the approval it is, or nearly is; none for what is not code.
    pub page: Option<Page>,
    /// All bytes that are no site are as they must be.
    pub sound: bool,
    /// The choice in K0, A0 and C0.
    pub choice: Choice,
    /// The jump label in K0 and in init text.
    pub label: Label,
    /// This page's half of the jump label across K0 and K1, or C0 and C1.
    pub edge: Label,
    /// The static call in K1.
    pub call: Call,
    /// Slot the region was relocated for.
    pub slot: u8,
    /// Place of A's data it was relocated for.
    pub data: u8,
    /// The same, for the field across A0 and A1.
    pub edge_data: u8,
    /// In B: slot of A's text.
    pub text: u8,
}

impl Content {
    /// A page as it is when nothing was done to it.
    pub fn of(page: Page) -> Self {
        let (choice, label, edge, call) = (Choice::Linked, Label::Nop, Label::Nop, Call::Linked);
        Self { page: Some(page), sound: true, choice, label, edge, call, slot: 0, data: 0, edge_data: 0, text: 0 }
    }

    /// Memory that holds no code.
    pub fn data() -> Self {
        Self { page: None, sound: false, ..Self::of(Page::K0) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> PageBytes {
        let Some(page) = self.page else { return filler(99) };
        let mut bytes = filler(page as usize);
        let slot = SLOTS[self.slot as usize];
        let mut put = |at: usize, what: &[u8]| {
            let end = PAGE.min(at + what.len());
            bytes[at..end].copy_from_slice(&what[..end - at]);
        };
        let choice: &[u8; 3] = match self.choice {
            Choice::Linked => &[0x90; 3],
            Choice::Weak => &WEAK,
            Choice::Strong => &STRONG,
            Choice::Evil => &[0x0f, 0x01, 0xf9],
        };
        match page {
            Page::K0 => {
                put(CHOICE, choice);
                put(LABEL, &label(self.label));
                put(EDGE, &edge(self.edge)[..3]);
            }
            Page::K1 => {
                put(0, &edge(self.edge)[3..]);
                let call = match self.call {
                    Call::Linked => branch(0xe8, IMAGE + PAGE as u64 + CALL as u64, IMAGE),
                    Call::Nop => NOP5,
                    Call::Evil => branch(0xe8, IMAGE + PAGE as u64 + CALL as u64, IMAGE + 8),
                };
                put(CALL, &call);
            }
            Page::Init => put(LABEL, &label(self.label)),
            Page::A0 => {
                put(FIELD, &relative(slot, FIELD, DATA[self.data as usize]));
                put(CHOICE, choice);
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
                put(A_EDGE, &relative(slot, A_EDGE, DATA[self.edge_data as usize])[..2]);
            }
            Page::A1 => {
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
                put(0, &relative(slot, A_EDGE, DATA[self.edge_data as usize])[2..]);
                put(FIELD, &relative(slot, PAGE + FIELD, DATA[self.data as usize]));
            }
            Page::A => {
                put(FIELD, &relative(slot, FIELD, DATA[self.data as usize]));
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
            }
            Page::B => {
                put(FIELD, &relative(slot, FIELD, SLOTS[self.text as usize]));
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
            }
            Page::C0 => {
                put(CHOICE, choice);
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
                put(EDGE, &edge(self.edge)[..3]);
            }
            Page::C1 => {
                put(0, &edge(self.edge)[3..]);
                put(OWN, &(slot as u32 + 0x100).to_le_bytes());
            }
        }
        if !self.sound {
            bytes[BODY] ^= 0x55;
        }
        bytes
    }

    /// The virtual address a page of a module belongs at.
    pub fn place(&self) -> u64 {
        SLOTS[self.slot as usize] + if matches!(self.page, Some(Page::A1 | Page::C1)) { 0x1000 } else { 0 }
    }
}

/// Offset of the choice.
pub const CHOICE: usize = 0x40;
/// Offset of the jump label.
pub const LABEL: usize = 0x80;
/// Length of the jump label.
pub const LABEL_LEN: usize = 2;
/// Offset of the jump label across the border.
pub const EDGE: usize = PAGE - 3;
/// Offset of the static call.
pub const CALL: usize = 0x60;
/// Offset of a relocated field.
const FIELD: usize = 0x10;
/// Offset of the field that holds the text's own address.
const OWN: usize = 0x30;
/// Offset of the field across the border.
const A_EDGE: usize = PAGE - 2;
/// A byte that is no site.
const BODY: usize = 0x200;

const WEAK: [u8; 3] = [0x0f, 0x1f, 0];
const STRONG: [u8; 3] = [0x0f, 0x01, 0xca];
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
/// Distance of the long jump; all its bytes differ from the NOP's.
const FAR: i32 = 0x2030_4050;

fn label(label: Label) -> [u8; 2] {
    match label {
        Label::Nop => [0x66, 0x90],
        Label::Jump => [0xeb, 0x10],
        Label::Changing => [0xcc, 0x10],
        Label::Half => [0xeb, 0x90],
    }
}

fn edge(label: Label) -> [u8; 5] {
    let [a, b, c, d] = FAR.to_le_bytes();
    match label {
        Label::Nop => NOP5,
        Label::Jump => [0xe9, a, b, c, d],
        Label::Changing => [0xcc, a, b, c, d],
        Label::Half => [0x0f, a, b, 0x77, 0x77],
    }
}

fn branch(opcode: u8, va: u64, to: u64) -> [u8; 5] {
    let [a, b, c, d] = (to.wrapping_sub(va + 5) as u32).to_le_bytes();
    [opcode, a, b, c, d]
}

fn relative(base: u64, at: usize, to: u64) -> [u8; 4] {
    (to.wrapping_sub(base + at as u64 + 4) as u32).to_le_bytes()
}

/// Bytes that are not a site's; no two pages are alike.
fn filler(seed: usize) -> PageBytes {
    std::array::from_fn(|i| ((i as u32 + seed as u32 * 77_777).wrapping_mul(2_654_435_761) >> 13) as u8 | 1)
}

/// Writes the approval of a kernel with `text` pages of text, and of modules.
pub fn approval(text: usize, modules: Modules) -> Vec<u8> {
    const FEW: &str = "few of everything";
    let mut b = Builder::new();
    let variant = |cond, bytes: &[u8]| VariantDef { cond, bytes: bytes.to_vec(), fixes: Vec::new() };
    let forms = vec![variant(cond::BOOT_ONLY, &[0x90; 3]), variant(cond::BASE, &WEAK), variant(SMAP, &STRONG)];
    let choice = b.template(&TemplateDef(forms)).expect(FEW);
    let site = |offset: usize, kind, index, arg| SiteDef { offset: offset as u64, kind, index, arg };
    let pages = |list: &[Page]| list.iter().flat_map(|p| Content::of(*p).bytes()).collect::<Vec<u8>>();
    let region = |b: &mut Builder, module, kind, base, list: &[Page], sites| {
        let symbols = vec![SymbolDef { offset: 0, name: "function".into(), function: true }];
        b.region(RegionDef { module, kind, base, bytes: pages(list), sites, symbols }).expect(FEW);
    };
    let mut sites = vec![site(CHOICE, SiteKind::Choice, choice, 0), site(LABEL, SiteKind::Jump2, 0, 0x10)];
    if text > 1 {
        let start = b.local_expr(NONE, IMAGE).expect(FEW);
        sites.push(site(EDGE, SiteKind::Jump5, 0, FAR));
        sites.push(site(PAGE + CALL, SiteKind::StaticCall, start, 0));
    }
    region(&mut b, NONE, RegionKind::KernelText, IMAGE, &[Page::K0, Page::K1][..text], sites);
    let init = IMAGE + (text * PAGE) as u64;
    region(&mut b, NONE, RegionKind::KernelInit, init, &[Page::Init], vec![site(LABEL, SiteKind::Jump2, 0, 0x10)]);
    if modules == Modules::Label {
        assert_eq!(b.module("c", &[VarClass::Code]), (0, C_TEXT));
        b.begin_module(0);
        // Of these forms only boot's own is impossible whatever the CPU has.
        let bare = |cond, bytes: &[u8]| VariantDef { cond, bytes: bytes.to_vec(), fixes: Vec::new() };
        let forms = vec![bare(cond::BOOT_ONLY, &[0x90; 3]), bare(SMAP | cond::NOT, &WEAK), bare(SMAP, &STRONG)];
        let choice = b.template(&TemplateDef(forms)).expect(FEW);
        let own = b.local_expr(C_TEXT, 0x100).expect(FEW);
        let sites = vec![
            site(OWN, SiteKind::Abs32, own, 0),
            site(CHOICE, SiteKind::Choice, choice, 0),
            site(EDGE, SiteKind::Jump5, 0, FAR),
            site(PAGE + OWN, SiteKind::Abs32, own, 0),
        ];
        region(&mut b, 0, RegionKind::ModuleText, C_TEXT as u64, &[Page::C0, Page::C1], sites);
    }
    if matches!(modules, Modules::One | Modules::Two) {
        assert_eq!(b.module("a", &[VarClass::Code, VarClass::Data]), (0, A_TEXT));
    }
    if modules == Modules::Two {
        assert_eq!(b.module("b", &[VarClass::Code]), (1, B_TEXT));
    }
    if matches!(modules, Modules::One | Modules::Two) {
        b.begin_module(0);
        let data = b.local_expr(A_DATA, 0).expect(FEW);
        let own = b.local_expr(A_TEXT, 0x100).expect(FEW);
        let mut sites = vec![site(FIELD, SiteKind::Rel32, data, -4), site(OWN, SiteKind::Abs32, own, 0)];
        let mut text = &[Page::A][..];
        if modules == Modules::One {
            text = &[Page::A0, Page::A1];
            sites.extend([
                site(CHOICE, SiteKind::Choice, choice, 0),
                site(A_EDGE, SiteKind::Rel32, data, -4),
                site(PAGE + FIELD, SiteKind::Rel32, data, -4),
                site(PAGE + OWN, SiteKind::Abs32, own, 0),
            ]);
        }
        region(&mut b, 0, RegionKind::ModuleText, A_TEXT as u64, text, sites);
    }
    if modules == Modules::Two {
        b.begin_module(1);
        let text = b.local_expr(A_TEXT, 0).expect(FEW);
        let own = b.local_expr(B_TEXT, 0x100).expect(FEW);
        let sites = vec![site(FIELD, SiteKind::Rel32, text, -4), site(OWN, SiteKind::Abs32, own, 0)];
        region(&mut b, 1, RegionKind::ModuleInit, B_TEXT as u64, &[Page::B], sites);
    }
    let info = Info {
        image_va: IMAGE,
        image_phys: 0,
        image_span: ((text + 1) * PAGE) as u64,
        entry_offset: 0,
        align: 0x20_0000,
        modules_start: MODULES.start,
        modules_end: MODULES.end,
        fentry: IMAGE,
        ftrace_caller: IMAGE,
        ftrace_regs_caller: IMAGE,
        percpu_start: 0,
        release: b.name("model"),
        cmdline: b.name(""),
        boot_version: 0x20f,
        cmdline_size: 2048,
        call_forms: NONE,
    };
    b.finish(info)
}
