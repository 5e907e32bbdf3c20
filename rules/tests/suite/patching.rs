//! Linux writes a page it runs from: one site may be half-written, and is stepped around
use secvisor_approval::PAGE;
use secvisor_rules::{Event, Frame, FrameState, Rule, Verdict};

use crate::synthetic::{self as s, Kind, SiteSpec, Spec};
use crate::world::{Outcome, Right, Stage, World, frames, usual_vars};

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

/// Bytes no site may hold.
const JUNK: [u8; 8] = [0xfe, 0xf1, 0xd7, 0x3b, 0x96, 0xe1, 0x8c, 0x0e];

fn inside_a_page(site: &&SiteSpec) -> bool {
    site.offset as usize % PAGE + site.kind.len() <= PAGE
}

fn sites(world: &World<'_>, region: usize) -> Vec<SiteSpec> {
    world.spec.regions[region].sites.iter().filter(inside_a_page).cloned().collect()
}

/// Where no instruction can reach a site that is being written.
fn far_from(site: &SiteSpec) -> u64 {
    let page = site.offset & !0xfff;
    page + (site.offset % 4096 + 0x800) % 4096
}

#[test]
fn before_user_mode_any_site_may_be_half_written() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    for region in [s::TEXT, s::FAR_TEXT, s::INIT] {
        for site in sites(&world, region) {
            let (base, len) = (world.spec.regions[region].base, site.kind.len());
            let (frame, _) = world.kernel_at(region, site.offset);
            let before = world.kernel_bytes(region, site.offset, len);
            world.write_kernel(region, site.offset, &JUNK[..len]);
            let away = base + far_from(&site);
            assert_eq!(world.fetch_patching(frame, away), Outcome::Step, "{site:x?}");
            assert_eq!(world.fetch_patching(frame, away), Outcome::Step, "not approved by stepping");
            // Finished: the page is as it must be, and approved.
            world.write_kernel(region, site.offset, &before);
            assert_eq!(world.fetch_patching(frame, away), Outcome::Runs);
            // Half-written, and nobody says that Linux is at it.
            world.write_kernel(region, site.offset, &JUNK[..len]);
            assert!(matches!(world.fetch(frame, away).rule(), Some(Rule::Tampered | Rule::UnapprovedCode)));
            world.write_kernel(region, site.offset, &before);
            assert_eq!(world.fetch(frame, away), Outcome::Runs);
        }
    }
}

#[test]
fn in_user_times_a_half_written_site_is_stepped_past_but_never_approved() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    for region in [s::TEXT, s::FAR_TEXT] {
        for site in sites(&world, region) {
            let len = site.kind.len();
            let (frame, at) = world.kernel_at(region, site.offset);
            let page = world.spec.regions[region].base + (site.offset & !0xfff);
            let before = world.kernel_bytes(region, site.offset, len);
            world.write_kernel(region, site.offset, &JUNK[..len]);
            let away = world.spec.regions[region].base + far_from(&site);
            assert_eq!(world.fetch_patching(frame, away), Outcome::Step, "{site:x?}");
            // What boot has chosen has no business here; like any other it is put back when it would run.
            assert!(matches!(world.fetch_patching(frame, page + at as u64), Outcome::Restored(_)), "{site:x?}");
            world.write_kernel(region, site.offset, &before);
            assert_eq!(world.fetch(frame, world.spec.regions[region].base), Outcome::Runs);
        }
    }
}

/// The instruction at RIP must not contain a byte that is not verified.
#[test]
fn a_half_written_site_is_never_executed() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = if booted { World::booted(&mut stage) } else { World::new(&mut stage) };
        for region in [s::TEXT, s::INIT] {
            let jump = |x: &SiteSpec| matches!(x.kind, Kind::Jump5(_));
            let site = sites(&world, region).into_iter().find(jump).unwrap();
            let (frame, at) = world.kernel_at(region, site.offset);
            let page = world.spec.regions[region].base + (site.offset & !0xfff);
            let before = world.kernel_bytes(region, site.offset, 5);
            // Two instructions of 15 bytes may run, if the first loads SS; before user mode it begins where the kernel's do.
            let reach = if booted { 29 } else { 0 };
            for rip in at.saturating_sub(40)..at + 25 {
                world.write_kernel(region, site.offset, &JUNK[..5]);
                let outcome = world.fetch_patching(frame, page + rip as u64);
                let touches = rip + reach >= at && rip < at + 5;
                match touches {
                    false => assert_eq!(outcome, Outcome::Step, "{rip:#x}, site at {at:#x}"),
                    true if world.is_init(region) => assert!(outcome.refused(), "{rip:#x}: {outcome:?}"),
                    true => assert!(matches!(outcome, Outcome::Restored(_)), "{rip:#x}: {outcome:?}"),
                }
                if touches && world.is_init(region) {
                    assert_eq!(world.kernel_bytes(region, site.offset, 5), JUNK[..5], "init text is not put back");
                }
                world.write_kernel(region, site.offset, &before);
                assert_eq!(world.fetch(frame, page), Outcome::Runs);
            }
        }
    }
}

