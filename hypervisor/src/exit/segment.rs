//! Segment loads of user programs: #GP in the user view, stepped with the real tables
//!
//! With limits of 0 every selector faults with itself as the error code. If the descriptor is one a program may load,
//! the instruction runs once in the kernel view, where of all user memory only its own page is executable.
use secvisor_amd64::reg;
use secvisor_rules::{Frame, Rule, Violation};

use crate::mem::physical;
use crate::vcpu::Vcpu;
use crate::window::Purpose;

/// S bit of a descriptor: code or data, not a gate or system segment (APM 2, 4.7).
const NOT_SYSTEM: u64 = 1 << 44;
/// Type of a call gate, with the S bit (APM 2, 4.8.2): Linux has none.
const CALL_GATE: u64 = 0x0c;

impl Vcpu {
    /// Whether the #GP is a segment load that is now being stepped.
    pub(super) fn segment_load(&mut self) -> bool {
        let selector = self.vmcb.control.exit_info1;
        let in_idt = selector & 2 != 0;
        // In legacy modes a selector could name a task.
        let legacy = self.vmcb.save.efer & reg::EFER_LMA == 0;
        if legacy || selector & 0xfff8 == 0 && selector & 4 == 0 || in_idt || selector > 0xffff {
            return false;
        }
        self.note_paging();
        match self.descriptor(selector as u16) {
            Some(descriptor) if descriptor & NOT_SYSTEM != 0 => {}
            Some(descriptor) if descriptor >> 40 & 0x1f == CALL_GATE => {
                self.violation(Violation { rule: Rule::Instruction, frame: Frame(0), nearest: None });
                return false;
            }
            _ => return false,
        }
        let rip = self.linear_rip();
        let machine = self.machine;
        let core = machine.core.lock();
        // Data frames only: what a window opens on must not be anything that is protected, nor frozen for another CPU's window.
        let data = |frame: &Frame| core.rules.frames().is_data(*frame) && !core.tables.is_held(*frame);
        let frame = |va: u64| self.walk(va).map(Frame::containing).filter(data);
        let first = frame(rip);
        let last = frame(rip + 14).filter(|last| first != Some(*last));
        if first.is_none() {
            return false;
        }
        self.show_segments();
        if self.open_window(&core, Purpose::Segment, [first, last]) {
            return true;
        }
        drop(core);
        self.enter_user();
        false
    }

    /// The descriptor a selector names.
    fn descriptor(&mut self, selector: u16) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 { self.gdt() } else { self.ldt()? };
        let at = selector as u64 & !7;
        if at + 7 > limit as u64 {
            return None;
        }
        let mut value = 0;
        for i in 0..8 {
            let physical = self.walk(base + at + i).filter(|p| self.machine.ram.contains(*p))?;
            // SAFETY: RAM of the guest (checked).
            value |= (unsafe { physical::byte(physical) } as u64) << (8 * i);
        }
        Some(value)
    }
}
