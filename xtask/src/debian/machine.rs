//! A machine with the installed disk, booted from it by its own GRUB
//!
//! A second disk, made for each run, has what the first lacks: SecVisor with the approval and an entry for GRUB's
//! menu, packages to install, and the story that the guest tells.

use super::disk::{Disk, make_ext4};
use crate::approve::approve;
use crate::guest::Guest;
use crate::machine::{Boot, Machine};
use crate::{program, toolchain, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xshell::cmd;

const STORY: &str = include_str!("../../guest/debian/story.sh");

/// What the second disk is called; the first disk's menu looks for it.
const LABEL: &str = "secvisor";

const SECOND_SIZE: u64 = 1 << 30;

/// What a shell of root's says when it begins.
const LOGGED_IN: &str = "debian: logged in";

/// Booting may take this long without a word, on a loaded host.
pub const SILENCE: Duration = Duration::from_secs(300);

/// The disk and what is beneath or beside it.
pub struct Debian {
    /// The installed disk.
    pub disk: Disk,
    /// The release, and whether it is beneath SecVisor: for the names of what belongs to it.
    name: String,
    scratch: PathBuf,
    /// SecVisor and the approval, if Linux is to run beneath it.
    beneath: Option<(PathBuf, PathBuf)>,
}

impl Debian {
    /// The release, alone.
    pub fn native(disk: Disk) -> Result<Debian> {
        Debian::new(disk, false)
    }

    /// The release beneath SecVisor, its kernel approved with all its modules.
    pub fn beneath(disk: Disk) -> Result<Debian> {
        Debian::new(disk, true)
    }

    fn new(disk: Disk, beneath: bool) -> Result<Debian> {
        let setting = if beneath { "beneath" } else { "native" };
        let name = format!("{}-{setting}", disk.release.name());
        let scratch = workspace::target().join("guests").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let mut debian = Debian { disk, name, scratch, beneath: None };
        if beneath {
            let (image, approval) = (debian.scratch.join("secvisor"), debian.scratch.join("approval"));
            fs::copy(toolchain::build_hypervisor(&[])?, &image)?;
            approve(&debian.disk.kernel, &[], &[], &approval)?;
            debian.beneath = Some((image, approval));
        }
        Ok(debian)
    }

    /// Boots it by GRUB on a machine of this kind; `port` of the host's leads to its sshd.
    pub fn start(&self, machine: &Machine, port: u16) -> Result<Guest> {
        self.configured(machine, port)?.start(&Boot::Disk)
    }

    /// The same, with its console on our terminal; tells where its logs are.
    pub fn interact(&self, machine: &Machine) -> Result<PathBuf> {
        self.configured(machine, free_port()?)?.interact(&Boot::Disk)
    }

    /// How to boot it without GRUB.
    pub fn direct(&self) -> Result<Boot> {
        let cmdline = self.cmdline()?;
        let initrd = self.disk.initrd.clone();
        Ok(match &self.beneath {
            None => Boot::Native { vmlinuz: self.disk.kernel.vmlinuz.clone(), initrd, cmdline },
            Some((image, approval)) => {
                let modules = vec![(approval.clone(), String::new()), (initrd, String::new())];
                Boot::Multiboot { image: image.clone(), cmdline, modules }
            }
        })
    }

    /// The machine with both disks and a network, which survives the guest's reboots.
    pub fn configured(&self, machine: &Machine, port: u16) -> Result<Machine> {
        let second = self.second_disk()?;
        let mut machine = machine.clone();
        machine.name = format!("{}-{}", machine.name, self.name);
        machine.qemu.reboots = true;
        for image in [&self.disk.image, &second] {
            // What the guest writes is kept until the machine ends.
            machine.qemu.extra.push("-drive".into());
            machine.qemu.extra.push(format!("if=virtio,format=raw,snapshot=on,file={}", image.display()));
        }
        let net = format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22");
        machine.qemu.extra.extend(["-netdev", &net, "-device", "virtio-net-pci,netdev=net"].map(str::to_string));
        machine.qemu.extra.extend(["-device", "virtio-rng-pci"].map(str::to_string));
        Ok(machine)
    }

    fn second_disk(&self) -> Result<PathBuf> {
        let tree = self.scratch.join("second");
        fs::create_dir_all(&tree)?;
        let later = self.disk.pool.later();
        let shell = workspace::shell()?;
        cmd!(shell, "cp -R {later} {tree}/later").quiet().run()?;
        fs::write(tree.join("story.sh"), STORY)?;
        fs::copy(program::build()?.status.with_file_name("bench"), tree.join("bench"))?;
        if let Some((image, _)) = &self.beneath {
            fs::copy(image, tree.join("secvisor.elf"))?;
            approve(&self.disk.kernel, &[], &[], &tree.join("approval.gz"))?;
            fs::write(tree.join("grub.cfg"), self.menu()?)?;
        }
        let image = self.scratch.join("second.disk");
        make_ext4(&image, LABEL, SECOND_SIZE, &tree)?;
        fs::remove_dir_all(tree)?;
        Ok(image)
    }

    /// An entry of our own, and the default.
    fn menu(&self) -> Result<String> {
        let (cmdline, initrd) = (self.cmdline()?, file_name(&self.disk.initrd)?);
        Ok(format!(
            "set default=secvisor
menuentry 'Debian beneath SecVisor' --id secvisor {{
  insmod gzio
  multiboot2 (${LABEL})/secvisor.elf {cmdline}
  module2 (${LABEL})/approval.gz
  module2 /boot/{initrd}
}}
"
        ))
    }

    /// What the disk's own menu gives its kernel.
    fn cmdline(&self) -> Result<String> {
        let menu = self.disk.kernel.vmlinuz.with_file_name("grub").join("grub.cfg");
        let menu = fs::read_to_string(&menu).with_context(|| format!("no {}", menu.display()))?;
        let kernel = file_name(&self.disk.kernel.vmlinuz)?;
        parse_cmdline(&menu, &kernel).with_context(|| format!("the disk's menu does not boot {kernel}"))
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Waits for the shell on the console, and lets it run these words where the second disk is mounted.
pub fn enter(guest: &mut Guest, words: &str) -> Result<()> {
    guest.wait_for(LOGGED_IN, SILENCE)?;
    guest.say(&format!("mount -r LABEL={LABEL} /mnt; cd /mnt; {words}"))
}

/// A port of the host's that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn file_name(path: &Path) -> Result<String> {
    Ok(path.file_name().context("a file without a name")?.to_string_lossy().into_owned())
}

/// The words behind the kernel in the first entry of GRUB's menu that loads it.
fn parse_cmdline(menu: &str, kernel: &str) -> Option<String> {
    menu.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "linux" && words.next()?.ends_with(kernel)).then(|| words.collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::parse_cmdline;

    #[test]
    fn the_menus_first_entry_gives_the_command_line() {
        let menu = "\
menuentry 'Debian' {
	linux	/boot/vmlinuz-6.1.0-cloud-amd64 root=UUID=0-1 ro  console=ttyS0,115200 
}
menuentry 'recovery' {
	linux	/boot/vmlinuz-6.1.0-cloud-amd64 root=UUID=0-1 ro single
}";
        let cmdline = parse_cmdline(menu, "vmlinuz-6.1.0-cloud-amd64");
        assert_eq!(cmdline.as_deref(), Some("root=UUID=0-1 ro console=ttyS0,115200"));
        assert_eq!(parse_cmdline(menu, "vmlinuz-6.12"), None);
    }
}
