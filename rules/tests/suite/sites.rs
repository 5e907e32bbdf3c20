//! Every kind of site: what it may hold, and that it may hold nothing else
use secvisor_approval::PAGE;
use secvisor_approval::wire::{ConstClass, NONE, cond};
use secvisor_rules::Rule;

use crate::synthetic::{self as s, Kind, SiteSpec, Spec, To, When};
use crate::world::{Outcome, Stage, World, frames, usual_vars};

fn stage() -> Stage {
    Stage::new(Spec::new().file())
}

fn kernel_sites(world: &World<'_>) -> Vec<(usize, SiteSpec)> {
    let own = |r: usize| world.spec.regions[r].sites.iter().cloned().map(move |s| (r, s));
    [s::TEXT, s::FAR_TEXT, s::INIT].into_iter().flat_map(own).collect()
}

/// Puts bytes into a site of the kernel and runs every page it lies in.
fn try_kernel(world: &mut World<'_>, region: usize, site: &SiteSpec, bytes: &[u8]) -> Vec<Outcome> {
    world.write_kernel(region, site.offset, bytes);
    let pages = site.offset as usize / PAGE..=(site.offset as usize + bytes.len() - 1) / PAGE;
    pages.map(|page| world.fetch_kernel(region, page)).collect()
}

/// Puts bytes into a site; all pages must run, with the bytes.
fn accepts(world: &mut World<'_>, region: usize, site: &SiteSpec, bytes: &[u8]) {
    let outcomes = try_kernel(world, region, site, bytes);
    assert!(outcomes.iter().all(|o| *o == Outcome::Runs), "{site:x?} with {bytes:02x?}: {outcomes:?}");
    assert_eq!(world.kernel_bytes(region, site.offset, bytes.len()), bytes);
}

/// Puts bytes into a site; none of its pages may run with them. Init text is refused, other text put back.
fn rejects(world: &mut World<'_>, region: usize, site: &SiteSpec, bytes: &[u8]) {
    let before = world.kernel_bytes(region, site.offset, bytes.len());
    let across = site.offset as usize % PAGE + bytes.len() > PAGE;
    let outcomes = try_kernel(world, region, site, bytes);
    // The page that is put back first may bring the site back to what the other half has.
    let first_bad = outcomes[0] != Outcome::Runs;
    assert!(first_bad, "{site:x?} with {bytes:02x?} after {before:02x?}: {outcomes:?}");
    match world.is_init(region) {
        true => assert!(outcomes.iter().all(|o| o.rule() == Some(Rule::UnapprovedCode)), "{outcomes:?}"),
        false if across => assert!(outcomes.iter().all(|o| *o == Outcome::Runs || o.rule() == Some(Rule::Tampered))),
        false => assert!(matches!(outcomes[0], Outcome::Restored(v) if v.rule == Rule::Tampered), "{outcomes:?}"),
    }
    world.write_kernel(region, site.offset, &before);
    let pages = site.offset as usize / PAGE..=(site.offset as usize + bytes.len() - 1) / PAGE;
    for page in pages {
        assert_eq!(world.fetch_kernel(region, page), Outcome::Runs, "{site:x?} back to {before:02x?}");
    }
}

/// Whether bytes are a value of a site at this time; written a second time, without INT3 tables.
fn is_value(world: &World<'_>, region: usize, site: &SiteSpec, bytes: &[u8], boot: bool) -> bool {
    let va = world.spec.regions[region].base + site.offset;
    if let (Kind::Const(class, link), true) = (&site.kind, boot) {
        return s::constant(*class, *link, bytes);
    }
    let when = |w: When| match w {
        When::Boot => boot,
        When::If(_) => boot,
        _ => true,
    };
    world.spec.values(site, va, &[0; s::VARS]).iter().any(|v| when(v.when) && v.bytes == bytes)
}

