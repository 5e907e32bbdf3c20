//! What is not as it should be: one line that names the cause, a code that is not zero, and no file left behind
mod synthetic;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use synthetic::{PACKINGS, RELEASE};

/// A directory of one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn secvisor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_secvisor")).args(args).output().unwrap()
}

fn approve(kernel: &Path, modules: &[&Path], output: &Path) -> Output {
    let mut args = vec!["approve", "--kernel", kernel.to_str().unwrap(), "-o", output.to_str().unwrap()];
    for m in modules {
        args.extend(["--modules", m.to_str().unwrap()]);
    }
    secvisor(&args)
}

/// The one line an attempt ended with.
fn refusal(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.is_empty(), "{out}");
    assert_eq!(output.status.code(), Some(1), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 1, "{err}");
    assert!(lines[0].starts_with("secvisor: "), "{err}");
    assert!(!lines[0].contains("panicked"), "{err}");
    lines[0].to_owned()
}

/// Approves a kernel that is not as it should be.
fn refused(place: &Place, kernel: &[u8]) -> String {
    let before = [&place.files()[..], &["kernel".to_owned()]].concat();
    let kernel = place.write("kernel", kernel);
    let line = refusal(&approve(&kernel, &[], &place.path("out")));
    assert!(line.contains("kernel"), "names the file: {line}");
    let mut want = before;
    want.sort();
    want.dedup();
    assert_eq!(place.files(), want, "nothing is left behind");
    line
}

