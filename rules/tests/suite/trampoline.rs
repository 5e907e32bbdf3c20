//! The AP trampoline: the one thing that runs below 1 MiB, where it is placed once
use secvisor_approval::wire::LOW_END;
use secvisor_approval::{PAGE, PageBytes, view};
use secvisor_rules::{
    Access, Event, Frame, FrameState, FrameTable, Machine, Memory, OutOfTables, Rule, Rules, Verdict,
};

use crate::synthetic::{self as s, Spec};
use crate::world::{Outcome, Right, Stage, World, frames, usual_vars};

const PAGE64: u64 = PAGE as u64;
/// Where Linux may put it.
const BASES: [u64; 3] = [0x4_1000, 0x6_8000, 0x8_d000];

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

/// Before or after the first instruction in user mode.
fn world(stage: &mut Stage, booted: bool) -> World<'_> {
    let mut world = World::new(stage);
    world.boot();
    if booted {
        world.first_user();
    }
    world
}

fn at(base: u64) -> Vec<u64> {
    let mut vars = usual_vars();
    vars[s::R_TEXT as usize] = base;
    vars
}

/// Puts it where Linux would: page by page at its own address.
fn load(world: &mut World<'_>, base: u64) {
    world.load(s::REALMODE, &at(base), &frames(base / PAGE64, 3));
}

fn fetch(world: &mut World<'_>, base: u64, page: u64) -> Outcome {
    let va = base + page * PAGE64;
    world.fetch(Frame::containing(va), va)
}

fn base(world: &World<'_>) -> u64 {
    world.rules.variable(s::R_TEXT as usize)
}

/// The bytes of the trampoline where it lies.
fn bytes(world: &World<'_>, base: u64) -> Vec<u8> {
    world.ram.pages[(base / PAGE64) as usize..][..3].as_flattened().to_vec()
}

#[test]
fn it_runs_wherever_linux_puts_it_before_and_after_user_mode() {
    for booted in [false, true] {
        for at in BASES {
            for first in 0..3 {
                let mut stage = stage();
                let mut world = world(&mut stage, booted);
                load(&mut world, at);
                for page in 0..3 {
                    let va = at + (first + page) % 3 * PAGE64;
                    // Any instruction of the page.
                    assert_eq!(world.fetch(Frame::containing(va), va + 0x1f3), Outcome::Runs);
                    assert_eq!(base(&world), at);
                }
                world.check();
                // Still there once user mode is reached.
                world.first_user();
                let approved = |p: u64| world.rules.frames().get(Frame(at / PAGE64 + p));
                assert!((0..3).all(|p| matches!(approved(p), FrameState::Approved(_))));
            }
        }
    }
}

#[test]
fn wrong_bases_are_refused() {
    for booted in [false, true] {
        for at in BASES {
            let mut stage = stage();
            let mut world = world(&mut stage, booted);
            // As it would be elsewhere, or as it is linked.
            for wrong in BASES.into_iter().filter(|b| *b != at).chain([PAGE64, at - PAGE64, at + PAGE64, at + 16]) {
                let at_wrong = self::at(wrong);
                world.load(s::REALMODE, &at_wrong, &frames(at / PAGE64, 3));
                world.ram.map(at, &frames(at / PAGE64, 3));
                for page in 0..3 {
                    assert_eq!(fetch(&mut world, at, page).rule(), Some(Rule::UnapprovedCode), "{wrong:#x} {page}");
                }
            }
            assert_eq!(base(&world), 0);
            load(&mut world, at);
            assert!((0..3).all(|page| fetch(&mut world, at, page) == Outcome::Runs));
        }
    }
}

