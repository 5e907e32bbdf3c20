//! Where things are: the checkout, its cache, its build directory.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::Shell;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace").to_path_buf()
}

/// What was downloaded; safe to delete.
pub fn cache() -> PathBuf {
    root().join("cache")
}

/// What was built; safe to delete.
pub fn target() -> PathBuf {
    root().join("target")
}

/// A shell in the root of the checkout.
pub fn shell() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root());
    Ok(shell)
}

/// The first program of this name on `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// The only entry of `directory` whose name starts with `prefix` and ends with `suffix`.
pub fn only_entry(directory: &Path, prefix: &str, suffix: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(directory)
        .with_context(|| format!("{} is missing", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        });
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (first, _) => anyhow::bail!(
            "{}: {} entry named {prefix}*{suffix}",
            directory.display(),
            if first.is_some() { "more than one" } else { "no" }
        ),
    }
}
