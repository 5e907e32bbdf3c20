//! Modules: approved only as part of one consistently placed instance
use secvisor_approval::PAGE;
use secvisor_rules::{Frame, FrameState, Rule};

use crate::synthetic::{self as s, Kind, Spec, To};
use crate::world::{Outcome, Stage, World, frames, usual_vars};

const ALPHA_AT: u64 = 0x48;
const INIT_AT: u64 = 0x4c;
const BETA_AT: u64 = 0x40;
const PAGE64: u64 = PAGE as u64;

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

/// Both modules, loaded but not run.
fn loaded<'a>(stage: &'a mut Stage, vars: &[u64]) -> World<'a> {
    let mut world = World::booted(stage);
    load_all(&mut world, vars);
    world
}

fn load_all(world: &mut World<'_>, vars: &[u64]) {
    world.load(s::BETA, vars, &frames(BETA_AT, 2));
    world.load(s::ALPHA, vars, &frames(ALPHA_AT, 4));
    world.load(s::ALPHA_INIT, vars, &frames(INIT_AT, 1));
}

fn run_all(world: &mut World<'_>, vars: &[u64]) {
    for (region, pages) in [(s::BETA, 2), (s::ALPHA_INIT, 1), (s::ALPHA, 4)] {
        for page in 0..pages {
            assert_eq!(world.fetch_module(region, page, vars), Outcome::Runs, "{region} {page}");
        }
    }
    world.check();
}

fn approved(world: &World<'_>, region: usize, page: usize) -> Option<Frame> {
    let wanted = FrameState::Approved(world.spec.page(region, page));
    (0..crate::world::FRAMES).map(Frame).find(|f| world.rules.frames().get(*f) == wanted)
}

