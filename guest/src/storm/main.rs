//! Attacks in great numbers
//!
//! The first argument says which; the answer is one line `storm: <which> <word>=<number> ..`. Whether that is as it
//! must be is for the test to judge.

mod hypercalls;
mod many;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments[..] {
        ["calls", seconds] => seconds.parse().map_err(Into::into).and_then(many::calls),
        ["tampering", times] => times.parse().map_err(Into::into).and_then(many::tampering),
        ["hypercalls", times] => times.parse().map_err(Into::into).map(hypercalls::wild),
        _ => Err("usage: storm calls SECONDS | tampering TIMES | hypercalls TIMES".into()),
    };
    match answer {
        Ok(answer) => {
            println!("storm: {} {answer}", arguments[0]);
            ExitCode::SUCCESS
        }
        Err::<_, Box<dyn std::error::Error>>(error) => {
            println!("storm: failed: {error}");
            ExitCode::FAILURE
        }
    }
}