/// Every bit of every field, and of some other bytes.
#[test]
fn one_changed_bit_is_refused() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = world(&mut stage, booted);
        let at = BASES[1];
        let sites = world.spec.regions[s::REALMODE].sites.clone();
        let inside = sites.iter().flat_map(|x| x.offset as usize..x.offset as usize + x.kind.len());
        for offset in inside.chain([0, 0x800, PAGE + 0x100, 3 * PAGE - 3]) {
            for bit in 0..8 {
                load(&mut world, at);
                let byte = bytes(&world, at)[offset] ^ 1 << bit;
                world.write(Frame(at / PAGE64 + (offset / PAGE) as u64), offset % PAGE, &[byte]);
                let outcome = fetch(&mut world, at, (offset / PAGE) as u64);
                assert_eq!(outcome.rule(), Some(Rule::UnapprovedCode), "{offset:#x} bit {bit}");
                assert_eq!(bytes(&world, at)[offset], byte, "not put back: it never ran");
            }
        }
    }
}

#[test]
fn it_is_put_back_once_it_has_run() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = world(&mut stage, booted);
        let at = BASES[0];
        load(&mut world, at);
        assert!((0..3).all(|page| fetch(&mut world, at, page) == Outcome::Runs));
        let before = bytes(&world, at);
        // A segment, an address, code.
        for offset in [6, 0x54, 0x38, PAGE + 0x21, 2 * PAGE + 0x300] {
            let (page, inside) = ((offset / PAGE) as u64, offset % PAGE);
            world.write(Frame(at / PAGE64 + page), inside, &[before[offset] ^ 0x10]);
            // At once, however many CPUs there are.
            let outcome = world.fetch_patiently(Frame(at / PAGE64 + page), at + page * PAGE64);
            let Outcome::Restored(v) = outcome else { panic!("{offset:#x} is not put back") };
            assert_eq!(v.rule, Rule::Tampered);
            assert!(bytes(&world, at) == before);
        }
        // Something else altogether has taken its place.
        world.write(Frame(at / PAGE64), 0, &[0x90; PAGE]);
        assert!(fetch(&mut world, at, 0).refused());
        world.check();
    }
}

#[test]
fn it_never_moves() {
    for booted in [false, true] {
        for pages in [0..1, 1..2, 0..3] {
            let mut stage = stage();
            let mut world = world(&mut stage, booted);
            load(&mut world, BASES[0]);
            assert!(pages.clone().all(|page| fetch(&mut world, BASES[0], page) == Outcome::Runs));
            for other in [BASES[1], BASES[2], BASES[0] + PAGE64, BASES[0] - PAGE64] {
                load(&mut world, other);
                for page in 0..3 {
                    let outcome = fetch(&mut world, other, page);
                    assert!(!matches!(outcome, Outcome::Runs), "{other:#x} {page}");
                }
                assert_eq!(base(&world), BASES[0]);
                world.first_user();
            }
            load(&mut world, BASES[0]);
            assert!((0..3).all(|page| fetch(&mut world, BASES[0], page) == Outcome::Runs));
            world.check();
        }
    }
}

#[test]
fn nothing_else_runs_in_low_memory() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = world(&mut stage, booted);
        for (i, code) in [[0x90; PAGE], [0; PAGE], [0xcc; PAGE]].iter().enumerate() {
            let va = (0x50 + i as u64) * PAGE64;
            world.write(Frame::containing(va), 0, code);
            assert_eq!(world.fetch(Frame::containing(va), va).rule(), Some(Rule::UnapprovedCode));
        }
        // Modules, at a low address and as if they had been linked there.
        for region in [s::ALPHA, s::ALPHA_INIT, s::BETA, s::GAMMA] {
            for low in [0x4_0000, 0x7_0000] {
                for linked in [usual_vars()[world.spec.regions[region].base as usize], low] {
                    let mut vars = usual_vars();
                    vars[world.spec.regions[region].base as usize] = linked;
                    let pages = world.spec.regions[region].pages;
                    world.load(region, &vars, &frames(low / PAGE64, pages));
                    world.ram.map(low, &frames(low / PAGE64, pages));
                    for page in 0..pages as u64 {
                        assert!(fetch(&mut world, low, page).refused(), "{region} {page} at {low:#x}");
                    }
                }
            }
        }
        // And the trampoline itself is approved as the trampoline only.
        load(&mut world, BASES[0]);
        for va in [s::MODULES.start, usual_vars()[0], LOW_END, LOW_END + BASES[0], 0xffff_8880_0000_0000 + BASES[0]] {
            for page in 0..3 {
                let frame = Frame(BASES[0] / PAGE64 + page);
                assert!(world.fetch(frame, va + page * PAGE64).refused(), "{va:#x} {page}");
            }
        }
        let mut vars = usual_vars();
        vars[s::R_TEXT as usize] = s::MODULES.start;
        world.load(s::REALMODE, &vars, &frames(0x50, 3));
        assert!((0..3).all(|page| world.fetch_module(s::REALMODE, page, &vars).refused()));
        assert_eq!(base(&world), 0);
        world.check();
    }
}

