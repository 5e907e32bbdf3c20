//! The packages of a whole system, laid out as an archive that Debian's own tools install from.

use super::Release;
use crate::apt::{Apt, Package};
use crate::fetch::{Bundle, Contents};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What is installed besides the kernel: what every Debian has, a boot loader, and what makes it a server one can log in to.
const SYSTEM: [&str; 7] = [
    "?priority(required)",
    "?priority(important)",
    "usr-is-merged",
    "grub-pc",
    "openssh-server",
    "dbus",
    "libpam-systemd",
];

/// What installs the system.
const INSTALLER: [&str; 1] = ["debootstrap"];

/// What a test installs: its modules are loaded by name when an interface is made.
const LATER: [&str; 1] = ["wireguard-tools"];

/// A release's packages: `archive` is what is installed, `later` what is not yet.
pub struct Pool(PathBuf);

impl Pool {
    /// The release's, fetched first if need be.
    pub fn obtain(release: Release) -> Result<Pool> {
        Ok(Pool(bundle(release).obtain()?))
    }

    /// The archive of what is installed.
    pub fn archive(&self) -> PathBuf {
        self.0.join("archive")
    }

    /// The archive of what is not.
    pub fn later(&self) -> PathBuf {
        self.0.join("later")
    }

    /// All packages there are, by name and version.
    pub fn list(&self) -> Result<String> {
        Ok(fs::read_to_string(self.0.join(".stamp"))?)
    }

    /// The package files of both.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for archive in [self.archive(), self.later()] {
            let list = fs::read_to_string(archive.join(FILES))?;
            files.extend(list.lines().map(|name| archive.join(name)));
        }
        Ok(files)
    }
}

/// The bundle of a release's packages.
pub fn bundle(release: Release) -> Bundle {
    Bundle { name: release.name().to_string(), contents: Contents::Debian(release) }
}

/// Says what is asked for.
pub fn recipe(release: Release) -> String {
    let backports = if release.backports() { "backports " } else { "" };
    format!("{} {backports}{} {SYSTEM:?} {INSTALLER:?} {LATER:?}", release.codename(), release.image())
}

/// Fetches both archives into the directory.
pub fn fetch(label: &str, release: Release, directory: &Path) -> Result<Vec<Package>> {
    let apt = Apt::for_new_system(release.codename(), release.backports())?;
    let system = [&SYSTEM[..], &[release.image()]].concat();
    let installed = apt.closure(&system)?;
    let mut all = apt.closure(&[&system[..], &INSTALLER, &LATER].concat())?;
    let later: Vec<_> = all.iter().filter(|package| !installed.contains(package)).cloned().collect();
    lay_out(&apt, label, release, &installed, &directory.join("archive"))?;
    lay_out(&apt, label, release, &later, &directory.join("later"))?;
    // The kernel comes first, for the reader.
    all.sort_by_key(|package| !package.name.starts_with("linux-image-"));
    Ok(all)
}

/// The list of an archive's package files.
const FILES: &str = "files";

/// Downloads packages to where their records say that an archive has them, and writes the archive's index.
fn lay_out(apt: &Apt, label: &str, release: Release, packages: &[Package], archive: &Path) -> Result<()> {
    let downloaded = archive.join("partial");
    fs::create_dir_all(archive)?;
    apt.download(label, packages, &downloaded)?;
    let records = apt.records(packages)?;
    let mut files = String::new();
    for record in &records {
        let field = |key: &str| {
            let value = record.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            value.with_context(|| format!("a package's record has no {key}"))
        };
        let version = field("Version")?.replace(':', "%3a");
        let name = format!("{}_{version}_{}.deb", field("Package")?, field("Architecture")?);
        let place = archive.join(field("Filename")?);
        fs::create_dir_all(place.parent().context("a package file without a directory")?)?;
        fs::rename(downloaded.join(&name), place).with_context(|| format!("apt has not downloaded {name}"))?;
        files.extend([field("Filename")?, "\n"]);
    }
    let index = archive.join("dists").join(release.codename()).join("main/binary-amd64");
    fs::create_dir_all(&index)?;
    fs::write(index.join("Packages"), records.join("\n\n") + "\n")?;
    fs::write(archive.join(FILES), files)?;
    Ok(fs::remove_dir(downloaded)?)
}