/// What lies between two values: first byte only, last byte only, every mixture of a head and a tail.
fn between(a: &[u8], b: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for at in 1..a.len() {
        out.push([&a[..at], &b[at..]].concat());
        out.push([&b[..at], &a[at..]].concat());
    }
    out.sort();
    out.dedup();
    out
}

/// One bit of one byte.
fn flips(value: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for at in 0..value.len() {
        for bit in [0, 4, 7] {
            let mut bytes = value.to_vec();
            bytes[at] ^= 1 << bit;
            out.push(bytes);
        }
    }
    out
}

#[test]
fn at_boot_every_value_is_right_and_nothing_else() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    let mut tried = (0, 0);
    for (region, site) in kernel_sites(&world) {
        let va = world.spec.regions[region].base + site.offset;
        let linked = world.spec.linked(&site, va, &[]);
        let values = world.spec.values(&site, va, &[0; s::VARS]);
        for value in &values {
            accepts(&mut world, region, &site, &value.bytes);
            tried.0 += 1;
        }
        accepts(&mut world, region, &site, &linked);
        let settled: Vec<_> = values.iter().filter(|v| v.when != When::Changing).collect();
        let mut wrong: Vec<Vec<u8>> = settled.iter().flat_map(|v| flips(&v.bytes)).collect();
        for (i, a) in settled.iter().enumerate() {
            wrong.extend(settled[..i].iter().flat_map(|b| between(&a.bytes, &b.bytes)));
        }
        wrong.retain(|w| !is_value(&world, region, &site, w, true));
        for bytes in wrong {
            rejects(&mut world, region, &site, &bytes);
            tried.1 += 1;
        }
    }
    assert!(tried.0 > 250 && tried.1 > 2000, "{tried:?}");
}

#[test]
fn after_boot_choices_and_constants_stay_and_the_rest_may_change() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    for (region, site) in kernel_sites(&world) {
        let va = world.spec.regions[region].base + site.offset;
        let before = world.kernel_bytes(region, site.offset, site.kind.len());
        let fixed = matches!(site.kind, Kind::Choice(_) | Kind::Const(..));
        for value in world.spec.values(&site, va, &[0; s::VARS]) {
            let allowed = if fixed { value.bytes == before } else { value.when != When::Boot };
            match allowed {
                true => accepts(&mut world, region, &site, &value.bytes),
                false => rejects(&mut world, region, &site, &value.bytes),
            }
        }
        accepts(&mut world, region, &site, &before);
        for bytes in flips(&before) {
            if fixed || !is_value(&world, region, &site, &bytes, false) {
                rejects(&mut world, region, &site, &bytes);
            }
        }
    }
}

/// Wherever in a page the site is that does.
#[test]
fn a_condition_binds_wherever_its_site_is() {
    for (page, at) in [(0, PAGE - 3), (1, 0x900)] {
        let mut stage = stage();
        let mut world = World::booted(&mut stage);
        let vars = usual_vars();
        world.load(s::GAMMA, &vars, &frames(0x60, 2));
        world.load(s::BETA, &vars, &frames(0x40, 2));
        world.write(frames(0x60, 2)[page], at, &[0xf3, 0xa4, 0x90]);
        assert_eq!(world.fetch_module(s::GAMMA, page, &vars), Outcome::Runs);
        assert!(world.fetch_module(s::BETA, 0, &vars).refused(), "the other form");
        world.write(frames(0x40, 1)[0], 0x50, &[0xf3, 0xa4, 0x90]);
        assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
    }
}

