//! What modules refer to: which of them end with another, what half a reference shows, and what a static call does
use secvisor_approval::build::{Builder, RegionDef, SiteDef, SymbolDef};
use secvisor_approval::wire::{Info, NONE, RegionKind, SiteKind, VarClass};
use secvisor_approval::{PAGE, PageBytes};
use secvisor_rules::{Access, Event, Frame, FrameState, Machine, Rules, Verdict};

use super::modules::{PAGE64, loaded, run_all, set_byte, stage};
use crate::synthetic::{self as s, IMAGE, MODULES, filler};
use crate::world::{KERNEL, Outcome, Ram, Right, Stage, World, frames, usual_vars};

/// By module, what its fields refer to: the variable of each is its text's place. The last refers to the first, in its
/// last field; the one between them to nobody but itself.
const FIELDS: [&[u32]; 3] = [&[0], &[1, 1], &[2, 2, 2, 2, 2, 0]];

fn page(module: usize, places: &[u64; 3]) -> PageBytes {
    let mut page: PageBytes = std::array::from_fn(|i| filler(module + 20, i));
    for (i, var) in FIELDS[module].iter().enumerate() {
        page[16 * i..16 * i + 4].copy_from_slice(&(places[*var as usize] as u32 + i as u32).to_le_bytes());
    }
    page
}

fn function() -> Vec<SymbolDef> {
    vec![SymbolDef { offset: 0, name: "function".into(), function: true }]
}

/// A kernel of one page, and modules.
fn file(modules: impl FnOnce(&mut Builder)) -> Vec<u8> {
    file_with(0, modules)
}

/// The same with per-CPU variables from this address on.
fn file_with(percpu_start: u64, modules: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut b = Builder::new();
    let bytes = (0..PAGE).map(|i| filler(0, i)).collect();
    let kind = RegionKind::KernelText;
    b.region(RegionDef { module: NONE, kind, base: IMAGE, bytes, sites: Vec::new(), symbols: function() }).unwrap();
    modules(&mut b);
    let (release, cmdline) = (b.name("references"), b.name(""));
    b.finish(Info {
        image_va: IMAGE,
        image_phys: 0x20_0000,
        image_span: PAGE as u64,
        entry_offset: 0,
        align: 0x20_0000,
        modules_start: MODULES.start,
        modules_end: MODULES.end,
        fentry: IMAGE,
        ftrace_caller: IMAGE,
        ftrace_regs_caller: IMAGE,
        percpu_start,
        release,
        cmdline,
        boot_version: 0x20f,
        cmdline_size: 2048,
        call_forms: NONE,
    })
}

fn three(b: &mut Builder) {
    for (module, name) in ["first", "between", "last"].into_iter().enumerate() {
        assert_eq!(b.module(name, &[VarClass::Code]), (module as u32, module as u32));
    }
    for (module, fields) in FIELDS.into_iter().enumerate() {
        b.begin_module(module as u32);
        let site = |(i, var): (usize, &u32)| {
            let index = b.local_expr(*var, i as u64).unwrap();
            SiteDef { offset: 16 * i as u64, kind: SiteKind::Abs32, index, arg: 0 }
        };
        let sites = fields.iter().enumerate().map(site).collect();
        let bytes = page(module, &[0; 3]).to_vec();
        let (kind, base, module) = (RegionKind::ModuleText, module as u64, module as u32);
        b.region(RegionDef { module, kind, base, bytes, sites, symbols: function() }).unwrap();
    }
}

/// The rules, in user times.
fn booted(stage: &mut Stage) -> (Rules<'_>, Ram) {
    let (mut rules, mut ram) = (stage.rules().unwrap(), Ram::new());
    ram.rights[KERNEL.0 as usize] = Right::Frozen;
    let proof = rules.loaded(KERNEL).unwrap();
    ram.set_access(KERNEL, Access::Executable(proof)).unwrap();
    assert!(matches!(rules.step(&mut ram, Event::FirstUser), Verdict::Resume));
    (rules, ram)
}

