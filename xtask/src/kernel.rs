//! The stock kernels SecVisor is tried on, and their modules.

use crate::apt::Suite;
use crate::fetch::{Bundle, Contents};
use crate::workspace::{self, only_entry};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which of Debian's kernels: a line and a flavour. Which version that is, the archive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Line {
    /// Debian 12's own, the variant for virtual machines.
    #[value(name = "6.1", alias = "6.1-cloud")]
    Cloud61,
    /// Debian 12's own with all drivers; AMD IOMMU and AHCI are only here.
    #[value(name = "6.1-generic", alias = "6.1-full")]
    Generic61,
    /// Debian 12's own, the variant with real-time scheduling.
    #[value(name = "6.1-rt")]
    Rt61,
    /// The backported one, the variant for virtual machines.
    #[value(name = "6.12", alias = "6.12-cloud")]
    Cloud612,
    /// The backported one with all drivers.
    #[value(name = "6.12-generic")]
    Generic612,
    /// The backported one, the variant with real-time scheduling.
    #[value(name = "6.12-rt")]
    Rt612,
    /// The newest for Debian 13, the variant for virtual machines.
    #[value(name = "7.x-cloud", alias = "7.x")]
    Cloud7,
    /// The newest for Debian 13 with all drivers.
    #[value(name = "7.x-generic")]
    Generic7,
    /// The newest for Debian 13, the variant with real-time scheduling.
    #[value(name = "7.x-rt")]
    Rt7,
}

impl Line {
    /// Those every test runs on.
    pub const USUAL: [Line; 2] = [Line::Cloud61, Line::Cloud612];

    /// What it is called on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("every line is a value").get_name().to_string()
    }

    /// Where its headers are if its packages are unpacked there; or why no module can be built for it.
    fn headers(self, root: PathBuf) -> Result<PathBuf, &'static str> {
        match self {
            Line::Cloud7 | Line::Generic7 | Line::Rt7 => Err(OTHER_SYSTEM),
            _ => Ok(root),
        }
    }

    /// Its packages in the archive.
    pub fn bundle(self) -> Bundle {
        let flavour = match self {
            Line::Cloud61 | Line::Cloud612 | Line::Cloud7 => "cloud-amd64",
            Line::Generic61 | Line::Generic612 | Line::Generic7 => "amd64",
            Line::Rt61 | Line::Rt612 | Line::Rt7 => "rt-amd64",
        };
        let suite = match self {
            Line::Cloud61 | Line::Generic61 | Line::Rt61 => Suite::Bookworm,
            Line::Cloud612 | Line::Generic612 | Line::Rt612 => Suite::BookwormBackports,
            Line::Cloud7 | Line::Generic7 | Line::Rt7 => Suite::TrixieBackports,
        };
        Bundle { name: format!("linux-{}", self.name()), contents: Contents::Kernel(flavour, suite) }
    }
}

/// Why no module can be built for a kernel that came without its headers.
pub const NO_HEADERS: &str = "its headers are missing (package linux-headers)";

/// Why none can be built for one of Debian 13's.
const OTHER_SYSTEM: &str = "Debian 13's compiler and tools need its own C library";

/// One unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
    /// The directory its headers' packages are unpacked in; or why no module can be built for it here.
    pub headers: Result<PathBuf, &'static str>,
}

impl Kernel {
    /// Finds the kernel in the cache, fetching it first if need be.
    pub fn obtain(line: Line) -> Result<Kernel> {
        let root = line.bundle().obtain()?;
        // Debian 12 has it in /lib and /boot, Debian 13 all in /usr.
        let inside =
            ["lib/modules", "usr/lib/modules"].map(|path| root.join(path)).into_iter().find(|path| path.is_dir());
        let modules = only_entry(&inside.context("no modules")?, "", "")?;
        let release = modules.file_name().context("no release")?.to_string_lossy().into_owned();
        let images = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
        let vmlinuz = images.into_iter().find(|path| path.is_file()).context("no kernel")?;
        Ok(Kernel { release, vmlinuz, modules, headers: line.headers(root) })
    }

    /// One of Debian's by its line's name, or a kernel of the user's by its file, which may need its modules named.
    pub fn named(kernel: &Path, modules: Option<&Path>) -> Result<Kernel> {
        match Line::from_str(&kernel.to_string_lossy(), false) {
            Ok(line) => Kernel::obtain(line),
            Err(_) => Kernel::given(kernel, modules),
        }
    }

