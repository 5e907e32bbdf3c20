//! Which security modules Linux starts, and in what order: its built-in list (`CONFIG_LSM`), found in the image
//!
//! The list is a string that only boot code refers to. No symbol leads to it, so it is found by its form.
use anyhow::{Result, bail};

use crate::elf::Image;
use crate::symbols::KernelSymbols;

/// The module by which BPF programs decide: it calls them by trampolines, code that is made while the system runs.
const BPF: &str = "bpf";

/// A hook of it, which a kernel has that was built with it.
const HOOK: &str = "bpf_lsm_file_open";

/// The list without BPF's module, as the command line's `lsm=` has it; none if the kernel would not start it anyway.
pub fn without_bpf(image: &Image<'_>, symbols: &KernelSymbols) -> Result<Option<String>> {
    if symbols.get(HOOK).is_none() {
        return Ok(None);
    }
    let sections = [".rodata", ".init.data"].into_iter().filter_map(|name| image.section(name));
    let mut lists: Vec<_> = sections.flat_map(|section| lists(section.bytes)).collect();
    lists.sort_unstable();
    lists.dedup();
    match lists[..] {
        [] => Ok(None),
        [list] => Ok(Some(list.split(',').filter(|word| *word != BPF).collect::<Vec<_>>().join(","))),
        [one, other, ..] => bail!("the list of security modules may be \"{one}\" or \"{other}\""),
    }
}

/// All strings that are lists of words with BPF among them.
fn lists(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let list = |string: &'_ [u8]| string.iter().all(|b| b.is_ascii_lowercase() || matches!(b, b',' | b'_'));
    let strings = bytes.split(|b| *b == 0).filter(move |string| string.contains(&b',') && list(string));
    strings.filter_map(|string| std::str::from_utf8(string).ok()).filter(|string| {
        let mut words = string.split(',');
        words.clone().all(|word| !word.is_empty()) && words.any(|word| word == BPF)
    })
}

#[cfg(test)]
mod tests {
    use super::lists;

    #[test]
    fn only_lists_of_words_with_bpf_are_taken() {
        let bytes = b"\x01\x02bpf,x\0lockdown,yama,bpf\0,bpf\0kprobe, bpf\0yama,ebpf\0bpf\0bpf,ipe\0x,bpf";
        assert_eq!(lists(bytes).collect::<Vec<_>>(), ["lockdown,yama,bpf", "bpf,ipe", "x,bpf"]);
        assert_eq!(lists(b"").count(), 0);
    }
}
