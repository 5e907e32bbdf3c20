//! Frames and the kernel's own pages: fetched, written, tampered with, pinned, freed
use secvisor_approval::PAGE;
use secvisor_rules::{Event, Frame, FrameState, FrameTable, Machine, Rule, Verdict};

use crate::synthetic::{self as s, Kind, Spec};
use crate::world::{DEVICE, FRAMES, HYPERVISOR, Outcome, Right, Stage, World, frames, usual_vars};

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

/// A place in the middle of a page that is no site's.
const PLAIN: u64 = 0x800;

#[test]
fn frames_that_hold_no_approved_code_never_run() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let gap = Frame(crate::world::KERNEL.0 + 0xa);
    let heap = 0xffff_8880_0004_0000;
    let table = [
        (Frame(DEVICE.start), Rule::DeviceFetch),
        (Frame(FRAMES), Rule::DeviceFetch),
        (Frame(1 << 36), Rule::DeviceFetch),
        (Frame(u64::MAX >> 12), Rule::DeviceFetch),
        (Frame(HYPERVISOR.start), Rule::HypervisorMemory),
        (Frame(HYPERVISOR.end - 1), Rule::HypervisorMemory),
        (Frame(0), Rule::UnapprovedCode),
        (Frame(0x40), Rule::UnapprovedCode),
        (gap, Rule::UnapprovedCode),
    ];
    for (frame, rule) in table {
        let before = world.rules.counters().refused;
        for va in [heap, s::IMAGE, s::MODULES.start, s::MODULES.end, 0x40_0000, u64::MAX] {
            let outcome = world.fetch(frame, va);
            assert!(outcome.refused() && outcome.rule() == Some(rule), "{frame:?} at {va:#x}: {outcome:?}");
        }
        assert_eq!(world.rules.counters().refused, before + 6);
    }
}

/// Franklin et al. 2008: approved bytes in another frame, at the right virtual address.
#[test]
fn kernel_code_elsewhere_never_runs() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    for page in 0..10 {
        let bytes = world.ram.pages[world.kernel_frame(s::TEXT, page).0 as usize];
        world.write(Frame(0x40), 0, &bytes);
        let va = s::IMAGE + (page * PAGE) as u64;
        assert_eq!(world.fetch(Frame(0x40), va).rule(), Some(Rule::UnapprovedCode));
        let in_modules = world.fetch(Frame(0x40), s::MODULES.start + 0x1000);
        assert_eq!(in_modules.rule(), Some(Rule::UnapprovedCode));
        // In the frame of another page of the kernel.
        let other = world.kernel_frame(s::TEXT, (page + 1) % 10);
        world.write(other, 0, &bytes);
        assert!(matches!(world.fetch(other, va), Outcome::Restored(v) if v.rule == Rule::Tampered));
    }
    world.check();
}

#[test]
fn tampered_text_is_put_back() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    for (region, pages) in [(s::TEXT, 10), (s::FAR_TEXT, 1)] {
        for page in 0..pages {
            let (frame, before) = {
                let frame = world.kernel_frame(region, page);
                (frame, world.ram.pages[frame.0 as usize])
            };
            for (at, len) in [(PLAIN as usize, 1), (0x7ff, 0x300), (0, PAGE)] {
                let restored = world.rules.counters().restored;
                let evil: Vec<u8> = before[at..at + len].iter().map(|b| b ^ 0x40).collect();
                world.write(frame, at, &evil);
                let Outcome::Restored(v) = world.fetch_kernel(region, page) else { panic!("not put back") };
                assert_eq!((v.rule, v.frame), (Rule::Tampered, frame));
                let (nearest, first) = v.nearest.expect("which page it was");
                assert_eq!(nearest, world.spec.page(region, page));
                assert!((first as usize) < at + len && (first as usize >= at || first == 0), "{first:#x}");
                assert!(world.ram.pages[frame.0 as usize] == before);
                assert_eq!(world.rules.counters().restored, restored + 1);
                assert_eq!(world.fetch_kernel(region, page), Outcome::Runs);
            }
        }
    }
}

/// What is put back is what was verified last, not what was linked.
#[test]
fn put_back_keeps_what_linux_has_changed_since() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let jump = |k: &Kind| matches!(k, Kind::Jump5(_));
    let site = world.spec.regions[s::TEXT].sites.iter().find(|x| jump(&x.kind)).unwrap().offset;
    world.write_kernel(s::TEXT, site, &[0xe9, 0, 2, 0, 0]);
    assert_eq!(world.fetch_kernel(s::TEXT, 0), Outcome::Runs);
    world.write_kernel(s::TEXT, PLAIN, &[0xcc]);
    assert!(matches!(world.fetch_kernel(s::TEXT, 0), Outcome::Restored(_)));
    assert_eq!(world.kernel_bytes(s::TEXT, site, 5), [0xe9, 0, 2, 0, 0]);
}

