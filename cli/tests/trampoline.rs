//! The AP trampoline of the stock kernels: what Linux makes of the blob is what the rules accept, and nothing else
//!
//! The blob is relocated here as `setup_real_mode()` does it, by the kernel's own table. With `SECVISOR_GUEST_KERNEL` and
//! `SECVISOR_GUEST_MEMORY` (see `booted_guest.rs`) the same is asked of the memory of a kernel that has booted.
use std::path::{Path, PathBuf};

use secvisor::approve::approve;
use secvisor::bytes::u32_at;
use secvisor::kernel::{Kernel, unpack};
use secvisor_approval::wire::LOW_END;
use secvisor_approval::{PAGE, PageBytes, view};
use secvisor_rules::{Access, Event, Frame, FrameTable, Machine, Memory, OutOfTables, Rules, Verdict};

const PAGE64: u64 = PAGE as u64;
const LOW: usize = LOW_END as usize;

/// Low memory, all of it RAM.
struct Low(Vec<PageBytes>);

impl Machine for Low {
    fn page(&self, frame: Frame) -> &PageBytes {
        &self.0[frame.0 as usize]
    }
    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }
    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        self.0[frame.0 as usize] = *bytes;
    }
    fn set_access(&mut self, _: Frame, _: Access) -> Result<(), OutOfTables> {
        Ok(())
    }
    fn translate(&self, va: u64) -> Option<Frame> {
        Some(Frame::containing(va))
    }
}