#[test]
fn only_what_refers_to_a_module_ends_with_it() {
    let at = |n: u64| MODULES.start + n * 0x10_0000;
    // Each is placed anew in turn: which of the others end.
    for (moved, ended) in [(0, [true, false, true]), (1, [false, true, false]), (2, [false, false, true])] {
        let mut stage = Stage::new(file(three));
        let (mut rules, mut ram) = booted(&mut stage);
        let mut places = [at(1), at(2), at(3)];
        let mut fetch = |ram: &mut Ram, frame: u64, module: usize, places: &[u64; 3]| {
            ram.pages[frame as usize] = page(module, places);
            let event = Event::KernelFetch { frame: Frame(frame), va: places[module], patching: false, tries: None };
            assert!(matches!(rules.step(ram, event), Verdict::Resume), "module {module}");
            [0x40, 0x41, 0x42].map(|f| rules.frames().get(Frame(f)) == FrameState::Data)
        };
        for module in 0..3 {
            fetch(&mut ram, 0x40 + module as u64, module, &places);
        }
        places[moved] = at(9);
        assert_eq!(fetch(&mut ram, 0x50, moved, &places), ended, "{moved}");
    }
}

/// The only reference to the data lies across the border of two pages. Its upper half alone would, with zeros for the
/// lower one, be a place where data may be.
#[test]
fn half_a_reference_shows_nothing() {
    let across = PAGE as u64 - 2;
    let mut stage = Stage::new(file(|b| {
        assert_eq!(b.module("half", &[VarClass::Code, VarClass::Data]), (0, 0));
        b.begin_module(0);
        let index = b.local_expr(1, 0).unwrap();
        let sites = vec![SiteDef { offset: across, kind: SiteKind::Abs32, index, arg: 0 }];
        let bytes = (0..2 * PAGE).map(|i| filler(20, i)).collect();
        b.region(RegionDef { module: 0, kind: RegionKind::ModuleText, base: 0, bytes, sites, symbols: function() })
            .unwrap();
    }));
    let (mut rules, mut ram) = booted(&mut stage);
    let (text, data) = (MODULES.start + 0x10_0000, MODULES.start + 0x20_3000);
    let mut bytes: Vec<u8> = (0..2 * PAGE).map(|i| filler(20, i)).collect();
    bytes[across as usize..][..4].copy_from_slice(&(data as u32).to_le_bytes());
    for (page, frame) in bytes.as_chunks::<PAGE>().0.iter().zip(0x40..) {
        ram.pages[frame] = *page;
    }
    let second = Event::KernelFetch { frame: Frame(0x41), va: text + PAGE as u64, patching: false, tries: None };
    assert!(matches!(rules.step(&mut ram, second), Verdict::Refuse(_)), "the first page is nowhere to be seen");
    assert_eq!(rules.variable(1), 0);
    ram.map(text, &[Frame(0x40)]);
    assert!(matches!(rules.step(&mut ram, second), Verdict::Resume));
    assert_eq!(rules.variable(1), data);
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

/// The kernel's static calls, each by its offset and opcode.
fn calls(world: &World<'_>) -> Vec<(u64, u8)> {
    let calls = world.spec.regions[s::TEXT].sites.iter().filter_map(|site| match site.kind {
        s::Kind::StaticCall(_) => Some((site.offset, 0xe8)),
        s::Kind::StaticJump(_) | s::Kind::Trampoline(_) => Some((site.offset, 0xe9)),
        _ => None,
    });
    calls.collect()
}

/// The kernel's first static call, given a target; what comes of it.
fn give(world: &mut World<'_>, opcode: u8, target: u64) -> Outcome {
    let at = calls(world)[0].0;
    world.write_kernel(s::TEXT, at, &s::branch(opcode, s::IMAGE + at, target));
    world.fetch_kernel(s::TEXT, at as usize / PAGE)
}

/// A static call may be given a function of a module of which nothing has run: its page is looked at first.
#[test]
fn a_static_call_is_given_a_function_of_a_module_nobody_has_seen() {
    let vars = usual_vars();
    let beta = vars[s::B_TEXT as usize];
    for (opcode, target, right) in [
        (0xe8, beta + 0x40, true),
        (0xcc, beta + 0x40, true),
        (0xe9, beta + 0x40, false),
        (0xe8, beta + 0x41, false),
        (0xe8, beta - PAGE64 + 0x40, false),
        (0xe8, MODULES.end + 0x40, false),
    ] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        let outcome = give(&mut world, opcode, target);
        assert_eq!(outcome == Outcome::Runs, right, "{opcode:#x} {target:#x}");
        assert!(right || matches!(outcome, Outcome::Restored(_)), "{opcode:#x} {target:#x}");
        world.check();
        run_all(&mut world, &vars);
    }
}