/// INV-2: a write that lands while the frame is being frozen is compared too.
#[test]
fn the_last_write_before_the_freeze_counts() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let frame = world.kernel_frame(s::TEXT, 0);
    let right = world.kernel_bytes(s::TEXT, PLAIN, 1);
    world.write(frame, PLAIN as usize, &right);
    world.ram.race = Some((frame, PLAIN as usize, right[0] ^ 1));
    assert!(matches!(world.fetch_kernel(s::TEXT, 0), Outcome::Restored(_)));
    assert_eq!(world.kernel_bytes(s::TEXT, PLAIN, 1), right);

    let vars = usual_vars();
    world.load(s::BETA, &vars, &frames(0x40, 2));
    world.ram.race = Some((Frame(0x40), PLAIN as usize, 0));
    assert!(world.fetch_module(s::BETA, 0, &vars).refused());
}

#[test]
fn writes() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    let frame = world.kernel_frame(s::TEXT, 0);
    let approved = world.rules.counters().approved;
    assert_eq!(approved, 14, "all code pages, as loaded");
    world.write(frame, PLAIN as usize, &[1]);
    assert_eq!(world.rules.frames().get(frame), FrameState::Data);
    let counters = world.rules.counters();
    assert_eq!((counters.approved, counters.writes, counters.writes_after_boot), (13, 1, 0));
    let verified = counters.verified;
    // A right that was given meanwhile.
    let verdict = world.rules.step(&mut world.ram, Event::Write { frame, from_within: false });
    assert!(matches!(verdict, Verdict::Resume));
    assert_eq!(world.rules.counters().writes, 1);
    assert!(matches!(world.fetch_kernel(s::TEXT, 0), Outcome::Restored(_)));
    assert_eq!(world.rules.counters().verified, verified + 1);
    world.boot();
    world.first_user();
    world.write(frame, PLAIN as usize, &[1]);
    assert_eq!(world.rules.counters().writes_after_boot, 1);

    let frame = Frame(HYPERVISOR.start);
    let Verdict::Refuse(v) = world.rules.step(&mut world.ram, Event::Write { frame, from_within: false }) else {
        panic!("allowed")
    };
    assert_eq!((v.rule, v.frame), (Rule::HypervisorMemory, frame));
    for frame in [Frame(DEVICE.start), Frame(FRAMES), Frame(1 << 40)] {
        let verdict = world.rules.step(&mut world.ram, Event::Write { frame, from_within: false });
        assert!(matches!(verdict, Verdict::Resume), "{frame:?}");
    }
    world.check();
}

/// A translation from before the right was given.
#[test]
fn fetch_of_an_approved_frame_tries_again() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let frame = world.kernel_frame(s::TEXT, 0);
    let event = Event::KernelFetch { frame, va: s::IMAGE, patching: false, tries: None };
    assert!(matches!(world.rules.step(&mut world.ram, event), Verdict::Resume));
    assert_eq!(world.ram.rights[frame.0 as usize], Right::Executable);
}

#[test]
fn init_text_is_never_put_back() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = if booted { World::booted(&mut stage) } else { World::new(&mut stage) };
        let before = world.kernel_bytes(s::INIT, PLAIN, 1);
        world.write_kernel(s::INIT, PLAIN, &[before[0] ^ 1]);
        let outcome = world.fetch_kernel(s::INIT, 0);
        assert!(outcome.refused() && outcome.rule() == Some(Rule::UnapprovedCode), "{outcome:?}");
        assert_ne!(world.kernel_bytes(s::INIT, PLAIN, 1), before);
        // Whoever gives it its bytes again may run it, as long as init text is in use.
        world.write_kernel(s::INIT, PLAIN, &before);
        assert_eq!(world.fetch_kernel(s::INIT, 0), Outcome::Runs);
    }
}

#[test]
fn freed_init_text_never_comes_back() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let saved: Vec<_> = (0..3).map(|p| world.ram.pages[world.kernel_frame(s::INIT, p).0 as usize]).collect();
    // Some of it, while it is in use: a jump label, say.
    world.write_kernel(s::INIT, 0x30, &[0xe9, 0, 1, 0, 0]);
    assert_eq!(world.fetch_kernel(s::INIT, 0), Outcome::Runs);
    world.write_kernel(s::INIT, 0x30, &s::NOP5);
    for page in 1..3 {
        world.write(world.kernel_frame(s::INIT, page), 0, &[0xcc; PAGE]);
    }
    // The first page was written before the others were: now nothing of it is left.
    for (page, bytes) in saved.iter().enumerate() {
        let frame = world.kernel_frame(s::INIT, page);
        world.write(frame, 0, bytes);
        let outcome = world.fetch_kernel(s::INIT, page);
        assert_eq!(outcome.rule(), Some(Rule::UnapprovedCode), "page {page}");
        assert!(outcome.refused());
        assert!(world.fetch_patching(frame, world.spec.regions[s::INIT].base).refused());
        assert!(world.ram.pages[frame.0 as usize] == *bytes, "not touched");
    }
    assert_eq!(world.fetch_kernel(s::TEXT, 0), Outcome::Runs);
}

