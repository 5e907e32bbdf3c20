//! Whatever happens in whatever order, nothing runs but what [`World::judge`] finds right
use proptest::prelude::*;
use secvisor_approval::PAGE;
use secvisor_approval::wire::NONE;
use secvisor_rules::{Frame, FrameState};

use crate::synthetic::{self as s, Spec};
use crate::world::{DEVICE, FRAMES, FREE, HYPERVISOR, KERNEL, Outcome, Stage, World, usual_vars};

const KERNEL_REGIONS: [usize; 3] = [s::TEXT, s::FAR_TEXT, s::INIT];
const MODULE_REGIONS: [usize; 5] = [s::ALPHA, s::ALPHA_INIT, s::BETA, s::GAMMA, s::REALMODE];

/// Where Linux may have put all modules: apart, moved, on top of each other.
fn placement(index: usize) -> Vec<u64> {
    let mut vars = usual_vars();
    match index % 6 {
        0 => {}
        1 => vars[..7].iter_mut().for_each(|v| *v += 0x80_0000),
        2 => (vars[s::B_TEXT as usize], vars[s::R_TEXT as usize]) = (vars[s::B_TEXT as usize] + 0x1000, 0x6_9000),
        3 => {
            (vars[s::A_DATA as usize], vars[s::C_TEXT as usize]) = (vars[s::A_DATA as usize] + 0x2000, vars[0] - 0x1000)
        }
        4 => vars[s::B_TEXT as usize] = vars[s::A_TEXT as usize] + 0x1000,
        _ => (vars[s::A_PERCPU as usize], vars[s::A_INIT as usize]) = (0x6_2000, vars[s::A_TEXT as usize]),
    }
    vars
}

/// Something that happens. The numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Action {
    /// The kernel executes a page of its own.
    Kernel(usize, usize),
    /// The kernel executes what is mapped where a module's page should be.
    Module { region: usize, page: usize, placement: usize },
    /// The kernel executes any frame at any of some addresses.
    Anywhere { frame: u64, va: u64, patching: bool },
    /// Linux loads a part of a module.
    Load { region: usize, placement: usize, frame: u64 },
    /// Linux, or somebody who knows the sites, writes a value.
    Site { region: usize, site: usize, value: usize, from: usize, to: usize },
    /// The same in a module's page, wherever it is mapped.
    ModuleSite { region: usize, site: usize, value: usize, placement: usize, from: usize, to: usize },
    /// Somebody writes a byte.
    Byte { frame: u64, offset: usize, value: u8 },
    /// Somebody copies a page.
    Copy { from: u64, to: u64 },
    /// Somebody changes the guest's tables.
    Map { placement: usize, region: usize, page: usize, frame: Option<u64> },
    /// Linux frees init text.
    FreeInit,
    /// Another CPU writes while a frame is being frozen.
    Race { frame: u64, offset: usize, value: u8 },
    /// The tables have room for so many frames more.
    Room(usize),
    /// Somebody jumps to user mode.
    User,
}

fn action() -> impl Strategy<Value = Action> {
    let n = || 0..1000usize;
    prop_oneof![
        6 => (n(), n()).prop_map(|(r, p)| Action::Kernel(r, p)),
        8 => (n(), n(), n()).prop_map(|(region, page, placement)| Action::Module { region, page, placement }),
        2 => (0..FRAMES + 4, any::<u64>(), any::<bool>())
            .prop_map(|(frame, va, patching)| Action::Anywhere { frame, va, patching }),
        4 => (n(), n(), FREE).prop_map(|(region, placement, frame)| Action::Load { region, placement, frame }),
        4 => (n(), n(), n(), 0..9usize, 0..9usize)
            .prop_map(|(region, site, value, from, to)| Action::Site { region, site, value, from, to }),
        4 => (n(), n(), n(), n(), 0..9usize, 0..9usize).prop_map(|(region, site, value, placement, from, to)| {
            Action::ModuleSite { region, site, value, placement, from, to }
        }),
        2 => (0..FRAMES, 0..PAGE, any::<u8>()).prop_map(|(frame, offset, value)| Action::Byte { frame, offset, value }),
        2 => (0..FRAMES, 0..FRAMES).prop_map(|(from, to)| Action::Copy { from, to }),
        2 => (n(), n(), n(), prop::option::of(FREE))
            .prop_map(|(placement, region, page, frame)| Action::Map { placement, region, page, frame }),
        1 => Just(Action::FreeInit),
        1 => (0..FRAMES, 0..PAGE, any::<u8>()).prop_map(|(frame, offset, value)| Action::Race { frame, offset, value }),
        1 => (0..40usize).prop_map(Action::Room),
        1 => Just(Action::User),
    ]
}