#[test]
fn only_one_site_and_nothing_beside_it() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = if booted { World::booted(&mut stage) } else { World::new(&mut stage) };
        let mutable = |x: &SiteSpec| matches!(x.kind, Kind::Jump5(_) | Kind::Ftrace | Kind::StaticCall(_));
        let all: Vec<_> = sites(&world, s::TEXT).into_iter().filter(mutable).collect();
        let (frame, va) = (world.kernel_frame(s::TEXT, 0), s::IMAGE + 0x900);
        world.write_kernel(s::TEXT, all[0].offset, &JUNK[..5]);
        assert_eq!(world.fetch_patching(frame, va), Outcome::Step);
        world.write_kernel(s::TEXT, all[1].offset, &JUNK[..5]);
        assert!(matches!(world.fetch_patching(frame, va), Outcome::Restored(v) if v.rule == Rule::Tampered));
        // One site, and one byte behind it.
        world.write_kernel(s::TEXT, all[0].offset, &JUNK[..6]);
        assert!(matches!(world.fetch_patching(frame, va), Outcome::Restored(_)));
        world.write_kernel(s::TEXT, all[0].offset, &JUNK[..5]);
        let byte = world.kernel_bytes(s::TEXT, 0x700, 1);
        world.write_kernel(s::TEXT, 0x700, &[byte[0] ^ 2]);
        assert!(matches!(world.fetch_patching(frame, va), Outcome::Restored(_)));
    }
}

/// A site across two pages, half-written; each page is stepped in only away from it.
#[test]
fn half_written_across_pages() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let across = |x: &SiteSpec| !inside_a_page(&x) && matches!(x.kind, Kind::Jump5(_) | Kind::Ftrace);
    let all: Vec<_> = world.spec.regions[s::TEXT].sites.iter().filter(|x| across(x)).cloned().collect();
    assert!(all.len() >= 2);
    for site in all {
        let before = world.kernel_bytes(s::TEXT, site.offset, 5);
        let border = s::IMAGE + site.offset / 4096 * 4096 + 4096;
        let pages = [site.offset as usize / PAGE, site.offset as usize / PAGE + 1];
        let [first, second] = pages.map(|p| world.kernel_frame(s::TEXT, p));
        world.write_kernel(s::TEXT, site.offset, &JUNK[..5]);
        assert_eq!(world.fetch_patching(first, border - 0x400), Outcome::Step);
        assert_eq!(world.fetch_patching(second, border + 0x400), Outcome::Step);
        // In the second page none of its bytes is executed, and what is behind them may be.
        let tail = site.offset % 4096 + 5 - 4096;
        for at in 0..tail {
            world.write_kernel(s::TEXT, site.offset, &JUNK[..5]);
            assert_ne!(world.fetch_patching(second, border + at), Outcome::Step, "{at}");
        }
        world.write_kernel(s::TEXT, site.offset, &JUNK[..5]);
        assert_eq!(world.fetch_patching(second, border + tail), Outcome::Step);
        assert_ne!(world.fetch_patching(first, border - 12), Outcome::Step);
        world.write_kernel(s::TEXT, site.offset, &before);
        assert_eq!(world.fetch_kernel(s::TEXT, pages[0]), Outcome::Runs);
        assert_eq!(world.fetch_kernel(s::TEXT, pages[1]), Outcome::Runs);
    }
}

