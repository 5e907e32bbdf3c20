//! From files to an approval
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::check;
use crate::kernel::{self, Kernel};
use crate::module::{self, LeftOut};
use crate::sites::Counts;

/// A finished approval.
pub struct Approved {
    /// The file.
    pub bytes: Vec<u8>,
    /// Kernel release.
    pub release: String,
    /// What the kernel's tables list.
    pub kernel: Counts,
    /// Number of modules.
    pub modules: usize,
    /// What is lost beneath SecVisor with this kernel, though not with others.
    pub warnings: Vec<&'static str>,
    /// Modules that could not be approved, and why.
    pub left_out: Vec<LeftOut>,
}

/// What is being done, for people who wait.
pub type Progress<'a> = &'a dyn Fn(&str);

/// Makes an approval of the kernel in `file` and of the modules at or below `modules`. Errors name the kernel `name`.
pub fn approve(name: &str, file: &[u8], modules: &[PathBuf], progress: Progress<'_>) -> Result<Approved> {
    let named = || name.to_owned();
    progress("unpacking the kernel");
    let (setup, vmlinux) = kernel::unpack(file).with_context(named)?;
    progress("reading the kernel");
    let kernel = Kernel::parse(setup, &vmlinux).with_context(named)?;
    let mut emitter = kernel.emitter();
    let (info, counts) = kernel.emit(&mut emitter).with_context(named)?;
    let files = module::files(modules)?;
    progress(&format!("reading {} modules", files.len()));
    let set = module::Set::load(&files, &kernel)?;
    let (modules, left_out) = (set.len(), set.left_out().to_vec());
    progress(&format!("writing {modules} modules"));
    set.emit(&mut emitter)?;
    let mut bytes = emitter.builder.finish(info);
    progress("checking the approval");
    check::check(&mut bytes).context("the approval does not pass its own check (an error in this program)")?;
    let warnings = kernel.warnings();
    Ok(Approved { bytes, release: kernel.setup.release, kernel: counts, modules, warnings, left_out })
}