/// Every static call of the kernel, across two pages, too, whichever of them runs first.
#[test]
fn every_static_call_is_given_one() {
    let vars = usual_vars();
    let mut across = 0;
    for (at, opcode) in calls(&loaded(&mut stage(), &vars)) {
        let pages = [at as usize / PAGE, (at as usize + 4) / PAGE];
        across += (pages[0] != pages[1]) as usize;
        for first in 0..2 {
            let mut stage = stage();
            let mut world = loaded(&mut stage, &vars);
            let target = vars[s::B_TEXT as usize] + 0x40;
            world.write_kernel(s::TEXT, at, &s::branch(opcode, s::IMAGE + at, target));
            for page in [pages[first], pages[1 - first]] {
                assert_eq!(world.fetch_kernel(s::TEXT, page), Outcome::Runs, "{at:#x}, page {page} after {first}");
            }
            world.check();
        }
    }
    assert!(across > 0);
}

/// The caller may be a page of a module that has not run either.
#[test]
fn neither_the_caller_nor_the_called_has_run() {
    let vars = usual_vars();
    let gamma = vars[s::C_TEXT as usize];
    for at in [2 * PAGE64 + 0x40, 3 * PAGE64 - 4] {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        world.load(s::GAMMA, &vars, &frames(0x70, 2));
        for (i, byte) in s::branch(0xe8, vars[0] + at, gamma + 0x60).into_iter().enumerate() {
            set_byte(&mut world, vars[0] + at + i as u64, byte);
        }
        assert_eq!(world.fetch_module(s::ALPHA, 2, &vars), Outcome::Runs, "{at:#x}");
        assert_eq!(world.rules.variable(s::C_TEXT as usize), gamma);
        world.check();
    }
}

/// Many pages begin like the caller's: 12 that differ from it behind their eighth site only, and call nothing.
#[test]
fn the_caller_is_one_of_many_that_look_like_it() {
    const MODULES: usize = 14;
    const CALL: usize = 0x100;
    const FUNCTION: u64 = 0x40;
    let content = |module: usize| -> PageBytes {
        let callee = module + 1 == MODULES;
        std::array::from_fn(|i| if callee || i > 2 * CALL { filler(module + 20, i) } else { filler(19, i) })
    };
    let modules = |b: &mut Builder| {
        for module in 0..MODULES as u32 {
            assert_eq!(b.module(&format!("module{module:02}"), &[VarClass::Code]), (module, module));
        }
        for module in 0..MODULES as u32 {
            b.begin_module(module);
            let entry = |i: u64| SiteDef { offset: 16 * i, kind: SiteKind::Ftrace, index: 0, arg: 0 };
            let index = b.local_expr(NONE, IMAGE).unwrap();
            let call = SiteDef { offset: CALL as u64, kind: SiteKind::StaticCall, index, arg: 0 };
            let sites = (0..8).map(entry).chain((module as usize + 2 >= MODULES).then_some(call)).collect();
            let symbols = vec![SymbolDef { offset: FUNCTION as u32, name: "called".into(), function: true }];
            let (kind, base, bytes) = (RegionKind::ModuleText, module as u64, content(module as usize).to_vec());
            b.region(RegionDef { module, kind, base, bytes, sites, symbols }).unwrap();
        }
    };
    let mut stage = Stage::new(file(modules));
    let (mut rules, mut ram) = booted(&mut stage);
    let place = |frame: u64| s::MODULES.start + frame * PAGE64;
    for (frame, module, callee) in [(0x40, MODULES - 2, place(0x41) + FUNCTION), (0x41, MODULES - 1, IMAGE)] {
        let mut page = content(module);
        (0..8).for_each(|i| page[16 * i..][..5].copy_from_slice(&[0x0f, 0x1f, 0x44, 0, 0]));
        page[CALL..][..5].copy_from_slice(&s::branch(0xe8, place(frame) + CALL as u64, callee));
        ram.pages[frame as usize] = page;
        ram.map(place(frame), &[Frame(frame)]);
    }
    let event = Event::KernelFetch { frame: Frame(0x40), va: place(0x40), patching: false, tries: None };
    assert!(matches!(rules.step(&mut ram, event), Verdict::Resume));
    assert_eq!(rules.variable(MODULES - 1), place(0x41));
}

