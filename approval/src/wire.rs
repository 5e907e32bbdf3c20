//! Layout: header, sections and fixed-size records, all little-endian
//!
//! The file is a header, then sections. Sections before the header's runtime offset are needed only to
//! start the kernel; from there on (page-aligned) the hypervisor keeps them, and the last section, the
//! code, is updated in place with the bytes last verified.

/// First eight bytes of every approval.
pub const MAGIC: [u8; 8] = *b"SECVISOR";
/// First bytes of one that is compressed (RFC 1952, 2.3.1).
pub const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Version of this layout. A reader refuses every other.
pub const VERSION: u32 = 7;
/// Size of the header in bytes; the reserved signature area is part of it.
pub const HEADER_LEN: usize = 1024;
/// Offset of the runtime offset in the header.
pub const RUNTIME_OFFSET: usize = 24;
/// Offset of the checksum in the header; read as zero when the checksum is computed.
pub const CHECKSUM_OFFSET: usize = 32;
/// Offset of the section table in the header.
pub const SECTIONS_OFFSET: usize = 64;
/// Offset of the area reserved for a signature (zero in this version).
pub const SIGNATURE_OFFSET: usize = 512;

/// Index of a section in the header's section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Section {
    /// [`Run`] records: parts of the kernel image that are not code.
    Runs,
    /// The bytes the runs refer to.
    Data,
    /// [`Reloc`] records, sorted by offset: what moves with the image. Empty if it cannot be moved.
    Relocs,
    /// One [`Info`] record.
    Info,
    /// [`Region`] records; those of the kernel first.
    Regions,
    /// [`Module`] records: that of the AP trampoline, those of tracers, then those of modules, sorted by name.
    Modules,
    /// [`Var`] records.
    Vars,
    /// [`Expr`] records.
    Exprs,
    /// [`Page`] records, one more than there are pages.
    Pages,
    /// [`Site`] records, sorted by page and offset.
    Sites,
    /// [`Template`] records.
    Templates,
    /// [`Variant`] records.
    Variants,
    /// [`Fix`] records.
    Fixes,
    /// Bytes of the variants.
    Bytes,
    /// [`Const`] records.
    Consts,
    /// [`Symbol`] records, sorted within each region.
    Symbols,
    /// NUL-terminated UTF-8 strings.
    Names,
    /// LZ4 blocks: what never changes in the pages that are packed.
    Packed,
    /// The other pages' reference bytes, and of those that are packed what their sites cover; always the last section,
    /// page-aligned.
    Code,
}

/// Number of sections.
pub const SECTIONS: usize = 19;

/// A record of fixed size.
pub trait Record: Sized + Copy + 'static {
    /// Size in bytes.
    const SIZE: usize;
    /// Decodes a record from exactly [`Self::SIZE`] bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Encodes the record into exactly [`Self::SIZE`] bytes.
    fn store(&self, bytes: &mut [u8]);
}

/// Declares a record whose fields are little-endian integers without padding.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        impl Record for $name {
            const SIZE: usize = 0 $(+ size_of::<$ty>())*;
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let mut at = 0;
                $(
                    let mut raw = [0u8; size_of::<$ty>()];
                    raw.copy_from_slice(&bytes[at..at + size_of::<$ty>()]);
                    let $field = <$ty>::from_le_bytes(raw);
                    at += size_of::<$ty>();
                )*
                let _ = at;
                Self { $($field,)* }
            }
            #[inline]
            fn store(&self, bytes: &mut [u8]) {
                let mut at = 0;
                $(
                    bytes[at..at + size_of::<$ty>()].copy_from_slice(&self.$field.to_le_bytes());
                    at += size_of::<$ty>();
                )*
                let _ = at;
            }
        }
    };
}

mod site;
pub use site::*;

record! {
    /// A part of the kernel image that is not code.
    Run {
        /// Offset from the image's first byte.
        image_offset: u64,
        /// Length in bytes.
        len: u64,
        /// Offset in [`Section::Data`].
        data_offset: u64,
    }
}

record! {
    /// A field of the kernel image that depends on where it lies.
    Reloc {
        /// Offset from the image's first byte (30 bits), [`RelocKind`] (2 bits).
        head: u32,
    }
}

