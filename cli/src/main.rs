//! `secvisor`: makes, checks and shows approvals
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use secvisor::approve::{Approved, approve};
use secvisor::check;
use secvisor::count::count;
use secvisor::gzip;
use secvisor::inspect::{self, Approval};
use secvisor_approval::view;
use serde::Serialize;

/// Decides which code may run in kernel mode
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes an approval of a kernel and its modules
    Approve {
        /// The kernel, as a boot loader gets it (bzImage)
        #[arg(long, value_name = "VMLINUZ")]
        kernel: PathBuf,
        /// A module, or a directory with modules; may be repeated
        #[arg(long, value_name = "DIR|FILE", num_args = 1..)]
        modules: Vec<PathBuf>,
        /// Where to write the approval; compressed if the name ends in .gz
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Prints the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows what an approval allows
    Inspect {
        /// The approval
        file: PathBuf,
        /// Shows the sites of the page at this address (hexadecimal); with --module, an offset in its text
        #[arg(long, value_name = "ADDR", value_parser = address)]
        page: Option<u64>,
        /// Shows the sites of a function
        #[arg(long, value_name = "NAME", conflicts_with_all = ["page", "module"])]
        symbol: Option<String>,
        /// Shows a module
        #[arg(long, value_name = "NAME")]
        module: Option<String>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Checks that an approval is whole and sound
    Verify {
        /// The approval
        file: PathBuf,
        /// Prints the result as JSON
        #[arg(long)]
        json: bool,
    },
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "not a hexadecimal address".to_owned())
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("secvisor: {}", one_line(&format!("{e:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Approve { kernel, modules, output, json } => make(&kernel, &modules, &output, json),
        Command::Inspect { file, page, symbol, module, json } => {
            inspect(&file, page, symbol, module, json).with_context(|| file.display().to_string())
        }
        Command::Verify { file, json } => verify(&file, json).with_context(|| file.display().to_string()),
    }
}

/// Result of `approve`, for programs.
#[derive(Serialize)]
struct Report<'a> {
    release: &'a str,
    output: String,
    bytes: usize,
    kernel: &'a secvisor::sites::Counts,
    modules: usize,
    warnings: &'a [&'static str],
    left_out: Vec<LeftOut<'a>>,
}

#[derive(Serialize)]
struct LeftOut<'a> {
    name: &'a str,
    path: String,
    reason: &'a str,
}

fn make(kernel: &Path, modules: &[PathBuf], output: &Path, json: bool) -> Result<()> {
    let file = std::fs::read(kernel).with_context(|| kernel.display().to_string())?;
    let target = target(output, kernel, modules).with_context(|| output.display().to_string())?;
    let bar = progress_bar();
    let made = approve(&kernel.display().to_string(), &file, modules, &|step| bar.set_message(step.to_owned()));
    bar.finish_and_clear();
    let made = made?;
    // A module of a directory may be one of another kernel; one that is named must be approved.
    for named in modules {
        let path = named.canonicalize().with_context(|| named.display().to_string())?;
        if let Some(l) = made.left_out.iter().find(|l| l.path == path) {
            bail!("{}: {}", named.display(), l.reason);
        }
    }
    if let ([first, rest @ ..], 0) = (&made.left_out[..], made.modules) {
        let others = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        bail!("none of the modules can be approved: {}{others}: {}", first.path.display(), first.reason);
    }
    let compressed = output.extension().is_some_and(|e| e == "gz").then(|| gzip::compress(&made.bytes)).transpose()?;
    let file = compressed.as_ref().unwrap_or(&made.bytes);
    write_whole(&target, file).with_context(|| output.display().to_string())?;
    report(&made, file.len(), output, json)
}

fn report(made: &Approved, bytes: usize, output: &Path, json: bool) -> Result<()> {
    let Approved { bytes: _, release, kernel, modules, warnings, left_out } = made;
    if json {
        let left_out = left_out
            .iter()
            .map(|l| LeftOut { name: &l.name, path: l.path.display().to_string(), reason: &l.reason })
            .collect();
        let output = output.display().to_string();
        return print_json(&Report { release, output, bytes, kernel, modules: *modules, warnings, left_out });
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    for l in left_out {
        eprintln!("left out: {}", one_line(&format!("{}: {}", l.path.display(), l.reason)));
    }
    let size = bytes as f64 / f64::from(1 << 20);
    say(&format!(
        "Approved Linux {release}: {}, {} ({} left out), {size:.1} MiB in {}",
        count(kernel.pages, "kernel page"),
        count(*modules, "module"),
        left_out.len(),
        output.display()
    ))
}

fn open<T>(file: &Path, then: impl FnOnce(Approval<'_>) -> Result<T>) -> Result<T> {
    let mut bytes = gzip::decompress(std::fs::read(file)?)?;
    let (launch, view, pages) = view::open(&mut bytes)?;
    check::blocks(&pages)?;
    then(Approval { launch, view, pages })
}

fn inspect(file: &Path, page: Option<u64>, symbol: Option<String>, module: Option<String>, json: bool) -> Result<()> {
    open(file, |approval| match (page, symbol, module) {
        (Some(address), _, module) => show(&approval.page(module.as_deref(), address)?, json),
        (_, Some(name), _) => {
            let found = approval.symbol(&name)?;
            if json {
                return print_json(&found);
            }
            found.iter().try_for_each(|l| say(&l.to_string()))
        }
        (_, _, Some(name)) => show(&approval.module(&name)?, json),
        _ => show(&approval.summary(), json),
    })
}

/// Result of `verify`, for programs.
#[derive(Serialize)]
struct Verified {
    sound: bool,
    release: String,
    pages: usize,
    modules: usize,
}

fn verify(file: &Path, json: bool) -> Result<()> {
    let mut bytes = gzip::decompress(std::fs::read(file)?)?;
    check::check(&mut bytes)?;
    let (_, view, pages) = view::open(&mut bytes)?;
    let release = view.name(view.info.release).to_owned();
    let (pages, modules) = (pages.len(), inspect::modules(&view));
    if json {
        return print_json(&Verified { sound: true, release, pages, modules });
    }
    let (pages, modules) = (count(pages, "page"), count(modules, "module"));
    say(&format!("{}: sound, for Linux {release}: {pages}, {modules}", file.display()))
}

fn show<T: Serialize + std::fmt::Display>(what: &T, json: bool) -> Result<()> {
    if json { print_json(what) } else { say(&what.to_string()) }
}

fn print_json(what: &impl Serialize) -> Result<()> {
    say(&serde_json::to_string_pretty(what)?)
}

/// Text in which names from foreign files cannot begin a line of their own, nor move the cursor.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Prints a line; a reader that has gone away is no error.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// The file that is to be written: what a link leads to, but no device, nor anything that the approval is made from.
fn target(output: &Path, kernel: &Path, modules: &[PathBuf]) -> Result<PathBuf> {
    let Ok(there) = output.canonicalize() else { return Ok(output.to_owned()) };
    if there.is_dir() {
        bail!("is a directory");
    }
    if !there.is_file() {
        bail!("is not a regular file");
    }
    if [kernel]
        .into_iter()
        .chain(modules.iter().map(PathBuf::as_path))
        .any(|input| input.canonicalize().is_ok_and(|input| input == there))
    {
        bail!("is one of the files to approve");
    }
    Ok(there)
}

/// Writes a file that is either complete or not there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().ok_or_else(|| anyhow!("not a file name"))?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(partial);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        e.into()
    })
}
