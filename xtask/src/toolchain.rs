//! Building for `x86_64-unknown-none`, with or without the target being installed.
//!
//! Where rustc has no core library for the target, core is built from Debian's `rust-src` of exactly the same
//! version, since another version's source need not compile.

use crate::fetch::{Bundle, Contents};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Cmd, Shell, cmd};

const TARGET: &str = "x86_64-unknown-none";

/// The package that is built for the target.
const HYPERVISOR: &str = "secvisor-hypervisor";

/// Where the target's core library comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Core {
    /// Installed beside rustc.
    Installed,
    /// Built from the library source in this directory.
    Source(PathBuf),
}

impl Core {
    /// The installed one if there is one, else the source, fetched first if need be.
    pub fn obtain() -> Result<Core> {
        let shell = workspace::shell()?;
        let libraries = cmd!(shell, "rustc --print target-libdir --target {TARGET}").quiet().read()?;
        let installed = fs::read_dir(libraries).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
        });
        if installed { Ok(Core::Installed) } else { Core::source() }
    }

    /// The library source, whether or not the target is installed.
    pub fn source() -> Result<Core> {
        let shell = workspace::shell()?;
        let sysroot = PathBuf::from(cmd!(shell, "rustc --print sysroot").quiet().read()?);
        let beside_rustc = sysroot.join("lib/rustlib/src/rust/library");
        if beside_rustc.join("Cargo.lock").exists() {
            return Ok(Core::Source(beside_rustc));
        }
        let version = rustc_version(&shell)?;
        let unpacked = rust_src_bundle(&version).obtain()?;
        Ok(Core::Source(unpacked.join(format!("usr/src/rustc-{version}/library"))))
    }
}

/// Debian's library source of this version.
fn rust_src_bundle(version: &str) -> Bundle {
    let contents = Contents::Version("rust-src", format!("{version}+"));
    Bundle { name: format!("rust-src-{version}"), contents }
}

fn rustc_version(shell: &Shell) -> Result<String> {
    let line = cmd!(shell, "rustc --version").quiet().read()?;
    line.split_whitespace().nth(1).map(str::to_string).context("rustc tells no version")
}

/// Builds the hypervisor for QEMU's multiboot loader, with features that only tests use; returns the image.
pub fn build_hypervisor(test_features: &[&str]) -> Result<PathBuf> {
    let elf = build(&workspace::root(), HYPERVISOR, test_features, &Core::obtain()?)?;
    to_elf32(&elf)
}

/// Lints the hypervisor as it is built; a warning is an error.
pub fn lint_hypervisor() -> Result<()> {
    let (shell, core) = (workspace::shell()?, Core::obtain()?);
    Ok(for_target(&shell, "clippy", HYPERVISOR, &[], &core).args(["--", "-D", "warnings"]).quiet().run()?)
}

/// Builds `package` of the workspace at `root` for the target; returns the ELF64 file.
///
/// The file is named after the features, so that builds with different ones stand side by side.
pub fn build(root: &Path, package: &str, features: &[&str], core: &Core) -> Result<PathBuf> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    for_target(&shell, "build", package, features, core)
        .quiet()
        .run()
        .with_context(|| format!("{package} does not build for {TARGET}"))?;
    let out = out(root);
    let built = out.join(TARGET).join("release").join(package);
    let named = out.join([&[package], features].concat().join("-")).with_extension("elf");
    fs::copy(&built, &named).with_context(|| format!("no {}", built.display()))?;
    Ok(named)
}

/// Where what is built for the target lies.
fn out(root: &Path) -> PathBuf {
    root.join("target/none")
}

/// Cargo's command for `package` of the workspace the shell is in, and for the target.
fn for_target<'a>(shell: &'a Shell, command: &str, package: &str, features: &[&str], core: &Core) -> Cmd<'a> {
    let features = features.join(",");
    // The image is loaded where it was linked: nobody would apply relocations.
    let flags = format!("target.{TARGET}.rustflags=[\"-Crelocation-model=static\"]");
    let mut cargo = cmd!(shell, "cargo {command} --quiet --release --package {package} --target {TARGET}")
        .args(["--target-dir".as_ref(), out(&shell.current_dir()).as_os_str()])
        .args(["--features", &features, "--config", &flags]);
    if let Core::Source(library) = core {
        cargo = cargo
            .args(["-Zbuild-std=core,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    cargo
}

/// Rewrites an ELF64 as ELF32 beside it: QEMU's multiboot loader refuses the former.
pub fn to_elf32(elf: &Path) -> Result<PathBuf> {
    let narrow = elf.with_extension("elf32");
    let shell = workspace::shell()?;
    cmd!(shell, "objcopy -I elf64-x86-64 -O elf32-i386 {elf} {narrow}").quiet().run()?;
    Ok(narrow)
}
