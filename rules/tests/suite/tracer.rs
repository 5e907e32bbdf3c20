//! The function tracer: copies of ftrace's entry code, and the function entries that call them
use secvisor_approval::PAGE;
use secvisor_rules::{Event, Frame, FrameState, Rule, Verdict};

use crate::synthetic::{self as s, Spec};
use crate::world::{Outcome, Right, Stage, World, frames, usual_vars};

/// The frames of the two tracers.
const FIRST: Frame = Frame(0x50);
const SECOND: Frame = Frame(0x51);

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

fn place(region: usize) -> u64 {
    Spec::new().base(region, &usual_vars())
}

/// Makes the copy for `region`, as Linux does.
fn make(world: &mut World<'_>, region: usize, frame: Frame) {
    world.load(region, &usual_vars(), &[frame]);
}

/// Lets the first function of the kernel call something.
fn call(world: &mut World<'_>, target: u64) {
    world.write_kernel(s::TEXT, 0, &s::branch(0xe8, s::IMAGE, target));
}

fn entry(world: &mut World<'_>) -> Outcome {
    world.fetch_kernel(s::TEXT, 0)
}

fn called(world: &World<'_>) -> Vec<u8> {
    world.kernel_bytes(s::TEXT, 0, 5)
}

fn is_approved(world: &World<'_>, frame: Frame) -> bool {
    matches!(world.rules.frames().get(frame), FrameState::Approved(_))
}

#[test]
fn an_entry_calls_a_tracer_that_has_not_run_yet() {
    for region in [s::TRACER, s::OTHER_TRACER] {
        let mut stage = stage();
        let mut world = World::booted(&mut stage);
        make(&mut world, region, FIRST);
        call(&mut world, place(region));
        assert_eq!(entry(&mut world), Outcome::Runs);
        assert!(is_approved(&world, FIRST));
        assert_eq!(world.fetch_module(region, 0, &usual_vars()), Outcome::Runs);
        world.check();
        // And is switched off again, half-way first.
        world.write_kernel(s::TEXT, 0, &[0xcc]);
        assert_eq!(entry(&mut world), Outcome::Runs);
        world.write_kernel(s::TEXT, 0, &s::NOP5);
        assert_eq!(entry(&mut world), Outcome::Runs);
        world.check();
    }
}

/// A module's function does, too, from any of its pages.
#[test]
fn an_entry_of_a_module_calls_one() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let vars = usual_vars();
    world.load(s::ALPHA, &vars, &frames(0x60, 4));
    make(&mut world, s::TRACER, FIRST);
    for page in 0..4 {
        for site in world.spec.regions[s::ALPHA].sites.clone() {
            let here = site.offset as usize / PAGE == page && matches!(site.kind, s::Kind::Ftrace);
            if here {
                let va = world.spec.base(s::ALPHA, &vars) + site.offset;
                let frame = Frame(0x60 + page as u64);
                world.write(frame, site.offset as usize % PAGE, &s::branch(0xe8, va, place(s::TRACER)));
            }
        }
        assert_eq!(world.fetch_module(s::ALPHA, page, &vars), Outcome::Runs, "page {page}");
    }
    assert!(is_approved(&world, FIRST));
    world.check();
}

/// What is no tracer is not called: the entry is put back.
#[test]
fn entries_call_nothing_else() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    make(&mut world, s::TRACER, FIRST);
    assert_eq!(world.fetch_module(s::TRACER, 0, &usual_vars()), Outcome::Runs);
    let nop = called(&world);
    // A module that is approved, an empty frame, no frame at all, its middle, a function of the kernel.
    world.load(s::GAMMA, &usual_vars(), &frames(0x60, 2));
    assert_eq!(world.fetch_module(s::GAMMA, 0, &usual_vars()), Outcome::Runs);
    world.ram.map(s::MODULES.start, &[SECOND]);
    let wrong = [
        place(s::GAMMA),
        s::MODULES.start,
        s::MODULES.start + PAGE as u64,
        place(s::TRACER) + 16,
        place(s::TRACER) + PAGE as u64,
        s::FUNCTION,
    ];
    for target in wrong {
        call(&mut world, target);
        assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered), "{target:#x}");
        assert_eq!(called(&world), nop, "{target:#x}: put back");
        world.check();
    }
    assert!(!is_approved(&world, SECOND));
    assert_eq!(world.ram.rights[SECOND.0 as usize], Right::Data);
}

/// Every bit of a tracer counts, the pointer's among them.
#[test]
fn a_tracer_with_one_changed_bit_is_not_called() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    // Where its call leads to is another test's.
    for offset in (0..=0x10).chain(0x15..0x48).chain([0x800, 0xfff]) {
        for bit in 0..8 {
            make(&mut world, s::TRACER, FIRST);
            let byte = world.ram.pages[FIRST.0 as usize][offset] ^ 1 << bit;
            world.write(FIRST, offset, &[byte]);
            call(&mut world, place(s::TRACER));
            assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered), "{offset:#x} bit {bit}");
            assert!(world.fetch_module(s::TRACER, 0, &usual_vars()).refused(), "{offset:#x} bit {bit}");
            assert_eq!(world.ram.pages[FIRST.0 as usize][offset], byte, "not put back: another may be there now");
        }
    }
    world.check();
}

