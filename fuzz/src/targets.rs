//! What is fuzzed: one function for each parser of foreign bytes
//!
//! `cargo fuzz` calls these by the programs in `fuzz_targets`; `cargo test` calls them from `cli/tests/fuzz.rs`, with
//! [`mutated`] inputs. A target fails by a panic, overflow included.
use secvisor::alternatives::Replacement;
use secvisor::bzimage::{self, Setup};
use secvisor::code::Address;
use secvisor::inspect::Approval;
use secvisor::kernel::Kernel;
use secvisor::module::image::Image;
use secvisor::module::ko::Ko;
use secvisor::module::layout::{Block, Layout, Loader, Scheme};
use secvisor::module::link::{self, Linked};
use secvisor::module::sites;
use secvisor::{check, kallsyms};
use secvisor_amd64::event::Event as CpuEvent;
use secvisor_amd64::exit::{Exit, IoAccess, NestedFault, REASONS};
use secvisor_amd64::paging::{Walk, walk as walk_tables};
use secvisor_approval::build::seal;
use secvisor_approval::open;
use secvisor_approval::wire::{HEADER_LEN, NONE, SIGNATURE_OFFSET};
use secvisor_approval::{PAGE, PageBytes};
use secvisor_rules::frame::MAX_PAGES;
use secvisor_rules::{Event, Frame, FrameState, Verdict};

use crate::made_up;
use crate::synthetic;
use crate::world::{FRAMES, HYPERVISOR, Ram, Stage, is_ram};

/// A target, with inputs to begin with.
pub struct Target {
    /// Its name, that of the program too.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs that are as they should be.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target { name: "approval", run: approval, seeds: approval_seeds },
    Target { name: "bzimage", run: bzimage_file, seeds: bzimage_seeds },
    Target { name: "kernel", run: kernel, seeds: || vec![made_up::vmlinux()] },
    Target { name: "kallsyms", run: kallsyms_table, seeds: kallsyms_seeds },
    Target { name: "module", run: module, seeds: module_seeds },
    Target { name: "walk", run: walk, seeds: walk_seeds },
    Target { name: "exits", run: exits, seeds: || vec![vec![0x4e, 0, 0, 0], (0..=255).collect()] },
];

/// Opens an approval whose length and checksum are made to fit, shows all of it, and lets the rules work with it.
pub fn approval(data: &[u8]) {
    let mut file = data.to_vec();
    let _ = open::open(&mut file.clone());
    if file.len() < HEADER_LEN {
        return;
    }
    let len = file.len() as u64;
    file[16..24].copy_from_slice(&len.to_le_bytes());
    seal(&mut file);
    let _ = check::check(&mut file.clone());
    if let Ok(mut opened) = open::Opened::new(&mut file.clone()) {
        let room = opened.room();
        opened.slide(room);
    }
    show(&mut file.clone());
    let script = file[SIGNATURE_OFFSET..HEADER_LEN].to_vec();
    drive(file, &script);
}

fn show(file: &mut [u8]) {
    let Ok((launch, view, pages)) = open::open(file) else { return };
    let approval = Approval { launch, view, pages };
    let _ = approval.summary().to_string();
    for module in approval.view.modules.iter().take(4) {
        let name = approval.view.name(module.name).to_owned();
        let _ = approval.module(&name).map(|m| m.to_string());
        let _ = approval.page(Some(&name), 0).map(|p| p.to_string());
    }
    for region in approval.view.regions.iter().take(8) {
        let base = if region.module == NONE { region.base } else { 0 };
        let _ = approval.page(None, base).map(|p| p.to_string());
        if let Some(symbol) = approval.view.symbol_at(&region, 0) {
            let name = approval.view.symbol_name(&symbol).to_string();
            let _ = approval.symbol(&name).map(|found| found.len());
        }
    }
}

