//! Putting the kernel in place and writing what it expects: Linux, Documentation/arch/x86/boot.rst and zero-page.rst
use core::ops::Range;

use secvisor_amd64::reg;
use secvisor_amd64::vmcb::{Segment, Vmcb};
use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{Launch, View};

use super::info::BootInfo;
use crate::mem::physical;

/// Low memory the kernel is handed its first tables in.
pub struct LowMemory {
    /// Address of `boot_params`; the pages behind hold the command line, GDT and page tables.
    pub base: u64,
}

/// Pages of [`LowMemory`].
pub const LOW_PAGES: u64 = 10;

/// Bytes of [`LowMemory`] that must stay reserved: the copy of the ACPI root pointer.
pub const RSDP_PAGE: u64 = 8;

/// The page that other CPUs start at, before the guest runs.
pub const AP_PAGE: u64 = 9;

const CMDLINE: u64 = 1;
const GDT: u64 = 2;
const PML4: u64 = 3;
const PDPT: u64 = 4;

/// Copies the kernel's image to physical memory from `to` on.
///
/// # Safety
/// The image's span from there is RAM that nothing else needs.
pub unsafe fn load_kernel(launch: &Launch<'_>, view: &View<'_>, pages: &Pages<'_>, to: u64) {
    let info = &view.info;
    // SAFETY: the caller's; `Opened::new` has checked that everything lies within the span.
    unsafe {
        physical::zero(to, info.image_span);
        for run in launch.runs.iter() {
            let bytes = &launch.data[run.data_offset as usize..][..run.len as usize];
            physical::write(to + run.image_offset, bytes);
        }
        for region in view.regions.iter().take_while(|r| r.module == secvisor_approval::wire::NONE) {
            let at = to + (region.base - info.image_va);
            for i in 0..region.pages {
                let mut room = [0; PAGE];
                let bytes = pages.get(region.first_page + i, &mut room).expect("a kernel's pages are plain");
                physical::write(at + i as u64 * PAGE as u64, bytes);
            }
        }
    }
}

/// What the kernel is told.
pub struct Handover<'a> {
    /// The loader's information.
    pub boot: &'a BootInfo,
    /// Where the initrd lies.
    pub initrd: Range<u64>,
    /// Memory the hypervisor keeps.
    pub kept: &'a [Range<u64>],
    /// The kernel's own part of the command line, from the approval.
    pub additions: &'a str,
    /// Whether the kernel's place was drawn.
    pub drawn: bool,
}