/// It may call any function, and is written while it is in use.
#[test]
fn a_tracer_calls_any_function() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    make(&mut world, s::TRACER, FIRST);
    let va = place(s::TRACER) + 0x10;
    let calls = [s::FUNCTION, s::OTHER_FUNCTION].map(|f| s::branch(0xe8, va, f));
    for bytes in [&calls[0][..], &[0xcc], &calls[1], &s::NOP5] {
        world.write(FIRST, 0x10, bytes);
        assert_eq!(world.fetch_module(s::TRACER, 0, &usual_vars()), Outcome::Runs, "{bytes:x?}");
    }
    // Half a call: whoever writes it is waited for.
    world.write(FIRST, 0x10, &calls[1][..2]);
    world.write(FIRST, 0x12, &[0x31]);
    let va = place(s::TRACER);
    assert_eq!(world.fetch_patiently(FIRST, va), Outcome::Waits);
    assert!(world.fetch(FIRST, va).refused());
    world.write(FIRST, 0x10, &s::branch(0xe8, va + 0x10, s::LABEL));
    assert!(world.fetch(FIRST, va).refused(), "a label is no function");
}

#[test]
fn two_tracers_are_there_at_a_time_and_one_takes_the_others_place() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    make(&mut world, s::TRACER, FIRST);
    make(&mut world, s::OTHER_TRACER, SECOND);
    for region in [s::TRACER, s::OTHER_TRACER, s::TRACER] {
        call(&mut world, place(region));
        assert_eq!(entry(&mut world), Outcome::Runs);
    }
    assert!(is_approved(&world, FIRST) && is_approved(&world, SECOND));
    world.check();
    // The first is freed; the other's next copy lies where it was, in the same frame.
    let mut vars = usual_vars();
    vars[s::O_TEXT as usize] = place(s::TRACER);
    world.load(s::OTHER_TRACER, &vars, &[FIRST]);
    call(&mut world, s::FUNCTION);
    assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered));
    call(&mut world, place(s::TRACER));
    assert_eq!(entry(&mut world), Outcome::Runs);
    assert_eq!(world.rules.variable(s::T_TEXT as usize), 0, "it is no more");
    assert!(is_approved(&world, FIRST) && !is_approved(&world, SECOND));
    world.check();
}

/// Before the first user-mode instruction Linux traces nothing.
#[test]
fn no_tracer_while_booting() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    world.boot();
    make(&mut world, s::TRACER, FIRST);
    assert_eq!(entry(&mut world), Outcome::Runs);
    call(&mut world, place(s::TRACER));
    assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered));
    assert!(!is_approved(&world, FIRST));
}

/// A page that is mapped where it calls stays frozen while it is compared, and is not taken for a tracer.
#[test]
fn a_page_that_calls_itself_is_no_tracer() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let kernel = world.kernel_frame(s::TEXT, 0);
    world.ram.map(s::MODULES.start, &[kernel]);
    call(&mut world, s::MODULES.start);
    assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered));
    // As many calls as there is room for: refused in the end all the same.
    for at in (0..PAGE - 5).step_by(5) {
        let va = place(s::GAMMA) + at as u64;
        world.write(FIRST, at, &s::branch(0xe8, va, s::MODULES.start + (at * PAGE) as u64));
    }
    let verdict = world
        .rules
        .step(&mut world.ram, Event::KernelFetch { frame: FIRST, va: place(s::GAMMA), patching: false, tries: None });
    assert!(matches!(verdict, Verdict::Refuse(_)));
    world.check();
}

/// Two copies of one tracer, each of which ends the other: a page that calls both is looked at once more, not for ever.
#[test]
fn a_page_that_calls_two_copies_of_one_tracer_is_refused() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let (here, there) = (place(s::TRACER), place(s::OTHER_TRACER));
    make(&mut world, s::TRACER, FIRST);
    let mut vars = usual_vars();
    vars[s::T_TEXT as usize] = there;
    world.load(s::TRACER, &vars, &[SECOND]);
    let caller = Frame(0x52);
    let va = place(s::GAMMA);
    for (at, target) in [(0, here), (5, there)] {
        world.write(caller, at, &s::branch(0xe8, va + at as u64, target));
    }
    let fetch = Event::KernelFetch { frame: caller, va, patching: false, tries: None };
    assert!(matches!(world.rules.step(&mut world.ram, fetch), Verdict::Refuse(_)));
    world.check();
    world.write_kernel(s::TEXT, 0x40, &s::branch(0xe8, s::IMAGE + 0x40, here));
    world.write_kernel(s::TEXT, 0x45, &s::branch(0xe8, s::IMAGE + 0x45, there));
    assert_eq!(entry(&mut world).rule(), Some(Rule::Tampered));
    world.check();
}