/// What is called must be right, too: a page that is not leaves nothing approved.
#[test]
fn a_static_call_is_not_given_a_function_of_a_changed_page() {
    let vars = usual_vars();
    let beta = vars[s::B_TEXT as usize];
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    set_byte(&mut world, beta + 1, 0x5a);
    assert!(matches!(give(&mut world, 0xe8, beta + 0x40), Outcome::Restored(_)));
    assert_eq!(world.rules.variable(s::B_TEXT as usize), 0);
    world.check();
}

/// In a frame of the kernel is the kernel: a module's page that is put there, and called, is not approved.
#[test]
fn nothing_called_takes_the_place_of_the_kernel() {
    let vars = usual_vars();
    let beta = vars[s::B_TEXT as usize];
    let mut stage = stage();
    let mut world = loaded(&mut stage, &vars);
    let page = world.ram.pages[world.ram.tables[&beta].0 as usize];
    let kernels = world.kernel_frame(s::TEXT, 4);
    world.write(kernels, 0, &page);
    world.ram.map(beta, &[kernels]);
    let outcome = give(&mut world, 0xe8, beta + 0x40);
    assert!(matches!(outcome, Outcome::Restored(_)), "{outcome:?} {:?}", calls(&world));
    world.check();
    assert!(matches!(world.fetch_kernel(s::TEXT, 4), Outcome::Restored(_)));
    world.check();
}

/// A page that is tried again and again has what it calls looked at some of the times, and the last.
#[test]
fn a_page_that_is_tried_often_is_looked_at_seldom() {
    let vars = usual_vars();
    let target = vars[s::B_TEXT as usize] + 0x40;
    let stage_of = |tries| {
        let mut stage = stage();
        let mut world = loaded(&mut stage, &vars);
        let at = calls(&world)[0].0;
        world.write_kernel(s::TEXT, at, &s::branch(0xe8, s::IMAGE + at, target));
        let frame = world.kernel_frame(s::TEXT, at as usize / PAGE);
        world.rules.step(&mut world.ram, Event::KernelFetch { frame, va: s::IMAGE + at, patching: false, tries })
    };
    for tries in [None, Some(0), Some(1), Some(2), Some(512)] {
        assert!(matches!(stage_of(tries), Verdict::Resume), "{tries:?}");
    }
    for tries in [3, 5, 1000] {
        assert!(matches!(stage_of(Some(tries)), Verdict::Wait), "{tries}");
    }
}

/// A fetch of a module's page at `va`, which is put into the frame; whether it may run.
fn runs(rules: &mut Rules<'_>, ram: &mut Ram, frame: u64, page: PageBytes, va: u64) -> bool {
    ram.pages[frame as usize] = page;
    let event = Event::KernelFetch { frame: Frame(frame), va, patching: false, tries: None };
    matches!(rules.step(ram, event), Verdict::Resume)
}

/// A per-CPU variable that would be at 0 would look unbound, so that every page could have its own.
#[test]
fn no_per_cpu_variable_is_at_zero() {
    const START: u64 = 0xffff_ffff_9000_0000;
    let content = |page: usize, value: u64| -> PageBytes {
        let mut bytes: PageBytes = std::array::from_fn(|i| filler(20, page * PAGE + i));
        bytes[0x20..0x24].copy_from_slice(&((value + 0x10) as u32).to_le_bytes());
        bytes
    };
    let module = |b: &mut Builder| {
        assert_eq!(b.module("percpu", &[VarClass::Code, VarClass::PerCpu]), (0, 0));
        b.begin_module(0);
        let index = b.local_expr(1, 0x10).unwrap();
        let site = |page| SiteDef { offset: page * PAGE64 + 0x20, kind: SiteKind::Abs32, index, arg: 0 };
        let (sites, bytes) = ((0..2).map(site).collect(), [content(0, 0), content(1, 0)].concat());
        let kind = RegionKind::ModuleText;
        b.region(RegionDef { module: 0, kind, base: 0, bytes, sites, symbols: function() }).unwrap();
    };
    let text = MODULES.start + 0x10_0000;
    for (first, value) in [(0, START + 0x9000), (START + 0x5000, 0), (START + 0x5000, START + 0x9000)] {
        let mut stage = Stage::new(file_with(START, module));
        let (mut rules, mut ram) = booted(&mut stage);
        assert_eq!(runs(&mut rules, &mut ram, 0x40, content(0, first), text), first != 0, "{first:#x}");
        assert_eq!(runs(&mut rules, &mut ram, 0x41, content(1, value), text + PAGE64), value != 0, "{value:#x}");
        // The second was placed anew: the first has ended.
        let both = [0x40, 0x41].map(|frame| rules.frames().get(Frame(frame)) != FrameState::Data);
        assert_ne!(both, [true, true], "{first:#x} {value:#x}");
    }
}

