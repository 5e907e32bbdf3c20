//! What becomes of module files that are not as they should be
#![cfg(test)]
use std::path::{Path, PathBuf};

use super::ko::{Ko, contents};
use super::layout::{Layout, Loader, Scheme};
use super::{LeftOut, Set, files};
use crate::bytes::u64_at;
use crate::kernel::{self, Kernel};

/// The directory of a cached kernel; `None`, and a line that says so, if it is not there.
pub fn cached(release: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../cache")).join(format!("linux-{release}"));
    if !path.join("boot").is_dir() {
        println!("skipped: no kernel in {} (cargo xtask fetch)", path.display());
        return None;
    }
    Some(path)
}

/// The kernel of a cached directory, unpacked.
pub fn unpacked(cached: &Path) -> (crate::bzimage::Setup, Vec<u8>) {
    let names = std::fs::read_dir(cached.join("boot")).unwrap().map(|e| e.unwrap().path());
    let file = names.filter(|p| p.to_string_lossy().contains("vmlinuz")).min().expect("a kernel");
    kernel::unpack(&std::fs::read(file).unwrap()).unwrap()
}

fn module(cached: &Path, name: &str) -> PathBuf {
    let all = files(&[cached.join("lib/modules")]).unwrap();
    all.into_iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with(&format!("{name}.ko"))).unwrap()
}

fn reasons(left_out: &[LeftOut]) -> Vec<(&str, &str)> {
    left_out.iter().map(|l| (l.name.as_str(), l.reason.as_str())).collect()
}

#[test]
fn modules_of_another_kernel_are_left_out() {
    let (Some(old), Some(new)) = (cached("6.1"), cached("6.12")) else { return };
    let (setup, vmlinux) = unpacked(&new);
    let kernel = Kernel::parse(setup, &vmlinux).unwrap();
    let set = Set::load(&[module(&old, "loop")], &kernel).unwrap();
    let [(name, reason)] = reasons(set.left_out())[..] else { panic!("{:?}", set.left_out()) };
    assert_eq!(name, "loop.ko");
    assert!(reason.starts_with("it is a module of Linux 6.1") && reason.contains("the kernel is 6.12"), "{reason}");
    assert!(set.is_empty());
}

#[test]
fn modules_without_what_they_use_are_left_out() {
    let Some(cached) = cached("6.12") else { return };
    let (setup, vmlinux) = unpacked(&cached);
    let kernel = Kernel::parse(setup, &vmlinux).unwrap();
    let vfat = module(&cached, "vfat");
    let set = Set::load(std::slice::from_ref(&vfat), &kernel).unwrap();
    let [(name, reason)] = reasons(set.left_out())[..] else { panic!("{:?}", set.left_out()) };
    assert_eq!(name, "vfat");
    assert!(reason.starts_with("it needs ") && reason.ends_with("nor an approved module exports"), "{reason}");
    let whole = ["vfat", "fat"].map(|n| module(&cached, n));
    let set = Set::load(&[&whole[..], &[vfat]].concat(), &kernel).unwrap();
    assert_eq!((reasons(set.left_out()), set.len()), (vec![], 2), "the same file may be named twice");
}

#[test]
fn two_modules_of_one_name_are_an_error() {
    let Some(cached) = cached("6.12") else { return };
    let (setup, vmlinux) = unpacked(&cached);
    let kernel = Kernel::parse(setup, &vmlinux).unwrap();
    let first = module(&cached, "loop");
    let mut changed = contents(&first).unwrap();
    changed.push(0);
    let second = std::env::temp_dir().join(format!("secvisor-{}-loop.ko", std::process::id()));
    std::fs::write(&second, changed).unwrap();
    let error = Set::load(&[first, second.clone()], &kernel).err().expect("an error").to_string();
    std::fs::remove_file(second).unwrap();
    assert!(error.starts_with("two different modules are called loop: "), "{error}");
}

#[test]
fn a_directory_without_modules_is_an_error() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert!(files(&[here]).unwrap_err().to_string().starts_with("there are no modules below "));
}

/// Damages a module in many ways; each must be refused or understood, without a panic.
#[test]
fn damaged_modules_are_no_danger() {
    for (release, scheme) in [("6.1", Scheme::Two), ("6.12", Scheme::Seven)] {
        let Some(cached) = cached(release) else { return };
        let (setup, vmlinux) = unpacked(&cached);
        let kernel = Kernel::parse(setup, &vmlinux).unwrap();
        let path = module(&cached, "cordic");
        let whole = contents(&path).unwrap();
        let (mut refused, mut seed) = (0, 1u64);
        for round in 0..4000 {
            let mut data = whole.clone();
            let mut next = |below: usize| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as usize % below
            };
            if round % 8 == 0 {
                data.truncate(next(whole.len()));
            }
            // Half of the damage is done to the section headers, which decide where everything is.
            let headers = u64_at(&whole, 0x28).unwrap() as usize;
            for _ in 0..1 + next(6) {
                let from = if round % 2 == 0 { 0 } else { headers.min(data.len().saturating_sub(1)) };
                let Some(left) = data.len().checked_sub(from).filter(|l| *l > 0) else { continue };
                let at = from + next(left);
                data[at] = [0xff, 0, data[at] ^ 1 << next(8), next(256) as u8][next(4)];
            }
            refused += usize::from(super::set::try_one(&path, data, &Loader::new(scheme), &kernel).is_err());
        }
        assert!(refused > 0);
    }
}

#[test]
fn init_sections_are_placed_apart() {
    let Some(cached) = cached("6.12") else { return };
    let path = module(&cached, "loop");
    let ko = Ko::parse(&path, contents(&path).unwrap()).unwrap();
    let two = Layout::new(&ko, &Loader::new(Scheme::Two)).unwrap();
    let seven = Layout::new(&ko, &Loader::new(Scheme::Seven)).unwrap();
    let text = ko.section(".init.text").unwrap();
    assert_eq!(two.sections[text], seven.sections[text]);
    // One block: data follow text, on a page of their own.
    let data = ko.section(".data").unwrap();
    assert!(two.sections[data].unwrap().offset >= two.text.next_multiple_of(4096));
    assert_eq!((two.text, two.init_text), (seven.text, seven.init_text));
    assert_eq!(seven.sections[ko.section("__versions").unwrap()], None);
}
