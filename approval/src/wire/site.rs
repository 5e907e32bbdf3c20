//! Patch sites, and what each may hold
use super::Record;

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
