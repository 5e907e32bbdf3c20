//! Modules: approved only as part of one consistently placed instance
use secvisor_approval::build::seal;
use secvisor_approval::wire::{SECTIONS_OFFSET, Section};
use secvisor_approval::{PAGE, view};
use secvisor_rules::{Frame, FrameState, Rule};

use crate::synthetic::{self as s, Kind, Spec, To};
use crate::world::{Outcome, Stage, World, frames, usual_vars};

/// First frames of the modules' code.
pub(crate) const ALPHA_AT: u64 = 0x48;
pub(crate) const INIT_AT: u64 = 0x4c;
pub(crate) const BETA_AT: u64 = 0x40;

pub(crate) const PAGE64: u64 = PAGE as u64;

pub(crate) fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

/// Both modules, loaded but not run.
pub(crate) fn loaded<'a>(stage: &'a mut Stage, vars: &[u64]) -> World<'a> {
    let mut world = World::booted(stage);
    load_all(&mut world, vars);
    world
}

pub(crate) fn load_all(world: &mut World<'_>, vars: &[u64]) {
    world.load(s::BETA, vars, &frames(BETA_AT, 2));
    world.load(s::ALPHA, vars, &frames(ALPHA_AT, 4));
    world.load(s::ALPHA_INIT, vars, &frames(INIT_AT, 1));
}

pub(crate) fn run_all(world: &mut World<'_>, vars: &[u64]) {
    for (region, pages) in [(s::BETA, 2), (s::ALPHA_INIT, 1), (s::ALPHA, 4)] {
        for page in 0..pages {
            assert_eq!(world.fetch_module(region, page, vars), Outcome::Runs, "{region} {page}");
        }
    }
    world.check();
}

pub(crate) fn approved(world: &World<'_>, region: usize, page: usize) -> Option<Frame> {
    let wanted = FrameState::Approved(world.spec.page(region, page));
    (0..crate::world::FRAMES).map(Frame).find(|f| world.rules.frames().get(*f) == wanted)
}

pub(crate) fn vars_of(world: &World<'_>) -> Vec<u64> {
    (0..s::VARS).map(|v| world.rules.variable(v)).collect()
}

fn byte_at(world: &World<'_>, va: u64) -> u8 {
    world.ram.pages[world.ram.tables[&(va & !0xfff)].0 as usize][va as usize % PAGE]
}

pub(crate) fn set_byte(world: &mut World<'_>, va: u64, byte: u8) {
    let frame = world.ram.tables[&(va & !0xfff)];
    world.write(frame, va as usize % PAGE, &[byte]);
}

#[test]
fn approved_modules_run_whatever_page_comes_first() {
    let all =
        [(s::BETA, 0), (s::BETA, 1), (s::ALPHA_INIT, 0), (s::ALPHA, 0), (s::ALPHA, 1), (s::ALPHA, 2), (s::ALPHA, 3)];
    for first in 0..all.len() {
        for reverse in [false, true] {
            let mut stage = stage();
            let vars = usual_vars();
            let mut world = loaded(&mut stage, &vars);
            let mut order = all;
            order.rotate_left(first);
            if reverse {
                order.reverse();
            }
            for (region, page) in order {
                assert_eq!(world.fetch_module(region, page, &vars), Outcome::Runs, "{region} {page} in {order:?}");
            }
            world.check();
            assert_eq!(vars_of(&world)[..s::C_TEXT as usize], vars[..s::C_TEXT as usize]);
        }
    }
}

#[test]
fn no_module_runs_before_user_mode_or_outside_of_their_range() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    world.boot();
    let vars = usual_vars();
    load_all(&mut world, &vars);
    assert!(world.fetch_module(s::BETA, 0, &vars).refused());
    world.first_user();
    assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
    for base in [s::MODULES.start - 2 * PAGE64, s::MODULES.end, 0xffff_8880_0000_0000, 0x7000_0000] {
        let mut vars = usual_vars();
        vars[s::B_TEXT as usize] = base;
        world.load(s::BETA, &vars, &frames(0x60, 2));
        for page in 0..2 {
            let outcome = world.fetch_module(s::BETA, page, &vars);
            assert_eq!(outcome.rule(), Some(Rule::UnapprovedCode), "{base:#x} {page}");
        }
    }
    // Half in, half out.
    let mut vars = usual_vars();
    vars[s::B_TEXT as usize] = s::MODULES.end - PAGE64;
    world.load(s::BETA, &vars, &frames(0x60, 2));
    assert!(world.fetch_module(s::BETA, 1, &vars).refused());
}

