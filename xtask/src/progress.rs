//! What is being done, said on standard error, so that standard output is the result's alone.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// Does something that may take a while: a spinner on a terminal, a line when it begins elsewhere.
pub fn during<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if !io::stderr().is_terminal() {
        eprintln!("{what}");
        return work();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is constant");
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(what.to_string());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let start = Instant::now();
    let result = work();
    spinner.finish_and_clear();
    if result.is_ok() {
        eprintln!("{what} ({:.1} s)", start.elapsed().as_secs_f32());
    }
    result
}
