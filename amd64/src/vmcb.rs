//! The virtual machine control block: APM 2, appendix B
use core::mem::{offset_of, size_of};

/// A segment register in the state save area (APM 2, table B-2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 40-47 in bits 0-7, 52-55 in bits 8-11.
    pub attrib: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The control area (APM 2, table B-1).
#[repr(C)]
pub struct Control {
    /// 000h: reads of CR0-CR15, then writes.
    pub intercept_cr: u32,
    /// 004h: reads of DR0-DR15, then writes.
    pub intercept_dr: u32,
    /// 008h: exception vectors 0-31.
    pub intercept_exceptions: u32,
    /// 00Ch: see [`crate::intercept`].
    pub intercept_misc1: u32,
    /// 010h: see [`crate::intercept`].
    pub intercept_misc2: u32,
    /// 014h: see [`crate::intercept`].
    pub intercept_misc3: u32,
    reserved_018: [u8; 0x28],
    /// 040h: physical address of the I/O permissions map.
    pub iopm_base: u64,
    /// 048h: physical address of the MSR permissions map.
    pub msrpm_base: u64,
    /// 050h: added to RDTSC and RDTSCP in the guest.
    pub tsc_offset: u64,
    /// 058h: address space identifier of the guest; 0 is the host's.
    pub asid: u32,
    /// 05Ch: see [`TLB_FLUSH_ALL`].
    pub tlb_control: u32,
    /// 060h: virtual interrupt control; 0 lets the guest's IF mask physical interrupts.
    pub virtual_interrupt: u64,
    /// 068h: bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// 070h: why the guest exited.
    pub exit_code: u64,
    /// 078h: depends on the code.
    pub exit_info1: u64,
    /// 080h: depends on the code.
    pub exit_info2: u64,
    /// 088h: the event whose delivery was interrupted by the exit.
    pub exit_int_info: u64,
    /// 090h: bit 0: nested paging.
    pub nested_control: u64,
    reserved_098: [u8; 0x10],
    /// 0A8h: event to deliver at VMRUN.
    pub event_injection: u64,
    /// 0B0h: root of the nested page table.
    pub nested_cr3: u64,
    /// 0B8h: LBR virtualization.
    pub lbr_control: u64,
    /// 0C0h: what the processor may keep from the last VMRUN (APM 2, 15.15).
    pub clean: u64,
    /// 0C8h: next sequential instruction, where the processor has NRIPS.
    pub next_rip: u64,
    reserved_0d0: [u8; 0x330],
}

/// The state save area (APM 2, table B-2).
#[repr(C)]
pub struct Save {
    /// 000h.
    pub es: Segment,
    /// 010h.
    pub cs: Segment,
    /// 020h.
    pub ss: Segment,
    /// 030h.
    pub ds: Segment,
    /// 040h.
    pub fs: Segment,
    /// 050h.
    pub gs: Segment,
    /// 060h.
    pub gdtr: Segment,
    /// 070h.
    pub ldtr: Segment,
    /// 080h.
    pub idtr: Segment,
    /// 090h.
    pub tr: Segment,
    reserved_0a0: [u8; 0x2b],
    /// 0CBh: current privilege level.
    pub cpl: u8,
    reserved_0cc: [u8; 4],
    /// 0D0h.
    pub efer: u64,
    reserved_0d8: [u8; 0x70],
    /// 148h.
    pub cr4: u64,
    /// 150h.
    pub cr3: u64,
    /// 158h.
    pub cr0: u64,
    /// 160h.
    pub dr7: u64,
    /// 168h.
    pub dr6: u64,
    /// 170h.
    pub rflags: u64,
    /// 178h.
    pub rip: u64,
    reserved_180: [u8; 0x58],
    /// 1D8h.
    pub rsp: u64,
    reserved_1e0: [u8; 0x18],
    /// 1F8h.
    pub rax: u64,
    /// 200h: VMLOAD/VMSAVE state from here to `sysenter_eip`, with FS, GS, LDTR and TR.
    pub star: u64,
    /// 208h.
    pub lstar: u64,
    /// 210h.
    pub cstar: u64,
    /// 218h.
    pub sfmask: u64,
    /// 220h.
    pub kernel_gs_base: u64,
    /// 228h.
    pub sysenter_cs: u64,
    /// 230h.
    pub sysenter_esp: u64,
    /// 238h.
    pub sysenter_eip: u64,
    /// 240h.
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// 268h: the guest's PAT under nested paging (APM 2, 15.25.2).
    pub g_pat: u64,
    /// 270h.
    pub debug_control: u64,
    reserved_278: [u8; 0x988],
}

/// The whole block: one page.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Control area.
    pub control: Control,
    /// State save area.
    pub save: Save,
}

/// TLB_CONTROL: flush every entry of every ASID (APM 2, 15.16.2).
pub const TLB_FLUSH_ALL: u32 = 1;

macro_rules! at {
    ($type:ident { $($field:ident: $offset:literal),* $(,)? }) => {
        $(const _: () = assert!(offset_of!($type, $field) == $offset);)*
    };
}
at!(Control {
    intercept_cr: 0x000,
    intercept_dr: 0x004,
    intercept_exceptions: 0x008,
    intercept_misc1: 0x00c,
    intercept_misc2: 0x010,
    intercept_misc3: 0x014,
    iopm_base: 0x040,
    msrpm_base: 0x048,
    tsc_offset: 0x050,
    asid: 0x058,
    tlb_control: 0x05c,
    virtual_interrupt: 0x060,
    interrupt_shadow: 0x068,
    exit_code: 0x070,
    exit_info1: 0x078,
    exit_info2: 0x080,
    exit_int_info: 0x088,
    nested_control: 0x090,
    event_injection: 0x0a8,
    nested_cr3: 0x0b0,
    lbr_control: 0x0b8,
    clean: 0x0c0,
    next_rip: 0x0c8,
});
at!(Save {
    es: 0x000,
    cs: 0x010,
    ss: 0x020,
    ds: 0x030,
    fs: 0x040,
    gs: 0x050,
    gdtr: 0x060,
    ldtr: 0x070,
    idtr: 0x080,
    tr: 0x090,
    cpl: 0x0cb,
    efer: 0x0d0,
    cr4: 0x148,
    cr3: 0x150,
    cr0: 0x158,
    dr7: 0x160,
    dr6: 0x168,
    rflags: 0x170,
    rip: 0x178,
    rsp: 0x1d8,
    rax: 0x1f8,
    star: 0x200,
    lstar: 0x208,
    cstar: 0x210,
    sfmask: 0x218,
    kernel_gs_base: 0x220,
    sysenter_cs: 0x228,
    sysenter_esp: 0x230,
    sysenter_eip: 0x238,
    cr2: 0x240,
    g_pat: 0x268,
    debug_control: 0x270,
});
const _: () = assert!(size_of::<Segment>() == 0x10);
const _: () = assert!(offset_of!(Vmcb, save) == 0x400);
const _: () = assert!(size_of::<Vmcb>() == 0x1000);
