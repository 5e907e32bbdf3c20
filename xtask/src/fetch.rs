//! What is fetched: named bundles of Debian packages, each unpacked into its own directory of the cache.

use crate::apt::{Apt, Package, Suite};
use crate::debian::{Release, pool};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A bundle: its directory in the cache, and how to find its packages in the archive.
pub struct Bundle {
    /// Its directory's name.
    pub name: String,
    /// Which packages it is made of.
    pub contents: Contents,
}

/// How a bundle's packages are found.
pub enum Contents {
    /// These packages and whatever they need that the system lacks.
    Programs(&'static [&'static str], Suite),
    /// These packages and whatever they need, the C library included, so that nothing of the system's is used.
    System(&'static [&'static str], Suite),
    /// Exactly these packages.
    Plain(&'static [&'static str], Suite),
    /// The kernel a metapackage of this flavour stands for, and the headers for building modules.
    Kernel(&'static str, Suite),
    /// This package, in the version that starts so.
    Version(&'static str, String),
    /// What a Debian is installed from; the packages are not unpacked.
    Debian(Release),
}

impl Bundle {
    /// The directory the bundle is unpacked in, fetched first if need be.
    pub fn obtain(&self) -> Result<PathBuf> {
        if !self.present() {
            let _lock = lock()?;
            if !self.present() {
                self.fetch().with_context(|| format!("{} is missing and cannot be fetched", self.name))?;
            }
        }
        Ok(self.directory())
    }

    /// The same, but with what the archive offers today; a cached copy stays if that fails.
    pub fn refresh(&self) -> Result<PathBuf> {
        let _lock = lock()?;
        self.fetch().with_context(|| format!("{} cannot be fetched anew", self.name))?;
        Ok(self.directory())
    }

    fn present(&self) -> bool {
        fs::read_to_string(self.stamp()).is_ok_and(|stamp| stamp.lines().next() == Some(&self.recipe()))
    }

    fn directory(&self) -> PathBuf {
        workspace::cache().join(&self.name)
    }

    fn stamp(&self) -> PathBuf {
        self.directory().join(".stamp")
    }

    /// Says what was asked for: a bundle fetched for another recipe is not this one.
    fn recipe(&self) -> String {
        match &self.contents {
            Contents::Programs(names, suite) => format!("programs {names:?} {suite:?}"),
            Contents::System(names, suite) => format!("system {names:?} {suite:?}"),
            Contents::Plain(names, suite) => format!("plain {names:?} {suite:?}"),
            Contents::Kernel(flavour, suite) => format!("kernel {flavour} {suite:?}"),
            Contents::Version(name, prefix) => format!("version {name} {prefix}"),
            Contents::Debian(release) => format!("system {}", pool::recipe(*release)),
        }
    }

    fn fetch(&self) -> Result<()> {
        let partial = workspace::cache().join(format!("{}.partial", self.name));
        remove(&partial)?;
        fs::create_dir_all(&partial)?;
        let packages = self.contents.fill(&self.name, &partial)?;
        let listed: Vec<_> = packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        fs::write(partial.join(".stamp"), format!("{}\n{}\n", self.recipe(), listed.join("\n")))?;
        remove(&self.directory())?;
        fs::rename(partial, self.directory())?;
        println!("fetched {:14} {} ({} packages)", self.name, packages[0].version, packages.len());
        Ok(())
    }
}

impl Contents {
    /// Fills the directory; tells with which packages.
    fn fill(&self, label: &str, directory: &Path) -> Result<Vec<Package>> {
        let apt = Apt::open;
        let packages = match self {
            Contents::Programs(names, suite) => first(names[0], apt()?.with_dependencies(names, *suite)?),
            Contents::System(names, suite) => first(names[0], apt()?.with_everything(names, *suite)?),
            Contents::Plain(names, suite) => {
                let newest = |name: &&str| Ok(apt()?.show(name, *suite)?.0);
                names.iter().map(newest).collect::<Result<_>>()?
            }
            Contents::Kernel(flavour, suite) => kernel_packages(apt()?, flavour, *suite)?,
            Contents::Version(name, prefix) => vec![apt()?.version_starting(name, prefix)?],
            Contents::Debian(release) => return pool::fetch(label, *release, directory),
        };
        apt()?.unpack(label, &packages, directory)?;
        Ok(packages)
    }
}

/// The package the bundle is named after comes first, for the reader.
fn first(name: &str, mut packages: Vec<Package>) -> Vec<Package> {
    packages.sort_by_key(|package| package.name != name);
    packages
}

/// Held while the cache is changed: several of us may run at once in one checkout.
pub fn lock() -> Result<File> {
    fs::create_dir_all(workspace::cache())?;
    let file = File::create(workspace::cache().join(".lock"))?;
    file.lock()?;
    Ok(file)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// Follows the metapackages to the packages of one kernel version.
fn kernel_packages(apt: &Apt, flavour: &str, suite: Suite) -> Result<Vec<Package>> {
    let wanted = |name: &String| {
        let parts = ["base", "binary", "headers", "image", "kbuild", "modules"];
        parts.iter().any(|part| name.starts_with(&format!("linux-{part}-")))
    };
    let mut packages: Vec<Package> = Vec::new();
    let mut pending: Vec<String> = Vec::new();
    for meta in ["linux-headers", "linux-image"] {
        pending.extend(apt.show(&format!("{meta}-{flavour}"), suite)?.1.into_iter().filter(wanted));
    }
    while let Some(name) = pending.pop() {
        if packages.iter().all(|package| package.name != name) {
            let (package, depends) = apt.show(&name, suite)?;
            packages.push(package);
            pending.extend(depends.into_iter().filter(wanted));
        }
    }
    // The headers' objtool is linked with it.
    packages.push(apt.show("libelf1", suite)?.0);
    Ok(packages)
}