/// What a [`Reloc`]'s field holds, and so what becomes of it when the image lies higher by some distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RelocKind {
    /// 4 bytes, the low half of an address in the image: the distance is added.
    Abs32,
    /// 4 bytes, how far it is from here to something that does not move: the distance is subtracted.
    Inverse32,
    /// 8 bytes, an address in the image: the distance is added.
    Abs64,
}

impl RelocKind {
    /// Decodes a stored kind.
    pub fn new(raw: u8) -> Option<Self> {
        [Self::Abs32, Self::Inverse32, Self::Abs64].get(raw as usize).copied()
    }
    /// Length of the field in bytes.
    pub fn width(self) -> usize {
        if self == Self::Abs64 { 8 } else { 4 }
    }
}

impl Reloc {
    /// Offsets are below this.
    pub const LIMIT: u32 = 1 << 30;

    /// Packs a relocation.
    pub fn new(offset: u32, kind: RelocKind) -> Self {
        assert!(offset < Self::LIMIT);
        Self { head: offset | (kind as u32) << 30 }
    }
    /// Offset of the field's first byte in the image.
    #[inline]
    pub fn offset(&self) -> u64 {
        (self.head & (Self::LIMIT - 1)) as u64
    }
    /// Offset of the first byte behind the field; `None` if its kind is unknown.
    #[inline]
    pub fn end(&self) -> Option<u64> {
        Some(self.offset() + self.kind()?.width() as u64)
    }
    /// What the field holds; `None` is an unknown kind.
    #[inline]
    pub fn kind(&self) -> Option<RelocKind> {
        RelocKind::new((self.head >> 30) as u8)
    }
}

record! {
    /// Facts about the kernel.
    Info {
        /// Virtual address of the image's first byte (`_text`): that it was linked for, in the file.
        image_va: u64,
        /// Physical address the image prefers (`pref_address`), a multiple of `align`.
        image_phys: u64,
        /// Bytes of physical memory the image needs from there, bss and brk included (`init_size`).
        image_span: u64,
        /// Offset of the 64-bit entry point from the image's first byte.
        entry_offset: u64,
        /// Physical alignment (`kernel_alignment`).
        align: u64,
        /// First address modules may be placed at (`MODULES_VADDR`).
        modules_start: u64,
        /// First address behind the modules' range (`MODULES_END`).
        modules_end: u64,
        /// `__fentry__`.
        fentry: u64,
        /// `ftrace_caller`.
        ftrace_caller: u64,
        /// `ftrace_regs_caller`.
        ftrace_regs_caller: u64,
        /// Where per-CPU variables begin (`__per_cpu_start`): in the image, or at 0 where they have offsets for addresses.
        percpu_start: u64,
        /// Kernel release, an offset in [`Section::Names`].
        release: u32,
        /// What the approval adds to the kernel's command line, an offset in [`Section::Names`].
        cmdline: u32,
        /// Boot protocol version (`hdr.version`).
        boot_version: u32,
        /// Longest command line in bytes (`cmdline_size`).
        cmdline_size: u32,
        /// Index of a template of [`CALL_LEN`] bytes: what else a static call may become, or [`NONE`].
        call_forms: u32,
    }
}

/// `module` of a region that belongs to the kernel itself; also "no variable" in an [`Expr`].
pub const NONE: u32 = u32::MAX;

/// Instead of a variable in an [`Expr`]: an address in the kernel's image, which moves with it.
pub const KERNEL: u32 = u32::MAX - 1;

/// Length of a call instruction, and of what Linux puts in its place.
pub const CALL_LEN: usize = 5;

/// What a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RegionKind {
    /// Kernel text; lives until power-off.
    KernelText,
    /// Kernel init text; freed at the end of boot.
    KernelInit,
    /// A module's text.
    ModuleText,
    /// A module's init text; freed after the module's init function.
    ModuleInit,
    /// The function tracer's entry code, copied for one `ftrace_ops`; freed when nothing is traced with it.
    Tracer,
}

impl RegionKind {
    /// Decodes a stored kind.
    pub fn new(raw: u32) -> Option<Self> {
        [Self::KernelText, Self::KernelInit, Self::ModuleText, Self::ModuleInit, Self::Tracer]
            .get(raw as usize)
            .copied()
    }
}

