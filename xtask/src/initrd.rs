//! An initial RAM disk: busybox, a script, and what a test adds.
//!
//! Written in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed
//! and with nothing in it that differs between two runs.

use crate::kernel::Kernel;
use crate::tools;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;

/// What every `/init` starts with.
const PROLOGUE: &str = "#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/console >/dev/console 2>&1
echo secvisor-guest: userland
";

/// What every `/init` ends with.
const EPILOGUE: &str = "
echo secvisor-guest: power off
poweroff -f
";

struct Entry {
    mode: u32,
    content: Vec<u8>,
}

/// A RAM disk being put together.
pub struct Initrd {
    // Sorted, so that a directory comes before what lies in it.
    entries: BTreeMap<String, Entry>,
}

impl Initrd {
    /// Busybox under all its names, and the usual empty directories.
    pub fn new() -> Result<Initrd> {
        let busybox = tools::busybox()?;
        let mut initrd = Initrd { entries: BTreeMap::new() };
        for directory in ["dev", "proc", "sys", "tmp", "root", "etc", "modules"] {
            initrd.add_directory(directory);
        }
        initrd.add("bin/busybox", fs::read(&busybox)?, true);
        let names = Command::new(&busybox).arg("--list").output()?.stdout;
        for name in String::from_utf8(names)?.lines().filter(|&name| name != "busybox") {
            initrd.insert(&format!("bin/{name}"), SYMLINK, b"busybox".to_vec());
        }
        Ok(initrd)
    }

    /// Makes `/init` mount what is usual, say "secvisor-guest: userland", run these lines, and power off.
    pub fn script(mut self, lines: &str) -> Initrd {
        self.add("init", [PROLOGUE, lines, EPILOGUE].concat().into_bytes(), true);
        self
    }

    /// Adds a file, and the directories it lies in.
    pub fn add(&mut self, path: &str, content: Vec<u8>, executable: bool) {
        self.insert(path, if executable { EXECUTABLE } else { PLAIN }, content);
    }

    /// Adds a file of the host, keeping whether it is executable.
    pub fn add_file(&mut self, path: &str, source: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let content = fs::read(source).with_context(|| format!("no {}", source.display()))?;
        let executable = fs::metadata(source)?.permissions().mode() & 0o100 != 0;
        self.add(path, content, executable);
        Ok(())
    }

    /// Adds stock modules and what they depend on as `/modules/<name>.ko`; returns the insmod lines.
    pub fn add_modules(&mut self, kernel: &Kernel, names: &[&str]) -> Result<String> {
        let mut lines = String::new();
        for name in names {
            for (module, bytes) in kernel.module_with_dependencies(name)? {
                let path = format!("modules/{module}.ko");
                let line = format!("insmod /{path}\n");
                if !lines.contains(&line) {
                    lines.push_str(&line);
                }
                self.add(&path, bytes, false);
            }
        }
        Ok(lines)
    }

    /// Writes the archive.
    pub fn write(&self, to: &Path) -> Result<PathBuf> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(to, self.archive()).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(to.to_path_buf())
    }

    fn add_directory(&mut self, path: &str) {
        self.insert(path, DIRECTORY, Vec::new());
    }

    fn insert(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.entries.contains_key(parent)
        {
            self.add_directory(parent);
        }
        self.entries.insert(path.to_string(), Entry { mode, content });
    }

    fn archive(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            write_entry(&mut bytes, number + 1, path, entry);
        }
        write_entry(&mut bytes, 0, "TRAILER!!!", &Entry { mode: 0, content: Vec::new() });
        bytes
    }
}

fn write_entry(bytes: &mut Vec<u8>, inode: usize, path: &str, entry: &Entry) {
    // magic; ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum
    let header = format!(
        "070701{inode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        entry.mode,
        0,
        0,
        1,
        0,
        entry.content.len(),
        0,
        0,
        0,
        0,
        path.len() + 1,
        0
    );
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(&entry.content);
    pad(bytes);
}

/// The header with the name, and the content, each end on a multiple of four.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_everything_is_aligned() {
        let mut initrd = Initrd { entries: BTreeMap::new() };
        initrd.add("a/b/c", b"hello".to_vec(), false);
        let names: Vec<_> = initrd.entries.keys().cloned().collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
        let bytes = initrd.archive();
        assert_eq!(bytes.len() % 4, 0);
        let magics = bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at);
        assert!(magics.clone().all(|at| at % 4 == 0));
        assert_eq!(magics.count(), 4);
    }
}
