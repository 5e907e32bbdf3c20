//! What a static call becomes when its function is one that a single instruction does as well
//!
//! `arch/x86/kernel/static_call.c` holds each as an array of its own, so an image says which it knows.
use anyhow::{Result, bail};
use secvisor_approval::build::{Builder, TemplateDef, VariantDef};
use secvisor_approval::wire::{CALL_LEN, NONE, cond};

use crate::bytes::hex;
use crate::elf::Image;
use crate::symbols::KernelSymbols;

/// A form: its array, and its bytes.
type Form = (&'static str, [u8; CALL_LEN]);

/// `cs cs cs xor %eax, %eax`, for `__static_call_return0`. All kernels have it, and the rules know it.
const RETURN0: Form = ("xor5rax", [0x2e, 0x2e, 0x2e, 0x31, 0xc0]);

/// Those that came later.
const LATER: [Form; 2] = [
    // `ud1 (%edx), %rdi`, for `__WARN_trap`; since 7.0.
    ("warninsn", [0x67, 0x48, 0x0f, 0xb9, 0x3a]),
    // `ds ds movb $0, (%rdi)`, for `native_queued_spin_unlock`; since 7.3.
    ("unlockinsn", [0x3e, 0x3e, 0xc6, 0x07, 0x00]),
];

/// Writes the forms of a kernel that not all have; gives their template, or [`NONE`].
pub fn emit(image: &Image<'_>, symbols: &KernelSymbols, builder: &mut Builder) -> Result<u32> {
    check(image, symbols.need(RETURN0.0)?, RETURN0)?;
    let mut forms = Vec::new();
    for form in LATER {
        let Some(address) = symbols.get(form.0) else { continue };
        check(image, address, form)?;
        forms.push(VariantDef { cond: cond::BASE, bytes: form.1.to_vec(), fixes: Vec::new() });
    }
    match forms.is_empty() {
        true => Ok(NONE),
        false => Ok(builder.template(&TemplateDef(forms))?.into()),
    }
}

fn check(image: &Image<'_>, address: u64, (name, bytes): Form) -> Result<()> {
    let found = image.bytes(address, CALL_LEN)?;
    if found != bytes {
        bail!("{name} is {}: what the kernel puts in a static call's place is unknown", hex(found));
    }
    Ok(())
}
