//! `secvisor status`, inside the guest: state and counters, asked for by hypercall.

mod hypercall;
mod status;

use status::Status;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let json = match arguments[..] {
        ["status"] => false,
        ["status", "--json"] => true,
        _ => {
            eprintln!("usage: secvisor status [--json]");
            return ExitCode::from(2);
        }
    };
    hypercall::exit_if_not_understood();
    let Some(status) = Status::ask() else {
        eprint!("{}", hypercall::NOT_BENEATH);
        return ExitCode::FAILURE;
    };
    print!("{}", if json { status.json() } else { status.text() });
    ExitCode::SUCCESS
}
