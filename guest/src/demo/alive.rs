//! What shows that the system goes on.

use crate::done;
use crate::outcome::{Ending, Outcome};
use std::fs;
use std::process::Command;

const PROGRAMS: usize = 20;

/// Programs start, and files are written and read.
pub fn goes_on() -> Result<Outcome, Outcome> {
    for number in 0..PROGRAMS {
        let path = format!("/tmp/alive-{number}");
        let written = Command::new("sh").args(["-c", &format!("echo {number} | cat > {path}")]).status()?;
        let content = fs::read_to_string(&path)?;
        fs::remove_file(&path)?;
        if !written.success() || content.trim() != number.to_string() {
            return Err(done(Ending::Failed, format!("program {number} ended with {written} and wrote {content:?}")));
        }
    }
    Ok(done(Ending::Works, format!("{PROGRAMS} pipelines ran and wrote files")))
}
