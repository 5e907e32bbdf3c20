//! A running guest: its console line by line, SecVisor's report, and how it ended.

use crate::emulator::{Control, Process, REPORT, Running};
use anyhow::{Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched it off.
    PoweredOff,
    /// It was reset, by the guest or by a triple fault.
    Reset,
    /// The guest has put it to sleep.
    Asleep,
    /// It ended through the debug port, or the emulator failed, with this status.
    Status(i32),
}

/// How often what a guest says may put off the end of waiting, in limits: one that talks for ever is stuck, too.
const MOST: u32 = 10;

/// Waiting that ends when nothing has been said for `limit`: a guest on a loaded host is slow, but says something.
struct Patience {
    limit: Duration,
    since: Instant,
    heard: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Patience {
        Patience { limit, since: Instant::now(), heard: Instant::now() }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// How much is left of it.
    fn left(&self) -> Duration {
        let whole = (self.limit * MOST).saturating_sub(self.since.elapsed());
        whole.min(self.limit.saturating_sub(self.heard.elapsed()))
    }
}

/// A running machine; dropping it ends it.
pub struct Guest {
    process: Process,
    input: Box<dyn Write>,
    console: Receiver<String>,
    seen: Vec<String>,
    control: Box<dyn Control>,
    logs: PathBuf,
}

impl Guest {
    /// Listens to a machine that was started; its logs are in `logs`.
    pub(crate) fn new(machine: Running, logs: PathBuf) -> Result<Guest> {
        let Running { process, console, input, control } = machine;
        let console = read_lines(console, File::create(logs.join("console.log"))?);
        Ok(Guest { process, input, console, seen: Vec::new(), control, logs })
    }

    /// Waits for a console line that contains `text`, and returns it; gives up when nothing is said for `limit`.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let mut patience = Patience::new(limit);
        loop {
            match self.console.recv_timeout(patience.left()) {
                Ok(line) => {
                    patience.heard();
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no \"{text}\"; {}; {}", self.how_long(&patience), self.where_to_look())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("ended without \"{text}\"; {}", self.where_to_look()),
            }
        }
    }

    /// Waits for a line of SecVisor's report that contains `text`, and returns it.
    pub fn wait_for_report(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.has_ended();
            if let Some(line) = self.report()?.into_iter().find(|line| line.contains(text)) {
                return Ok(line);
            }
            ensure!(!ended, "ended without reporting \"{text}\"; {}", self.where_to_look());
            ensure!(Instant::now() < deadline, "no report \"{text}\" within {limit:?}; {}", self.where_to_look());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a line into the console.
    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }

    /// The machine from outside.
    pub fn control(&mut self) -> &mut dyn Control {
        &mut *self.control
    }

    /// Waits until the machine has ended by itself, or sleeps; gives up when nothing is said for `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<End> {
        let mut patience = Patience::new(limit);
        let status = loop {
            for line in self.console.try_iter() {
                self.seen.push(line);
                patience.heard();
            }
            if let Some(status) = self.process.ended()? {
                break status;
            }
            if self.control.asleep() {
                return Ok(End::Asleep);
            }
            let still = || format!("still running; {}; {}", self.how_long(&patience), self.where_to_look());
            ensure!(!patience.left().is_zero(), still());
            thread::sleep(Duration::from_millis(20));
        };
        self.seen.extend(self.console.iter());
        match self.control.end(status) {
            Some(end) => Ok(end),
            None => bail!("the emulator was killed ({status}); {}", self.where_to_look()),
        }
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        !self.process.runs()
    }

    /// What the console has said so far, as far as it was waited for.
    pub fn console(&self) -> &[String] {
        &self.seen
    }

    /// What SecVisor has reported so far.
    pub fn report(&self) -> Result<Vec<String>> {
        let bytes = fs::read(self.logs.join(REPORT)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // The last line may still be incomplete.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(complete.lines().map(|line| line.trim_end_matches('\r').to_string()).collect())
    }

    /// How long was waited, and what was said last.
    fn how_long(&self, patience: &Patience) -> String {
        let (waited, silent) = (patience.since.elapsed().as_secs(), patience.heard.elapsed().as_secs());
        let last = self.seen.last().map_or("", String::as_str);
        format!("waited {waited} s, the last {silent} s in silence after \"{last}\"")
    }

    /// Where the logs are, for a failure's message.
    pub fn where_to_look(&self) -> String {
        format!("logs in {}", self.logs.display())
    }

    /// The directory its logs are in.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The test is satisfied: the logs may go.
    pub fn finish(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.logs)?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.process.kill();
    }
}

fn read_lines(from: Box<dyn Read + Send>, mut log: File) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_string();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    lines
}