#[test]
fn an_unapproved_module_is_refused() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let vars = usual_vars();
    for (i, fill) in [0x90u8, 0xcc, 0, 0xc3].into_iter().enumerate() {
        let frame = Frame(0x50 + i as u64);
        world.write(frame, 0, &[fill; PAGE]);
        let Outcome::Refused(v) = world.fetch(frame, vars[0]) else { panic!("allowed") };
        assert_eq!((v.rule, v.nearest), (Rule::UnapprovedCode, None));
    }
    // The approved one's neighbour from another kernel: same bytes, one page shifted by one.
    let bytes = world.spec.bytes(s::BETA);
    world.write(Frame(0x50), 0, &bytes[1..PAGE + 1]);
    assert!(world.fetch(Frame(0x50), vars[s::B_TEXT as usize]).refused());
}

#[test]
fn a_page_whose_block_is_malformed_is_never_approved() {
    let vars = usual_vars();
    let mut file = Spec::new().file();
    let entry = SECTIONS_OFFSET + 16 * Section::Packed as usize;
    let [at, len] = [entry, entry + 8].map(|at| u64::from_le_bytes(*file[at..].first_chunk().unwrap()) as usize);
    file[at..at + len].fill(0xff);
    seal(&mut file);
    let mut copy = file.clone();
    let (_, view, pages) = view::open(&mut copy).unwrap();
    let mut stage = Stage::new(file);
    let mut world = loaded(&mut stage, &vars);
    let mut malformed = 0;
    for (region, count) in [(s::BETA, 2), (s::ALPHA_INIT, 1), (s::ALPHA, 4)] {
        for page in 0..count {
            let number = world.spec.page(region, page);
            let outcome = world.fetch_module(region, page, &vars);
            if pages.get(number, &mut [0; PAGE]).is_some() {
                assert_eq!(outcome, Outcome::Runs, "{region} {page}");
                continue;
            }
            malformed += 1;
            assert!(outcome.refused(), "{region} {page}");
            let frame = world.ram.tables[&(vars[world.spec.regions[region].base as usize] + page as u64 * PAGE64)];
            let mut zeros = [0; PAGE];
            for covered in view.covered(number as usize) {
                zeros[covered.clone()].copy_from_slice(&world.ram.pages[frame.0 as usize][covered]);
            }
            world.write(frame, 0, &zeros);
            assert!(world.fetch_module(region, page, &vars).refused(), "zeros for {region} {page}");
        }
    }
    assert!(malformed > 0);
}

#[test]
fn one_byte_changed_is_refused_and_named() {
    let vars = usual_vars();
    for (region, pages, at) in [(s::ALPHA, 4, ALPHA_AT), (s::ALPHA_INIT, 1, INIT_AT), (s::BETA, 2, BETA_AT)] {
        let mut stage = stage();
        let mut world = World::booted(&mut stage);
        for page in 0..pages {
            for offset in [0, 0x3ff, 0x800, PAGE - 8] {
                load_all(&mut world, &vars);
                let frame = Frame(at + page as u64);
                let byte = world.ram.pages[frame.0 as usize][offset];
                world.write(frame, offset, &[byte ^ 0x80]);
                let Outcome::Refused(v) = world.fetch_module(region, page, &vars) else { panic!("allowed") };
                assert_eq!((v.rule, v.frame), (Rule::UnapprovedCode, frame));
                assert_eq!(v.nearest.map(|n| n.0), Some(world.spec.page(region, page)), "{region} {page} {offset:#x}");
                assert_eq!(world.ram.pages[frame.0 as usize][offset], byte ^ 0x80, "not put back: it never ran");
            }
        }
    }
}