fn guest(frame: u64) -> Option<Frame> {
    (frame < FRAMES && !HYPERVISOR.contains(&frame) && !DEVICE.contains(&frame)).then_some(Frame(frame))
}

fn play(world: &mut World<'_>, action: &Action) {
    match *action {
        Action::Kernel(region, page) => {
            let region = KERNEL_REGIONS[region % 3];
            let page = page % world.spec.regions[region].pages;
            world.fetch_kernel(region, page);
        }
        Action::Module { region, page, placement: at } => {
            let (va, _) = module_page(world, region, page, at);
            if let Some(frame) = world.ram.tables.get(&va).copied() {
                world.fetch(frame, va);
            }
        }
        Action::Anywhere { frame, va, patching } => {
            let va = match va % 5 {
                0 => s::IMAGE + va % s::SPAN,
                1 => s::MODULES.start + va % 0x90_0000,
                2 => va,
                3 => Frame(frame).address() + va % 0x1000,
                _ => s::MODULES.end - 1 - va % 0x2000,
            };
            match patching {
                true => world.fetch_patching(Frame(frame), va),
                false => world.fetch(Frame(frame), va),
            };
        }
        Action::Load { region, placement: at, frame } => {
            let region = MODULE_REGIONS[region % MODULE_REGIONS.len()];
            let last = FRAMES - world.spec.regions[region].pages as u64;
            let first = match region {
                // Most often where it says it is.
                s::REALMODE if frame % 4 > 0 => placement(at)[s::R_TEXT as usize] / PAGE as u64,
                _ => frame.min(last),
            };
            let frames: Vec<_> = (0..world.spec.regions[region].pages as u64).map(|i| Frame(first + i)).collect();
            world.load(region, &placement(at), &frames);
        }
        Action::Site { region, site, value, from, to } => {
            let region = KERNEL_REGIONS[region % 3];
            let sites = &world.spec.regions[region].sites;
            let site = sites[site % sites.len()].clone();
            let va = world.spec.regions[region].base + site.offset;
            let values = world.spec.values(&site, va, &placement(value));
            let bytes = values[value % values.len()].bytes.clone();
            let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
            if from < to {
                world.write_kernel(region, site.offset + from as u64, &bytes[from..to]);
            }
        }
        Action::ModuleSite { region, site, value, placement: at, from, to } => {
            let region = MODULE_REGIONS[region % MODULE_REGIONS.len()];
            let sites = &world.spec.regions[region].sites;
            let site = sites[site % sites.len()].clone();
            let (vars, other) = (placement(at), placement(value));
            let va = world.spec.base(region, &vars) + site.offset;
            let values = world.spec.values(&site, va, &other);
            let bytes = values[value % values.len()].bytes.clone();
            for (i, byte) in bytes.iter().enumerate().take(to).skip(from) {
                let at = va + i as u64;
                if let Some(frame) = world.ram.tables.get(&(at & !0xfff)).copied() {
                    world.write(frame, at as usize % PAGE, &[*byte]);
                }
            }
        }
        Action::Byte { frame, offset, value } => {
            if let Some(frame) = guest(frame) {
                world.write(frame, offset, &[value]);
            }
        }
        Action::Copy { from, to } => {
            if let (Some(from), Some(to)) = (guest(from), guest(to)) {
                let bytes = world.ram.pages[from.0 as usize];
                world.write(to, 0, &bytes);
            }
        }
        Action::Map { placement: at, region, page, frame } => {
            let (va, _) = module_page(world, region, page, at);
            match frame {
                Some(frame) => world.ram.tables.insert(va, Frame(frame)),
                None => world.ram.tables.remove(&va),
            };
        }
        Action::FreeInit => {
            for page in 0..world.spec.regions[s::INIT].pages {
                let frame = world.kernel_frame(s::INIT, page);
                world.write(frame, 0, &[0xcc; PAGE]);
            }
        }
        Action::Race { frame, offset, value } => world.ram.race = Some((Frame(frame), offset, value)),
        Action::Room(room) => world.ram.room = room,
        Action::User => world.first_user(),
    }
}

