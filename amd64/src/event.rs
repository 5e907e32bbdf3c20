//! Events: EVENTINJ and EXITINTINFO (APM 2, 15.20)

/// An event in the common format of EVENTINJ and EXITINTINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub u64);

const VALID: u64 = 1 << 31;
const ERROR_VALID: u64 = 1 << 11;

/// Vector numbers (APM 2, table 8-1).
pub mod vector {
    /// Debug.
    pub const DB: u8 = 1;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Double fault.
    pub const DF: u8 = 8;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
}

impl Event {
    /// An NMI.
    pub const NMI: Self = Self(VALID | 2 << 8 | 2);

    /// An exception without an error code.
    pub fn exception(vector: u8) -> Self {
        Self(VALID | 3 << 8 | vector as u64)
    }
    /// An exception with an error code.
    pub fn exception_with(vector: u8, error: u32) -> Self {
        Self(VALID | ERROR_VALID | 3 << 8 | vector as u64 | (error as u64) << 32)
    }
    /// INT n.
    pub fn software_interrupt(vector: u8) -> Self {
        Self(VALID | 4 << 8 | vector as u64)
    }
    /// Whether there is one.
    pub fn valid(self) -> bool {
        self.0 & VALID != 0
    }
    /// Vector number.
    pub fn vector(self) -> u8 {
        self.0 as u8
    }
    /// Type: 0 interrupt, 2 NMI, 3 exception, 4 software interrupt.
    pub fn kind(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Whether exceptions of this vector push an error code (APM 2, table 8-1).
    pub fn has_error_code(vector: u8) -> bool {
        matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }

    /// The event to inject so that an interrupted delivery starts again; `None` if the instruction at RIP raises it
    /// again by itself. QEMU reports an interrupted hardware interrupt as an exception and leaves a stale error code.
    pub fn again(self) -> Option<Self> {
        let vector = self.vector();
        match (self.valid(), self.kind()) {
            (false, _) | (true, 4) => None,
            (true, 3) if matches!(vector, vector::BP | vector::OF) => None,
            (true, 3) if vector == 2 => Some(Self(VALID | 2 << 8 | 2)),
            (true, 3) if vector >= 32 => Some(Self(VALID | vector as u64)),
            (true, 3) if Self::has_error_code(vector) => Some(Self(self.0 | ERROR_VALID)),
            (true, kind) => Some(Self(VALID | (kind as u64) << 8 | vector as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redelivery() {
        assert_eq!(Event(0).again(), None);
        assert_eq!(Event(0x8000_03ec).again(), Some(Event(0x8000_00ec)));
        assert_eq!(Event(0x8000_0302).again(), Some(Event(0x8000_0202)));
        assert_eq!(Event(0x8000_0403).again(), None);
        assert_eq!(Event::exception_with(14, 2).again(), Some(Event::exception_with(14, 2)));
        assert_eq!(Event(0x7_8000_0306).again(), Some(Event::exception(6)));
    }
}