/// Before the first user-mode instruction init text can be written as often as Linux likes.
#[test]
fn init_text_is_not_over_before_boot_is() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    let byte = world.kernel_bytes(s::INIT, PLAIN, 1);
    for page in 0..3 {
        world.write_kernel(s::INIT, (page * PAGE) as u64 + 1, &[0]);
        let want = world.spec.bytes(s::INIT)[page * PAGE + 1];
        world.write_kernel(s::INIT, (page * PAGE) as u64 + 1, &[want]);
    }
    world.write_kernel(s::INIT, PLAIN, &byte);
    assert_eq!(world.fetch_kernel(s::INIT, 0), Outcome::Runs);
    world.boot();
    world.first_user();
    for page in 0..3 {
        assert_eq!(world.fetch_kernel(s::INIT, page), Outcome::Runs);
    }
}

/// Linux frees init text before it runs init: then it is over with the first user-mode instruction.
#[test]
fn init_text_freed_before_user_mode_is_over() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    world.boot();
    assert!((0..3).all(|page| world.fetch_kernel(s::INIT, page) == Outcome::Runs));
    let frames: Vec<Frame> = (0..3).map(|p| world.kernel_frame(s::INIT, p)).collect();
    let saved: Vec<_> = frames.iter().map(|f| world.ram.pages[f.0 as usize]).collect();
    frames.iter().for_each(|frame| world.write(*frame, 0, &[0xcc; PAGE]));
    world.first_user();
    for (page, bytes) in saved.iter().enumerate() {
        world.write(frames[page], 0, bytes);
        assert_eq!(world.fetch_kernel(s::INIT, page).rule(), Some(Rule::UnapprovedCode), "{page}");
    }
    // A module may have its frames.
    let vars = usual_vars();
    world.load(s::GAMMA, &vars, &frames[..2]);
    assert_eq!(world.fetch_module(s::GAMMA, 0, &vars), Outcome::Runs);
}

/// Freed init text is ordinary memory: a module may get it.
#[test]
fn a_module_may_lie_in_freed_init_text() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let init: Vec<Frame> = (0..3).map(|p| world.kernel_frame(s::INIT, p)).collect();
    for frame in &init {
        world.write(*frame, 0, &[0xcc; PAGE]);
    }
    let vars = usual_vars();
    world.load(s::BETA, &vars, &init[..2]);
    assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
    assert_eq!(world.fetch_module(s::BETA, 1, &vars), Outcome::Runs);
    // And nothing else: neither another module's bytes nor its old ones.
    world.write(init[2], 0, &[0xcc; PAGE]);
    assert!(world.fetch(init[2], s::MODULES.start).refused());
    world.write(init[0], PLAIN as usize, &[0]);
    let outcome = world.fetch_module(s::BETA, 0, &vars);
    assert!(matches!(outcome, Outcome::Restored(_)), "{outcome:?}: the live page of the module");
}

/// Threat 13: legal at boot, weaker than what was chosen.
#[test]
fn a_weaker_variant_after_boot_is_put_back() {
    let weaker: [(Kind, &[u8]); 6] = [
        (s::clac(), &[0x0f, 0x1f, 0]),
        (s::clac(), &[0x90, 0x90, 0x90]),
        (s::returns(), &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]),
        (s::retpoline(), &[0xff, 0xd0, 0x0f, 0x1f, 0]),
        (s::lock(), &[0xf0]),
        (s::endbr(), &[0xf3, 0x0f, 0x1e, 0xfa]),
    ];
    for (kind, bytes) in weaker {
        let mut stage = stage();
        let mut world = World::new(&mut stage);
        let same = |x: &&s::SiteSpec| format!("{:?}", x.kind) == format!("{kind:?}");
        let site = world.spec.regions[s::TEXT].sites.iter().find(same).unwrap().offset;
        let page = site as usize / PAGE;
        world.boot();
        let chosen = world.kernel_bytes(s::TEXT, site, bytes.len());
        assert_ne!(chosen, bytes);
        // Before user mode it is one of the values.
        world.write_kernel(s::TEXT, site, bytes);
        assert_eq!(world.fetch_kernel(s::TEXT, page), Outcome::Runs);
        world.write_kernel(s::TEXT, site, &chosen);
        world.first_user();
        // Afterwards it is not, nor does another first instruction change that.
        for again in [false, true] {
            world.write_kernel(s::TEXT, site, bytes);
            if again {
                world.first_user();
            }
            assert!(matches!(world.fetch_kernel(s::TEXT, page), Outcome::Restored(v) if v.rule == Rule::Tampered));
            assert_eq!(world.kernel_bytes(s::TEXT, site, bytes.len()), chosen);
        }
    }
}