/// What a relocation may be changed to without being noticed: nothing that leaves two pages of one instance with
/// two opinions.
#[test]
fn one_relocation_changed() {
    let vars = usual_vars();
    let address = |k: &Kind| matches!(k, Kind::Abs32(_) | Kind::Rel32(_) | Kind::Abs64(_));
    for region in [s::ALPHA, s::ALPHA_INIT, s::BETA] {
        let sites: Vec<_> = Spec::new().regions[region].sites.iter().filter(|x| address(&x.kind)).cloned().collect();
        for site in sites {
            for change in [1u64, 8, 0x10, 0u64.wrapping_sub(4), 0x1000, 0x10_0000, 0x4000_0000] {
                let mut stage = stage();
                let mut world = loaded(&mut stage, &vars);
                let at = world.spec.base(region, &vars) + site.offset;
                let bytes: Vec<u8> = (0..site.kind.len() as u64).map(|i| byte_at(&world, at + i)).collect();
                let mut whole = [0; 8];
                whole[..bytes.len()].copy_from_slice(&bytes);
                let changed = u64::from_le_bytes(whole).wrapping_add(change).to_le_bytes();
                for (i, byte) in changed[..bytes.len()].iter().enumerate() {
                    set_byte(&mut world, at + i as u64, *byte);
                }
                let pages = site.offset as usize / PAGE..=(site.offset as usize + bytes.len() - 1) / PAGE;
                let outcomes: Vec<_> = pages.map(|p| world.fetch_module(region, p, &vars)).collect();
                let ran = outcomes.iter().all(|o| *o == Outcome::Runs);
                let shifted = match site.kind {
                    Kind::Abs32(To::Var(s::A_PERCPU, _)) => true,
                    Kind::Rel32(To::Var(..)) | Kind::Abs32(To::Var(..)) | Kind::Abs64(_) => change % PAGE64 == 0,
                    _ => false,
                };
                assert!(!ran || shifted, "{site:x?} plus {change:#x}: {outcomes:?}");
                // The other pages follow the first or do not run; `check` holds all that runs to one opinion.
                for (region, pages) in [(s::BETA, 2), (s::ALPHA_INIT, 1), (s::ALPHA, 4)] {
                    for page in 0..pages {
                        world.fetch_module(region, page, &vars);
                        world.check();
                    }
                }
            }
        }
    }
}

/// A reference that several sites of a page share cannot be changed at one of them.
#[test]
fn references_of_a_page_agree() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    // Page 0 refers to the data at 0x20, at 0x40 and across its end.
    let at = vars[0] + 0x20;
    let byte = byte_at(&world, at + 1);
    set_byte(&mut world, at + 1, byte.wrapping_add(0x10));
    assert!(world.fetch_module(s::ALPHA, 0, &vars).refused());
    set_byte(&mut world, at + 1, byte);
    run_all(&mut world, &vars);
}

/// Page 0 where it belongs, another page elsewhere.
#[test]
fn pages_of_one_module_stay_together() {
    let vars = usual_vars();
    for page in [1, 2] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        assert_eq!(world.fetch_module(s::ALPHA, 0, &vars), Outcome::Runs);
        for away in [PAGE64, 5 * PAGE64, 0u64.wrapping_sub(PAGE64)] {
            let va = vars[0].wrapping_add(page as u64 * PAGE64).wrapping_add(away);
            let outcome = world.fetch(Frame(ALPHA_AT + page as u64), va);
            assert!(outcome.refused(), "page {page} moved by {away:#x}: {outcome:?}");
        }
        // In the place of another page of its own module.
        let outcome = world.fetch(Frame(ALPHA_AT + 2), vars[0] + PAGE64);
        assert!(outcome.refused());
        assert!(approved(&world, s::ALPHA, 0).is_some(), "the others are left alone");
    }
}

/// A page without relocations fits everywhere; where it does not belong it ends the instance it would contradict.
#[test]
fn a_page_without_relocations_elsewhere() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    run_all(&mut world, &vars);
    // Its own place is approved already; the same bytes in another frame, at another address.
    let bytes = world.ram.pages[ALPHA_AT as usize + 3];
    world.write(Frame(0x70), 0, &bytes);
    let elsewhere = vars[0] + 0x20_0000 + 3 * PAGE64;
    if world.fetch(Frame(0x70), elsewhere) == Outcome::Runs {
        assert!((0..3).all(|p| approved(&world, s::ALPHA, p).is_none()));
        assert_eq!(world.rules.variable(s::A_TEXT as usize), vars[0] + 0x20_0000);
    }
    world.check();
}

/// One page says the data lies here, another says there.
#[test]
fn two_places_for_the_same_data() {
    let (here, mut there) = (usual_vars(), usual_vars());
    there[s::A_DATA as usize] += 0x3000;
    let mut stage = stage();
    let mut world = loaded(&mut stage, &here);
    run_all(&mut world, &here);
    // Page 1 as if loaded with the data elsewhere, in the place of the right one.
    let site = (PAGE64 + 0x20, To::Var(s::A_DATA, 0x200));
    let field = site.1.address(&there).wrapping_sub(here[0] + site.0 + 4) as u32;
    world.write(Frame(ALPHA_AT + 1), 0x20, &field.to_le_bytes());
    let outcome = world.fetch_module(s::ALPHA, 1, &here);
    world.check();
    if outcome == Outcome::Runs {
        assert!([0, 2, 3].into_iter().all(|p| approved(&world, s::ALPHA, p).is_none()), "two opinions at once");
        assert!(approved(&world, s::ALPHA_INIT, 0).is_none());
    }
}