/// Right before a site and right behind it every byte is compared.
#[test]
fn the_bytes_beside_a_site_are_no_part_of_it() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let vars = usual_vars();
    world.load(s::BETA, &vars, &frames(0x40, 2));
    world.load(s::ALPHA, &vars, &frames(0x44, 4));
    let mut tried = 0;
    for region in [s::TEXT, s::FAR_TEXT, s::INIT, s::ALPHA, s::BETA] {
        let (pages, sites) = (world.spec.regions[region].pages, world.spec.regions[region].sites.clone());
        let base = world.spec.base(region, &vars);
        let kernel = world.spec.regions[region].module == NONE;
        let fetch = |world: &mut World<'_>, page: usize| match kernel {
            true => world.fetch_kernel(region, page),
            false => world.fetch_module(region, page, &vars),
        };
        for page in 0..pages {
            assert_eq!(fetch(&mut world, page), Outcome::Runs);
        }
        let of_site = |at: u64| sites.iter().any(|x| (x.offset..x.offset + x.kind.len() as u64).contains(&at));
        let beside = sites.iter().flat_map(|x| [x.offset.wrapping_sub(1), x.offset + x.kind.len() as u64]);
        for at in beside.filter(|at| *at < (pages * PAGE) as u64 && !of_site(*at)) {
            let (page, offset) = (at as usize / PAGE, at as usize % PAGE);
            let frame = match kernel {
                true => world.kernel_frame(region, page),
                false => world.ram.tables[&(base + (page * PAGE) as u64)],
            };
            let byte = world.ram.pages[frame.0 as usize][offset];
            world.write(frame, offset, &[byte ^ 0x10]);
            match (fetch(&mut world, page), region) {
                (Outcome::Refused(v), s::INIT) => assert_eq!(v.rule, Rule::UnapprovedCode),
                (Outcome::Restored(v), _) => assert_eq!(v.nearest.map(|n| n.1 as usize), Some(offset)),
                (other, _) => panic!("region {region} at {at:#x}: {other:?}"),
            }
            world.write(frame, offset, &[byte]);
            assert_eq!(fetch(&mut world, page), Outcome::Runs);
            tried += 1;
        }
    }
    assert!(tried > 80, "{tried}");
}

/// The first site of the palette that `is`.
fn find(world: &World<'_>, is: impl Fn(&Kind) -> bool) -> SiteSpec {
    world.spec.regions[s::TEXT].sites.iter().find(|s| is(&s.kind)).unwrap().clone()
}

