//! What timer ticks and idling cost

use crate::counters::Counters;
use crate::measure::now;
use crate::system::sleep;
use std::fs::{self, File};
use std::io::Read;

/// How long the processor is kept busy: many ticks at any frequency Linux knows.
const BUSY: u64 = 300_000_000;

/// A tick where it can happen; one object each.
pub fn all(beneath: bool) -> Vec<String> {
    let mut random = File::open("/dev/urandom").or_else(|_| mount_dev().and_then(|()| File::open("/dev/urandom")));
    let mut buffer = vec![1u8; 1 << 20];
    let kernel = move || {
        // One call for each MiB: what takes long is the kernel's.
        random.as_mut().expect("a source of random bytes").read_exact(&mut buffer).expect("random bytes");
    };
    let user = || {
        let start = now();
        while now() - start < BUSY / 10 {
            std::hint::spin_loop();
        }
    };
    vec![
        during("idle-second", 1, beneath, || sleep(1)),
        during("kernel-ticks", 20, beneath, kernel),
        during("user-ticks", 10, beneath, user),
    ]
}

fn mount_dev() -> std::io::Result<()> {
    fs::create_dir_all("/dev")?;
    // SAFETY: constant strings.
    match unsafe { libc::mount(c"dev".as_ptr(), c"/dev".as_ptr(), c"devtmpfs".as_ptr(), 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn during(name: &str, times: u64, beneath: bool, mut work: impl FnMut()) -> String {
    work();
    let read = || if beneath { Counters::read() } else { Counters::default() };
    let (ticks, counters) = (timer_interrupts(), read());
    (0..times).for_each(|_| work());
    let counters = read().since(&counters);
    let ticks = timer_interrupts() - ticks;
    let counters = if beneath { counters.json() } else { "null".to_string() };
    format!("{{\"period\":\"{name}\",\"ticks\":{ticks},\"calls\":{times},\"counters\":{counters}}}")
}

/// How many the processor has taken.
fn timer_interrupts() -> u64 {
    let all = fs::read_to_string("/proc/interrupts").expect("counts of interrupts");
    let local = all.lines().find_map(|line| line.trim_start().strip_prefix("LOC:")).expect("the local timer's");
    local.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a count")
}
