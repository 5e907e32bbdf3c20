//! The kernel's log, read and written record by record (Documentation/ABI/testing/dev-kmsg).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

/// One record and its header.
const RECORD: usize = 8192;

/// What the kernel logs from now on.
pub struct Log(File);

impl Log {
    /// Starts after the last record.
    pub fn from_now() -> io::Result<Log> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Log(file))
    }

    /// The lines logged since.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    // A header, ";", the line, and then lines that start with a space and only describe it.
                    let line = text.split_once(';').and_then(|(_, message)| message.lines().next());
                    lines.extend(line.map(str::to_string));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Records were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Lifts the limit on how often programs may write.
pub fn allow_many_lines() -> io::Result<()> {
    fs::write("/proc/sys/kernel/printk_devkmsg", "on\n")
}

/// Writes one line, urgent enough to be shown on the console even by a quiet kernel.
pub fn write(line: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open("/dev/kmsg")?.write_all(format!("<2>{line}\n").as_bytes())
}