/// The rules with an approval of a kernel that has just been loaded.
fn with_rules(file: &[u8], play: impl FnOnce(&mut Rules<'_>)) {
    let mut file = file.to_vec();
    let (_, view, pages) = view::open(&mut file).unwrap();
    let kernel = Frame::containing(view.info.image_phys);
    let (mut places, mut vars, mut table) = (vec![0; pages.len()], vec![0; view.vars.len()], vec![0; LOW / PAGE]);
    let mut frames = FrameTable::new(&mut table);
    frames.add_ram(0..(LOW / PAGE) as u64);
    play(&mut Rules::new(Memory { view, pages, frames, places: &mut places, vars: &mut vars }, kernel));
}

fn fetch(rules: &mut Rules<'_>, low: &mut Low, va: u64) -> Verdict {
    rules.step(low, Event::KernelFetch { frame: Frame::containing(va), va, patching: false, tries: None })
}

fn runs(rules: &mut Rules<'_>, low: &mut Low, va: u64) -> bool {
    matches!(fetch(rules, low, va), Verdict::Resume)
}

/// What Linux needs to place the trampoline.
struct RealMode {
    blob: Vec<u8>,
    segments: Vec<usize>,
    addresses: Vec<usize>,
}

impl RealMode {
    fn read(kernel: &[u8]) -> Self {
        let (setup, vmlinux) = unpack(kernel).unwrap();
        let kernel = Kernel::parse(setup, &vmlinux).unwrap();
        let [start, end, mut at] =
            ["real_mode_blob", "real_mode_blob_end", "real_mode_relocs"].map(|s| kernel.symbols.need(s).unwrap());
        let mut next = || {
            at += 4;
            u32_at(kernel.image.bytes(at - 4, 4).unwrap(), 0).unwrap() as usize
        };
        let mut list = || (0..next()).map(|_| next()).collect();
        let (segments, addresses) = (list(), list());
        Self { blob: kernel.image.bytes(start, (end - start) as usize).unwrap().to_vec(), segments, addresses }
    }

    /// Low memory once `setup_real_mode()` has run.
    fn placed(&self, base: u64) -> Low {
        let mut memory = vec![0; LOW];
        let placed = &mut memory[base as usize..][..self.blob.len()];
        placed.copy_from_slice(&self.blob);
        for at in &self.segments {
            placed[*at..at + 2].copy_from_slice(&((base >> 4) as u16).to_le_bytes());
        }
        for at in &self.addresses {
            let value = u32_at(placed, *at).unwrap().wrapping_add(base as u32);
            placed[*at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Low(memory.as_chunks().0.to_vec())
    }

    /// Its code: what `set_real_mode_permissions()` makes executable.
    fn code(&self) -> std::ops::Range<usize> {
        let word = |at| u32_at(&self.blob, at).unwrap() as usize;
        word(0)..word(4).next_multiple_of(PAGE)
    }
}

fn kernel(version: &str) -> Option<Vec<u8>> {
    let cache = match std::env::var_os("SECVISOR_CACHE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache"),
    };
    let boot = std::fs::read_dir(cache.join(format!("linux-{version}/boot"))).into_iter().flatten();
    let file = boot.flatten().find(|e| e.file_name().to_string_lossy().starts_with("vmlinuz-"));
    if file.is_none() {
        println!("skipped: no kernel {version} in {}", cache.display());
    }
    std::fs::read(file?.path()).ok()
}

fn accepted_is_what_linux_makes(version: &str, segments: usize, addresses: usize) {
    let Some(file) = kernel(version) else { return };
    let real = RealMode::read(&file);
    let code = real.code();
    let approval = approve("kernel", &file, &[], &|_| ()).unwrap().bytes;
    let inside = |fields: &[usize]| fields.iter().filter(|at| code.contains(at)).count();
    println!("{version}: code {code:x?}, {} + {} fields", inside(&real.segments), inside(&real.addresses));
    assert_eq!((inside(&real.segments), inside(&real.addresses)), (segments, addresses));
    let last = LOW_END - real.blob.len().next_multiple_of(PAGE) as u64;
    for base in [PAGE64, 0x1_0000, 0x8_9000, 0x9_8000, 0x9_9000, last] {
        with_rules(&approval, |rules| {
            let mut low = real.placed(base);
            // Where it is, its code and nothing else.
            let pages: Vec<u64> = (0..LOW_END).step_by(PAGE).collect();
            let ran: Vec<u64> = pages.into_iter().filter(|va| runs(rules, &mut low, *va)).collect();
            let want: Vec<u64> = code.clone().step_by(PAGE).map(|at| base + at as u64).collect();
            assert_eq!(ran, want, "{version} at {base:#x}");
        });
    }
    // Any byte of the code changed: no longer accepted, or, once it was, put back.
    let base = 0x9_8000;
    for live in [false, true] {
        with_rules(&approval, |rules| {
            let whole = real.placed(base);
            let mut low = real.placed(base);
            for at in code.clone() {
                let (frame, byte) = ((base as usize + at) / PAGE, at % PAGE);
                let va = (base + at as u64) & !0xfff;
                if live {
                    assert!(runs(rules, &mut low, va));
                    let _ = rules.step(&mut low, Event::Write { frame: Frame(frame as u64), from_within: false });
                }
                low.0[frame][byte] ^= 0x11;
                match fetch(rules, &mut low, va) {
                    Verdict::Restored(_) if live => assert!(low.0[frame] == whole.0[frame]),
                    Verdict::Refuse(_) if !live => low.0[frame][byte] ^= 0x11,
                    _ => panic!("{version}: {at:#x}, live: {live}"),
                }
            }
        });
    }
}

#[test]
fn linux_6_1() {
    accepted_is_what_linux_makes("6.1", 5, 15);
}

#[test]
fn linux_6_12() {
    accepted_is_what_linux_makes("6.12", 5, 18);
}

#[test]
#[ignore = "needs the memory of a guest: cargo xtask test --only agreement"]
fn what_a_guest_has_in_low_memory() {
    let path = |name| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
    let (kernel, memory) = (path("SECVISOR_GUEST_KERNEL"), path("SECVISOR_GUEST_MEMORY"));
    let (kernel, memory) = (std::fs::read(kernel).unwrap(), std::fs::read(memory).unwrap());
    let real = RealMode::read(&kernel);
    let approval = approve("kernel", &kernel, &[], &|_| ()).unwrap().bytes;
    with_rules(&approval, |rules| {
        let mut low = Low(memory[..LOW].as_chunks().0.to_vec());
        let ran: Vec<u64> = (0..LOW_END).step_by(PAGE).filter(|va| runs(rules, &mut low, *va)).collect();
        println!("{ran:x?} of low memory runs");
        assert_eq!(ran.len(), real.code().len() / PAGE);
        let code = real.code();
        let base = ran[0] - code.start as u64;
        let (want, have) = (real.placed(base).0, memory[..LOW].as_chunks::<PAGE>().0);
        let pages = (base as usize + code.start) / PAGE..(base as usize + code.end) / PAGE;
        assert!(want[pages.clone()] == have[pages], "not as it is placed here");
    });
}
