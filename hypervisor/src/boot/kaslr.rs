//! KASLR: where the kernel lies is drawn anew at every boot
//!
//! As Linux's decompressor does, which does not run: a physical and a virtual place, chosen independently, and the kernel
//! told so, which then draws places for its other regions and for modules itself. What is drawn appears in no line.
use core::ops::Range;

use secvisor_approval::wire::Info;
use secvisor_rules::place::Wanted;

use crate::cpu::entropy;
use crate::report;

/// Where the kernel goes.
pub struct Place {
    /// Physical address of its first byte.
    pub physical: u64,
    /// How far above its link address it is mapped.
    pub slide: u64,
    /// Whether this was drawn: Linux then draws the rest.
    pub drawn: bool,
}

/// Draws a place, unless somebody wants otherwise or there is nothing to draw from; none if there is no free one. `room` is
/// how far up the kernel can be moved, `taken` what is not free of the RAM.
pub fn place(info: &Info, room: u64, cmdline: &[u8], ram: &[Range<u64>], taken: &[Range<u64>]) -> Option<Place> {
    let wanted = Wanted { ram, taken, from: info.image_phys, len: info.image_span, align: info.align };
    let linked = info.image_phys..info.image_phys + info.image_span;
    let linked = || wanted.is_free(&linked).then_some(linked.start);
    let off = |why| {
        report!("KASLR: off, {why}");
        Some(Place { physical: linked()?, slide: 0, drawn: false })
    };
    let mut words = cmdline.split(|b| *b <= b' ');
    if words.clone().any(|w| w == b"nokaslr") {
        return off("as the command line asks");
    }
    if room == 0 {
        return off("the approval does not say how to move the kernel");
    }
    let (Some(first), Some(second)) = (entropy::draw(), entropy::draw()) else {
        return off("the processor has no random numbers");
    };
    let slide = first % (room / info.align + 1) * info.align;
    // Memory that the command line takes away from Linux is no place for Linux.
    let limited = words.any(|w| w.starts_with(b"mem=") || w.starts_with(b"memmap="));
    let physical = if limited { linked() } else { wanted.choose(second) }?;
    report!("KASLR: on{}", if limited { " for virtual addresses only: the command line limits memory" } else { "" });
    Some(Place { physical, slide, drawn: true })
}