/// What is written here by hand must agree with what [`Spec::values`] says.
#[test]
fn values_by_hand() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    let rel = |site: &SiteSpec, opcode: u8, to: u64| {
        let rel = (to as i64 - (s::IMAGE + site.offset) as i64 - 5) as i32;
        [&[opcode][..], &rel.to_le_bytes()].concat()
    };
    let text = s::TEXT;

    let jump2 = find(&world, |k| matches!(k, Kind::Jump2(_)));
    for good in [[0x66, 0x90], [0xeb, 0x10], [0xcc, 0x90], [0xcc, 0x10]] {
        accepts(&mut world, text, &jump2, &good);
    }
    for bad in [[0xeb, 0x90], [0x66, 0x10], [0xeb, 0x11], [0xcc, 0x11], [0x90, 0x90], [0x75, 0x10]] {
        rejects(&mut world, text, &jump2, &bad);
    }

    let jump5 = find(&world, |k| matches!(k, Kind::Jump5(_)));
    for good in [[0x0f, 0x1f, 0x44, 0, 0], [0xe9, 0, 2, 0, 0], [0xcc, 0x1f, 0x44, 0, 0], [0xcc, 0, 2, 0, 0]] {
        accepts(&mut world, text, &jump5, &good);
    }
    for bad in [[0xe9, 0x1f, 0x44, 0, 0], [0x0f, 0, 2, 0, 0], [0xe8, 0, 2, 0, 0], [0xcc, 0, 0x44, 0, 0], [0xcc; 5]] {
        rejects(&mut world, text, &jump5, &bad);
    }

    let ftrace = find(&world, |k| matches!(k, Kind::Ftrace));
    accepts(&mut world, text, &ftrace, &rel(&ftrace, 0xe8, s::FENTRY));
    accepts(&mut world, text, &ftrace, &rel(&ftrace, 0xe8, s::FTRACE_CALLER));
    accepts(&mut world, text, &ftrace, &rel(&ftrace, 0xe8, s::FTRACE_REGS_CALLER));
    accepts(&mut world, text, &ftrace, &s::NOP5);
    rejects(&mut world, text, &ftrace, &rel(&ftrace, 0xe8, s::FUNCTION));
    rejects(&mut world, text, &ftrace, &rel(&ftrace, 0xe9, s::FTRACE_CALLER));
    rejects(&mut world, text, &ftrace, &rel(&ftrace, 0xe8, s::FTRACE_CALLER + 4));

    let call = find(&world, |k| matches!(k, Kind::StaticCall(_)));
    accepts(&mut world, text, &call, &rel(&call, 0xe8, s::TRAMPOLINE));
    accepts(&mut world, text, &call, &rel(&call, 0xe8, s::OTHER_FUNCTION));
    accepts(&mut world, text, &call, &[0x2e, 0x2e, 0x2e, 0x31, 0xc0]);
    accepts(&mut world, text, &call, &s::NOP5);
    accepts(&mut world, text, &call, &s::CALL_FORM);
    accepts(&mut world, text, &call, &[&[0xcc], &s::CALL_FORM[1..]].concat());
    rejects(&mut world, text, &call, &[&[0xe8], &s::CALL_FORM[1..]].concat());
    rejects(&mut world, text, &call, &[&s::CALL_FORM[..4], &[0x3b]].concat());
    rejects(&mut world, text, &call, &rel(&call, 0xe8, s::LABEL));
    rejects(&mut world, text, &call, &rel(&call, 0xe8, s::OTHER_FUNCTION + 1));
    rejects(&mut world, text, &call, &rel(&call, 0xe8, s::MODULES.start));
    rejects(&mut world, text, &call, &rel(&call, 0xe9, s::OTHER_FUNCTION));
    rejects(&mut world, text, &call, &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);

    let tail = find(&world, |k| matches!(k, Kind::StaticJump(_)));
    accepts(&mut world, text, &tail, &rel(&tail, 0xe9, s::OTHER_FUNCTION));
    accepts(&mut world, text, &tail, &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);
    rejects(&mut world, text, &tail, &rel(&tail, 0xe8, s::OTHER_FUNCTION));
    rejects(&mut world, text, &tail, &[0xc3, 0xcc, 0xcc, 0xcc, 0xc3]);
    rejects(&mut world, text, &tail, &s::NOP5);
    rejects(&mut world, text, &tail, &s::CALL_FORM);

    let trampoline = find(&world, |k| matches!(k, Kind::Trampoline(_)));
    let with = |tail: &[u8]| [&rel(&trampoline, 0xe9, s::OTHER_FUNCTION)[..], tail].concat();
    accepts(&mut world, text, &trampoline, &with(&[0x0f, 0xb9, 0xcc]));
    rejects(&mut world, text, &trampoline, &with(&[0x0f, 0xb9, 0xcd]));
    rejects(&mut world, text, &trampoline, &with(&[0x90, 0x90, 0x90]));

    let traced = find(&world, |k| matches!(k, Kind::FtraceCall));
    accepts(&mut world, text, &traced, &rel(&traced, 0xe8, s::FUNCTION));
    rejects(&mut world, text, &traced, &rel(&traced, 0xe8, s::FUNCTION + 2));
    rejects(&mut world, text, &traced, &s::CALL_FORM);

    let lock = find(&world, |k| matches!(k, Kind::Choice(f) if f[0].bytes == [0xf0]));
    accepts(&mut world, text, &lock, &[0x3e]);
    for bad in [0x90, 0xf3, 0xcc, 0x2e, 0] {
        rejects(&mut world, text, &lock, &[bad]);
    }

    let clac = find(&world, |k| matches!(k, Kind::Choice(f) if f.last().unwrap().cond == s::SMAP));
    for good in [[0x90, 0x90, 0x90], [0x0f, 0x1f, 0], [0x0f, 0x01, 0xca]] {
        accepts(&mut world, text, &clac, &good);
    }
    // Mixtures of the two: `sgdt (%rax)`, and others.
    for bad in [[0x0f, 0x01, 0], [0x0f, 0x1f, 0xca], [0x0f, 0x01, 0xcb], [0x90, 0x01, 0xca], [0xcc, 0x1f, 0]] {
        rejects(&mut world, text, &clac, &bad);
    }

    let moved = find(&world, |k| matches!(k, Kind::Choice(f) if f.len() == 3 && f[1].bytes[0] == 0xeb));
    let jump = s::branch(0xe9, world.spec.regions[text].base + moved.offset, s::FUNCTION);
    accepts(&mut world, text, &moved, &[&jump[..], &[0x90]].concat());
    accepts(&mut world, text, &moved, &[0xeb, 0x3e, 0xcc, 0xcc, 0xcc, 0xcc]);
    let pointer = |low: u8| {
        let [_, b, c, d] = (0x8100_e010 + crate::SLIDE as u32).to_le_bytes();
        [0x48, 0xb8, low, b, c, d]
    };
    accepts(&mut world, text, &moved, &pointer(0x10));
    rejects(&mut world, text, &moved, &[&jump[..1], &[jump[1] + 1], &jump[2..], &[0x90]].concat());
    rejects(&mut world, text, &moved, &[0xeb, 0x3f, 0xcc, 0xcc, 0xcc, 0xcc]);
    rejects(&mut world, text, &moved, &pointer(0x11));
}

