//! The hypercall: read one counter
//!
//! VMMCALL with RAX = 53564300h ("SVC", function 0) and RDI = index; the value comes back in RAX, all ones if there is
//! none. From any privilege level: it gives no address and touches no memory.
use secvisor_amd64::exit::REASONS;

use crate::vcpu::Vcpu;

const STATUS: u64 = 0x5356_4300;
/// Index of the first exit counter.
const EXITS: u64 = 16;
/// Index of the first kept violation, the latest.
const LOG: u64 = 256;

impl Vcpu {
    pub(super) fn hypercall(&mut self) {
        self.vmcb.save.rax = match self.vmcb.save.rax {
            STATUS => self.counter(self.regs.rdi).unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        self.skip(3);
    }

    fn counter(&self, index: u64) -> Option<u64> {
        let rules = self.rules.counters();
        Some(match index {
            0 => 1,
            1 => self.rules.booted() as u64,
            2 => rules.approved,
            3 => rules.verified,
            4 => rules.refused,
            5 => rules.restored,
            6 => rules.writes,
            7 => rules.writes_after_boot,
            8 => self.stats.violations,
            9 => self.stats.switches,
            10 => self.stats.flushes,
            11 => self.memory,
            12 => EXITS | (REASONS.len() as u64) << 32,
            13 => self.stats.windows,
            14 => self.stats.absent,
            LOG.. => self.log.latest(index - LOG)?,
            _ => self.stats.exits(index.checked_sub(EXITS)? as usize)?,
        })
    }
}