/// Writes `boot_params`, command line and first tables.
///
/// # Safety
/// `low` is RAM of the guest that nothing else needs.
pub unsafe fn write_tables(low: &LowMemory, view: &View<'_>, h: &Handover<'_>) -> Result<(), TooLong> {
    let mut params = [0u8; PAGE];
    let mut put = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
    let page = |n: u64| low.base + n * PAGE as u64;
    if h.boot.rsdp[0] != 0 {
        put(0x070, &page(RSDP_PAGE).to_le_bytes()); // acpi_rsdp_addr
    }
    put(0x1fe, &0xaa55u16.to_le_bytes()); // boot_flag
    put(0x202, b"HdrS"); // header
    put(0x206, &(view.info.boot_version as u16).to_le_bytes()); // version
    put(0x210, &[0xff]); // type_of_loader: undefined
    put(0x211, &[1 | (h.drawn as u8) << 1]); // loadflags: LOADED_HIGH, KASLR_FLAG
    let len = h.initrd.end - h.initrd.start;
    put(0x218, &(h.initrd.start as u32).to_le_bytes()); // ramdisk_image
    put(0x21c, &(len as u32).to_le_bytes()); // ramdisk_size
    put(0x228, &(page(CMDLINE) as u32).to_le_bytes()); // cmd_line_ptr
    put(0x230, &(view.info.align as u32).to_le_bytes()); // kernel_alignment
    put(0x238, &view.info.cmdline_size.to_le_bytes()); // cmdline_size
    put(0x258, &view.info.image_phys.to_le_bytes()); // pref_address
    put(0x260, &(view.info.image_span as u32).to_le_bytes()); // init_size
    let mut entries = 0u8;
    let mut e820 = |range: Range<u64>, kind: u32| {
        if range.start < range.end && entries < 128 {
            let at = 0x2d0 + entries as usize * 20;
            put(at, &range.start.to_le_bytes());
            put(at + 8, &(range.end - range.start).to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
            entries += 1;
        }
    };
    let rsdp = page(RSDP_PAGE)..page(RSDP_PAGE + 1);
    for range in h.boot.ram.get() {
        // Usable but for what is kept, which is reserved, not a hole: Linux puts device windows into holes.
        let mut at = range.start;
        while at < range.end {
            let next =
                h.kept.iter().chain([&rsdp]).filter(|k| k.end > at && k.start < range.end).min_by_key(|k| k.start);
            let Some(kept) = next else { break };
            e820(at..kept.start.max(at), 1);
            e820(kept.start.max(at)..kept.end.min(range.end), 2);
            at = kept.end;
        }
        e820(at..range.end, 1);
    }
    put(0x1e8, &[entries]);

    let mut cmdline = [0u8; PAGE];
    let loader = h.boot.cmdline();
    let space = !loader.is_empty() as usize;
    let total = loader.len() + space + h.additions.len();
    if total >= PAGE || total as u32 > view.info.cmdline_size {
        return Err(TooLong);
    }
    cmdline[..loader.len()].copy_from_slice(loader);
    cmdline[loader.len()..loader.len() + space].fill(b' ');
    cmdline[loader.len() + space..total].copy_from_slice(h.additions.as_bytes());

    let mut gdt = [0u8; PAGE];
    gdt[16..24].copy_from_slice(&0x00af_9b00_0000_ffffu64.to_le_bytes()); // __BOOT_CS
    gdt[24..32].copy_from_slice(&0x00cf_9300_0000_ffffu64.to_le_bytes()); // __BOOT_DS
    let mut pml4 = [0u8; PAGE];
    pml4[..8].copy_from_slice(&(page(PDPT) | 0x63).to_le_bytes());
    let mut pdpt = [0u8; PAGE];
    for (i, entry) in pdpt.chunks_exact_mut(8).enumerate() {
        entry.copy_from_slice(&((i as u64) << 30 | 0xe3).to_le_bytes());
    }
    let mut rsdp_page = [0u8; PAGE];
    rsdp_page[..36].copy_from_slice(&h.boot.rsdp);
    // SAFETY: the caller's.
    unsafe {
        physical::write(page(0), &params);
        physical::write(page(CMDLINE), &cmdline);
        physical::write(page(GDT), &gdt);
        physical::write(page(PML4), &pml4);
        physical::write(page(PDPT), &pdpt);
        physical::write(page(RSDP_PAGE), &rsdp_page);
    }
    Ok(())
}

/// The command line does not fit.
pub struct TooLong;

/// Sets the registers of the 64-bit boot protocol; RSI is the caller's.
pub fn initial_state(vmcb: &mut Vmcb, low: &LowMemory, entry: u64) {
    let page = |n: u64| low.base + n * PAGE as u64;
    let code = Segment { selector: 0x10, attrib: 0xa9b, limit: u32::MAX, base: 0 };
    let data = Segment { selector: 0x18, attrib: 0xc93, limit: u32::MAX, base: 0 };
    let save = &mut vmcb.save;
    save.cs = code;
    (save.ss, save.ds, save.es, save.fs, save.gs) = (data, data, data, data, data);
    save.gdtr = Segment { limit: 31, base: page(GDT), ..Segment::default() };
    save.idtr = Segment::default();
    save.ldtr = Segment { attrib: 0x82, ..Segment::default() };
    save.tr = Segment { attrib: 0x8b, limit: 0xffff, ..Segment::default() };
    save.efer = reg::EFER_LME | reg::EFER_LMA | reg::EFER_SVME;
    save.cr0 = reg::CR0_PE | reg::CR0_MP | reg::CR0_ET | reg::CR0_NE | reg::CR0_WP | reg::CR0_PG;
    save.cr4 = reg::CR4_PAE;
    save.cr3 = page(PML4);
    save.rflags = reg::RFLAGS_ONE;
    save.rip = entry;
    save.rsp = page(PML4); // unused until the kernel sets its own
    save.dr6 = 0xffff_0ff0;
    save.dr7 = 0x400;
    save.g_pat = 0x0007_0406_0007_0406;
}
