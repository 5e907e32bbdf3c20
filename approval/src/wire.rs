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
    /// A byte range of a page that may differ from the reference bytes.
    Site {
        /// Offset in the page (12 bits), [`SiteKind`] (4 bits), index (16 bits).
        head: u32,
        /// Low half of the argument, see [`Site::arg`].
        low: i16,
    }
}

/// How a site may differ. `index` and `arg` are those of the [`Site`]; an expression index counts
/// from the module's first expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SiteKind {
    /// 4 bytes, sign-extended: expression `index` + `arg`.
    Abs32,
    /// 4 bytes: expression `index` + `arg` - address of the field.
    Rel32,
    /// 8 bytes: expression `index` + `arg`.
    Abs64,
    /// One of template `index`.
    Choice,
    /// Jump label of 2 bytes: `66 90` or `eb arg`.
    Jump2,
    /// Jump label of 5 bytes: `0f 1f 44 00 00` or `e9 arg`.
    Jump5,
    /// `call __fentry__` at link time, then a NOP or a call of `ftrace_caller`, `ftrace_regs_caller` or a
    /// [`RegionKind::Tracer`] that is approved.
    Ftrace,
    /// Static call, 5 bytes: at link time `e8` to expression `index` + `arg`; then `e8` to any function, NOP5,
    /// `2e 2e 2e 31 c0`, or one of the further forms of the kernel's own (`Info::call_forms`).
    StaticCall,
    /// Static tail call, 5 bytes: at link time `e9` to expression `index` + `arg`; then `e9` to any function or a
    /// return.
    StaticJump,
    /// Static-call trampoline, 8 bytes: as [`Self::StaticJump`], then always `0f b9 cc`.
    Trampoline,
    /// Run-time constant `index`: the link-time value, then the value of that constant.
    Const,
    /// The instruction inside the kernel's own ftrace code that calls the tracer: `e8` to any function, or a NOP.
    FtraceCall,
    /// 2 bytes, a real-mode segment: (expression `index` + `arg`) / 16.
    Segment,
}

impl SiteKind {
    /// Decodes a stored kind.
    #[inline]
    pub fn new(raw: u8) -> Option<Self> {
        use SiteKind::*;
        const ALL: [SiteKind; 13] = [
            Abs32, Rel32, Abs64, Choice, Jump2, Jump5, Ftrace, StaticCall, StaticJump, Trampoline, Const, FtraceCall,
            Segment,
        ];
        ALL.get(raw as usize).copied()
    }
}

impl SiteKind {
    /// Length in bytes; 0 where that is its template's or its constant's.
    #[inline]
    pub fn width(self) -> usize {
        match self {
            Self::Choice | Self::Const => 0,
            Self::Jump2 | Self::Segment => 2,
            Self::Abs32 | Self::Rel32 => 4,
            Self::Jump5 | Self::Ftrace | Self::StaticCall | Self::StaticJump | Self::FtraceCall => 5,
            Self::Abs64 | Self::Trampoline => 8,
        }
    }
    /// Whether `index` is that of an expression.
    #[inline]
    pub fn has_expr(self) -> bool {
        use SiteKind::*;
        matches!(self, Abs32 | Rel32 | Abs64 | StaticCall | StaticJump | Trampoline | Segment)
    }
}

impl Site {
    /// Packs a site. The argument has 16 bits; that of a [`SiteKind::Jump5`], which has no index, 32.
    pub fn new(offset: u16, kind: SiteKind, index: u16, arg: i32) -> Self {
        let low = arg as i16;
        let index = if kind == SiteKind::Jump5 { (arg >> 16) as u16 } else { index };
        let site = Self { head: offset as u32 | (kind as u32) << 12 | (index as u32) << 16, low };
        assert!(offset < 4096 && site.arg() == arg, "a site that cannot be stored: {kind:?} at {offset:#x}, {arg}");
        site
    }
    /// Offset of the first byte in its page.
    #[inline]
    pub fn offset(&self) -> usize {
        (self.head & 0xfff) as usize
    }
    /// How the site may differ; `None` is an unknown kind.
    #[inline]
    pub fn kind(&self) -> Option<SiteKind> {
        SiteKind::new((self.head >> 12 & 0xf) as u8)
    }
    /// The site's index field.
    #[inline]
    pub fn index(&self) -> u16 {
        (self.head >> 16) as u16
    }
    /// The site's argument.
    #[inline]
    pub fn arg(&self) -> i32 {
        match self.kind() {
            Some(SiteKind::Jump5) => (self.index() as i32) << 16 | self.low as u16 as i32,
            _ => self.low as i32,
        }
    }
}

