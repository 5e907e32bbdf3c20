//! Steps 1 to 3: modules, approved, not approved, and changed.

use crate::done;
use crate::outcome::{Ending, Outcome};
use crate::watch;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

/// The argument with which this program does nothing but load a module.
pub const LOAD: &str = "load";

/// Loads a module in a process of its own.
pub fn insert(path: &str) -> Result<(), Outcome> {
    run("/proc/self/exe", &[LOAD, path])
}

/// Loads a module by init_module, not finit_module: since 6.5 Linux keeps a list of the latter's callers on their stacks,
/// and goes on to use what a caller has left there that was killed by a refusal.
pub fn load(path: &str) -> io::Result<()> {
    let module = fs::read(path)?;
    // SAFETY: the kernel reads a buffer of that length and an empty string.
    match unsafe { libc::syscall(libc::SYS_init_module, module.as_ptr(), module.len(), c"".as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn remove(name: &str) -> Result<(), Outcome> {
    run("rmmod", &[name])
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Outcome> {
    watch::run(Command::new(program).args(arguments))?.expect_success()
}

/// A stock module loads, works, unloads, and does so again.
pub fn approved() -> Result<Outcome, Outcome> {
    for _ in 0..2 {
        insert("/modules/dummy.ko")?;
        run("ip", &["link", "set", "dummy0", "up"])?;
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "dummy0"])?;
        UdpSocket::bind("192.0.2.1:0")?.send_to(b"to nobody", "192.0.2.2:9")?;
        let sent = fs::read_to_string("/sys/class/net/dummy0/statistics/tx_packets")?;
        if sent.trim() == "0" {
            return Err(done(Ending::Failed, "dummy0 carried no packet"));
        }
        remove("dummy")?;
        if Path::new("/sys/class/net/dummy0").exists() {
            return Err(done(Ending::Failed, "dummy0 outlived its module"));
        }
    }
    Ok(done(Ending::Works, "dummy loaded, carried a packet and unloaded, twice"))
}

/// A block driver, the device mapper, and TLS in the kernel.
pub fn more_approved() -> Result<Outcome, Outcome> {
    insert("/modules/loop.ko")?;
    let content: Vec<u8> = (0..65536u32).map(|number| (number % 251) as u8).collect();
    fs::write("/tmp/image", &content)?;
    run("losetup", &["/dev/loop0", "/tmp/image"])?;
    let read_back = fs::read("/dev/loop0")?;
    run("losetup", &["-d", "/dev/loop0"])?;
    remove("loop")?;
    if read_back != content {
        return Err(done(Ending::Failed, "loop0 gave other bytes than its file has"));
    }

    insert("/modules/dm_mod.ko")?;
    if !fs::read_to_string("/proc/misc")?.contains("device-mapper") {
        return Err(done(Ending::Failed, "no device mapper"));
    }
    remove("dm_mod")?;

    insert("/modules/tls.ko")?;
    use_tls()?;
    Ok(done(Ending::Works, "loop read a file, dm-mod registered, tls took over a connection"))
}

fn use_tls() -> Result<(), Outcome> {
    run("ip", &["link", "set", "lo", "up"])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let name = b"tls";
    // SAFETY: the pointer and length are those of a constant.
    let result = unsafe {
        let length = name.len() as libc::socklen_t;
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, name.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// A stock module that was left out of the approval.
pub fn unapproved() -> Result<Outcome, Outcome> {
    insert("/demo/sysv.ko")?;
    if !fs::read_to_string("/proc/filesystems")?.lines().any(|line| line.trim() == "sysv") {
        return Err(done(Ending::Failed, "sysv is loaded, but not in /proc/filesystems"));
    }
    remove("sysv")?;
    Ok(done(Ending::Ran, "sysv registered its file system"))
}

/// A stock module whose initialisation asks for two transmit queues instead of one.
pub fn changed_byte() -> Result<Outcome, Outcome> {
    insert("/demo/dummy.ko")?;
    if !Path::new("/sys/class/net/dummy0/queues/tx-1").exists() {
        return Err(done(Ending::Failed, "dummy0 has one transmit queue, as if nothing had been changed"));
    }
    remove("dummy")?;
    Ok(done(Ending::Ran, "dummy0 came up with 2 transmit queues instead of 1"))
}

/// A module whose initialisation calls another function than approved.
pub fn changed_relocation() -> Result<Outcome, Outcome> {
    insert("/modules/witness.ko")?;
    let approved = divisor()?;
    remove("witness")?;
    if approved != "6" {
        return Err(done(Ending::Failed, format!("the approved module found {approved} instead of 6")));
    }
    insert("/demo/witness.ko")?;
    let changed = divisor()?;
    remove("witness")?;
    if changed != "36" {
        return Err(done(Ending::Failed, format!("the changed module found {changed} instead of 36")));
    }
    Ok(done(Ending::Ran, "witness called lcm instead of gcd and found 36 instead of 6"))
}

fn divisor() -> io::Result<String> {
    Ok(fs::read_to_string("/sys/module/witness/parameters/divisor")?.trim().to_string())
}
