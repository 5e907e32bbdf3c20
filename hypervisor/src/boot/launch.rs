//! Launch: check everything, take memory, put the kernel in place, protect it
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::Range;

use secvisor_amd64::vmcb::Vmcb;
use secvisor_approval::view::{self, Opened};
use secvisor_rules::apic::MESSAGES;
use secvisor_rules::{Access, Frame, FrameTable, Memory, Rules};

use super::guest::{self, AP_PAGE, Handover, LOW_PAGES, LowMemory};
use super::info::{self, BootInfo};
use super::{acpi, ap, kaslr};
use crate::cpu::svm::{self, Features, Missing};
use crate::cpu::{apic, mtrr};
use crate::crowd::{Cpu, Crowd};
use crate::machine::{Core, IO_APICS, MACHINE, Machine, Suspects};
use crate::mem::lock::Lock;
use crate::mem::npt::{self, NestedTables, Table, View};
use crate::mem::once::Once;
use crate::mem::physical;
use crate::mem::ram::Ram;
use crate::report;
use crate::stats::Counter;
use crate::vcpu::{IoMap, PerCpu, Vcpu};
use crate::violation::Log;

/// Why the guest was not started. Each names whose fault it is.
pub enum Error {
    /// The loader's information is unusable.
    Loader(info::Error),
    /// Other than two boot modules.
    Modules(usize),
    /// The processor lacks something.
    Processor(Missing),
    /// The approval cannot be used.
    Approval(view::Error),
    /// There is not enough memory, in MiB.
    Memory(u64),
    /// The place the kernel was linked for is not free RAM, and there is no other.
    KernelPlace(u64),
    /// More memory than is mapped.
    TooMuchMemory,
    /// The command line with the approval's additions is too long.
    CommandLine,
    /// The firmware's tables do not say which CPUs there are.
    NoCpus,
    /// There are more I/O APICs than are held.
    TooManyIoApics,
    /// One is not at the beginning of a page.
    IoApicPlace(u64),
    /// More nested tables are needed than were set apart.
    Tables,
    /// The firmware has moved the local APIC.
    ApicMoved,
    /// This CPU, by its APIC's identifier, does not answer.
    Cpu(u32),
    /// The approval has more pages than the rules can number.
    TooManyPages,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loader(info::Error::NotMultiboot) => write!(f, "not started by a Multiboot loader"),
            Self::Loader(info::Error::NoMemoryMap) => write!(f, "the boot loader gave no memory map"),
            Self::Loader(info::Error::CommandLine) | Self::CommandLine => write!(f, "the command line is too long"),
            Self::Modules(n) => write!(f, "needs two boot modules, the approval and the initrd; got {n}"),
            Self::Processor(Missing::Svm) => write!(f, "the processor has no SVM"),
            Self::Processor(Missing::Disabled) => write!(f, "SVM is switched off in the firmware"),
            Self::Processor(Missing::NestedPaging) => write!(f, "the processor has no nested paging"),
            Self::Processor(Missing::Asids) => write!(f, "the processor has too few address space identifiers"),
            Self::Processor(Missing::Encryption) => write!(f, "the firmware has switched memory encryption on"),
            Self::Approval(e) => write!(f, "{e}"),
            Self::Tables => write!(f, "the machine's devices lie in more places than there are nested tables for"),
            Self::Memory(mib) => write!(f, "too little memory: this approval and initrd need {mib} MiB below 4 GiB"),
            Self::KernelPlace(at) => write!(f, "no free memory for the kernel, which was linked for {at:#x}"),
            Self::TooMuchMemory => write!(f, "this version handles memory below 512 GiB only"),
            Self::NoCpus => write!(f, "the firmware's ACPI tables do not say how many CPUs there are"),
            Self::TooManyIoApics => {
                write!(f, "the machine has more than {IO_APICS} I/O APICs, which this version holds")
            }
            Self::IoApicPlace(at) => write!(f, "the I/O APIC at {at:#x} does not begin a page"),
            Self::ApicMoved => write!(f, "the firmware has moved the local APIC from where it usually is"),
            Self::Cpu(id) => write!(f, "the CPU with APIC identifier {id:#x} does not start"),
            Self::TooManyPages => write!(f, "the approval has more pages than this version can number"),
        }
    }
}

