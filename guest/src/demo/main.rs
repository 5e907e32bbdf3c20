//! The demonstration, inside the guest.
//!
//! Without SecVisor every forbidden thing must succeed, shown by its effect; beneath it none may. Each step runs in
//! a process of its own, so that an oops ends only that. One line per step goes into the kernel's log, where it is
//! never torn apart: `demo: step=<name> result=<word> detail=<text>`.

mod alive;
mod attacks;
mod kernel_log;
mod modules;
mod outcome;
mod watch;

use outcome::{Ending, Outcome};
use secvisor_guest::vulnerable::Vulnerable;
use std::io;
use std::process::{Command, ExitCode};

/// A step: what it says it did, or how it failed.
type Step = fn() -> Result<Outcome, Outcome>;

const STEPS: [(&str, Step); 9] = [
    ("approved-module", modules::approved),
    ("more-approved-modules", modules::more_approved),
    ("unapproved-module", modules::unapproved),
    ("changed-module", modules::changed_byte),
    ("changed-relocation", modules::changed_relocation),
    ("text-overwrite", attacks::text_overwrite),
    ("heap-code", attacks::heap_code),
    ("user-page-code", attacks::user_page_code),
    ("system-alive", alive::goes_on),
];

fn main() -> ExitCode {
    let result = match std::env::args().nth(1) {
        None => all(),
        Some(word) if word == modules::LOAD => modules::load(&std::env::args().nth(2).unwrap_or_default()),
        Some(name) => one(&name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one step in this process and prints how it ended.
fn one(name: &str) -> io::Result<()> {
    let Some((_, step)) = STEPS.iter().find(|(known, _)| *known == name) else {
        return Err(io::Error::other(format!("no step is called {name}")));
    };
    let (Ok(outcome) | Err(outcome)) = step();
    println!("{outcome}");
    Ok(())
}

/// Runs every step in a process of its own and reports them.
fn all() -> io::Result<()> {
    kernel_log::allow_many_lines()?;
    if let Err(outcome) = modules::insert("/modules/vulnerable.ko") {
        kernel_log::write(&format!("demo: step=vulnerable {outcome}"))?;
    }
    let protections = Vulnerable::open().and_then(|device| device.protections()).ok();
    for (name, _) in STEPS {
        let outcome = in_own_process(name);
        // An attack that was refused could not put back what it had switched off.
        if let Some(protections) = protections {
            Vulnerable::open()?.restore(protections)?;
        }
        kernel_log::write(&format!("demo: step={name} {outcome}"))?;
    }
    if let Ok(output) = Command::new("secvisor").args(["status", "--json"]).output()
        && output.status.success()
    {
        kernel_log::write(&format!("demo: status={}", String::from_utf8_lossy(&output.stdout).trim()))?;
    }
    kernel_log::write("demo: end")
}

fn in_own_process(name: &str) -> Outcome {
    let watched = match watch::run(Command::new("/proc/self/exe").arg(name)) {
        Ok(watched) => watched,
        Err(error) => return error.into(),
    };
    let last = watched.output.lines().last().unwrap_or_default();
    last.parse().unwrap_or_else(|()| watched.unexpected())
}

/// Shorthand for the steps.
fn done(ending: Ending, detail: impl Into<String>) -> Outcome {
    Outcome { ending, detail: detail.into() }
}