#[test]
fn a_made_up_kernel_and_its_modules_are_approved() {
    let place = Place::new("approved");
    let vmlinux = synthetic::vmlinux();
    let modules = place.path("modules");
    std::fs::create_dir_all(modules.join("deeper")).unwrap();
    std::fs::write(modules.join("helper.ko"), synthetic::helper(RELEASE)).unwrap();
    std::fs::write(modules.join("deeper/driver.ko.zst"), zstd::encode_all(&synthetic::driver(RELEASE)[..], 1).unwrap())
        .unwrap();
    let mut first = None;
    for packing in PACKINGS {
        let kernel = place.write("kernel", &synthetic::bzimage(&vmlinux, packing));
        let out = place.path("out");
        let made = approve(&kernel, &[&modules], &out);
        assert!(made.status.success(), "{packing:?}: {}", String::from_utf8_lossy(&made.stderr));
        let text = String::from_utf8_lossy(&made.stdout);
        assert!(text.contains(RELEASE) && text.contains("2 modules (0 left out)"), "{text}");
        let bytes = std::fs::read(&out).unwrap();
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "the packing does not matter");
        let verified = secvisor(&["verify", out.to_str().unwrap()]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
    let out = place.path("out");
    let shown = secvisor(&["inspect", "--json", out.to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(summary["release"], RELEASE);
    assert_eq!(summary["modules"], 2);
    assert_eq!(summary["kernel"]["sites"]["alternative"], 4);
    assert_eq!(summary["kernel"]["sites"]["jump label"], 3);
}

#[test]
fn a_cut_kernel() {
    let place = Place::new("cut");
    for packing in PACKINGS {
        let whole = synthetic::bzimage(&synthetic::vmlinux(), packing);
        for end in [0, 1, 0x1f0, 0x202, 0x206, 0x230, 0x25f, 0x300, 2047, 2048, 2060, whole.len() / 2, whole.len() - 1]
        {
            refused(&place, &whole[..end]);
        }
    }
    let line = refused(&place, &synthetic::kernel()[..2048]);
    assert!(line.contains("truncated"), "{line}");
    assert!(refused(&place, b"").contains("not a bzImage"));
}

#[test]
fn a_foreign_file_instead_of_a_kernel() {
    let place = Place::new("foreign");
    let approval = {
        let kernel = place.write("kernel", &synthetic::kernel());
        assert!(approve(&kernel, &[], &place.path("good")).status.success());
        let bytes = std::fs::read(place.path("good")).unwrap();
        std::fs::remove_file(place.path("good")).unwrap();
        bytes
    };
    let own = std::fs::read(env!("CARGO_BIN_EXE_secvisor")).unwrap();
    let foreign: [&[u8]; 6] =
        [b"hello\n", &[0; 100_000], &own, &approval, &synthetic::vmlinux(), &synthetic::helper(RELEASE)];
    for bytes in foreign {
        let line = refused(&place, bytes);
        assert!(line.contains("not a bzImage"), "{line}");
    }
    // A kernel whose payload is something else.
    for inner in [&b"hello"[..], &own, &synthetic::helper(RELEASE), &[0; 4096]] {
        for packing in PACKINGS {
            let long = [inner, &[0; 64]].concat();
            refused(&place, &synthetic::bzimage(&long, packing));
        }
    }
}

#[test]
fn a_damaged_kernel() {
    let place = Place::new("damaged");
    for packing in PACKINGS {
        let whole = synthetic::bzimage(&synthetic::vmlinux(), packing);
        // Longer than it says.
        let mut wrong = whole.clone();
        let at = whole.len() - 4;
        wrong[at] ^= 1;
        refused(&place, &wrong);
        wrong[at..].copy_from_slice(&[0xff; 4]);
        let line = refused(&place, &wrong);
        assert!(line.contains("more than this tool handles"), "{line}");
    }
    let mut unknown = synthetic::kernel();
    unknown[2048..2054].copy_from_slice(b"BZh91A");
    assert!(refused(&place, &unknown).contains("unknown compression"));
    // Headers that ask for what cannot be.
    let whole = synthetic::kernel();
    let changes: [(usize, &[u8], &str); 7] = [
        (0x206, &[0x0b, 0x02], "too old"),
        (0x236, &[0], "not a 64-bit"),
        (0x211, &[0], "not a relocatable"),
        (0x248, &[0xff; 4], "truncated"),
        (0x24c, &[0xff; 4], "truncated"),
        (0x258, &[0xff; 8], "preferred address"),
        (0x260, &[0, 0, 0, 0], "outside of the memory"),
    ];
    for (at, bytes, want) in changes {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let line = refused(&place, &changed);
        assert!(line.contains(want), "{at:#x}: {line}");
    }
}

/// Any damage of the linked kernel: refused, or approved as something that passes its own check.
#[test]
fn a_damaged_linked_kernel_never_panics() {
    let place = Place::new("linked");
    let vmlinux = synthetic::vmlinux();
    let mut seed = 7u64;
    for _ in 0..60 {
        let mut changed = vmlinux.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (seed >> 33) as usize % changed.len();
            changed[at] ^= 1 << (seed >> 30 & 7);
        }
        let kernel = place.write("kernel", &synthetic::bzimage(&changed, synthetic::Packing::Lz4));
        let out = place.path("out");
        let made = approve(&kernel, &[], &out);
        match made.status.success() {
            true => assert!(secvisor(&["verify", out.to_str().unwrap()]).status.success()),
            false => drop(refusal(&made)),
        }
        let _ = std::fs::remove_file(&out);
    }
}

#[test]
fn a_version_string_cannot_write_on_the_terminal() {
    let place = Place::new("terminal");
    let mut kernel = synthetic::kernel();
    kernel[0x500..0x510].copy_from_slice(b"6\x1b[2J\nsecvisor:\0");
    assert!(refused(&place, &kernel).contains("no version string"));
    // Nor can a module's name.
    let kernel = place.write("kernel", &synthetic::kernel());
    let mut module = synthetic::helper("6.1");
    let at = module.windows(4).position(|w| w == b"6.1 ").unwrap();
    module[at..at + 4].copy_from_slice(b"6\n\x1b[");
    let made = approve(&kernel, &[&place.write("a.ko", &module)], &place.path("out"));
    let errors = String::from_utf8_lossy(&made.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(!errors.contains('\x1b') && errors.contains("\\n\\u{1b}["), "{errors}");
}

#[test]
fn files_that_cannot_be_read_or_written() {
    let place = Place::new("paths");
    let kernel = place.write("kernel", &synthetic::kernel());
    let line = refusal(&approve(&place.path("nowhere"), &[], &place.path("out")));
    assert!(line.contains("nowhere"), "{line}");
    let line = refusal(&approve(&place.0, &[], &place.path("out")));
    assert!(line.contains("directory"), "{line}");
    for out in [place.path("no/such/directory"), place.0.clone(), place.path("kernel/out")] {
        let line = refusal(&approve(&kernel, &[], &out));
        assert!(line.contains(out.to_str().unwrap()), "{line}");
    }
    let line = refusal(&approve(&kernel, &[&place.path("modules")], &place.path("out")));
    assert!(line.contains("cannot find"), "{line}");
    assert_eq!(place.files(), ["kernel"]);
}

/// Nothing but an approval gives way to one, and what a link leads to is what is written.
#[test]
fn what_is_no_place_for_an_approval() {
    let place = Place::new("target");
    let kernel = place.write("kernel", &synthetic::kernel());
    let helper = place.write("helper.ko", &synthetic::helper(RELEASE));
    std::os::unix::fs::symlink(&kernel, place.path("link")).unwrap();
    std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    for (out, why) in [
        (&place.path("socket"), "regular file"),
        (&kernel, "one of the files to approve"),
        (&helper, "one of the files to approve"),
        (&place.path("link"), "one of the files to approve"),
    ] {
        let line = refusal(&approve(&kernel, &[&helper], out));
        assert!(line.contains(why) && line.contains(out.to_str().unwrap()), "{line}");
    }
    let old = place.write("old", b"the old one");
    std::os::unix::fs::symlink(&old, place.path("site")).unwrap();
    assert!(approve(&kernel, &[&helper], &place.path("site")).status.success());
    assert!(place.path("site").is_symlink());
    assert!(secvisor(&["verify", old.to_str().unwrap()]).status.success());
    assert_eq!(place.files(), ["helper.ko", "kernel", "link", "old", "site", "socket"]);
}

/// What was there before stays as it was.
#[test]
fn a_failed_attempt_leaves_the_old_approval() {
    let place = Place::new("old");
    let out = place.write("out", b"the old one");
    refusal(&approve(&place.write("kernel", b"nothing"), &[], &out));
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
    let line = refusal(&approve(&place.write("kernel", &synthetic::kernel()), &[&place.path("gone")], &out));
    assert!(line.contains("gone"), "{line}");
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
    assert_eq!(place.files(), ["kernel", "out"]);
}

/// One bad module does not cost the others.
#[test]
fn modules_that_are_not_as_they_should_be_are_left_out() {
    let place = Place::new("modules");
    let kernel = place.write("kernel", &synthetic::kernel());
    let modules = place.path("modules");
    std::fs::create_dir_all(&modules).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(modules.join(name), bytes).unwrap();
    let (helper, driver) = (synthetic::helper(RELEASE), synthetic::driver(RELEASE));
    write("driver.ko", &driver);
    write("helper.ko", &helper);
    write("empty.ko", b"");
    write("cut.ko", &helper[..helper.len() / 2]);
    write("text.ko", b"#!/bin/sh\n");
    write("other.ko", &synthetic::helper("6.1.0-other"));
    write("kernel.ko", &synthetic::vmlinux());
    write("damaged.ko.xz", &[0xfd, b'7', b'z', b'X', b'Z', 0, 1, 2, 3]);
    write("damaged.ko.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff]);
    write("damaged.ko.gz", &synthetic::pack(&helper, synthetic::Packing::Gzip)[..100]);
    write("plain.ko.gz", &helper);
    write("readme", b"no module at all");
    let out = place.path("out");
    let made = approve(&kernel, &[&modules], &out);
    let (text, errors) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{errors}");
    assert!(text.contains("2 modules (9 left out)"), "{text}");
    assert_eq!(errors.lines().filter(|l| l.starts_with("left out: ")).count(), 9, "{errors}");
    assert_eq!(errors.lines().filter(|l| l.starts_with("warning: this kernel cannot interpret BPF")).count(), 1);
    assert_eq!(errors.lines().count(), 10, "{errors}");
    let of = |name: &str| errors.lines().find(|l| l.contains(name)).unwrap_or("").to_owned();
    assert!(of("other.ko").contains("Linux 6.1.0-other, the kernel is 6.12.0-synthetic"), "{errors}");
    assert!(of("empty.ko").contains("not an ELF file"), "{errors}");
    assert!(of("kernel.ko").contains("not a relocatable"), "{errors}");
    let json = secvisor(&[
        "approve",
        "--json",
        "--kernel",
        kernel.to_str().unwrap(),
        "--modules",
        modules.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
    ]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((report["modules"].as_u64(), report["left_out"].as_array().map(Vec::len)), (Some(2), Some(9)));
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1), "{report}");
}

/// A file whose name ends in `.gz` is compressed, and read like any other.
#[test]
fn a_compressed_approval_is_one() {
    let place = Place::new("compressed");
    let kernel = place.write("kernel", &synthetic::kernel());
    let (plain, packed) = (place.path("approval"), place.path("approval.gz"));
    for out in [&plain, &packed] {
        assert!(approve(&kernel, &[], out).status.success());
    }
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert!(size(&packed) < size(&plain) / 2);
    let tell = |command, path: &Path| secvisor(&[command, "--json", path.to_str().unwrap()]).stdout;
    for command in ["inspect", "verify"] {
        assert!(!tell(command, &plain).is_empty());
        assert_eq!(tell(command, &plain), tell(command, &packed));
    }
    let whole = std::fs::read(&packed).unwrap();
    let cut = place.write("cut.gz", &whole[..whole.len() - 1]);
    let line = refusal(&secvisor(&["verify", cut.to_str().unwrap()]));
    assert!(line.contains("truncated"), "{line}");
}

#[test]
fn modules_that_cannot_be_told_apart_or_found() {
    let place = Place::new("twins");
    let kernel = place.write("kernel", &synthetic::kernel());
    let mut other = synthetic::helper(RELEASE);
    other.push(0);
    let (a, b) = (place.write("helper.ko", &synthetic::helper(RELEASE)), place.write("helper2.ko", &other));
    let line = refusal(&approve(&kernel, &[&a, &b], &place.path("out")));
    assert!(line.contains("two different modules are called helper"), "{line}");
    let empty = place.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let line = refusal(&approve(&kernel, &[&empty], &place.path("out")));
    assert!(line.contains("no modules below"), "{line}");
    assert!(!place.path("out").exists());
}

/// A user of a module that is left out goes with it; named by itself it is refused, and nothing is written.
#[test]
fn modules_of_what_is_left_out() {
    let place = Place::new("users");
    let kernel = place.write("kernel", &synthetic::kernel());
    let modules = place.path("modules");
    std::fs::create_dir_all(&modules).unwrap();
    std::fs::write(modules.join("driver.ko"), synthetic::driver(RELEASE)).unwrap();
    let line = refusal(&approve(&kernel, &[&modules], &place.path("out")));
    assert!(line.contains("none of the modules can be approved: ") && line.contains("it needs helper"), "{line}");
    // By whatever path it is named.
    std::os::unix::fs::symlink(modules.join("driver.ko"), place.path("link.ko")).unwrap();
    for named in [modules.join("driver.ko"), modules.join("../modules/driver.ko"), place.path("link.ko")] {
        let line = refusal(&approve(&kernel, &[&named], &place.path("out")));
        assert!(line.contains("it needs helper") && line.contains(named.to_str().unwrap()), "{line}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn an_approval_that_is_not_as_it_should_be() {
    let place = Place::new("approval");
    let kernel = place.write("kernel", &synthetic::kernel());
    let helper = place.write("helper.ko", &synthetic::helper(RELEASE));
    let good = place.path("good");
    assert!(approve(&kernel, &[&helper], &good).status.success());
    let whole = std::fs::read(&good).unwrap();
    let mut bad: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "truncated"),
        (whole[..1000].to_vec(), "truncated"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        ([&whole[..], &[0]].concat(), "trailing"),
        (synthetic::kernel(), "not an approval"),
        (vec![0; 5000], "not an approval"),
        (b"some text".to_vec(), "not an approval"),
    ];
    for at in [40, 600, 1500, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        bad.push((changed, "checksum"));
    }
    let mut newer = whole.clone();
    newer[8] = 9;
    bad.push((newer, "version 9"));
    for (bytes, want) in bad {
        let file = place.write("bad", &bytes);
        for command in [&["verify"][..], &["verify", "--json"], &["inspect"], &["inspect", "--module", "helper"]] {
            let line = refusal(&secvisor(&[command, &[file.to_str().unwrap()]].concat()));
            assert!(line.contains(want) && line.contains("bad"), "{command:?}: {line}");
        }
    }
    for args in [["--symbol", "nothing"], ["--module", "nothing"], ["--page", "1234"]] {
        let line = refusal(&secvisor(&[&["inspect", good.to_str().unwrap()][..], &args].concat()));
        assert!(line.contains("has no"), "{line}");
    }
}

#[test]
fn wrong_arguments_are_told_apart_from_wrong_files() {
    for args in [&["approve"][..], &["inspect"], &["nonsense"], &["inspect", "x", "--page", "zz"], &[]] {
        let output = secvisor(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

/// Damage done to the stock kernels, where they are in the cache.
#[test]
fn stock_kernels_and_modules_of_each_other() {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache");
    let find = |version: &str| -> Option<(PathBuf, PathBuf)> {
        let root = cache.join(format!("linux-{version}"));
        let boot = std::fs::read_dir(root.join("boot")).ok()?.flatten();
        let kernel = boot.map(|e| e.path()).find(|p| p.to_string_lossy().contains("vmlinuz"))?;
        Some((kernel, root.join("lib/modules")))
    };
    let (Some((old, _)), Some((new, modules))) = (find("6.1"), find("6.12")) else {
        println!("skipped: no stock kernels in {}", cache.display());
        return;
    };
    let place = Place::new("stock");
    let whole = std::fs::read(&old).unwrap();
    // A signature lies behind the kernel; this is more.
    assert!(refused(&place, &whole[..whole.len() - 10_000]).contains("truncated"));
    let mut damaged = std::fs::read(&new).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    refused(&place, &damaged);
    let _ = std::fs::remove_file(place.path("kernel"));
    // Modules of another version: none is left.
    let line = refusal(&approve(&old, &[&modules], &place.path("out")));
    assert!(line.contains("none of the modules can be approved: "), "{line}");
    assert!(line.contains("more)") && line.contains("it is a module of Linux 6.12"), "{line}");
    assert!(place.files().is_empty());
}