#[test]
fn data_lies_where_modules_lie_and_per_cpu_data_where_it_can() {
    let cases = [
        (s::A_DATA, s::MODULES.start - PAGE64),
        (s::A_DATA, s::MODULES.end),
        (s::A_DATA, s::MODULES.start + 0x30_0010),
        (s::A_RODATA, s::MODULES.start + 0x801),
        (s::A_RO_AFTER_INIT, 0xffff_ffff_8200_0000),
        (s::A_PERCPU, 0),
        (s::A_PERCPU, 1 << 31),
        (s::A_PERCPU, u64::MAX),
    ];
    for (var, value) in cases {
        let mut vars = usual_vars();
        vars[var as usize] = value;
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        assert!(world.fetch_module(s::ALPHA, 0, &vars).refused(), "variable {var} at {value:#x}");
        assert_eq!(vars_of(&world), [0; s::VARS]);
    }
}

#[test]
fn live_pages_are_put_back_where_they_are_bound() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    run_all(&mut world, &vars);
    for page in 0..4 {
        let frame = Frame(ALPHA_AT + page as u64);
        let before = world.ram.pages[frame.0 as usize];
        world.write(frame, 0x800, &[before[0x800] ^ 1; 0x100]);
        let Outcome::Restored(v) = world.fetch_module(s::ALPHA, page, &vars) else { panic!("not put back") };
        assert_eq!((v.rule, v.nearest), (Rule::Tampered, Some((world.spec.page(s::ALPHA, page), 0x800))));
        assert!(world.ram.pages[frame.0 as usize] == before);
        // The same bytes in a frame that never held the page.
        let mut evil = before;
        evil[0x800] ^= 1;
        world.write(Frame(0x70), 0, &evil);
        let va = vars[0] + page as u64 * PAGE64;
        assert!(world.fetch(Frame(0x70), va).refused());
        assert!(world.ram.pages[0x70] == evil);
        // Or at an address where it is not bound.
        world.write(frame, 0x800, &[evil[0x800]]);
        assert!(world.fetch(frame, va + 0x40_0000).refused());
        assert!(world.ram.pages[frame.0 as usize] == evil);
        world.write(frame, 0x800, &[before[0x800]]);
        assert_eq!(world.fetch_module(s::ALPHA, page, &vars), Outcome::Runs);
    }
}

#[test]
fn recycled_frames_and_init_text_are_never_put_back() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    run_all(&mut world, &vars);
    // Other data in the frame, at the address the module had.
    let frame = Frame(ALPHA_AT);
    let data: Vec<u8> = world.ram.pages[frame.0 as usize].iter().map(|b| b ^ 0x55).collect();
    world.write(frame, 0, &data);
    assert!(world.fetch_module(s::ALPHA, 0, &vars).refused());
    assert_eq!(world.ram.pages[frame.0 as usize][..], data);
    world.write(frame, 0, &[0; PAGE]);
    assert!(world.fetch_module(s::ALPHA, 0, &vars).refused());
    assert_eq!(world.ram.pages[frame.0 as usize], [0; PAGE]);
    // A quarter of the page is left, then three.
    for (from, back) in [(PAGE / 4, false), (PAGE * 3 / 4, true)] {
        let live: Vec<u8> = data.iter().enumerate().map(|(i, b)| if i < from { b ^ 0x55 } else { *b }).collect();
        world.write(frame, 0, &live);
        assert_eq!(matches!(world.fetch_module(s::ALPHA, 0, &vars), Outcome::Restored(_)), back, "{from:#x}");
    }
    // A module's init text, with one byte changed.
    let byte = world.ram.pages[INIT_AT as usize][0x800];
    world.write(Frame(INIT_AT), 0x800, &[byte ^ 1]);
    assert!(world.fetch_module(s::ALPHA_INIT, 0, &vars).refused());
    assert_eq!(world.ram.pages[INIT_AT as usize][0x800], byte ^ 1);
}
