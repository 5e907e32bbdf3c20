//! Modules loaded again, and modules over or beside another: what ends, and what goes on
use secvisor_approval::PAGE;
use secvisor_rules::{Frame, FrameState, Rule};

use super::modules::{ALPHA_AT, BETA_AT, INIT_AT, PAGE64, approved, load_all, loaded, run_all, stage, vars_of};
use crate::synthetic as s;
use crate::world::{Outcome, World, frames, usual_vars};

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