/// Text and init text of one module, one where the other is: what was there ends.
#[test]
fn a_module_does_not_lie_over_itself() {
    let content = |region: usize| -> PageBytes { std::array::from_fn(|i| filler(region, i)) };
    let module = |b: &mut Builder| {
        assert_eq!(b.module("own", &[VarClass::Code, VarClass::Code]), (0, 0));
        b.begin_module(0);
        for (base, region, kind) in [(0, 20, RegionKind::ModuleText), (1, 21, RegionKind::ModuleInit)] {
            let (bytes, sites) = (content(region).to_vec(), Vec::new());
            b.region(RegionDef { module: 0, kind, base, bytes, sites, symbols: function() }).unwrap();
        }
    };
    let text = MODULES.start + 0x10_0000;
    for [first, second] in [[20, 21], [21, 20]] {
        let mut stage = Stage::new(file(module));
        let (mut rules, mut ram) = booted(&mut stage);
        assert!(runs(&mut rules, &mut ram, 0x40, content(first), text));
        assert!(runs(&mut rules, &mut ram, 0x41, content(second), text));
        let states = [0x40, 0x41].map(|frame| rules.frames().get(Frame(frame)) == FrameState::Data);
        assert_eq!(states, [true, false], "{first}");
        let mut places = [rules.variable(0), rules.variable(1)];
        places.sort();
        assert_eq!(places, [0, text], "{first}");
    }
}

/// Init text of two modules that is alike but for where it refers to: what it would be of the first, behind whose own code
/// it lies, it is not.
#[test]
fn init_text_is_not_that_of_a_module_it_would_lie_in() {
    let content = |region: usize, field: u64| -> PageBytes {
        let mut bytes: PageBytes = std::array::from_fn(|i| filler(region, i));
        bytes[0x20..0x24].copy_from_slice(&(field as u32).to_le_bytes());
        bytes
    };
    // By module: pages of its text, and what its init text refers to there.
    const TWINS: [(u64, u64); 2] = [(4, 0), (3, 2 * PAGE64)];
    let modules = |b: &mut Builder| {
        for (module, name) in ["alike", "one"].into_iter().enumerate() {
            assert_eq!(b.module(name, &[VarClass::Code, VarClass::Code]), (module as u32, 2 * module as u32));
        }
        for (module, (pages, offset)) in TWINS.into_iter().enumerate() {
            b.begin_module(module as u32);
            let (first, module) = (2 * module as u64, module as u32);
            let bytes = (0..pages as usize * PAGE).map(|i| filler(30 + module as usize, i)).collect();
            let (kind, sites) = (RegionKind::ModuleText, Vec::new());
            b.region(RegionDef { module, kind, base: first, bytes, sites, symbols: function() }).unwrap();
            let index = b.local_expr(first as u32, offset).unwrap();
            let sites = vec![SiteDef { offset: 0x20, kind: SiteKind::Abs32, index, arg: 0 }];
            let (kind, bytes) = (RegionKind::ModuleInit, content(20, 0).to_vec());
            b.region(RegionDef { module, kind, base: first + 1, bytes, sites, symbols: function() }).unwrap();
        }
    };
    let mut stage = Stage::new(file(modules));
    let (mut rules, mut ram) = booted(&mut stage);
    let text = MODULES.start + 0x10_0000;
    let init = text + TWINS[1].0 * PAGE64;
    assert!(runs(&mut rules, &mut ram, 0x40, content(20, text + TWINS[1].1), init));
    assert_eq!([0, 1, 2, 3].map(|var| rules.variable(var)), [0, 0, text, init]);
}
