//! Sites across two pages: halves that do not belong together, and neighbours that are hidden or are not true
use secvisor_approval::PAGE;
use secvisor_rules::Frame;

use super::modules::{ALPHA_AT, PAGE64, loaded, set_byte, stage};
use crate::synthetic as s;
use crate::world::{Outcome, World, usual_vars};

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
