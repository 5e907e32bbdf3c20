//! A child process under observation: what it printed, how it ended, and what the kernel said meanwhile.

use crate::kernel_log::Log;
use crate::outcome::{Ending, Outcome};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No step takes longer, even emulated.
const LIMIT: Duration = Duration::from_secs(60);

/// A child that has ended, or did not.
pub struct Watched {
    /// What it printed.
    pub output: String,
    status: Option<ExitStatus>,
    log: Vec<String>,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> io::Result<Watched> {
    let path = format!("/tmp/output-{}", std::process::id());
    let mut log = Log::from_now()?;
    let file = File::create(&path)?;
    let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            None if start.elapsed() < LIMIT => sleep(Duration::from_millis(5)),
            status => break status,
        }
    };
    Ok(Watched { output: fs::read_to_string(&path)?, status, log: log.lines()? })
}

impl Watched {
    /// Nothing if it exited with status 0, else how it ended.
    pub fn expect_success(&self) -> Result<(), Outcome> {
        if self.status.is_some_and(|status| status.success()) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// How it ended, if not as it should.
    pub fn unexpected(&self) -> Outcome {
        let (ending, how) = match self.status {
            None => (Ending::Hung, format!("no end after {} s", LIMIT.as_secs())),
            Some(status) => match (status.signal(), self.refused_fetch()) {
                (Some(libc::SIGKILL), Some(place)) => (Ending::Refused, format!("killed by an oops at {place}")),
                _ => (Ending::Failed, status.to_string()),
            },
        };
        let said = self.output.trim().replace('\n', "; ");
        let detail = if said.is_empty() { how } else { format!("{said}: {how}") };
        Outcome { ending, detail }
    }

    /// Where kernel mode was stopped from executing, if the kernel said so.
    fn refused_fetch(&self) -> Option<&str> {
        let says = |text: &str| self.log.iter().any(|line| line.contains(text));
        let fetch = says("unable to handle page fault") && says("supervisor instruction fetch");
        let place = self.log.iter().find_map(|line| line.split_once("RIP: 0010:"))?.1;
        fetch.then_some(place)
    }
}
