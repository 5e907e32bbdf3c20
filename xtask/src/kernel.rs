//! The stock kernels SecVisor is tried on, and their modules.

use crate::apt::Suite;
use crate::fetch::{Bundle, Contents};
use crate::workspace::only_entry;
use anyhow::{Context, Result};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Line {
    /// Debian 12's own, the variant for virtual machines.
    #[value(name = "6.1")]
    Cloud61,
    /// The backported one, the variant for virtual machines.
    #[value(name = "6.12")]
    Cloud612,
    /// Debian 12's own with all drivers; AMD IOMMU and AHCI are only here.
    #[value(name = "6.1-full")]
    Full61,
}

impl Line {
    /// Those every test runs on.
    pub const USUAL: [Line; 2] = [Line::Cloud61, Line::Cloud612];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Line::Cloud61 => "6.1",
            Line::Cloud612 => "6.12",
            Line::Full61 => "6.1-full",
        }
    }

    /// Its packages in the archive.
    pub fn bundle(self) -> Bundle {
        let (flavour, suite) = match self {
            Line::Cloud61 => ("cloud-amd64", Suite::Bookworm),
            Line::Cloud612 => ("cloud-amd64", Suite::BookwormBackports),
            Line::Full61 => ("amd64", Suite::Bookworm),
        };
        Bundle { name: format!("linux-{}", self.name()), contents: Contents::Kernel(flavour, suite) }
    }
}

/// One unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
    /// The directory its packages are unpacked in.
    pub root: PathBuf,
}

impl Kernel {
    /// Finds the kernel in the cache, fetching it first if need be.
    pub fn obtain(line: Line) -> Result<Kernel> {
        let root = line.bundle().obtain()?;
        let modules = only_entry(&root.join("lib/modules"), "", "")?;
        let release = modules.file_name().context("no release")?.to_string_lossy().into_owned();
        let vmlinuz = root.join("boot").join(format!("vmlinuz-{release}"));
        Ok(Kernel { release, vmlinuz, modules, root })
    }

    /// The bytes of a module as insmod wants them, by its name (`-` and `_` alike).
    pub fn module(&self, name: &str) -> Result<Vec<u8>> {
        let path = find_module(&self.modules.join("kernel"), &name.replace('-', "_"))?
            .with_context(|| format!("{} has no module {name}", self.release))?;
        let bytes = fs::read(&path)?;
        if path.extension().is_some_and(|extension| extension == "xz") {
            let mut plain = Vec::new();
            liblzma::read::XzDecoder::new(&bytes[..]).read_to_end(&mut plain)?;
            return Ok(plain);
        }
        Ok(bytes)
    }

    /// A module and those it depends on, in the order to load them; what is built in needs no loading.
    pub fn module_with_dependencies(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        self.add_module(name, &mut ordered)?;
        Ok(ordered)
    }

    fn built_in(&self, name: &str) -> Result<bool> {
        let list = fs::read_to_string(self.modules.join("modules.builtin"))?;
        Ok(list.lines().any(|path| is_module(Path::new(path), name)))
    }

    fn add_module(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let name = name.replace('-', "_");
        if ordered.iter().any(|(present, _)| *present == name) || self.built_in(&name)? {
            return Ok(());
        }
        let bytes = self.module(&name)?;
        for dependency in depends(&bytes) {
            self.add_module(&dependency, ordered)?;
        }
        ordered.push((name, bytes));
        Ok(())
    }
}

/// What a module's `.modinfo` says it depends on.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

fn find_module(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
            continue;
        }
        if is_module(&path, name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn is_module(path: &Path, name: &str) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
    file.strip_suffix(".xz").unwrap_or(&file).strip_suffix(".ko") == Some(name)
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(depends(b"license=GPL\0depends=jbd2,mbcache\0name=ext4\0"), ["jbd2", "mbcache"]);
        assert!(depends(b"license=GPL\0depends=\0name=jbd2\0").is_empty());
        assert!(depends(b"no modinfo at all").is_empty());
    }
}