fn vars_of(world: &World<'_>) -> Vec<u64> {
    (0..s::VARS).map(|v| world.rules.variable(v)).collect()
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
fn one_byte_changed_is_refused_and_named() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    for (region, pages, at) in [(s::ALPHA, 4, ALPHA_AT), (s::ALPHA_INIT, 1, INIT_AT), (s::BETA, 2, BETA_AT)] {
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

fn byte_at(world: &World<'_>, va: u64) -> u8 {
    world.ram.pages[world.ram.tables[&(va & !0xfff)].0 as usize][va as usize % PAGE]
}

fn set_byte(world: &mut World<'_>, va: u64, byte: u8) {
    let frame = world.ram.tables[&(va & !0xfff)];
    world.write(frame, va as usize % PAGE, &[byte]);
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
fn a_module_loaded_again_supersedes_itself() {
    let first = usual_vars();
    let moved = |v: &mut [u64]| v[..7].iter_mut().for_each(|x| *x += 0x80_0000);
    let data_moved = |v: &mut [u64]| v[s::A_DATA as usize] += 0x5000;
    let text_moved = |v: &mut [u64]| v[s::A_TEXT as usize] += PAGE64;
    let places: [fn(&mut [u64]); 3] = [moved, data_moved, text_moved];
    for change in places {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &first);
        run_all(&mut world, &first);
        let mut second = first.clone();
        change(&mut second);
        // Linux frees the old frames without writing to them, and loads into others.
        world.load(s::ALPHA, &second, &frames(0x60, 4));
        world.load(s::ALPHA_INIT, &second, &frames(0x64, 1));
        assert_eq!(world.fetch_module(s::ALPHA_INIT, 0, &second), Outcome::Runs);
        for page in 0..4 {
            assert_eq!(world.fetch_module(s::ALPHA, page, &second), Outcome::Runs, "page {page}");
        }
        // Init text may have gone with the first instance: it does not show where the data is.
        assert_eq!(world.fetch_module(s::ALPHA_INIT, 0, &second), Outcome::Runs);
        assert_eq!(vars_of(&world)[..s::C_TEXT as usize], second[..s::C_TEXT as usize]);
        for frame in frames(ALPHA_AT, 5) {
            assert_eq!(world.rules.frames().get(frame), FrameState::Data, "{frame:?} of the first instance");
        }
        assert!((0..2).all(|p| approved(&world, s::BETA, p).is_some()), "what it refers to is untouched");
        world.check();
    }
}

#[test]
fn a_module_that_refers_only_to_the_kernel_supersedes_itself() {
    let first = usual_vars();
    let mut second = first.clone();
    second[s::C_TEXT as usize] += 0x3000;
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    world.load(s::GAMMA, &first, &frames(0x60, 2));
    assert_eq!(world.fetch_module(s::GAMMA, 0, &first), Outcome::Runs);
    assert_eq!(world.fetch_module(s::GAMMA, 1, &first), Outcome::Runs);
    world.load(s::GAMMA, &second, &frames(0x62, 2));
    assert_eq!(world.fetch_module(s::GAMMA, 0, &second), Outcome::Runs);
    assert!(frames(0x60, 2).into_iter().all(|f| world.rules.frames().get(f) == FrameState::Data));
}

/// Of the instance that has ended nothing is remembered that the new one would contradict.
#[test]
fn a_new_instance_begins_with_nothing_bound() {
    let first = usual_vars();
    let mut second = first.clone();
    second[..7].iter_mut().for_each(|v| *v += 0x80_0000);
    let mut stage = stage();
    let mut world = loaded(&mut stage, &first);
    run_all(&mut world, &first);
    world.load(s::ALPHA, &second, &frames(0x60, 4));
    world.load(s::ALPHA_INIT, &second, &frames(0x64, 1));
    assert_eq!(world.fetch_module(s::ALPHA, 0, &second), Outcome::Runs);
    assert_eq!(world.rules.variable(s::A_INIT as usize), 0);
    assert_eq!(world.fetch_module(s::ALPHA_INIT, 0, &second), Outcome::Runs);
    assert_eq!(approved(&world, s::ALPHA, 0), Some(Frame(0x60)), "init text is of the same instance");
}

/// The same place, the same data, other frames.
#[test]
fn a_module_loaded_again_at_the_same_place() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    run_all(&mut world, &vars);
    world.load(s::ALPHA, &vars, &frames(0x60, 4));
    for page in 0..4 {
        assert_eq!(world.fetch_module(s::ALPHA, page, &vars), Outcome::Runs, "page {page}");
    }
    world.check();
}

/// What refers to a module that was loaded again must be loaded again too.
#[test]
fn a_dependency_loaded_again() {
    let first = usual_vars();
    let mut second = first.clone();
    second[s::B_TEXT as usize] += 0x100_0000;
    second[s::B_DATA as usize] += 0x100_0000;
    let mut stage = stage();
    let mut world = loaded(&mut stage, &first);
    run_all(&mut world, &first);
    world.load(s::BETA, &second, &frames(0x60, 2));
    assert_eq!(world.fetch_module(s::BETA, 0, &second), Outcome::Runs);
    assert_eq!(world.fetch_module(s::BETA, 1, &second), Outcome::Runs);
    for page in 0..4 {
        assert!(approved(&world, s::ALPHA, page).is_none(), "page {page} calls where nothing is");
    }
    assert_eq!(world.rules.frames().get(Frame(BETA_AT)), FrameState::Data);
    world.load(s::ALPHA, &second, &frames(0x64, 4));
    for page in 0..4 {
        assert_eq!(world.fetch_module(s::ALPHA, page, &second), Outcome::Runs);
    }
    assert_eq!(approved(&world, s::BETA, 0), Some(Frame(0x60)));
    world.check();
}

/// Both loaded again, and the one that refers to the other runs first.
#[test]
fn a_dependency_loaded_again_that_has_not_run_yet() {
    let first = usual_vars();
    let mut second = first.clone();
    second.iter_mut().for_each(|v| *v += if *v > 1 << 32 { 0x100_0000 } else { 0x1000 });
    let mut stage = stage();
    let mut world = loaded(&mut stage, &first);
    run_all(&mut world, &first);
    world.load(s::BETA, &second, &frames(0x60, 2));
    world.load(s::ALPHA, &second, &frames(0x64, 4));
    assert_eq!(world.fetch_module(s::ALPHA, 0, &second), Outcome::Runs);
    assert_eq!(world.fetch_module(s::BETA, 0, &second), Outcome::Runs);
    assert_eq!(world.fetch_module(s::BETA, 1, &second), Outcome::Runs);
    for frame in frames(BETA_AT, 2).into_iter().chain(frames(ALPHA_AT, 4)) {
        assert_eq!(world.rules.frames().get(frame), FrameState::Data, "{frame:?}");
    }
    world.check();
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

/// Another module where an unloaded one was.
#[test]
fn another_module_in_the_same_place() {
    let vars = usual_vars();
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    run_all(&mut world, &vars);
    let mut moved = vars.clone();
    moved[s::B_TEXT as usize] = vars[s::A_TEXT as usize] + PAGE64;
    world.load(s::BETA, &moved, &frames(ALPHA_AT + 1, 2));
    assert_eq!(world.fetch_module(s::BETA, 0, &moved), Outcome::Runs);
    assert_eq!(world.fetch_module(s::BETA, 1, &moved), Outcome::Runs);
    world.check();
}

/// Linux frees a module's init text as soon as it has run, and puts another module there: the first one goes on.
#[test]
fn another_module_over_init_text_that_was_freed() {
    // Into the same frame, and into others at the same address, from there and from the page before.
    for (at, before) in [(INIT_AT, 0), (0x60, 0), (0x60, 1)] {
        let vars = usual_vars();
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        run_all(&mut world, &vars);
        let mut other = vars.clone();
        other[s::C_TEXT as usize] = vars[s::A_INIT as usize] - before * PAGE64;
        world.load(s::GAMMA, &other, &frames(at, 2));
        for page in 0..2 {
            assert_eq!(world.fetch_module(s::GAMMA, page, &other), Outcome::Runs, "{page}");
        }
        assert_eq!(world.rules.variable(s::A_INIT as usize), 0, "over for this instance");
        assert_eq!(world.rules.frames().get(Frame(INIT_AT)) == FrameState::Data, at != INIT_AT);
        for page in 0..4 {
            let frame = Frame(ALPHA_AT + page as u64);
            assert_eq!(approved(&world, s::ALPHA, page), Some(frame), "without having been compared again");
        }
        world.check();
        // The first one's other pages are held to the same instance, and it can be loaded again.
        let mut moved = other.clone();
        moved[s::A_DATA as usize] += PAGE64;
        world.load(s::ALPHA, &moved, &frames(0x68, 4));
        world.load(s::ALPHA_INIT, &moved, &frames(0x6c, 1));
        assert_eq!(world.fetch_module(s::ALPHA_INIT, 0, &moved), Outcome::Runs);
        for page in 0..4 {
            assert_eq!(world.fetch_module(s::ALPHA, page, &moved), Outcome::Runs, "{page}");
        }
        world.check();
    }
}

/// What a module is placed over ends, and nothing beside it.
#[test]
fn another_module_over_or_beside_the_text_of_one() {
    for away in -4..=6i64 {
        let vars = usual_vars();
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        run_all(&mut world, &vars);
        let mut other = vars.clone();
        other[s::C_TEXT as usize] = vars[s::A_TEXT as usize].wrapping_add_signed(away * PAGE as i64);
        world.load(s::GAMMA, &other, &frames(0x60, 2));
        for page in 0..2 {
            assert_eq!(world.fetch_module(s::GAMMA, page, &other), Outcome::Runs, "{away}");
        }
        // Four pages, and two.
        let ended = (-1..4).contains(&away);
        for page in 0..4 {
            assert_eq!(approved(&world, s::ALPHA, page).is_none(), ended, "{away}");
        }
        assert_eq!(approved(&world, s::ALPHA_INIT, 0).is_none(), ended, "{away}");
        let expected = if ended { 0 } else { vars[s::A_DATA as usize] };
        assert_eq!(world.rules.variable(s::A_DATA as usize), expected, "{away}");
        assert!(approved(&world, s::BETA, 0).is_some() && approved(&world, s::BETA, 1).is_some());
        world.check();
    }
}

/// The same the other way round: the larger one is placed over the smaller one.
#[test]
fn a_larger_module_over_or_beside_a_smaller_one() {
    for away in -3..=5i64 {
        let mut vars = usual_vars();
        vars[s::C_TEXT as usize] = vars[s::A_TEXT as usize].wrapping_add_signed(away * PAGE as i64);
        let mut stage = stage();
        let mut world = World::booted(&mut stage);
        world.load(s::GAMMA, &vars, &frames(0x60, 2));
        for page in 0..2 {
            assert_eq!(world.fetch_module(s::GAMMA, page, &vars), Outcome::Runs, "{away}");
        }
        load_all(&mut world, &vars);
        run_all(&mut world, &vars);
        let ended = (-1..4).contains(&away);
        assert_eq!(world.rules.variable(s::C_TEXT as usize) == 0, ended, "{away}");
        assert!((0..2).all(|page| approved(&world, s::GAMMA, page).is_none() == ended), "{away}");
    }
}

/// A page that says that another module lies where it lies itself has no place.
#[test]
fn a_page_that_places_another_module_over_itself() {
    for pages in [-1, 1, 2, 3i64] {
        let mut vars = usual_vars();
        vars[s::B_TEXT as usize] = vars[s::A_TEXT as usize].wrapping_add_signed(pages * PAGE as i64);
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        // This page shows where the other module is, and of its own nothing.
        let outcome = world.fetch_module(s::ALPHA, 2, &vars);
        assert_eq!(outcome.rule(), Some(Rule::WrongPlace), "{pages}: {outcome:?}");
        assert!(outcome.refused() && approved(&world, s::ALPHA, 2).is_none());
        world.check();
    }
}

/// A module may call a function of its own before anything else of it has run.
#[test]
fn a_static_call_into_the_page_that_is_being_verified() {
    let vars = usual_vars();
    for function in [0x100, PAGE64 + 0x80] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        let at = vars[0] + 0xe0;
        for (i, byte) in s::branch(0xe8, at, vars[0] + function).into_iter().enumerate() {
            set_byte(&mut world, at + i as u64, byte);
        }
        assert_eq!(world.fetch_module(s::ALPHA, 0, &vars), Outcome::Runs, "{function:#x}");
        run_all(&mut world, &vars);
        // Not into the middle of one, nor behind the module.
        for wrong in [function + 1, 0x180, 4 * PAGE64] {
            for (i, byte) in s::branch(0xe8, at, vars[0] + wrong).into_iter().enumerate() {
                set_byte(&mut world, at + i as u64, byte);
            }
            assert!(matches!(world.fetch_module(s::ALPHA, 0, &vars), Outcome::Restored(_)), "{wrong:#x}");
        }
    }
}

/// A static call of a module that has not run yet shows where that is, if it is one.
#[test]
fn a_static_call_of_a_module_nobody_has_seen() {
    let vars = usual_vars();
    let at = vars[0] + 2 * PAGE64 + 0x40;
    let linked = s::branch(0xe8, at, vars[s::B_TEXT as usize] + 0x40);
    let wrong = [
        s::branch(0xe9, at, vars[s::B_TEXT as usize] + 0x40),
        s::branch(0xe8, at, vars[s::B_TEXT as usize] + 0x41),
        s::branch(0xe8, at, s::MODULES.start - PAGE64 + 0x40),
        s::branch(0xe8, at, s::LABEL),
        vec![0xff, 0xe0, 0x90, 0x90, 0x90],
    ];
    for (bytes, right) in wrong.iter().map(|w| (w, false)).chain([(&linked, true)]) {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        for (i, byte) in bytes.iter().enumerate() {
            set_byte(&mut world, at + i as u64, *byte);
        }
        assert_eq!(world.fetch_module(s::ALPHA, 2, &vars) == Outcome::Runs, right, "{bytes:02x?}");
        let bound = if right { vars[s::B_TEXT as usize] } else { 0 };
        assert_eq!(world.rules.variable(s::B_TEXT as usize), bound);
    }
}

/// The guest's own tables decide nothing: whoever changes them can join two halves that do not belong together
/// neither by hiding the neighbour nor by showing another.
#[test]
fn a_lie_about_the_neighbour_joins_no_halves() {
    let vars = usual_vars();
    // The return across pages 1 and 2 (3 bytes + 2), the call across 2 and 3 (4 + 1), the field across 0 and 1.
    let call = |to: u64| s::branch(0xe8, vars[0] + 3 * PAGE64 - 4, to);
    // Two functions whose distances differ in the last byte only, and in the first four.
    let far = vars[s::B_TEXT as usize] + 0x40;
    let (near, away) = (call(s::FUNCTION), call(far));
    assert_ne!(near[4], away[4]);
    for hide in [true, false] {
        for first in [2, 3] {
            let mut stage = stage();
            let mut world = loaded(&mut stage, &vars);
            assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
            let second = 5 - first;
            let put = |world: &mut World<'_>, bytes: &[u8], page: usize| {
                let (from, to) = if page == 2 { (0, 4) } else { (4, 5) };
                for (i, byte) in bytes.iter().enumerate().take(to).skip(from) {
                    set_byte(world, vars[0] + 3 * PAGE64 - 4 + i as u64, *byte);
                }
            };
            put(&mut world, &near, 2);
            put(&mut world, &near, 3);
            assert_eq!(world.fetch_module(s::ALPHA, first, &vars), Outcome::Runs);
            put(&mut world, &away, second);
            // A frame with the half that goes with it, where the first page is mapped; or nothing there.
            let neighbour = vars[0] + first as u64 * PAGE64;
            let true_frame = world.ram.tables[&neighbour];
            let mut decoy = world.ram.pages[true_frame.0 as usize];
            match first {
                2 => decoy[PAGE - 4..].copy_from_slice(&away[..4]),
                _ => decoy[0] = away[4],
            }
            world.write(Frame(0x70), 0, &decoy);
            match hide {
                true => world.ram.tables.remove(&neighbour),
                false => world.ram.tables.insert(neighbour, Frame(0x70)),
            };
            let outcome = world.fetch_module(s::ALPHA, second, &vars);
            world.ram.tables.insert(neighbour, true_frame);
            world.check();
            assert_ne!(outcome, Outcome::Runs, "first page {first}, hide {hide}");
        }
    }
}