record! {
    /// What a [`SiteKind::Choice`] site may hold.
    Template {
        /// Index of the first variant. The first is the link-time form.
        first_variant: u32,
        /// Number of variants.
        variants: u16,
        /// Length of the site in bytes, at most [`MAX_SITE`].
        len: u16,
    }
}

/// Most variants of a template.
pub const MAX_VARIANTS: usize = 16;

/// Longest site in bytes.
pub const MAX_SITE: usize = 64;

record! {
    /// One value of a site. The last variant of a template whose condition holds is the right one.
    Variant {
        /// A condition, see [`cond`].
        cond: u16,
        /// Number of fixes.
        fixes: u16,
        /// Index of the first fix.
        first_fix: u32,
        /// Offset of the bytes in [`Section::Bytes`].
        bytes: u32,
    }
}

/// Conditions. A number below [`cond::SPECIAL`] is a Linux CPU feature (word * 32 + bit); with [`cond::NOT`]
/// the variant is selected when the feature is absent.
pub mod cond {
    /// Negates the condition.
    pub const NOT: u16 = 0x8000;
    /// First of the conditions that are not CPU features.
    pub const SPECIAL: u16 = 0x1000;
    /// Always holds: the form a site has when nothing else applies, once Linux has patched itself.
    pub const BASE: u16 = SPECIAL;
    /// Indirect branches are plain (retpolines off).
    pub const INDIRECT_PLAIN: u16 = SPECIAL + 1;
    /// Indirect branches use LFENCE.
    pub const INDIRECT_LFENCE: u16 = SPECIAL + 2;
    /// Returns are plain (no return thunk).
    pub const RETURN_PLAIN: u16 = SPECIAL + 3;
    /// Returns go through `retbleed_return_thunk`.
    pub const RETURN_RETBLEED: u16 = SPECIAL + 4;
    /// Returns go through `srso_return_thunk`.
    pub const RETURN_SRSO: u16 = SPECIAL + 5;
    /// Returns go through `srso_alias_return_thunk`.
    pub const RETURN_SRSO_ALIAS: u16 = SPECIAL + 6;
    /// Returns go through `its_return_thunk` where the address asks for it.
    pub const RETURN_ITS: u16 = SPECIAL + 7;
    /// One CPU: LOCK prefixes are replaced.
    pub const UNIPROCESSOR: u16 = SPECIAL + 8;
    /// Never holds after boot: a form that is seen only while Linux patches itself at boot, link-time forms included.
    pub const BOOT_ONLY: u16 = SPECIAL + 9;
    /// One behind the last condition.
    pub const END: u16 = SPECIAL + 10;
}

/// What a fix writes into a variant's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FixKind {
    /// 4 bytes: global expression + addend - address of the next byte behind the field.
    ExprRel32,
    /// 4 bytes, sign-extended: global expression + addend.
    ExprAbs32,
}

impl FixKind {
    /// Decodes a stored kind.
    pub fn new(raw: u8) -> Option<Self> {
        [Self::ExprRel32, Self::ExprAbs32].get(raw as usize).copied()
    }
}

record! {
    /// A field of a variant that depends on where the site is.
    Fix {
        /// Position in the variant.
        pos: u8,
        /// A [`FixKind`].
        kind: u8,
        /// Zero.
        reserved: u16,
        /// Index of an expression, counted from the first of all.
        expr: u32,
        /// Added to the expression.
        addend: i32,
    }
}

/// Which values a run-time constant may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ConstClass {
    /// 8 bytes, a canonical kernel-half address.
    Pointer,
    /// 1 byte, a shift count below 64.
    Shift,
    /// 8 bytes, `USER_PTR_MAX`: 0x00007ffffffff000 or 0x00fffffffffff000.
    UserPtrMax,
    /// 4 bytes, a power of two minus one.
    Mask,
}

impl ConstClass {
    /// Decodes a stored class.
    pub fn new(raw: u32) -> Option<Self> {
        [Self::Pointer, Self::Shift, Self::UserPtrMax, Self::Mask].get(raw as usize).copied()
    }
    /// Length of the field in bytes.
    pub fn width(self) -> usize {
        match self {
            Self::Pointer | Self::UserPtrMax => 8,
            Self::Shift => 1,
            Self::Mask => 4,
        }
    }
}

record! {
    /// A constant Linux writes into its text at boot (`asm/runtime-const.h`).
    Const {
        /// A [`ConstClass`].
        class: u32,
        /// Name, an offset in [`Section::Names`].
        name: u32,
        /// Value at link time.
        link: u64,
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