/// Runs the rules on a small machine, by a script of four bytes per event.
fn drive(file: Vec<u8>, script: &[u8]) {
    let mut stage = Stage::new(file);
    let Some(pages) = stage.pages().filter(|p| p.len() <= MAX_PAGES) else { return };
    let Ok(mut rules) = stage.rules() else { return };
    let mut ram = Ram::new();
    let (start, info) = (crate::world::KERNEL.0, rules.view().info);
    for frame in (start..FRAMES).map(Frame).filter(|f| is_ram(*f)) {
        if rules.loaded(frame).is_some()
            && let FrameState::Approved(page) = rules.frames().get(frame)
        {
            ram.pages[frame.0 as usize] = pages[page as usize];
            ram.rights[frame.0 as usize] = crate::world::Right::Executable;
        }
    }
    for event in script.as_chunks::<4>().0 {
        let [what, frame, a, b] = *event;
        let frame = Frame(frame as u64 % (FRAMES + 2));
        let page = pages.get((a as usize) << 8 | b as usize).or(pages.get(a as usize));
        let va = match b % 5 {
            0 => info.image_va.wrapping_add((a as u64) << 12 | b as u64),
            1 => info.modules_start.wrapping_add((a as u64) << 12),
            2 => info.modules_end.wrapping_sub((a as u64) << 12 | 1),
            3 => u64::MAX - ((a as u64) << 4),
            _ => frame.address(),
        };
        ram.tables.insert(va & !0xfff, frame);
        let event = match what % 8 {
            0..=2 => Event::KernelFetch { frame, va, patching: what & 8 != 0, tries: (what & 16 != 0).then_some(0) },
            3 => Event::FirstUser,
            4 => {
                ram.room = b as usize % 4;
                continue;
            }
            _ if !is_ram(frame) => Event::Write { frame, from_within: false },
            // Somebody writes to it: a page of the approval, or a byte.
            5 | 6 => {
                let _ = rules.step(&mut ram, Event::Write { frame, from_within: false });
                write(&mut ram, frame, what, page, [a, b]);
                Event::KernelFetch { frame, va, patching: what & 8 != 0, tries: (what & 16 != 0).then_some(0) }
            }
            _ => Event::Write { frame, from_within: what & 8 != 0 },
        };
        if let Verdict::Step = rules.step(&mut ram, event) {
            let _ = rules.step(&mut ram, Event::Write { frame, from_within: false });
        }
        ram.room = usize::MAX;
    }
    let approved = (0..FRAMES).filter(|f| matches!(rules.frames().get(Frame(*f)), FrameState::Approved(_)));
    assert_eq!(approved.count() as u64, rules.counters().approved);
    assert!(HYPERVISOR.clone().all(|f| rules.frames().get(Frame(f)) == FrameState::Hypervisor));
}

fn write(ram: &mut Ram, frame: Frame, what: u8, page: Option<&PageBytes>, [a, b]: [u8; 2]) {
    let to = &mut ram.pages[frame.0 as usize];
    match page.filter(|_| what % 8 == 5) {
        Some(page) => *to = *page,
        None => to[((a as usize) << 8 | b as usize) % PAGE] ^= what | 1,
    }
}

fn approval_seeds() -> Vec<Vec<u8>> {
    let mut with_script = synthetic::Spec::new().file();
    let mut script: Vec<u8> = (0..FRAMES as u8).flat_map(|f| [0, f, f, 0]).collect();
    script.truncate(256);
    script.extend([3, 0, 0, 0]);
    script.extend((0x40..0x60).flat_map(|f| [5, f, f - 0x40 + 14, 1]));
    with_script[SIGNATURE_OFFSET..SIGNATURE_OFFSET + script.len()].copy_from_slice(&script);
    let made = secvisor::approve::approve("kernel", &made_up::kernel(), &[], &|_| ()).map(|a| a.bytes);
    vec![synthetic::Spec::new().file(), with_script, made.expect("the made-up kernel is approved")]
}

/// Reads a kernel file and unpacks it.
pub fn bzimage_file(data: &[u8]) {
    let Ok(setup) = bzimage::setup(data) else { return };
    // What is asked for is reserved; more than this would only cost time.
    let announced = data.len().checked_sub(4).and_then(|at| secvisor::bytes::u32_at(data, at));
    if announced.is_some_and(|size| size > 1 << 26) {
        return;
    }
    let _ = bzimage::unpack(data, &setup);
}

fn bzimage_seeds() -> Vec<Vec<u8>> {
    let inner = &made_up::vmlinux()[..20_000];
    made_up::PACKINGS.iter().map(|p| made_up::bzimage(inner, *p)).collect()
}

/// The setup header of a kernel that is as it should be.
fn setup() -> Setup {
    bzimage::setup(&made_up::bzimage(&[0; 64], made_up::Packing::Zstd)).expect("a setup header")
}

/// Reads a linked kernel and makes an approval of it, which must then pass its own check.
pub fn kernel(data: &[u8]) {
    let Ok(kernel) = Kernel::parse(setup(), data) else { return };
    let mut emitter = kernel.emitter();
    let Ok((info, _)) = kernel.emit(&mut emitter) else { return };
    let _ = check::check(&mut emitter.builder.finish(info));
    for slot in [0, 8, 24, 4, u64::MAX] {
        let _ = matches!(kernel.pv.direct_call(kernel.pv.start().wrapping_add(slot)), Ok(Replacement::Nops));
    }
}

/// Decodes a section that has kallsyms in it.
pub fn kallsyms_table(data: &[u8]) {
    let _ = kallsyms::decode(data, 0xffff_ffff_8200_0000);
}

fn kallsyms_seeds() -> Vec<Vec<u8>> {
    let names = |i: u64| (made_up::BASE + 16 * i, 'T', format!("function_{i}"));
    let new = made_up::kallsyms(&(0..300).map(names).collect::<Vec<_>>());
    vec![made_up::kallsyms(&(0..20).map(names).collect::<Vec<_>>()), new]
}