/// As above for a field, the variable of which the first page has bound.
#[test]
fn a_hidden_neighbour_joins_no_halves() {
    let vars = usual_vars();
    for change in [0u8, 1, 0x10, 0xff] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        let pages = [vars[0], vars[0] + PAGE64];
        let frames = pages.map(|va| world.ram.tables.remove(&va).unwrap());
        assert_eq!(world.fetch(frames[0], pages[0]), Outcome::Runs);
        let value = world.ram.pages[frames[1].0 as usize][1];
        world.write(frames[1], 1, &[value ^ change]);
        let outcome = world.fetch(frames[1], pages[1]);
        world.check();
        assert_eq!(outcome == Outcome::Runs, change == 0, "{change:#x}: {outcome:?}");
    }
}

/// Half a field of a variable that nobody has bound could be any instruction.
#[test]
fn half_a_field_is_not_verified_without_its_variable() {
    let vars = usual_vars();
    for change in [0u8, 1, 0xff] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        world.ram.tables.remove(&vars[0]);
        let value = world.ram.pages[ALPHA_AT as usize + 1][1];
        world.write(Frame(ALPHA_AT + 1), 1, &[value ^ change]);
        assert!(world.fetch_module(s::ALPHA, 1, &vars).refused(), "{change:#x}");
    }
}