#[test]
fn its_virtual_address_is_its_physical_one() {
    for booted in [false, true] {
        for bound in [false, true] {
            let mut stage = stage();
            let mut world = world(&mut stage, booted);
            if bound {
                load(&mut world, BASES[0]);
                assert!((0..3).all(|page| fetch(&mut world, BASES[0], page) == Outcome::Runs));
            }
            // Right by its addresses, in other frames.
            world.load(s::REALMODE, &at(BASES[0]), &frames(0x50, 3));
            for page in 0..3u64 {
                assert!(world.fetch(Frame(0x50 + page), BASES[0] + page * PAGE64).refused());
                assert_eq!(world.ram.rights[0x50 + page as usize], Right::Data);
                // Right by its frame.
                assert!(world.fetch(Frame(0x50 + page), 0x5_0000 + page * PAGE64).refused());
            }
            assert_eq!(base(&world), if bound { BASES[0] } else { 0 });
            // Memory that is not RAM, or not the guest's.
            for frame in [0x38, 0x30, crate::world::FRAMES] {
                assert!(world.fetch(Frame(frame), frame * PAGE64).refused());
            }
            world.check();
        }
    }
}

/// All of low memory, and nothing of the rest.
struct Low(Vec<PageBytes>);

impl Machine for Low {
    fn page(&self, frame: Frame) -> &PageBytes {
        &self.0[frame.0 as usize]
    }
    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }
    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        self.0[frame.0 as usize] = *bytes;
    }
    fn set_access(&mut self, _: Frame, _: Access) -> Result<(), OutOfTables> {
        Ok(())
    }
    fn translate(&self, va: u64) -> Option<Frame> {
        Some(Frame::containing(va))
    }
}

#[test]
fn its_end_is_below_the_limit() {
    let spec = Spec::new();
    let text = &spec.regions[s::REALMODE];
    for (base, runs) in [(LOW_END - 3 * PAGE64, true), (LOW_END - 2 * PAGE64, false), (LOW_END - PAGE64, false)] {
        let mut file = spec.file();
        let (_, view, pages) = view::open(&mut file).unwrap();
        let (mut places, mut vars, mut table) = (vec![0; pages.len()], vec![0; s::VARS], vec![0; 0x100]);
        let mut frames = FrameTable::new(&mut table);
        frames.add_ram(0..0x100);
        let mut rules = Rules::new(Memory { view, pages, frames, places: &mut places, vars: &mut vars }, Frame(0x10));
        let mut bytes = spec.bytes(s::REALMODE);
        for site in &text.sites {
            let linked = spec.linked(site, base + site.offset, &at(base));
            bytes[site.offset as usize..][..linked.len()].copy_from_slice(&linked);
        }
        let mut low = Low(vec![[0; PAGE]; (base / PAGE64) as usize]);
        low.0.extend_from_slice(bytes.as_chunks().0);
        for va in (base..LOW_END).step_by(PAGE) {
            let fetch = Event::KernelFetch { frame: Frame::containing(va), va, patching: false, tries: None };
            assert_eq!(matches!(rules.step(&mut low, fetch), Verdict::Resume), runs, "{base:#x} at {va:#x}");
        }
    }
}
