//! The approval against the memory of a kernel that has booted without us
//!
//! Needs a bzImage and a dump of the guest's physical memory, taken when the kernel was past
//! `alternative_instructions()` and, for init text, before `free_initmem()`. KASLR must be off:
//! `SECVISOR_GUEST_KERNEL=vmlinuz SECVISOR_GUEST_MEMORY=dump cargo test -p secvisor --test booted_guest`.
use std::collections::BTreeMap;

use secvisor::approve::approve;
use secvisor::check::{placed, sites};
use secvisor_approval::view::{self, View};
use secvisor_approval::wire::{NONE, Region, RegionKind, Site, SiteKind, Variant, cond};

/// Conditions as one boot shows them.
#[derive(Default)]
struct Conditions(BTreeMap<u16, (bool, u64)>);

impl Conditions {
    fn of(&self, raw: u16) -> Option<bool> {
        match raw & !cond::NOT {
            cond::BASE => Some(true),
            cond::BOOT_ONLY => Some(false),
            id => self.0.get(&id).map(|(holds, _)| *holds != (raw & cond::NOT != 0)),
        }
    }

    fn bind(&mut self, raw: u16, holds: bool, at: u64, faults: &mut Vec<String>) {
        let id = raw & !cond::NOT;
        if id == cond::BASE || id == cond::BOOT_ONLY {
            return;
        }
        let value = holds != (raw & cond::NOT != 0);
        let known = *self.0.entry(id).or_insert((value, at));
        if known.0 != value {
            faults.push(format!("{at:x}: condition {id:#x} is {value}, but {} at {:x}", known.0, known.1));
        }
    }
}

#[test]
#[ignore = "needs the memory of a guest: cargo xtask test --only agreement"]
fn what_a_guest_holds_is_approved() {
    let path = |name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
    let (kernel, memory) = (path("SECVISOR_GUEST_KERNEL"), path("SECVISOR_GUEST_MEMORY"));
    let memory = std::fs::read(memory).unwrap();
    let mut file = approve("kernel", &std::fs::read(kernel).unwrap(), &[], &|_| ()).unwrap().bytes;
    let (_, view, pages) = view::open(&mut file).unwrap();
    let mut faults = Vec::new();
    let mut conditions = Conditions::default();
    let mut open = Vec::new();
    let init_freed = std::env::var_os("SECVISOR_GUEST_INIT_FREED").is_some();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for region in view.regions.iter().filter(|r| r.module == NONE) {
        if init_freed && region.kind == RegionKind::KernelInit as u32 {
            continue;
        }
        let at = (view.info.image_phys + region.base - view.info.image_va) as usize;
        let len = region.pages as usize * 4096;
        let held = &memory[at..at + len];
        let mut rest = secvisor::check::bytes(&pages, &region, 0, len);
        for (address, site) in sites(&view, &region) {
            let offset = (address - region.base) as usize;
            let range = offset..offset + view.site_len(&site);
            let bytes = &held[range.clone()];
            rest[range].copy_from_slice(bytes);
            match site.kind().unwrap() {
                SiteKind::Choice => {
                    let t = view.templates.at(site.index() as usize);
                    let all: Vec<Variant> =
                        view.variants.range(t.first_variant as usize, t.variants as usize).collect();
                    let fits = |v: &&Variant| placed(&view, address, &site, v).as_deref() == Some(bytes);
                    let found: Vec<usize> = (0..all.len()).filter(|i| fits(&&all[*i])).collect();
                    match found[..] {
                        [] => faults.push(format!("{address:x}: unknown bytes {bytes:02x?}")),
                        [i] => {
                            *seen.entry(format!("{:#x}", all[i].cond)).or_default() += 1;
                            if all[i].cond == cond::BOOT_ONLY {
                                faults.push(format!("{address:x}: still {bytes:02x?}"));
                            }
                            conditions.bind(all[i].cond, true, address, &mut faults);
                            for later in &all[i + 1..] {
                                conditions.bind(later.cond, false, address, &mut faults);
                            }
                        }
                        _ => open.push((address, all, found)),
                    }
                }
                other => {
                    *seen.entry(format!("{other:?} {}", form(bytes))).or_default() += 1;
                    if !plausible(&view, address, &site, bytes) {
                        faults.push(format!("{address:x}: {other:?} holds {bytes:02x?}"));
                    }
                }
            }
        }
        for (i, (want, have)) in rest.iter().zip(held).enumerate().filter(|(_, (a, b))| a != b) {
            faults.push(format!("{:x}: {have:02x} instead of {want:02x}", region.base + i as u64));
        }
    }
    for (address, all, found) in open {
        let possible = |i: &usize| {
            conditions.of(all[*i].cond) != Some(false)
                && all[i + 1..].iter().all(|v| conditions.of(v.cond) != Some(true))
        };
        if !found.iter().any(possible) {
            faults.push(format!("{address:x}: none of {found:?} can be"));
        }
    }
    println!("{seen:#?}");
    faults.iter().take(100).for_each(|f| println!("{f}"));
    assert!(faults.is_empty(), "{} differences", faults.len());
}

fn form(bytes: &[u8]) -> String {
    format!("{:02x}", bytes[0])
}

fn function_at(view: &View<'_>, address: u64) -> bool {
    let holds = |r: &Region| {
        r.module == NONE && u32::try_from(address.wrapping_sub(r.base)).is_ok_and(|o| view.function_at(r, o))
    };
    view.regions.iter().any(|r| holds(&r))
}

fn plausible(view: &View<'_>, address: u64, site: &Site, bytes: &[u8]) -> bool {
    let rel = |bytes: &[u8]| i32::from_le_bytes(bytes[1..5].try_into().unwrap());
    let target = || address.wrapping_add(5).wrapping_add_signed(rel(bytes) as i64);
    let nop5 = [0x0f, 0x1f, 0x44, 0, 0];
    match site.kind().unwrap() {
        SiteKind::Jump2 => bytes == [0x66, 0x90] || bytes == [0xeb, site.arg() as u8],
        SiteKind::Jump5 => bytes == nop5 || bytes[0] == 0xe9 && rel(bytes) == site.arg(),
        SiteKind::Ftrace => bytes == nop5,
        SiteKind::StaticCall => {
            bytes == nop5 || bytes == [0x2e, 0x2e, 0x2e, 0x31, 0xc0] || bytes[0] == 0xe8 && function_at(view, target())
        }
        SiteKind::StaticJump | SiteKind::Trampoline => {
            let ret = bytes[..5] == [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
            ret || bytes[0] == 0xe9 && function_at(view, target())
        }
        SiteKind::FtraceCall => bytes[0] == 0xe8 && function_at(view, target()),
        SiteKind::Const => true,
        _ => false,
    }
}