/// Reads a module, lays it out, links it and lists its patch sites, as for both kinds of kernel.
pub fn module(data: &[u8]) {
    thread_local! {
        static VMLINUX: &'static [u8] = made_up::vmlinux().leak();
        static KERNEL: Kernel<'static> = Kernel::parse(setup(), VMLINUX.with(|v| *v)).expect("the made-up kernel");
    }
    let Ok(ko) = Ko::parse("fuzzed.ko".as_ref(), data.to_vec()) else { return };
    let _ = link::exports(&ko);
    for scheme in [Scheme::Two, Scheme::Seven] {
        let Ok(layout) = Layout::new(&ko, &Loader::new(scheme)) else { continue };
        KERNEL.with(|kernel| {
            let export = |name: &str| Some(kernel.symbols.export(name).unwrap_or(Address::kernel(made_up::BASE)));
            let Ok(linked) = Linked::new(&ko, &layout, 0, export) else { return };
            let images = [Block::Text, Block::InitText].map(|block| Image::new(&linked, block));
            let mut images: Vec<Image> = images.into_iter().filter_map(|i| i.ok().flatten()).collect();
            let _ = sites::find(&linked, kernel, &mut images);
        });
    }
}

fn module_seeds() -> Vec<Vec<u8>> {
    vec![made_up::helper(made_up::RELEASE), made_up::driver(made_up::RELEASE)]
}

/// Walks a guest's page tables, which are the input, from any root.
pub fn walk(data: &[u8]) {
    let word = |at: usize| data.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
    let (Some(root), Some(va)) = (word(0), word(8)) else { return };
    let tables = &data[16..];
    for levels in [4, 5] {
        let reads = std::cell::Cell::new(0);
        let walked = walk_tables(root, levels, va, |at| {
            reads.set(reads.get() + 1);
            assert!(at % 8 == 0 && at < 1 << 52, "an entry at {at:#x}");
            let at = at as usize % (tables.len().max(8) & !7);
            Some(tables.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes"))))
        });
        assert!(reads.get() <= levels, "each level is read once");
        if let Walk::Mapped(physical) = walked {
            assert!(physical < 1 << 52 && physical & 0xfff == va & 0xfff, "{physical:#x} for {va:#x}");
        }
    }
}

fn walk_seeds() -> Vec<Vec<u8>> {
    let mut tables = vec![0u64; 2 + 4 * 512];
    (tables[0], tables[1]) = (0, 0x1234);
    (tables[2], tables[2 + 512], tables[2 + 1024]) = (0x1003, 0x2003, 0x3003);
    (tables[2 + 1536], tables[2 + 1025]) = (0x8000_0000_0000_7003, 0x60_0083);
    vec![tables.iter().flat_map(|e| e.to_le_bytes()).collect()]
}

/// Decodes what an exit brings.
pub fn exits(data: &[u8]) {
    for chunk in data.chunks(8) {
        let mut raw = [0; 8];
        raw[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(raw);
        for code in [word, word & 0xffff, word & 0x4ff, !word] {
            let exit = Exit::new(code);
            assert!(exit.index() < REASONS.len());
            assert!(exit == Exit::new(code));
        }
        let fault = NestedFault(word);
        let _ = (fault.present(), fault.write(), fault.fetch(), fault.table_walk());
        let access = IoAccess(word);
        let _ = (access.read(), access.string(), access.port());
        assert!(access.size() < 8);
        // What is delivered again is an event, and stays the same from then on.
        if let Some(again) = CpuEvent(word).again() {
            assert!(again.valid());
            let vector = again.vector();
            assert_eq!(vector, CpuEvent(word).vector());
        }
    }
}

/// A small random number generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}

/// A variation of an input: bits, bytes, numbers, parts cut out, doubled or exchanged.
pub fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 10] = [0, 1, 7, 0x7f, 0xff, 0x1000, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];
    let mut out = seed.to_vec();
    for _ in 0..1 + random.below(5) {
        let (len, what) = (out.len(), random.below(12));
        if len == 0 {
            return out;
        }
        // Headers decide most: half of the changes are made near the beginning.
        let at = if random.below(2) == 0 { random.below(len.min(1500)) } else { random.below(len) };
        let part = 1 + random.below((len - at).min(64));
        match what {
            0 => out.truncate(at),
            1 => drop(out.drain(at..at + part)),
            2 => out.splice(at..at, vec![random.below(256) as u8; part]).for_each(drop),
            3 => {
                let from = random.below(len - part + 1);
                out.copy_within(from..from + part, at);
            }
            4 | 5 => {
                let width = [1, 2, 4, 8][random.below(4)].min(len - at);
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                out[at..at + width].copy_from_slice(&number[..width]);
            }
            6 | 7 => {
                let width = [1, 2, 4][random.below(3)].min(len - at);
                let mut number = [0; 4];
                number[..width].copy_from_slice(&out[at..at + width]);
                let near = u32::from_le_bytes(number).wrapping_add(random.below(33) as u32).wrapping_sub(16);
                out[at..at + width].copy_from_slice(&near.to_le_bytes()[..width]);
            }
            8 => out[at] = random.below(256) as u8,
            _ => out[at] ^= 1 << random.below(8),
        }
    }
    out
}