    /// A kernel of the user's; its modules are looked for beside it, as in `/boot` or where Debian 13 has it, unless given.
    fn given(vmlinuz: &Path, modules: Option<&Path>) -> Result<Kernel> {
        let release = release_of(&fs::read(vmlinuz).with_context(|| format!("no {}", vmlinuz.display()))?)
            .with_context(|| format!("{} is not a Linux kernel (bzImage)", vmlinuz.display()))?;
        let own = vmlinuz.parent().unwrap_or(Path::new(""));
        let beside = ["../lib/modules", "../usr/lib/modules", ".."].map(|place| own.join(place).join(&release));
        let known = modules.is_none().then(|| beside.iter().find(|place| place.join("kernel").is_dir())).flatten();
        let modules = known.map_or(modules.unwrap_or(&beside[0]), PathBuf::as_path);
        ensure!(modules.join("kernel").is_dir(), "{} has no modules; name them by --modules", modules.display());
        let modules = modules.canonicalize()?;
        let headers = find_headers(&release, &modules);
        let kernel = Kernel { release, vmlinuz: vmlinuz.to_path_buf(), modules, headers };
        let (first, _) = kernel.module_files()?.into_iter().next().context("no modules")?;
        let magic = modinfo(&kernel.module(&first)?, "vermagic").unwrap_or_default();
        let made_for = magic.split(' ').next().unwrap_or_default();
        ensure!(made_for == kernel.release, "the kernel is {}, its modules are for {made_for}", kernel.release);
        Ok(kernel)
    }

    /// The names of all modules (`_` for `-`), and their files.
    pub fn module_files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        add_module_files(&self.modules.join("kernel"), &mut files)?;
        files.sort();
        Ok(files)
    }

    /// The bytes of a module as insmod wants them, by its name (`-` and `_` alike).
    pub fn module(&self, name: &str) -> Result<Vec<u8>> {
        let name = name.replace('-', "_");
        let (_, path) = self
            .module_files()?
            .into_iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("{} has no module {name}", self.release))?;
        let bytes = fs::read(&path)?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => Ok(bytes),
            Some("xz") => {
                let mut plain = Vec::new();
                liblzma::read::XzDecoder::new(&bytes[..]).read_to_end(&mut plain)?;
                Ok(plain)
            }
            Some("zst") => Ok(zstd::stream::decode_all(&bytes[..])?),
            _ => bail!("cannot unpack {}", path.display()),
        }
    }

    /// A module and those it depends on, in the order to load them; what is built in needs no loading.
    pub fn module_with_dependencies(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        self.add_module(name, &mut ordered)?;
        Ok(ordered)
    }

    fn built_in(&self, name: &str) -> Result<bool> {
        let list = fs::read_to_string(self.modules.join("modules.builtin"))?;
        Ok(list.lines().any(|path| module_name(Path::new(path)).as_deref() == Some(name)))
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

/// What a bzImage says its release is (Documentation/arch/x86/boot.rst, `kernel_version`).
fn release_of(image: &[u8]) -> Option<String> {
    const MAGIC: usize = 0x202;
    const KERNEL_VERSION: usize = 0x20e;
    const BASE: usize = 0x200;
    let magic = image.get(MAGIC..)?.starts_with(b"HdrS");
    let pointer = image.get(KERNEL_VERSION..)?.first_chunk().filter(|_| magic)?;
    let text = image.get(BASE + usize::from(u16::from_le_bytes(*pointer))..)?;
    let release = text.split(|&byte| byte == b' ' || byte == 0).next()?;
    Some(String::from_utf8_lossy(release).into_owned()).filter(|release| !release.is_empty())
}

/// Where a kernel's headers are in `usr/src`: below the directory of its modules, or that of the same kernel fetched.
fn find_headers(release: &str, modules: &Path) -> Result<PathBuf, &'static str> {
    let has_headers = |root: &PathBuf| root.join(format!("usr/src/linux-headers-{release}")).is_dir();
    if let Some(root) = modules.ancestors().nth(3).map(Path::to_path_buf).filter(has_headers) {
        return Ok(root);
    }
    let mut fetched = Line::value_variants().iter().map(|line| (line, workspace::cache().join(line.bundle().name)));
    let (line, root) = fetched.find(|(_, root)| has_headers(root)).ok_or(NO_HEADERS)?;
    line.headers(root)
}

/// The modules a module says it depends on.
fn depends(module: &[u8]) -> Vec<String> {
    let value = modinfo(module, "depends").unwrap_or_default();
    value.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// What a module's `.modinfo` says under this key.
fn modinfo(module: &[u8], key: &str) -> Option<String> {
    let start = [b"\0", key.as_bytes(), b"="].concat();
    let place = module.windows(start.len()).position(|window| window == start)?;
    let value = module[place + start.len()..].split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn add_module_files(directory: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            add_module_files(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.push((name, path));
        }
    }
    Ok(())
}

/// A module's name, if the file is one.
fn module_name(file: &Path) -> Option<String> {
    let (name, ending) = file.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&ending).then(|| name.replace('-', "_"))
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