const MIB: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// 2 MiB ranges that can be set apart after launch, as a share of all.
const SPLITS: usize = 1024;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Memory of this program at the end of low RAM, from low to high: the part of the approval that only launch needs
/// (given back), the rest of the approval, then tables.
struct Arena {
    approval: u64,
    frames: u64,
    places: u64,
    vars: u64,
    cpus: u64,
    tables: u64,
    table_count: usize,
    end: u64,
}

fn pages(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

/// Checks everything and prepares the guest.
pub fn launch(magic: u32, loader: u32) -> Result<&'static mut Vcpu, Error> {
    let boot = BootInfo::read(magic, loader).map_err(Error::Loader)?;
    let features = svm::probe().map_err(Error::Processor)?;
    let first_cpu = apic::id();
    let others = || acpi::cpus(&boot.rsdp).into_iter().flatten().filter(move |id| *id != first_cpu);
    let cpu_count = 1 + others().count();
    if acpi::cpus(&boot.rsdp).is_none() {
        return Err(Error::NoCpus);
    }
    let [approval, initrd] = boot.modules.get() else { return Err(Error::Modules(boot.modules.get().len())) };
    // SAFETY: boot modules are RAM that nothing changes.
    let header = unsafe { physical::bytes(approval.start, (approval.end - approval.start).min(4096) as usize) };
    let len = view::length(header).map_err(Error::Approval)?;
    let top = boot.ram.get().iter().map(|r| r.end).max().unwrap_or(0);
    if top > physical::MAPPED {
        return Err(Error::TooMuchMemory);
    }
    if len > approval.end - approval.start {
        return Err(Error::Approval(view::Error::Truncated));
    }
    let len = approval.end - approval.start;
    let (page_count, var_count) = view::counts(header).map_err(Error::Approval)?;
    if page_count > len / 8 || var_count > len / 8 {
        return Err(Error::Approval(view::Error::Truncated));
    }
    let cpu_bytes = cpu_count * (size_of::<Cpu>() + size_of::<PerCpu>());
    let lens = [len, top / 4096 * 2, page_count * 4, var_count * 8, cpu_bytes as u64].map(pages);
    let arena = plan(&boot, &features, top / 4096, lens, initrd)?;

    // SAFETY: `plan` found RAM for the arena that holds neither this image nor what is moved later.
    let file = unsafe {
        physical::relocate(approval.start, arena.approval, len);
        physical::claim::<u8>(arena.approval, len as usize)
    };
    let mut opened = Opened::new(file).map_err(Error::Approval)?;
    let (room, info) = (opened.room(), opened.look().1.info);
    let image = image_range();
    let initrd_len = initrd.end - initrd.start;
    let initrd_to = arena.approval.saturating_sub(initrd_len) & !4095;
    let linked_end = info.image_phys + info.image_span;
    let initrd_place = boot.ram.get().iter().any(|r| r.start <= initrd_to && arena.approval <= r.end);
    if initrd_to < linked_end || !initrd_place {
        return Err(Error::Memory((pages(initrd_len) + arena.end - arena.approval + linked_end) / MIB + 1));
    }
    let taken = [image.clone(), initrd_to..arena.end];
    let place =
        kaslr::place(&info, room, boot.cmdline(), boot.ram.get(), &taken).ok_or(Error::KernelPlace(info.image_phys))?;
    let span = place.physical..place.physical + info.image_span;
    opened.slide(place.slide);
    let (kernel, view, reference) = opened.parts();
    if reference.len() > secvisor_rules::frame::MAX_PAGES {
        return Err(Error::TooManyPages);
    }
    let kept_from = arena.approval + kernel.runtime_offset;
    let low = low_memory(&boot)?;
    let kept = [image.clone(), kept_from..arena.end];
    let handover = Handover {
        boot: &boot,
        initrd: initrd_to..initrd_to + initrd_len,
        kept: &kept,
        additions: view.name(view.info.cmdline),
        drawn: place.drawn,
    };
    // SAFETY: the initrd goes to RAM directly below the arena. The kernel's place is free RAM outside of this image, the
    // arena and that (`taken`); where it overlaps the boot modules as the loader left them, both have been moved by then.
    // `low` is free RAM below 640 KiB, where no kernel is placed.
    unsafe {
        physical::relocate(initrd.start, initrd_to, initrd_len);
        guest::load_kernel(&kernel, &view, &reference, place.physical);
        guest::write_tables(&low, &view, &handover).map_err(|_| Error::CommandLine)?;
    }

    // SAFETY: parts of the arena, each claimed once.
    let (frames, places, vars, tables) = unsafe {
        physical::zero(arena.cpus, arena.tables + arena.table_count as u64 * 4096 - arena.cpus);
        (
            physical::claim::<u16>(arena.frames, (top / 4096) as usize),
            physical::claim::<u32>(arena.places, view.pages()),
            physical::claim::<u64>(arena.vars, view.vars.len()),
            physical::claim::<Table>(arena.tables, arena.table_count),
        )
    };
    let mut frames = FrameTable::new(frames);
    for range in boot.ram.get() {
        frames.add_ram(range.start / 4096..range.end / 4096);
    }
    for range in &kept {
        frames.add_hypervisor(range.start / 4096..range.end / 4096);
    }
    let mut tables = NestedTables::new(tables, features.physical_bits, &frames)
        .map_err(|_| Error::Memory((arena.end - arena.approval) / MIB + 1))?;
    let (entry, release) = (span.start + view.info.entry_offset, view.name(view.info.release));
    let regions = view.regions;
    let image_va = view.info.image_va;
    let mut rules = Rules::new(Memory { view, pages: reference, frames, places, vars }, Frame(span.start / 4096));
    for region in regions.iter().take_while(|r| r.module == secvisor_approval::wire::NONE) {
        let first = (span.start + (region.base - image_va)) / 4096;
        for frame in (first..first + region.pages as u64).map(Frame) {
            let proof = rules.loaded(frame).ok_or(Error::KernelPlace(frame.address()))?;
            tables.set(frame, &Access::Executable(proof)).map_err(|_| Error::Tables)?;
        }
    }
    let kept_bytes: u64 = kept.iter().map(|r| r.end - r.start).sum();
    report!(
        "kernel {release}, {} pages in the approval, hypervisor memory {} KiB",
        rules.view().pages(),
        kept_bytes / 1024
    );
    let mut io_apics = [None; IO_APICS];
    for (i, at) in acpi::io_apics(&boot.rsdp).enumerate() {
        if !at.is_multiple_of(4096) {
            return Err(Error::IoApicPlace(at));
        }
        *io_apics.get_mut(i).ok_or(Error::TooManyIoApics)? = Some(Frame::containing(at));
    }
    let local = MESSAGES.step_by(4096).map(Frame::containing);
    if !apic::in_its_place() {
        return Err(Error::ApicMoved);
    }
    let apics = io_apics.into_iter().flatten().chain(local);
    for frame in acpi::host_bridges(&boot.rsdp).chain(apics) {
        tables.hold(frame).map_err(|_| Error::Tables)?;
    }
    let ports = acpi::ports(&boot.rsdp);
    let io = IoMap::of(&ports);
    // SAFETY: zeroed parts of the arena, each claimed once; what is not valid as zeros is written by `PerCpu::init` or is
    // `MaybeUninit`.
    let (cpus, per_cpu) = unsafe {
        let per_cpu = physical::claim::<PerCpu>(arena.cpus, cpu_count);
        let cpus = physical::claim::<MaybeUninit<Cpu>>(arena.cpus + size_of_val(per_cpu) as u64, cpu_count);
        (cpus, per_cpu)
    };
    for (slot, id) in cpus.iter_mut().zip([first_cpu].into_iter().chain(others())) {
        slot.write(Cpu::new(id));
    }
    // SAFETY: there are as many identifiers as places.
    let cpus = unsafe { cpus.assume_init_ref() };
    let (kernel_root, user_root) = (tables.root(View::Kernel), tables.root(View::User));
    static LOG: Once<Log> = Once::new(Log::new());
    let machine = MACHINE.set(Machine {
        core: Lock::new(Core { rules, tables, log: LOG.take(), ports, suspects: Suspects::new() }),
        crowd: Crowd { cpus, shootdowns: Counter::new() },
        ram: Ram::new(boot.ram.get(), kept),
        features,
        kernel_root,
        user_root,
        io_apics,
        kept: kept_bytes,
    });
    mtrr::note();
    let mut vcpus = per_cpu.iter_mut().enumerate().map(|(i, memory)| memory.init(machine, i, io));
    let first = vcpus.next().ok_or(Error::NoCpus)?;
    for (vcpu, cpu) in vcpus.zip(&machine.crowd.cpus[1..]) {
        // SAFETY: low memory is free until the guest runs.
        if !unsafe { ap::bring_up(low.base + AP_PAGE * 4096, cpu, vcpu) } {
            return Err(Error::Cpu(cpu.apic_id));
        }
    }
    report!("CPUs: {cpu_count}");
    first.prepare(|vmcb: &mut Vmcb| guest::initial_state(vmcb, &low, entry), low.base);
    Ok(first)
}

