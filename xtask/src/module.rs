//! Building a kernel module against headers that were unpacked, not installed.

use crate::kernel::Kernel;
use crate::tools::library_path;
use crate::workspace::{self, find_program, only_entry};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::cmd;

/// What Debian's kernels of both lines were compiled with, and their modules must be.
const COMPILER: &str = "gcc-12";

/// Builds the module in `source` for `kernel`; returns the `.ko`.
///
/// The directory holds either one C file, which the module is named after, or a `Kbuild` for one module.
pub fn build_module(kernel: &Kernel, source: &Path) -> Result<PathBuf> {
    for tool in [COMPILER, "make"] {
        ensure!(find_program(tool).is_some(), "cannot build kernel modules: {tool} is missing");
    }
    let root =
        kernel.headers.as_ref().map_err(|why| anyhow!("no module can be built for {}: {why}", kernel.release))?;
    let name = source.file_name().context("a module's directory needs a name")?;
    let work = workspace::target().join("modules").join(&kernel.release).join(name);
    copy_changed(source, &work)?;
    if !work.join("Kbuild").exists() {
        let file = only_entry(&work, "", ".c").context("a module without a Kbuild is one C file")?;
        // The compiled product of a module must not be called like kbuild's own intermediate <name>.mod.c.
        let object = file.file_stem().context("no name")?.to_string_lossy().into_owned();
        fs::write(work.join("Kbuild"), format!("obj-m := {object}.o\n"))?;
    }
    let headers = root.join("usr/src");
    let configured = headers.join(format!("linux-headers-{}", kernel.release));
    // The configured tree's own Makefile only includes the common one, by the path it has when installed.
    let common = if kernel.release.ends_with("-rt-amd64") { "-common-rt" } else { "-common" };
    let common = only_entry(&headers, "linux-headers-", common)?.join("Makefile");
    let shell = workspace::shell()?;
    // Type information for BPF would need pahole, which loading the module does not.
    let output = cmd!(shell, "make -s -C {configured} -f {common} M={work} CONFIG_DEBUG_INFO_BTF_MODULES= modules")
        .env("LD_LIBRARY_PATH", library_path(root))
        .env_remove("MAKEFLAGS")
        .quiet()
        .ignore_status()
        .output()?;
    ensure!(
        output.status.success(),
        "the module {} does not build for {}:\n{}",
        name.display(),
        kernel.release,
        String::from_utf8_lossy(&output.stderr)
    );
    let module = only_entry(&work, "", ".ko")?;
    cmd!(shell, "objcopy --strip-debug {module}").quiet().run()?;
    Ok(module)
}

/// Copies what differs, so that make rebuilds only then.
fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("no {}", from.display()))? {
        let entry = entry?;
        let content = fs::read(entry.path())?;
        let copy = to.join(entry.file_name());
        if fs::read(&copy).ok().as_ref() != Some(&content) {
            fs::write(copy, content)?;
        }
    }
    Ok(())
}
