//! A disc that boots a multiboot2 image under BIOS and UEFI alike, by GRUB.

use crate::tools::{Grub, library_path};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::cmd;

/// What the disc boots.
#[derive(Clone, Debug)]
pub struct Disc {
    /// The multiboot2 image, ELF32 or ELF64.
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
        let shell = workspace::shell()?;
        let program = grub.program("grub-mkrescue");
        let xorriso = grub.program("xorriso");
        let mut command = cmd!(shell, "{program} --xorriso={xorriso} --output={iso} {tree}")
            .env("PATH", grub.search_path()?)
            .env("SOURCE_DATE_EPOCH", "1");
        if let Some(root) = &grub.root {
            command = command
                .env("pkglibdir", root.join("usr/lib/grub"))
                .env("pkgdatadir", root.join("usr/share/grub"))
                .env("LD_LIBRARY_PATH", library_path(root));
        }
        command.quiet().ignore_stdout().ignore_stderr().run().context("grub-mkrescue makes no disc")?;
        fs::remove_dir_all(tree)?;
        Ok(iso.to_path_buf())
    }

    /// Files are numbered on the disc, the image being 0: their names need no quoting.
    fn menu(&self) -> String {
        let mut menu = String::from("set timeout=0\nmenuentry secvisor {\n");
        menu.push_str(&format!("multiboot2 /boot/0 {}\n", quoted(&self.cmdline)));
        for (number, (_, arguments)) in self.modules.iter().enumerate() {
            menu.push_str(&format!("module2 /boot/{} {}\n", number + 1, quoted(arguments)));
        }
        menu.push_str("}\n");
        menu
    }
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
        let disc = Disc { image: "image".into(), cmdline: String::new(), modules };
        let menu = disc.menu();
        assert!(
            menu.contains("multiboot2 /boot/0 \nmodule2 /boot/1 'console=ttyS0,115200' 'x=$y'\nmodule2 /boot/2 \n")
        );
    }
}
