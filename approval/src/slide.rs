//! The kernel somewhere else: its approval as if it had been linked there
//!
//! A loader adds the distance to every field that Linux's relocation table lists (`handle_relocations()` in
//! `arch/x86/boot/compressed/misc.c`). Here the approval itself is moved so, once, before anything is decided by it: the
//! fields in code and data, the addresses of regions and of expressions. Who reads it afterwards cannot tell that the
//! kernel was linked elsewhere, and every field holds exactly what it would then.
use core::ops::Range;

use crate::PAGE;
use crate::open::Opened;
use crate::view::Table;
use crate::wire::*;

impl Opened<'_> {
    /// How far up the kernel may be moved, a multiple of its alignment; 0 if it has to stay.
    pub fn room(&mut self) -> u64 {
        let (launch, view) = self.look();
        let info = &view.info;
        let room = info.modules_start.saturating_sub(info.image_va + info.image_span);
        if launch.relocs.is_empty() { 0 } else { room & !(info.align - 1) }
    }

    /// Moves the kernel up, by a multiple of its alignment that is not above [`Self::room`].
    pub fn slide(&mut self, by: u64) {
        assert!(by <= self.room(), "no room to move the kernel by {by:#x}");
        assert!(by.is_multiple_of(self.look().1.info.align), "{by:#x} is no multiple of the kernel's alignment");
        if by == 0 {
            return;
        }
        self.slide_fields(by);
        self.each(Section::Regions, |r: &mut Region| {
            if r.module == NONE {
                r.base += by;
            }
        });
        self.each(Section::Exprs, |e: &mut Expr| {
            if e.var == KERNEL {
                e.value = e.value.wrapping_add(by);
            }
        });
        self.each(Section::Info, |i: &mut Info| {
            for address in [&mut i.image_va, &mut i.fentry, &mut i.ftrace_caller, &mut i.ftrace_regs_caller] {
                *address = address.wrapping_add(by);
            }
            // Offsets stay.
            if i.percpu_start != 0 {
                i.percpu_start = i.percpu_start.wrapping_add(by);
            }
        });
    }

    fn slide_fields(&mut self, by: u64) {
        let image_va = self.look().1.info.image_va;
        let (data, pages) = (self.range(Section::Data), self.range(Section::Code));
        let (runs, relocs, regions) =
            (self.range(Section::Runs), self.range(Section::Relocs), self.range(Section::Regions));
        // Data lies between the runs and everything else, pages lie at the end.
        let (front, rest) = self.file.split_at_mut(data.start);
        let (data_bytes, rest) = rest.split_at_mut(data.len());
        let (middle, page_bytes) = rest.split_at_mut(pages.start - data.end);
        let middle = |r: Range<usize>| &middle[r.start - data.end..r.end - data.end];
        let table = "sections are multiples of their records";
        let mut keeper =
            Keeper::new(Table::new(&front[runs]).expect(table), Table::new(middle(regions)).expect(table), image_va);
        for reloc in Table::<Reloc>::new(middle(relocs)).expect(table).iter() {
            let field = match keeper.find(&reloc).expect("a relocation lies in what is kept of the image") {
                Kept::Data(at) => &mut data_bytes[at..],
                Kept::Code(at) => &mut page_bytes[at..],
            };
            match reloc.kind().expect("kinds are known") {
                RelocKind::Abs32 => add32(field, by as u32),
                RelocKind::Inverse32 => add32(field, (by as u32).wrapping_neg()),
                RelocKind::Abs64 => add64(field, by),
            }
        }
    }

    /// Changes every record of a section.
    fn each<T: Record>(&mut self, section: Section, change: impl Fn(&mut T)) {
        let range = self.range(section);
        for bytes in self.file[range].chunks_exact_mut(T::SIZE) {
            let mut record = T::read(bytes);
            change(&mut record);
            record.store(bytes);
        }
    }
}

fn add32(field: &mut [u8], by: u32) {
    let (field, _) = field.split_first_chunk_mut().expect("the field was found whole");
    *field = u32::from_le_bytes(*field).wrapping_add(by).to_le_bytes();
}

fn add64(field: &mut [u8], by: u64) {
    let (field, _) = field.split_first_chunk_mut().expect("the field was found whole");
    *field = u64::from_le_bytes(*field).wrapping_add(by).to_le_bytes();
}

/// Where bytes of the image are in the approval, by their offset in the section.
#[derive(Clone, Copy)]
pub(crate) enum Kept {
    /// In [`Section::Data`].
    Data(usize),
    /// In [`Section::Code`].
    Code(usize),
}

/// Finds what is kept of the image.
pub(crate) struct Keeper<'a> {
    runs: Table<'a, Run>,
    regions: Table<'a, Region>,
    image_va: u64,
    /// Where the last field was found: the next one lies most often beside it.
    last: (Range<u64>, Kept),
}

impl<'a> Keeper<'a> {
    pub(crate) fn new(runs: Table<'a, Run>, regions: Table<'a, Region>, image_va: u64) -> Self {
        Self { runs, regions, image_va, last: (0..0, Kept::Data(0)) }
    }

    /// Where a field is kept, as a whole.
    pub(crate) fn find(&mut self, reloc: &Reloc) -> Option<Kept> {
        let (start, end) = (reloc.offset(), reloc.end()?);
        let holds = |range: &Range<u64>| range.start <= start && end <= range.end;
        if !holds(&self.last.0) {
            let code = self.regions.iter().take_while(|r| r.module == NONE).map(|r| {
                let at = r.base - self.image_va;
                (at..at + r.pages as u64 * PAGE as u64, Kept::Code(r.first_page as usize * PAGE))
            });
            let data =
                self.runs.iter().map(|r| (r.image_offset..r.image_offset + r.len, Kept::Data(r.data_offset as usize)));
            self.last = code.chain(data).find(|(range, _)| holds(range))?;
        }
        let (range, kept) = &self.last;
        let further = (start - range.start) as usize;
        Some(match *kept {
            Kept::Data(at) => Kept::Data(at + further),
            Kept::Code(at) => Kept::Code(at + further),
        })
    }
}
