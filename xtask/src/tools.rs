//! The programs the tests use: the system's where it has them, otherwise unpacked in the cache.

use crate::apt::Suite;
use crate::fetch::{Bundle, Contents};
use crate::ignne::without_race;
use crate::workspace::find_program;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Older releases fault spuriously when they emulate nested virtualisation.
const OLDEST_QEMU: u32 = 10;

/// QEMU for x86, always the cached one: not every build can be mended.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// The root of the unpacked packages.
    root: PathBuf,
}

/// The packages of QEMU and of UEFI's firmware.
pub fn qemu_bundle() -> Bundle {
    let contents = Contents::Programs(&["qemu-system-x86", "ovmf"], Suite::BookwormBackports);
    Bundle { name: "qemu".to_string(), contents }
}

/// The packages of Bochs, of its firmware, and of all they need. The terminal's display is the smallest; none is used.
pub fn bochs_bundle() -> Bundle {
    let names = &["bochs", "bochs-term", "bochsbios", "vgabios"];
    Bundle { name: "bochs".to_string(), contents: Contents::System(names, Suite::Trixie) }
}

/// The packages that make bootable images.
pub fn grub_bundle() -> Bundle {
    let names = &["grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "xorriso", "mtools"];
    Bundle { name: "grub".to_string(), contents: Contents::Programs(names, Suite::Bookworm) }
}

/// The guest's user space.
pub fn busybox_bundle() -> Bundle {
    Bundle { name: "busybox".to_string(), contents: Contents::Plain(&["busybox-static"], Suite::Bookworm) }
}

impl Qemu {
    /// Fetched if need be.
    pub fn obtain() -> Result<Qemu> {
        let root = qemu_bundle().obtain()?;
        let qemu = Qemu { program: without_race(&root.join("usr/bin/qemu-system-x86_64"))?, root };
        let version = qemu.major_version()?;
        ensure!(version >= OLDEST_QEMU, "QEMU {OLDEST_QEMU} is needed, the archive gave {version}");
        Ok(qemu)
    }

    /// A command that starts it, still without a machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("LD_LIBRARY_PATH", library_path(&self.root));
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(self.root.join(data));
        }
        command
    }

    /// UEFI's firmware: the code, and its variables' initial contents.
    pub fn uefi(&self) -> Result<(PathBuf, PathBuf)> {
        let at = |name: &str| {
            let path = self.root.join("usr/share/OVMF").join(name);
            path.exists().then_some(path).with_context(|| format!("the package ovmf has no {name}"))
        };
        Ok((at("OVMF_CODE_4M.fd")?, at("OVMF_VARS_4M.fd")?))
    }

    fn major_version(&self) -> Result<u32> {
        let output = self.command().arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split("version ").nth(1).and_then(|rest| rest.split('.').next());
        version.and_then(|major| major.parse().ok()).with_context(|| {
            format!("{} does not run: {}", self.program.display(), String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}

/// GRUB's image maker and what it calls.
#[derive(Clone, Debug)]
pub struct Grub {
    /// The root of the unpacked packages, if it is not the system's.
    pub root: Option<PathBuf>,
}

impl Grub {
    /// The system's if it is complete, else the cached one.
    pub fn obtain() -> Result<Grub> {
        let programs = ["grub-mkimage", "xorriso", "mformat", "mcopy", "mmd"];
        let platforms = ["i386-pc", "x86_64-efi"].map(|platform| Path::new("/usr/lib/grub").join(platform));
        let complete = programs.iter().all(|program| find_program(program).is_some())
            && platforms.iter().all(|platform| platform.exists());
        Ok(Grub { root: if complete { None } else { Some(grub_bundle().obtain()?) } })
    }

    /// How to call one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join("usr/bin").join(name),
            None => PathBuf::from(name),
        }
    }

    /// Where its modules for a platform are.
    pub fn modules(&self, platform: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new("/")).join("usr/lib/grub").join(platform)
    }
}

/// Bochs, always the cached one: its releases differ much in what they emulate.
#[derive(Clone, Debug)]
pub struct Bochs {
    root: PathBuf,
}

impl Bochs {
    /// Fetched if need be.
    pub fn obtain() -> Result<Bochs> {
        Ok(Bochs { root: bochs_bundle().obtain()? })
    }

    /// A command that starts it, by its own system's loader and with its own C library.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        command.arg("--library-path").arg(&libraries).arg(self.root.join("usr/bin/bochs-bin"));
        command.env("LTDL_LIBRARY_PATH", libraries.join("bochs/plugins"));
        command.env("BXSHARE", self.root.join("usr/share/bochs"));
        command
    }

    /// The BIOS, and that of the graphics adapter.
    pub fn firmware(&self) -> [PathBuf; 2] {
        ["bochs/BIOS-bochs-latest", "vgabios/vgabios.bin"].map(|file| self.root.join("usr/share").join(file))
    }
}

/// The static busybox.
pub fn busybox() -> Result<PathBuf> {
    let root = busybox_bundle().obtain()?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.exists())
        .context("the package busybox-static has no busybox")
}

/// Where an unpacked package keeps its shared libraries.
pub fn library_path(root: &Path) -> OsString {
    let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| root.join(path));
    std::env::join_paths(directories).expect("the checkout's path has no colon")
}
