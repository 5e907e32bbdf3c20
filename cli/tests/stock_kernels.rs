//! The stock kernels this version is made for: what their tables list, and that nothing in them is unknown
//!
//! Runs on the kernels that `cargo xtask fetch` has put into the cache; `SECVISOR_CACHE` names another one.
use std::path::{Path, PathBuf};

use secvisor::approve::{Approved, approve};
use secvisor::check;
use secvisor::sites::Counts;
use secvisor_approval::view;

fn kernel(version: &str) -> Option<Vec<u8>> {
    let cache = match std::env::var_os("SECVISOR_CACHE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache"),
    };
    let boot = std::fs::read_dir(cache.join(format!("linux-{version}/boot"))).into_iter().flatten();
    let file = boot.flatten().find(|e| e.file_name().to_string_lossy().starts_with("vmlinuz-"));
    if file.is_none() {
        println!("skipped: no kernel {version} in {}", cache.display());
    }
    std::fs::read(file?.path()).ok()
}

fn approved(version: &str) -> Option<Approved> {
    let file = kernel(version)?;
    let mut made = approve("kernel", &file, &[], &|_| ()).unwrap();
    check::check(&mut made.bytes).unwrap();
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    assert_eq!(
        approve("kernel", &file, &[], &|_| ()).unwrap().bytes,
        made.bytes,
        "the same input gives the same bytes"
    );
    let (_, opened, _) = view::open(&mut made.bytes).unwrap();
    let words: Vec<_> = opened.name(opened.info.cmdline).split(' ').collect();
    let modules = words.iter().find_map(|word| word.strip_prefix("lsm=")).expect("Debian starts BPF's security module");
    assert!(modules.starts_with("landlock,") && !modules.split(',').any(|module| module == "bpf"), "{modules}");
    Some(made)
}

/// The figures measured on Debian's 6.1.192 and 6.12.95; another build of the same version has others.
fn check_counts(made: &Approved, builds: [&str; 1], want: &Counts) {
    if !builds.iter().any(|b| made.release.starts_with(b)) {
        println!("skipped: no figures for {}", made.release);
        return;
    }
    let json = |c: &Counts| serde_json::to_string_pretty(c).unwrap();
    assert_eq!(json(&made.kernel), json(want));
}

#[test]
fn linux_6_1() {
    let Some(made) = approved("6.1") else { return };
    let want = Counts {
        regions: 5,
        pages: 2694,
        alternative_entries: 4468,
        alternative_sites: 3738,
        paravirt: 3679,
        retpolines: 7861,
        returns: 48084,
        endbr: 0,
        locks: 8927,
        static_calls: 4276,
        trampolines: 740,
        jump_labels: 5980,
        ftrace: 37697,
        constants: 0,
        outside: 16,
    };
    check_counts(&made, ["6.1.0-56-"], &want);
}

#[test]
fn linux_6_12() {
    let Some(made) = approved("6.12") else { return };
    let want = Counts {
        regions: 4,
        pages: 3385,
        alternative_entries: 9256,
        alternative_sites: 5853,
        paravirt: 0,
        retpolines: 7802,
        returns: 58038,
        endbr: 12167,
        locks: 9844,
        static_calls: 7871,
        trampolines: 3854,
        jump_labels: 8954,
        ftrace: 43051,
        constants: 124,
        outside: 31,
    };
    check_counts(&made, ["6.12.95"], &want);
}

#[test]
fn damaged_kernels_are_refused() {
    let Some(mut file) = kernel("6.12") else { return };
    assert!(approve("kernel", &file[..file.len() / 2], &[], &|_| ()).is_err());
    file[0x202] = 0;
    let error = approve("kernel", &file, &[], &|_| ()).map(|_| ()).map_err(|e| format!("{e:#}")).unwrap_err();
    assert_eq!(error, "kernel: not a bzImage: no setup header");
}