record! {
    /// A run of code pages that is placed as a whole.
    Region {
        /// Index of the module, or [`NONE`] for the kernel.
        module: u32,
        /// A [`RegionKind`].
        kind: u32,
        /// Index of the first page.
        first_page: u32,
        /// Number of pages.
        pages: u32,
        /// Index of the first symbol.
        first_symbol: u32,
        /// Number of symbols.
        symbols: u32,
        /// Kernel: link-time virtual address. Module: index of the variable that holds its address.
        base: u64,
    }
}

record! {
    /// A module.
    Module {
        /// Name as Linux prints it (`-` replaced by `_`), an offset in [`Section::Names`].
        name: u32,
        /// Index of the module's first variable.
        first_var: u32,
        /// Number of variables.
        vars: u32,
        /// Index of the module's first expression; sites count from here.
        first_expr: u32,
        /// Index of the first region.
        first_region: u32,
        /// Number of regions (1 or 2).
        regions: u32,
    }
}

/// What a variable stands for, and so which values it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VarClass {
    /// Base of a code region: page-aligned, in the modules' range.
    Code,
    /// Base of a module's data region: page-aligned, in the modules' range.
    Data,
    /// The module's per-CPU chunk: an offset from the per-CPU base, below 2 GiB.
    PerCpu,
    /// Base of the AP trampoline's text, virtual and physical: page-aligned, not 0, its end not above [`LOW_END`].
    Low,
}

/// End of the memory that a CPU in real mode can start in.
pub const LOW_END: u64 = 1 << 20;

impl VarClass {
    /// Decodes a stored class.
    pub fn new(raw: u32) -> Option<Self> {
        [Self::Code, Self::Data, Self::PerCpu, Self::Low].get(raw as usize).copied()
    }
}

record! {
    /// An address that is chosen when a module is loaded.
    Var {
        /// The module whose instance binds it.
        module: u32,
        /// A [`VarClass`].
        class: u32,
    }
}

record! {
    /// An address: `value`, plus that of a variable if there is one.
    Expr {
        /// Index of a variable, [`NONE`], or [`KERNEL`].
        var: u32,
        /// Constant part; wraps.
        value: u64,
    }
}

record! {
    /// A page. What is its own ends where that of the next begins, so there is one more of these than of pages.
    Page {
        /// Index of the first site that starts in the page.
        first_site: u32,
        /// Offset of what is its own in [`Section::Code`]: all of its bytes, or if it is packed what its sites cover.
        at: u32,
        /// Offset of its block in [`Section::Packed`]; empty if it is not packed, as a kernel's never are.
        packed: u32,
        /// [`PROBES`] bytes of it that never change.
        probes: u32,
        /// Where in the page each of these is (16 bits), or [`NO_PROBE`].
        probes_at: u64,
    }
}

/// Number of a page's probes.
pub const PROBES: usize = 4;

/// Instead of the place of a probe: there is none.
pub const NO_PROBE: u16 = u16::MAX;

impl Page {
    /// The bytes to tell the page by, and where they are.
    #[inline]
    pub fn probes(&self) -> impl Iterator<Item = (usize, u8)> + use<> {
        let (bytes, at) = (self.probes.to_le_bytes(), self.probes_at);
        (0..PROBES).map(move |i| ((at >> (16 * i)) as u16 as usize, bytes[i]))
    }
}

record! {
    /// A symbol of a region.
    Symbol {
        /// Offset in the region.
        offset: u32,
        /// Name, an offset in [`Section::Names`], and [`Symbol::FUNCTION`] and [`Symbol::COLD`].
        name: u32,
    }
}

impl Symbol {
    /// Bit of `name` that marks a function that may be called.
    pub const FUNCTION: u32 = 1 << 31;
    /// Bit of `name` that stands for [`Self::COLD_END`] behind it: every tenth symbol ends so, and has a namesake.
    pub const COLD: u32 = 1 << 30;
    /// What GCC calls the part of a function that it takes for rarely executed.
    pub const COLD_END: &str = ".cold";
    /// Whether a static call may target it.
    pub fn is_function(&self) -> bool {
        self.name & Self::FUNCTION != 0
    }
}
