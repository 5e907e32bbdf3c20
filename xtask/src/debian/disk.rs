//! The installed disk, and what of it the host needs.
//!
//! A guest without SecVisor does the installing: `xtask/guest/debian/install.sh` runs in the packages' own programs,
//! as root of a machine that has nothing else. The result is kept until packages or scripts change.

use super::Release;
use super::pool::Pool;
use crate::fetch::lock;
use crate::guest::End;
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line, NO_HEADERS};
use crate::machine::{Boot, Machine};
use crate::progress::during;
use crate::workspace::{self, find_program, only_entry};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use xshell::cmd;

const INSTALL: &str = include_str!("../../guest/debian/install.sh");
const CONFIGURE: &str = include_str!("../../guest/debian/configure.sh");

const SIZE: u64 = 4 << 30;

/// Where the only partition begins, which the host reads the file system at.
const PARTITION: u64 = 2048 * 512;

/// Configuring some packages takes minutes in emulation, in silence.
const SILENCE: Duration = Duration::from_secs(900);

/// An installed system.
pub struct Disk {
    /// Which.
    pub release: Release,
    /// The disk's image, which nobody writes to.
    pub image: PathBuf,
    /// Its kernel, as installed.
    pub kernel: Kernel,
    /// The initial RAM disk it made for itself.
    pub initrd: PathBuf,
    /// The packages it can be given.
    pub pool: Pool,
}

impl Disk {
    /// The release's disk, installed first if need be.
    pub fn obtain(release: Release) -> Result<Disk> {
        let pool = Pool::obtain(release)?;
        let directory = workspace::cache().join(format!("{}-disk", release.name()));
        let stamp = directory.join(".stamp");
        let made_of = [&pool.list()?, INSTALL, CONFIGURE].concat();
        let present = || fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_of);
        if !present() {
            let _lock = lock()?;
            if !present() {
                let installing = format!("installing {} in a guest", release.name());
                during(&installing, || install(release, &pool, &directory))?;
                fs::write(&stamp, &made_of)?;
            }
        }
        let modules = only_entry(&directory.join("modules"), "", "")?;
        let version = modules.file_name().context("no release")?.to_string_lossy().into_owned();
        let vmlinuz = directory.join("boot").join(format!("vmlinuz-{version}"));
        let initrd = directory.join("boot").join(format!("initrd.img-{version}"));
        let kernel = Kernel { release: version, vmlinuz, modules, headers: Err(NO_HEADERS) };
        Ok(Disk { release, image: directory.join("disk"), kernel, initrd, pool })
    }
}

fn install(release: Release, pool: &Pool, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let (image, medium) = (directory.join("disk"), directory.join("medium"));
    make_medium(pool, &medium)?;
    File::create(&image)?.set_len(SIZE)?;
    run_installer(release, &image, &medium)?;
    fs::remove_file(medium)?;
    // The kernel that is approved is the one that is installed.
    for (from, to) in [("/boot", "boot"), ("/usr/lib/modules", "modules")] {
        read_out(&image, from, &directory.join(to))?;
    }
    Ok(())
}

/// A file system with all packages unpacked, the archives, and the scripts.
fn make_medium(pool: &Pool, medium: &Path) -> Result<()> {
    let tree = medium.with_extension("tree");
    // Programs and libraries are below /usr, whatever a package says.
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.join("usr").join(name))?;
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name))?;
    }
    for package in pool.files()? {
        unpack(&package, &tree)?;
    }
    for name in ["target", "archive", "later", "install", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::write(tree.join("install/install.sh"), INSTALL)?;
    fs::write(tree.join("install/configure.sh"), CONFIGURE)?;
    let shell = workspace::shell()?;
    for (from, name) in [(pool.archive(), "archive"), (pool.later(), "later")] {
        cmd!(shell, "cp -R {from}/. {tree}/{name}").quiet().run()?;
    }
    make_ext4(medium, "medium", SIZE, &tree)?;
    Ok(fs::remove_dir_all(tree)?)
}

/// Unpacks over links to directories, which `dpkg-deb -x` would replace.
fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let content = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]).arg(tree).stdin(content);
    let (unpacked, read) = (tar.status()?, archive.wait()?);
    ensure!(unpacked.success() && read.success(), "cannot unpack {}", package.display());
    Ok(())
}

/// A file system of at most this size with the tree's content, made without root.
pub fn make_ext4(image: &Path, label: &str, size: u64, tree: &Path) -> Result<()> {
    File::create(image)?.set_len(size)?;
    let mke2fs = find_program("mke2fs").context("cannot make a disk: mke2fs is missing (package e2fsprogs)")?;
    let shell = workspace::shell()?;
    Ok(cmd!(shell, "{mke2fs} -q -F -t ext4 -L {label} -E root_owner=0:0 -d {tree} {image}").quiet().run()?)
}

fn run_installer(release: Release, image: &Path, medium: &Path) -> Result<()> {
    let kernel = Kernel::obtain(Line::Cloud61)?;
    let mut initrd = Initrd::new()?;
    let modules = initrd.add_modules(&kernel, &["virtio_pci", "virtio_blk"])?;
    let lines = format!(
        "{modules}mkdir /medium
mount -t ext4 /dev/vdb /medium
for directory in dev proc sys; do mount --bind /$directory /medium/$directory; done
mount -t tmpfs tmpfs /medium/tmp
chroot /medium /usr/bin/dash /install/install.sh {} {}
umount /medium/tmp /medium/sys /medium/proc /medium/dev
sync
",
        release.codename(),
        release.image()
    );
    let initrd = initrd.script(&lines).write(&medium.with_extension("initrd"))?;
    let cmdline = "console=ttyS0,115200 panic=-1 quiet".to_string();
    let mut machine = Machine::new(&format!("install-{}", release.name()));
    for disk in [image, medium] {
        // Nobody relies on it before it is done: the host need not write it out again and again.
        let drive = format!("if=virtio,format=raw,cache=unsafe,file={}", disk.display());
        machine.qemu.extra.extend(["-drive".into(), drive]);
    }
    let mut guest = machine.start(&Boot::Native { vmlinuz: kernel.vmlinuz, initrd, cmdline })?;
    guest.wait_for("install: done", SILENCE)?;
    let end = guest.wait_end(SILENCE)?;
    ensure!(end == End::PoweredOff, "the installer ended by {end:?}; {}", guest.where_to_look());
    fs::remove_file(medium.with_extension("initrd"))?;
    guest.finish()
}

/// Copies a directory out of the disk's file system.
fn read_out(image: &Path, from: &str, to: &Path) -> Result<()> {
    let debugfs = find_program("debugfs").context("debugfs is missing (package e2fsprogs)")?;
    let shell = workspace::shell()?;
    fs::create_dir_all(to)?;
    let request = format!("rdump {from} {}", to.display());
    let image = format!("{}?offset={PARTITION}", image.display());
    let output = cmd!(shell, "{debugfs} -R {request} {image}").quiet().ignore_status().output()?;
    let inner = to.join(Path::new(from).file_name().context("a directory without a name")?);
    ensure!(inner.is_dir(), "cannot read the disk: {}", String::from_utf8_lossy(&output.stderr).trim());
    // The directory itself was copied, too.
    for entry in fs::read_dir(&inner)? {
        let entry = entry?;
        fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(fs::remove_dir(inner)?)
}
