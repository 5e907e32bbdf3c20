//! The guest's page tables in long mode: APM 2, 5.3

/// Result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Mapped to this physical address.
    Mapped(u64),
    /// An entry is not present, or lies where nothing can be read.
    Unmapped,
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the tables from `root` over `levels` (4 or 5). `read` gives an entry, or `None` where there is nothing to
/// read; each is read once, by value.
#[inline]
pub fn walk(root: u64, levels: u32, va: u64, read: impl Fn(u64) -> Option<u64>) -> Walk {
    let mut table = root & ADDRESS;
    let mut shift = 12 + 9 * (levels - 1);
    loop {
        let Some(entry) = read(table + (va >> shift & 0x1ff) * 8) else { return Walk::Unmapped };
        if entry & 1 == 0 {
            return Walk::Unmapped;
        }
        let leaf = shift == 12 || entry & 1 << 7 != 0 && shift <= 30;
        if leaf {
            let low = (1u64 << shift) - 1;
            return Walk::Mapped(entry & ADDRESS & !low | va & low);
        }
        table = entry & ADDRESS;
        shift -= 9;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_levels_and_large_pages() {
        let memory = |at: u64| match at {
            0x1000 => Some(0x2003),
            0x2000 => Some(0x3003),
            0x2008 => Some(0x4000_0083),
            0x3000 => Some(0x5003),
            0x3008 => Some(0x60_0083),
            0x5008 => Some(0x8000_0000_0000_7003),
            _ => Some(0),
        };
        assert_eq!(walk(0x1000, 4, 0x1234, memory), Walk::Mapped(0x7234));
        assert_eq!(walk(0x1000, 4, 0x20_1234, memory), Walk::Mapped(0x60_1234));
        assert_eq!(walk(0x1000, 4, 0x4012_3456, memory), Walk::Mapped(0x4012_3456));
        assert_eq!(walk(0x1000, 4, 0x2000, memory), Walk::Unmapped);
        assert_eq!(walk(0x1000, 4, 0, |_| None), Walk::Unmapped);
    }
}