fn module_page(world: &World<'_>, region: usize, page: usize, at: usize) -> (u64, usize) {
    let region = MODULE_REGIONS[region % MODULE_REGIONS.len()];
    let page = page % world.spec.regions[region].pages;
    (world.spec.base(region, &placement(at)) + (page * PAGE) as u64, page)
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// [`World`] judges every page that becomes executable, and all of them at the end.
    #[test]
    fn nothing_unapproved_ever_runs(actions in prop::collection::vec(action(), 1..160)) {
        let mut stage = Stage::new(Spec::new().file());
        let mut world = World::booted(&mut stage);
        for action in &actions {
            play(&mut world, action);
        }
        world.check();
    }

    /// The same while Linux patches itself; user mode is never reached.
    #[test]
    fn nothing_unapproved_runs_at_boot(actions in prop::collection::vec(action(), 1..120)) {
        let mut stage = Stage::new(Spec::new().file());
        let mut world = World::new(&mut stage);
        for action in actions.iter().filter(|a| !matches!(a, Action::User)) {
            play(&mut world, action);
        }
        world.check();
        prop_assert!(world.spec.regions.iter().enumerate().all(|(r, region)| {
            region.module == NONE || r == s::REALMODE || (0..region.pages).all(|p| {
                let approved = FrameState::Approved(world.spec.page(r, p));
                (0..FRAMES).all(|f| world.rules.frames().get(Frame(f)) != approved)
            })
        }), "a module ran before user mode");
    }

    /// A few bytes of a page changed: it runs if and only if it is still right.
    #[test]
    fn changed_pages_run_only_if_they_are_right(
        page in 0..14usize,
        changes in prop::collection::vec((0..PAGE, any::<u8>(), any::<bool>()), 1..5),
        near in any::<prop::sample::Index>(),
        booted in any::<bool>(),
    ) {
        let mut stage = Stage::new(Spec::new().file());
        let mut world = if booted { World::booted(&mut stage) } else { World::new(&mut stage) };
        let (region, index) = world.locate(page as u32);
        let frame = world.kernel_frame(region, index);
        let sites: Vec<_> = world.spec.regions[region].sites.iter().map(|x| x.offset as usize)
            .filter(|o| o / PAGE == index).collect();
        for (offset, value, at_site) in changes {
            // Half of the changes are made where sites are.
            let offset = match at_site && !sites.is_empty() {
                true => (near.get(&sites) % PAGE + offset % 8).min(PAGE - 1),
                false => offset,
            };
            world.write(frame, offset, &[value]);
        }
        let right = world.judge(frame, page as u32).is_ok();
        let outcome = world.fetch_kernel(region, index);
        prop_assert_eq!(outcome == Outcome::Runs, right, "{:?}", outcome);
    }

    /// The same for a module that is loaded: what runs is right wherever its variables now are.
    #[test]
    fn changed_modules_run_only_if_they_are_right(
        region in 0..MODULE_REGIONS.len(),
        page in 0..4usize,
        changes in prop::collection::vec((0..PAGE, any::<u8>()), 0..4),
        live in any::<bool>(),
    ) {
        let mut stage = Stage::new(Spec::new().file());
        let mut world = World::booted(&mut stage);
        let vars = usual_vars();
        for (i, region) in MODULE_REGIONS.into_iter().enumerate() {
            let first = match region {
                s::REALMODE => vars[s::R_TEXT as usize] / PAGE as u64,
                _ => FREE.start + 8 * i as u64,
            };
            let frames: Vec<_> = (0..world.spec.regions[region].pages as u64).map(|f| Frame(first + f)).collect();
            world.load(region, &vars, &frames);
        }
        let region = MODULE_REGIONS[region];
        let page = page % world.spec.regions[region].pages;
        if live {
            prop_assert_eq!(world.fetch_module(region, page, &vars), Outcome::Runs);
        }
        let frame = world.ram.tables[&(world.spec.base(region, &vars) + (page * PAGE) as u64)];
        let before = world.ram.pages[frame.0 as usize];
        for (offset, value) in &changes {
            world.write(frame, *offset, &[*value]);
        }
        let same = world.ram.pages[frame.0 as usize] == before;
        let outcome = world.fetch_module(region, page, &vars);
        if same {
            prop_assert_eq!(outcome, Outcome::Runs);
        }
        if outcome == Outcome::Runs {
            prop_assert!(world.judge(frame, world.spec.page(region, page)).is_ok());
        }
        world.check();
    }
}

/// The kernel's frames are where the properties think they are.
#[test]
fn the_kernel_lies_in_ram() {
    assert!(KERNEL.0 + s::SPAN / PAGE as u64 <= HYPERVISOR.start);
}