/// What is put back because it would have been executed half-written is held to its neighbour, too.
#[test]
fn a_page_that_is_put_back_is_compared_as_a_whole() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let across = |x: &&SiteSpec| !inside_a_page(x) && matches!(x.kind, Kind::StaticCall(_));
    let call = world.spec.regions[s::TEXT].sites.iter().find(across).unwrap().clone();
    let page = call.offset as usize / PAGE;
    // Both halves are changed, the second page runs with its own, and the first is spoilt where it runs.
    world.write_kernel(s::TEXT, call.offset, &s::NOP5);
    assert_eq!(world.fetch_kernel(s::TEXT, page + 1), Outcome::Runs);
    let start = (page * PAGE) as u64;
    world.write_kernel(s::TEXT, start, &JUNK[..2]);
    let outcome = world.fetch_patching(world.kernel_frame(s::TEXT, page), s::IMAGE + start);
    assert!(outcome.refused() && outcome.rule() == Some(Rule::Tampered), "{outcome:?}");
    world.check();
}

/// Modules do not patch themselves: what is half-written there is not right.
#[test]
fn modules_are_not_stepped() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let vars = usual_vars();
    world.load(s::BETA, &vars, &frames(0x40, 2));
    world.load(s::ALPHA, &vars, &frames(0x48, 4));
    let va = vars[0] + 0x900;
    world.write(Frame(0x48), 0xb0, &JUNK[..5]);
    assert!(world.fetch_patching(Frame(0x48), va).refused());
    world.load(s::ALPHA, &vars, &frames(0x48, 4));
    assert_eq!(world.fetch_patching(Frame(0x48), va), Outcome::Runs);
    world.write(Frame(0x48), 0xb0, &JUNK[..5]);
    assert!(matches!(world.fetch_patching(Frame(0x48), va), Outcome::Restored(_)));
}

/// A write from within a page that is approved: the page runs on for that instruction, and for nobody else.
#[test]
fn a_page_that_writes_itself_is_frozen_for_the_others() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let frame = world.kernel_frame(s::TEXT, 0);
    assert!(matches!(world.rules.frames().get(frame), FrameState::Approved(_)));
    let verdict = world.rules.step(&mut world.ram, Event::Write { frame, from_within: true });
    assert!(matches!(verdict, Verdict::Step));
    assert_eq!(world.ram.rights[frame.0 as usize], Right::Frozen);
    assert_eq!(world.rules.frames().get(frame), FrameState::Data);
    // Another CPU executes there before it has written anything: approved again.
    assert_eq!(world.fetch(frame, world.spec.regions[s::TEXT].base), Outcome::Runs);
    // The window was closed first; what it writes comes as an event of its own.
    world.write(frame, 0, &[0x55]);
    assert!(matches!(world.fetch(frame, world.spec.regions[s::TEXT].base), Outcome::Restored(_)));
}

/// Another CPU has written half of a value: nothing is put back under its hands.
#[test]
fn a_page_that_another_cpu_may_be_writing_is_waited_for() {
    for booted in [false, true] {
        let mut stage = stage();
        let mut world = if booted { World::booted(&mut stage) } else { World::new(&mut stage) };
        for region in [s::TEXT, s::INIT] {
            let jump = |x: &SiteSpec| matches!(x.kind, Kind::Jump5(_));
            let site = sites(&world, region).into_iter().find(jump).unwrap();
            let (frame, _) = world.kernel_at(region, site.offset);
            let va = world.spec.regions[region].base + (site.offset & !0xfff);
            let before = world.kernel_bytes(region, site.offset, 5);
            world.write_kernel(region, site.offset, &[0xcc, 0x12, 0x34]);
            let torn = world.kernel_bytes(region, site.offset, 5);
            assert_eq!(world.fetch_patiently(frame, va), Outcome::Waits);
            assert_eq!(world.kernel_bytes(region, site.offset, 5), torn, "nothing was put back");
            world.write_kernel(region, site.offset, &before);
            assert_eq!(world.fetch_patiently(frame, va), Outcome::Runs, "it has become right");
            world.write_kernel(region, site.offset, &[0xcc, 0x12, 0x34]);
            assert!(world.fetch(frame, va).rule().is_some(), "patience ends");
            world.write_kernel(region, site.offset, &before);
            assert_eq!(world.fetch(frame, va), Outcome::Runs);
        }
    }
}