#[test]
fn constants_by_hand() {
    let mut stage = stage();
    let mut world = World::new(&mut stage);
    let of = |class: ConstClass| find(&world, |k| matches!(k, Kind::Const(c, _) if *c == class));
    use ConstClass::*;
    let (pointer, shift, user, mask) = (of(Pointer), of(Shift), of(UserPtrMax), of(Mask));
    let table: [(&SiteSpec, &[u64], &[u64]); 4] = [
        (&pointer, &[0x0123_4567_89ab_cdef, 0xffff_8000_0000_0000, u64::MAX], &[0, 0xffff_7fff_ffff_ffff, 1 << 47]),
        (&shift, &[12, 0, 63], &[64, 0x80, 0xff]),
        (&user, &[0x7fff_ffff_f000, 0xff_ffff_ffff_f000], &[0, u64::MAX, 0x7fff_ffff_f001, 0xffff_8000_0000_0000]),
        (&mask, &[0x1234_5678, 0, 1, 0x7fff_ffff, 0xffff_ffff], &[2, 0x1234_5679, 0xffff_fffe, 0x8000_0000]),
    ];
    for (site, good, bad) in table {
        let len = site.kind.len();
        good.iter().for_each(|v| accepts(&mut world, s::TEXT, site, &v.to_le_bytes()[..len]));
        bad.iter().for_each(|v| rejects(&mut world, s::TEXT, site, &v.to_le_bytes()[..len]));
    }
}

