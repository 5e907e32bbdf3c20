//! Where the kernel may be put: any aligned place in free memory, each as likely as the others
//!
//! As Linux's own loader chooses (`process_mem_region()` in `arch/x86/boot/compressed/kaslr.c`).
use core::iter;
use core::ops::Range;

/// What is looked for, and where.
pub struct Wanted<'a> {
    /// All RAM.
    pub ram: &'a [Range<u64>],
    /// What is taken of it.
    pub taken: &'a [Range<u64>],
    /// The lowest address.
    pub from: u64,
    /// Bytes that have to be free.
    pub len: u64,
    /// Power of two the address is a multiple of.
    pub align: u64,
}

impl Wanted<'_> {
    /// One of all places, by a random number; none if there is no place.
    pub fn choose(&self, random: u64) -> Option<u64> {
        let count: u64 = self.runs().map(|(_, count)| count).sum();
        let mut number = random.checked_rem(count)?;
        for (first, count) in self.runs() {
            if number < count {
                return Some(first + number * self.align);
            }
            number -= count;
        }
        None
    }

    /// Whether all bytes of a range are free.
    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.free().any(|free| free.start <= range.start && range.end <= free.end)
    }

    /// Places that follow each other at the distance of the alignment: the first, and how many there are.
    fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.free().map(|free| {
            let first = free.start.max(self.from).next_multiple_of(self.align);
            let room = free.end.checked_sub(self.len).and_then(|last| last.checked_sub(first));
            (first, room.map_or(0, |room| room / self.align + 1))
        })
    }

    /// RAM that is not taken.
    fn free(&self) -> impl Iterator<Item = Range<u64>> {
        self.ram.iter().flat_map(move |ram| {
            let mut at = ram.start;
            iter::from_fn(move || {
                let start = (at < ram.end).then_some(at)?;
                let taken = self.taken.iter().filter(|t| t.start < t.end && t.end > start && t.start < ram.end);
                let next = taken.min_by_key(|t| t.start);
                let (end, then) = next.map_or((ram.end, ram.end), |t| (t.start.max(start), t.end));
                at = then;
                Some(start..end)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn all(wanted: &Wanted<'_>) -> impl Iterator<Item = u64> {
        (0..1000).map_while(|n| wanted.choose(n)).take(24)
    }

    #[test]
    fn every_free_place_is_chosen_once_and_no_other() {
        let ram = [0..640 << 10, MIB..30 * MIB, 40 * MIB..49 * MIB];
        let taken = [MIB..3 * MIB / 2, 20 * MIB..21 * MIB, 44 * MIB..60 * MIB, 7..7];
        let wanted = Wanted { ram: &ram, taken: &taken, from: 3 * MIB, len: 3 * MIB, align: 2 * MIB };
        // 4, 6, .. 16 before the taken MiB, 22, 24, 26 behind it; 40 in the next range.
        let want = [4, 6, 8, 10, 12, 14, 16, 22, 24, 26, 40].map(|n| n * MIB);
        assert!(all(&wanted).take(want.len()).eq(want));
        assert_eq!(wanted.choose(want.len() as u64), Some(want[0]), "it goes round");
        assert_eq!(wanted.choose(u64::MAX), Some(want[(u64::MAX % 11) as usize]));
        for place in want {
            assert!(wanted.is_free(&(place..place + wanted.len)));
        }
        for place in [0, MIB, 18 * MIB, 19 * MIB, 21 * MIB - 1, 28 * MIB, 42 * MIB, 60 * MIB] {
            assert!(!wanted.is_free(&(place..place + wanted.len)), "{place:#x}");
        }
        assert!(wanted.is_free(&(27 * MIB..30 * MIB)), "free, if nowhere the kernel may begin");
    }

    #[test]
    fn no_place_is_none() {
        let place = |ram: Range<u64>, taken: Range<u64>| {
            Wanted { ram: &[7..9, ram], taken: &[taken], from: 0, len: 2 * MIB, align: 2 * MIB }.choose(5)
        };
        let whole = 2 * MIB..4 * MIB;
        assert_eq!(place(whole.clone(), 0..0), Some(2 * MIB));
        assert_eq!(place(whole.clone(), 4 * MIB - 1..5 * MIB), None);
        assert_eq!(place(whole.clone(), 0..2 * MIB + 1), None);
        assert_eq!(place(whole.clone(), 0..2 * MIB), Some(2 * MIB));
        assert_eq!(place(whole, 0..4 * MIB), None);
        assert_eq!(place(2 * MIB + 1..6 * MIB - 1, 0..0), None, "not aligned");
        assert_eq!(place(0..0, 0..0), None);
    }
}
