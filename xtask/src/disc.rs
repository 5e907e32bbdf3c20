//! A disc that boots Linux or a multiboot2 image under BIOS and UEFI alike, by GRUB.

use crate::tools::{Grub, library_path};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

/// What GRUB needs to read the disc and its menu, and to boot from it.
const MODULES: [&str; 9] =
    ["normal", "iso9660", "gzio", "search", "search_fs_file", "configfile", "multiboot2", "linux", "part_msdos"];

/// By which protocol the image is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Multiboot2, an ELF32 or ELF64.
    Multiboot2,
    /// Linux's own; its only module is the initial RAM disk.
    Linux,
}

impl Protocol {
    /// GRUB's commands for an image and for a module.
    fn commands(self) -> [&'static str; 2] {
        match self {
            Protocol::Multiboot2 => ["multiboot2", "module2"],
            Protocol::Linux => ["linux", "initrd"],
        }
    }
}

/// What the disc boots.
#[derive(Clone, Debug)]
pub struct Disc {
    /// How it is started.
    pub protocol: Protocol,
    /// The image.
    pub image: PathBuf,
    /// Its command line, which unlike QEMU's does not begin with a path.
    pub cmdline: String,
    /// Its modules in order, each with its arguments, likewise without a path.
    pub modules: Vec<(PathBuf, String)>,
}

impl Disc {
    /// Writes the disc as the file `iso`.
    pub fn write(&self, iso: &Path) -> Result<PathBuf> {
        let grub = Grub::obtain()?;
        let tree = iso.with_extension("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let boot = tree.join("boot");
        fs::create_dir_all(boot.join("grub"))?;
        fs::write(boot.join("grub/grub.cfg"), self.menu())?;
        let files = std::iter::once(&self.image).chain(self.modules.iter().map(|(file, _)| file));
        for (number, file) in files.enumerate() {
            fs::copy(file, boot.join(number.to_string())).with_context(|| format!("no {}", file.display()))?;
        }
        let grub = Tools { grub, shell: workspace::shell()? };
        grub.add_bios_boot(&boot.join("grub"))?;
        grub.add_uefi_boot(&boot.join("grub"))?;
        grub.master(&tree, iso)?;
        fs::remove_dir_all(tree)?;
        Ok(iso.to_path_buf())
    }

    /// Files are numbered on the disc, the image being 0: their names need no quoting.
    fn menu(&self) -> String {
        let [image, module] = self.protocol.commands();
        let mut menu = String::from("set timeout=0\nmenuentry secvisor {\n");
        menu.push_str(&format!("{image} /boot/0 {}\n", quoted(&self.cmdline)));
        for (number, (_, arguments)) in self.modules.iter().enumerate() {
            menu.push_str(&format!("{module} /boot/{} {}\n", number + 1, quoted(arguments)));
        }
        menu.push_str("}\n");
        menu
    }
}

/// `grub-mkrescue` would do all of this, but finds GRUB's modules only where they are when installed.
struct Tools {
    grub: Grub,
    shell: Shell,
}

impl Tools {
    /// An El Torito boot image, which a BIOS loads.
    fn add_bios_boot(&self, directory: &Path) -> Result<()> {
        self.make_image("i386-pc", "i386-pc-eltorito", &["biosdisk"], &directory.join("bios.img"))
    }

    /// A FAT file system with an EFI program at the place where UEFI looks for it.
    fn add_uefi_boot(&self, directory: &Path) -> Result<()> {
        let program = directory.join("bootx64.efi");
        let image = directory.join("efi.img");
        self.make_image("x86_64-efi", "x86_64-efi", &[], &program)?;
        self.run("mformat", &["-C", "-f", "2880", "-N", "0", "-i"], &[&image, Path::new("::")])?;
        self.run("mmd", &["-i"], &[&image, Path::new("::/EFI"), Path::new("::/EFI/BOOT")])?;
        self.run("mcopy", &["-i"], &[&image, &program, Path::new("::/EFI/BOOT/BOOTX64.EFI")])?;
        Ok(fs::remove_file(program)?)
    }

    fn make_image(&self, platform: &str, format: &str, more: &[&str], to: &Path) -> Result<()> {
        let early = to.with_extension("cfg");
        fs::write(&early, "search --file --set=root /boot/grub/grub.cfg\nset prefix=($root)/boot/grub\n")?;
        let modules = self.grub.modules(platform);
        let mut arguments = vec!["-O", format, "-p", "/boot/grub"];
        arguments.extend(MODULES.iter().chain(more));
        arguments.extend(["-d", path(&modules)?, "-c", path(&early)?, "-o"]);
        self.run("grub-mkimage", &arguments, &[to])?;
        Ok(fs::remove_file(early)?)
    }

    fn master(&self, tree: &Path, iso: &Path) -> Result<()> {
        let options = "-as mkisofs -quiet -r -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table \
                       --grub2-boot-info --efi-boot boot/grub/efi.img -efi-boot-part --efi-boot-image \
                       --protective-msdos-label --grub2-mbr";
        // With it the image also boots when written to a USB stick.
        let mbr = self.grub.modules("i386-pc").join("boot_hybrid.img");
        let mut options: Vec<_> = options.split_whitespace().collect();
        options.extend([path(&mbr)?, "-o"]);
        self.run("xorriso", &options, &[iso, tree])
    }

    fn run(&self, program: &str, arguments: &[&str], files: &[&Path]) -> Result<()> {
        let path = self.grub.program(program);
        let mut command = cmd!(self.shell, "{path} {arguments...} {files...}").env("SOURCE_DATE_EPOCH", "1");
        if let Some(root) = &self.grub.root {
            command = command.env("LD_LIBRARY_PATH", library_path(root));
        }
        let output = command.quiet().ignore_status().output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not text")
}

/// Each word in quotes, in which GRUB leaves everything but the quote itself alone.
fn quoted(words: &str) -> String {
    words.split_whitespace().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_names_modules_by_number() {
        let modules =
            vec![("approval.bin".into(), "console=ttyS0,115200 x=$y".into()), ("initrd".into(), String::new())];
        let mut disc = Disc { protocol: Protocol::Multiboot2, image: "image".into(), cmdline: String::new(), modules };
        let menu = disc.menu();
        assert!(
            menu.contains("multiboot2 /boot/0 \nmodule2 /boot/1 'console=ttyS0,115200' 'x=$y'\nmodule2 /boot/2 \n")
        );
        disc.protocol = Protocol::Linux;
        disc.cmdline = "quiet".into();
        disc.modules = vec![("initrd".into(), String::new())];
        assert!(disc.menu().contains("linux /boot/0 'quiet'\ninitrd /boot/1 \n"));
    }
}