/// A site across a page border of which one page has been written is never run, whichever page comes first.
#[test]
fn half_written_sites_across_pages() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let mut tried = 0;
    for (region, site) in kernel_sites(&world) {
        let (len, first) = (site.kind.len(), PAGE - site.offset as usize % PAGE);
        if first >= len || matches!(site.kind, Kind::Choice(_) | Kind::Const(..)) {
            continue;
        }
        let va = world.spec.regions[region].base + site.offset;
        let page = site.offset as usize / PAGE;
        let values = world.spec.values(&site, va, &[0; s::VARS]);
        let values: Vec<_> = values.iter().filter(|v| v.when == When::Always).collect();
        for a in &values {
            for b in &values {
                let mixed = [&a.bytes[..first], &b.bytes[first..]].concat();
                if is_value(&world, region, &site, &mixed, false) {
                    continue;
                }
                for order in [[page, page + 1], [page + 1, page]] {
                    accepts(&mut world, region, &site, &a.bytes);
                    world.write_kernel(region, site.offset + first as u64, &b.bytes[first..]);
                    assert_eq!(world.fetch_kernel(region, page), Outcome::Runs, "the first page was not touched");
                    let second = world.fetch_kernel(region, page + 1);
                    assert_eq!(second.rule(), Some(Rule::Tampered), "{site:x?} {mixed:02x?}");
                    world.write_kernel(region, site.offset, &mixed);
                    for page in order {
                        // `check` in the world holds both pages to one value.
                        world.fetch_kernel(region, page);
                    }
                    world.write_kernel(region, site.offset, &a.bytes);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

/// A module's sites, tried on a module that runs: what is wrong is put back.
#[test]
fn module_sites() {
    let mut stage = stage();
    let mut world = World::booted(&mut stage);
    let vars = usual_vars();
    world.load(s::BETA, &vars, &frames(0x40, 2));
    world.load(s::ALPHA, &vars, &frames(0x44, 4));
    for (region, pages) in [(s::BETA, 2), (s::ALPHA, 4)] {
        for page in 0..pages {
            assert_eq!(world.fetch_module(region, page, &vars), Outcome::Runs, "{region} {page}");
        }
    }
    let mut tried = (0, 0);
    for region in [s::ALPHA, s::BETA] {
        for site in world.spec.regions[region].sites.clone() {
            let va = world.spec.base(region, &vars) + site.offset;
            let settled = world.settled(region, &site, &vars);
            let mut wrong = flips(&settled);
            // Of what was never seen nobody knows where its functions are.
            let mut known = vars.clone();
            [s::A_INIT, s::C_TEXT, s::T_TEXT, s::O_TEXT].iter().for_each(|var| known[*var as usize] = 0);
            let values = world.spec.values(&site, va, &known);
            let fixed = |v: &s::Value| matches!(v.when, When::If(c) if c != s::UNSHOWN && v.bytes != settled);
            let unshown = values.iter().any(|v| v.when == When::If(s::UNSHOWN));
            for value in &values {
                if value.when == When::Boot || fixed(value) {
                    wrong.push(value.bytes.clone());
                } else {
                    assert!(runs(&mut world, region, &site, &value.bytes, &vars), "{site:x?} {value:02x?}");
                    tried.0 += 1;
                }
            }
            assert!(runs(&mut world, region, &site, &settled, &vars));
            let always = |b: &Vec<u8>| values.iter().any(|v| v.bytes == *b && !fixed(v) && v.when != When::Boot);
            wrong.retain(|b| unshown || !always(b));
            for bytes in wrong {
                if runs(&mut world, region, &site, &bytes, &vars) {
                    // A whole number of pages away: as if what it refers to had been placed anew. Then nothing that
                    // says otherwise is executable at the same time.
                    use Kind::{Abs32, Abs64, Rel32, StaticCall};
                    let refers = matches!(site.kind, Rel32(To::Var(..)) | Abs32(To::Var(..)) | StaticCall(To::Var(..)));
                    assert!(refers || matches!(site.kind, Abs64(_)), "{site:x?} with {bytes:02x?}");
                    let now: Vec<u64> = (0..s::VARS).map(|v| world.rules.variable(v)).collect();
                    assert_ne!(now[..s::C_TEXT as usize], vars[..s::C_TEXT as usize], "{site:x?} with {bytes:02x?}");
                    world.check();
                }
                assert!(runs(&mut world, region, &site, &settled, &vars));
                for (region, pages) in [(s::BETA, 2), (s::ALPHA, 4)] {
                    for page in 0..pages {
                        assert_eq!(world.fetch_module(region, page, &vars), Outcome::Runs, "{region} {page}");
                    }
                }
                tried.1 += 1;
            }
        }
    }
    assert!(tried.0 > 100 && tried.1 > 200, "{tried:?}");
}

/// Puts bytes into a site of a module; whether all its pages then run with them.
fn runs(world: &mut World<'_>, region: usize, site: &SiteSpec, bytes: &[u8], vars: &[u64]) -> bool {
    let base = world.spec.base(region, vars);
    let place = |at: u64| (at & !0xfff, at as usize % PAGE);
    for (i, byte) in bytes.iter().enumerate() {
        let (page, at) = place(base + site.offset + i as u64);
        let frame = world.ram.tables[&page];
        world.write(frame, at, &[*byte]);
    }
    let pages = site.offset as usize / PAGE..=(site.offset as usize + bytes.len() - 1) / PAGE;
    pages.map(|page| world.fetch_module(region, page, vars)).all(|o| o == Outcome::Runs)
}

/// A kind of return that the kernel does not use is weaker, or at least not the one that was chosen.
#[test]
fn modules_follow_the_kernels_choices() {
    let forms: [(&str, Kind, &[&[u8]]); 3] = [
        ("return", s::returns(), &[&[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]]),
        ("retpoline", s::retpoline(), &[&[0xff, 0xd0, 0x0f, 0x1f, 0], &[0x0f, 0xae, 0xe8, 0xff, 0xd0]]),
        ("clac", s::clac(), &[&[0x0f, 0x1f, 0], &[0x90, 0x90, 0x90]]),
    ];
    for (name, kind, weaker) in forms {
        for bytes in weaker {
            let mut stage = stage();
            let mut world = World::booted(&mut stage);
            let vars = usual_vars();
            world.load(s::BETA, &vars, &frames(0x40, 2));
            world.load(s::ALPHA, &vars, &frames(0x44, 4));
            let same = |s: &&SiteSpec| format!("{:?}", s.kind) == format!("{kind:?}");
            let site = world.spec.regions[s::ALPHA].sites.iter().find(same).unwrap().clone();
            world.write(frames(0x44, 1)[0], site.offset as usize, bytes);
            let outcome = world.fetch_module(s::ALPHA, 0, &vars);
            assert_eq!(outcome.rule(), Some(Rule::UnapprovedCode), "{name} {bytes:02x?}");
            assert!(outcome.refused());
        }
    }
}

/// What the kernel does not show is bound by the first module page that does.
#[test]
fn a_condition_no_kernel_site_shows_binds_at_the_first_module_site() {
    for (first, second) in [([0xf3, 0xa4, 0x90], [0x0f, 0x1f, 0]), ([0x0f, 0x1f, 0], [0xf3, 0xa4, 0x90])] {
        let mut stage = stage();
        let mut world = World::booted(&mut stage);
        let vars = usual_vars();
        world.load(s::BETA, &vars, &frames(0x40, 2));
        world.write(frames(0x40, 1)[0], 0x50, &first);
        world.write(frames(0x41, 1)[0], 0x60, &second);
        assert_eq!(world.fetch_module(s::BETA, 0, &vars), Outcome::Runs);
        assert!(world.fetch_module(s::BETA, 1, &vars).refused());
        world.write(frames(0x41, 1)[0], 0x60, &first);
        assert_eq!(world.fetch_module(s::BETA, 1, &vars), Outcome::Runs);
    }
}

#[test]
fn the_synthetic_approval_has_every_kind_of_site() {
    let spec = Spec::new();
    let mut kinds = std::collections::BTreeSet::new();
    for site in spec.regions.iter().flat_map(|r| &r.sites) {
        kinds.insert(format!("{:?}", std::mem::discriminant(&site.kind)));
    }
    assert_eq!(kinds.len(), 13);
    let across = |s: &&SiteSpec| s.offset as usize % PAGE + s.kind.len() > PAGE;
    assert!(spec.regions.iter().flat_map(|r| &r.sites).filter(across).count() >= 11);
    assert!(matches!(spec.regions[s::ALPHA].sites[0].kind, Kind::Rel32(To::Kernel(_))));
    assert_eq!(spec.regions[s::TEXT].module, NONE);
    assert_eq!(cond::NOT, 0x8000);
}
