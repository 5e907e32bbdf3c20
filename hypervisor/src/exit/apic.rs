//! The guest's APICs: it uses them as it likes, but starts and stops no CPU by them
//!
//! In x2APIC mode the command register exits. In xAPIC mode the APIC's page is read-only, and so are the I/O APICs'. What a
//! plain store of the kernel's would write is read from its registers. Any other instruction runs once on a scratch frame,
//! in a window; then what it has written is looked at.
use secvisor_amd64::reg;
use secvisor_rules::apic::{self as rules, Command, To};
use secvisor_rules::{Frame, Rule, Violation};

use crate::cpu::apic;
use crate::crowd::request;
use crate::mem::physical;
use crate::report;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// Whether a held device frame is an APIC's, or takes messages for one.
    pub(super) fn is_apic(&self, frame: Frame) -> bool {
        rules::MESSAGES.contains(&frame.address()) || self.machine.io_apics.contains(&Some(frame))
    }

    /// A write to an APIC's page, if the instruction is a plain store.
    pub(super) fn apic_store(&mut self, at: u64) -> bool {
        let Some((value, len)) = self.store() else { return false };
        self.apic_written(at, value);
        // The next RIP is kept for intercepted instructions only (APM 2, 15.7.1).
        self.vmcb.save.rip += len;
        self.vmcb.control.interrupt_shadow = 0;
        true
    }

    /// What the instruction at RIP stores, and its length: `mov [..], r32` and `mov [..], imm32` in 64-bit mode (APM 3,
    /// 1.2), which is what Linux uses. If another CPU changes it just now, the guest could have written the other value.
    fn store(&self) -> Option<(u32, u64)> {
        let save = &self.vmcb.save;
        if save.efer & reg::EFER_LMA == 0 || save.cs.attrib & reg::ATTRIB_LONG == 0 || self.interrupted() {
            return None;
        }
        let mut bytes = [0; 15];
        let in_page = bytes.len().min(0x1000 - (save.rip & 0xfff) as usize);
        let physical = self.walk(save.rip).filter(|p| self.machine.ram.contains(*p))?;
        // SAFETY: RAM of the guest (checked), within its page.
        unsafe { physical::read(physical, &mut bytes[..in_page]) };
        let rex = if bytes[0] & 0xf0 == 0x40 { bytes[0] } else { 0 };
        let opcode = (rex != 0) as usize;
        let (modrm, sib) = (bytes[opcode + 1], bytes[opcode + 2]);
        let has_sib = modrm & 7 == 4;
        let displacement = match (modrm >> 6, modrm & 7, sib & 7) {
            (0, 5, _) | (0, 4, 5) | (2, ..) => 4,
            (0, ..) => 0,
            (1, ..) => 1,
            _ => return None,
        };
        let end = opcode + 2 + has_sib as usize + displacement;
        let (value, end) = match bytes[opcode] {
            _ if rex & 8 != 0 => return None,
            0x89 => (self.register(modrm >> 3 & 7 | (rex & 4) << 1)?, end),
            0xc7 => (u32::from_le_bytes(*bytes.get(end..)?.first_chunk()?), end + 4),
            _ => return None,
        };
        (end <= in_page).then_some((value, end as u64))
    }

    /// The low half of a register, if it is one that the handler keeps.
    fn register(&self, number: u8) -> Option<u32> {
        let r = &self.regs;
        let known = [self.vmcb.save.rax, r.rcx, r.rdx, r.rbx, self.vmcb.save.rsp];
        match number {
            0..=4 => Some(known[number as usize]),
            6 => Some(r.rsi),
            7 => Some(r.rdi),
            8..=11 => Some([r.r8, r.r9, r.r10, r.r11][number as usize - 8]),
            _ => None,
        }
        .map(|value| value as u32)
    }

    /// WRMSR of the x2APIC's command register: whether the processor is to execute it, with its own checks.
    pub(super) fn x2apic_command(&mut self, value: u64) -> bool {
        // In xAPIC mode it is #GP.
        let executed = !apic::x2apic_mode() || self.command(value);
        if !executed {
            self.skip(2);
        }
        executed
    }

    /// An instruction has written to an APIC's page.
    pub(crate) fn apic_written(&mut self, at: u64, value: u32) {
        if at & !0xfff != apic::PAGE {
            return self.io_apic_written(at, value);
        }
        let passes = match at & 0xfff {
            apic::COMMAND => {
                let to = apic::read(apic::PAGE + apic::DESTINATION) >> 24;
                self.command((to as u64) << 32 | value as u64)
            }
            offset if rules::register(offset as u32, value) => true,
            _ => {
                self.refuse_apic(at, value as u64);
                false
            }
        };
        // In x2APIC mode the page is nobody's: what is written there may become a message.
        if passes && !apic::x2apic_mode() {
            apic::write(at, value);
        }
    }

    fn io_apic_written(&mut self, at: u64, value: u32) {
        let machine = self.machine;
        let known = machine.io_apics.contains(&Some(Frame::containing(at)));
        // Nobody else changes the index meanwhile: whoever does has to come here, too.
        let core = machine.core.lock();
        let index = || apic::read(at & !0xfff) as u8; // its register at offset 0 (82093AA, 3.1)
        let passes = known && rules::io_register(at as u32 & 0xfff, index(), value);
        if passes {
            apic::write(at, value);
        }
        drop(core);
        if !passes {
            self.refuse_apic(at, value as u64);
        }
    }

    /// Whether the APIC is to send a command; if not it has been dealt with.
    fn command(&mut self, value: u64) -> bool {
        match rules::command(value) {
            Command::Send => return true,
            Command::Ignore => {}
            Command::Init(to) => self.init(to),
            Command::Startup(to, page) => {
                self.machine.crowd.ask(self.me, to, request::STARTUP | page as u32);
            }
            Command::Refuse => self.refuse_apic(apic::PAGE + apic::COMMAND, value),
        }
        false
    }

    fn init(&mut self, to: To) {
        let first = self.machine.crowd.cpus[0].apic_id;
        if to == To::Id(first) || to == To::Others && self.me != 0 {
            // That one would start the firmware over.
            report!("the guest sends INIT to the first CPU: reset");
            self.reset();
        }
        self.machine.crowd.ask(self.me, to, request::INIT);
    }

    fn refuse_apic(&mut self, at: u64, value: u64) {
        let violation = Violation { rule: Rule::Apic, frame: Frame::containing(at), nearest: None };
        self.violation_of(violation, format_args!(" action=refused register={at:#x} value={value:#x}"));
    }
}
