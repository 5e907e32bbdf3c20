//! `secvisor`: makes, checks and shows approvals
use anyhow::Result;

fn main() {
    if let Err(e) = run() {
        eprintln!("error: {e:#}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let file = std::fs::read(&args[1])?;
    let (setup, vmlinux) = secvisor::kernel::unpack(&file)?;
    let kernel = secvisor::kernel::Kernel::parse(setup, &vmlinux)?;
    println!("{} {:?}", kernel.setup.release, kernel.flavor);
    let mut emitter = kernel.emitter();
    let (info, counts) = kernel.emit(&mut emitter)?;
    println!("{counts:#?}");
    let mut out = emitter.builder.finish(info);
    std::fs::write(&args[2], &out)?;
    secvisor_approval::view::open(&mut out)?;
    println!("{info:x?}");
    Ok(())
}
