//! Loading stock modules with what they depend on, and unloading them, inside a guest.

use super::stage::Stage;
use crate::initrd::Initrd;
use anyhow::Result;

/// Shell functions: `load` takes modules in the order of [`chain`], `unload` in the same; what is there already is not
/// loaded again, and what others need stays.
pub const FUNCTIONS: &str = r#"
load() {
  for module in $*; do
    [ -e /sys/module/$module/refcnt ] || insmod /modules/$module.ko || return 1
  done
}
unload() {
  reversed=
  for module in $*; do reversed="$module $reversed"; done
  for module in $reversed; do
    [ -e /sys/module/$module/refcnt ] && read users < /sys/module/$module/refcnt || continue
    [ $users != 0 ] || rmmod $module || return 1
  done
}
"#;

/// Puts a module and what it depends on into `/modules`; returns their names in the order to load them. It is empty
/// for what is built in.
pub fn chain(stage: &Stage, initrd: &mut Initrd, name: &str) -> Result<String> {
    let lines = initrd.add_modules(&stage.kernel, &[name])?;
    Ok(lines.replace("insmod /modules/", "").replace(".ko\n", " ").trim_end().to_string())
}