#[test]
fn a_constant_after_boot_is_fixed() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let constant = |x: &&s::SiteSpec| matches!(x.kind, Kind::Const(..));
    for site in world.spec.regions[s::TEXT].sites.iter().filter(constant).cloned().collect::<Vec<_>>() {
        let before = world.kernel_bytes(s::TEXT, site.offset, site.kind.len());
        for value in world.spec.values(&site, 0, &[]) {
            if value.bytes == before {
                continue;
            }
            world.write_kernel(s::TEXT, site.offset, &value.bytes);
            let page = site.offset as usize / PAGE;
            if site.offset as usize % PAGE + value.bytes.len() > PAGE {
                // Both halves are wrong: the first page is not right before the second has been put back.
                assert_eq!(world.fetch_kernel(s::TEXT, page).rule(), Some(Rule::Tampered));
                assert!(matches!(world.fetch_kernel(s::TEXT, page + 1), Outcome::Restored(_)));
                assert!(matches!(world.fetch_kernel(s::TEXT, page), Outcome::Runs));
                continue;
            }
            assert!(matches!(world.fetch_kernel(s::TEXT, page), Outcome::Restored(_)));
        }
    }
}

/// A page that is not right when user mode is reached stays data; it runs only once it is put back.
#[test]
fn what_is_wrong_at_the_pin_stays_data() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    world.boot();
    for page in 0..10 {
        assert_eq!(world.fetch_kernel(s::TEXT, page), Outcome::Runs);
    }
    let (frame, right) = (world.kernel_frame(s::TEXT, 2), world.kernel_bytes(s::TEXT, 0x2000, PAGE));
    world.write(frame, PLAIN as usize, &[right[PLAIN as usize] ^ 1]);
    let verdict = world.rules.step(&mut world.ram, Event::FirstUser);
    assert!(matches!(verdict, Verdict::Resume) && world.rules.booted());
    assert_eq!(world.rules.frames().get(frame), FrameState::Data);
    assert_eq!(world.ram.rights[frame.0 as usize], Right::Data);
    assert!(matches!(world.fetch_kernel(s::TEXT, 2), Outcome::Restored(_)));
    assert_eq!(world.kernel_bytes(s::TEXT, 0x2000, PAGE), right);
}

#[test]
fn without_room_in_the_tables_nothing_changes() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    world.ram.room = 0;
    let vars = usual_vars();
    world.load(s::BETA, &vars, &frames(0x40, 2));
    let outcome = world.fetch_module(s::BETA, 0, &vars);
    assert!(outcome.refused() && outcome.rule() == Some(Rule::OutOfTables), "{outcome:?}");
    assert_eq!(world.rules.variable(s::B_TEXT as usize), 0);
    world.ram.room = 2;
    assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
}

#[test]
fn frame_table() {
    let mut entries = [7; 16];
    let mut table = FrameTable::new(&mut entries);
    assert!((0..20).all(|n| table.get(Frame(n)) == FrameState::Device));
    table.add_ram(2..12);
    table.add_hypervisor(4..6);
    let state = |n| table.get(Frame(n));
    assert_eq!((state(1), state(2), state(4)), (FrameState::Device, FrameState::Data, FrameState::Hypervisor));
    assert_eq!((state(6), state(11), state(12)), (FrameState::Data, FrameState::Data, FrameState::Device));
    assert_eq!((table.len(), table.is_empty()), (16, false));
    assert_eq!((Frame::containing(0x1fff), Frame(3).address()), (Frame(1), 0x3000));
}

/// The loader's word counts only for frames the kernel's code belongs in.
#[test]
fn only_the_kernels_frames_can_be_loaded() {
    let mut stage = stage();
    let mut rules = stage.rules().unwrap();
    let code: Vec<u64> = (0..FRAMES).filter(|n| !HYPERVISOR.contains(n) && !DEVICE.contains(n)).collect();
    let loaded: Vec<u64> = code.into_iter().filter(|n| rules.loaded(Frame(*n)).is_some()).collect();
    let want: Vec<u64> = (0x10..0x1a).chain([0x1b]).chain(0x20..0x23).collect();
    assert_eq!(loaded, want);
}

/// The small machine checks itself.
#[test]
#[should_panic(expected = "not the guest's RAM")]
fn the_machine_refuses_to_touch_the_hypervisor() {
    let mut stage = stage();
    let world = World::new(&mut stage);
    world.ram.page(Frame(HYPERVISOR.start));
}