fn image_range() -> Range<u64> {
    // The linker script's symbols; only their addresses are used.
    let (start, end) = (&raw const image_start as u64, &raw const image_end as u64);
    start & !4095..pages(end)
}

/// Finds room for the arena: at the end of the largest usable range below 4 GiB.
fn plan(
    boot: &BootInfo,
    features: &Features,
    frames: u64,
    [approval_len, frames_len, places_len, vars_len, cpus_len]: [u64; 5],
    initrd: &Range<u64>,
) -> Result<Arena, Error> {
    let low = boot.ram.get().iter().filter(|r| r.start < FOUR_GIB);
    let range = low.map(|r| r.start..r.end.min(FOUR_GIB)).max_by_key(|r| r.end - r.start).ok_or(Error::Memory(0))?;
    let splits = SPLITS.min((frames / 512) as usize);
    let table_count = npt::tables_needed(features.physical_bits, frames, splits);
    let lens = [approval_len, frames_len, places_len, vars_len, cpus_len, table_count as u64 * 4096];
    let total: u64 = lens.iter().sum();
    let needed = (total + pages(initrd.end - initrd.start)) / MIB + 1;
    let start = range.end.checked_sub(total).filter(|s| *s >= range.start).ok_or(Error::Memory(needed))?;
    // Nothing that is still needed may lie where the arena goes; the approval itself is moved as a whole.
    let overlaps = |r: &Range<u64>| r.start < range.end && start < r.end;
    if overlaps(initrd) || overlaps(&image_range()) {
        return Err(Error::Memory(needed));
    }
    let mut at = start;
    let [approval, frames_at, places_at, vars_at, cpus, tables] = lens.map(|len| {
        at += len;
        at - len
    });
    Ok(Arena {
        approval,
        frames: frames_at,
        places: places_at,
        vars: vars_at,
        cpus,
        tables,
        table_count,
        end: range.end,
    })
}

/// Free RAM below 640 KiB, away from the first 64 KiB.
fn low_memory(boot: &BootInfo) -> Result<LowMemory, Error> {
    let need = LOW_PAGES * 4096;
    let fits = |r: &Range<u64>| {
        let start = r.start.max(0x1_0000);
        (start + need <= r.end.min(0xa_0000)).then_some(start)
    };
    let base = boot.ram.get().iter().find_map(fits).ok_or(Error::Memory(1))?;
    Ok(LowMemory { base })
}
