//! What the adversary can do: anything a guest kernel, a user program or a device can
use crate::bytes::{CALL, CHOICE, EDGE, IMAGE, LABEL, Page};
use crate::state::{NONE, Purpose, Right, SCRATCH, View, W, X};
use crate::switch::{Part, Switch};
use crate::vcpu::Step;
use crate::world::{DEVICE, FRAMES, HYPERVISOR, KERNEL};

/// What the kernel, or a program while the kernel view is on, does next.
#[derive(Clone, Copy)]
enum Kernel {
    Fetch,
    Write,
    WriteFromWithin,
    DeliverEvent,
    TouchHypervisor,
    ToUser,
    Invalidate,
    Remap,
    Alias,
    Device,
}

/// The same for a program in the user view.
#[derive(Clone, Copy)]
enum User {
    Write,
    TouchHypervisor,
    Enter,
    LoadSegment,
    Device,
}

/// An instruction in a window.
#[derive(Clone, Copy)]
enum Windowed {
    Plain,
    Syscall,
    Sysret,
    Event,
}

/// Ways from the user view to CPL 0, and what closes each.
const WAYS: [(&str, Part); 9] = [
    ("an exception", Part::Exceptions),
    ("an interrupt", Part::Interrupts),
    ("an NMI", Part::Nmis),
    ("INT n", Part::SoftwareInterrupts),
    ("INT1", Part::Icebp),
    ("SYSCALL", Part::SyscallOff),
    ("SYSENTER", Part::SysenterOff),
    ("a call gate of the GDT", Part::GdtHidden),
    ("a call gate of the LDT", Part::LdtHidden),
];

impl Step<'_, '_> {
    /// One step of the adversary, whatever it is. `None` if it can not be made.
    pub fn adversary(&mut self) -> Option<()> {
        let cpu = *self.cpu();
        match (cpu.window, cpu.view) {
            (Some(_), _) => self.windowed()?,
            (None, View::Kernel) => self.kernel(cpu.user)?,
            (None, View::User) => self.user()?,
        }
        self.before_entry();
        self.forget_written();
        Some(())
    }

    fn kernel(&mut self, user: bool) -> Option<()> {
        let can = |switch| self.machine.options.left_out == Some(switch);
        let moves = [
            (Kernel::Fetch, true),
            (Kernel::Write, true),
            (Kernel::WriteFromWithin, true),
            (Kernel::DeliverEvent, true),
            (Kernel::TouchHypervisor, true),
            (Kernel::ToUser, true),
            (Kernel::Invalidate, !user),
            (Kernel::Remap, can(Switch::Part(Part::RightsByFrame))),
            (Kernel::Alias, can(Switch::Part(Part::EveryAlias))),
            (Kernel::Device, can(Switch::QuietDevices)),
        ];
        let moves: Vec<Kernel> = moves.into_iter().filter(|m| m.1).map(|m| m.0).collect();
        match self.chooser.among(&moves) {
            Kernel::Fetch if user => self.user_fetch(),
            Kernel::Fetch => self.fetch(),
            Kernel::Write => self.write(false, false),
            Kernel::WriteFromWithin => self.write(true, false),
            Kernel::DeliverEvent => match self.chooser.choose(3) {
                0 => self.write(false, true),
                1 => self.write(true, true),
                _ => self.touch_hypervisor(true),
            },
            Kernel::TouchHypervisor => self.touch_hypervisor(false),
            Kernel::ToUser => {
                self.chooser.tell(|| if user { "entry into the kernel" } else { "return to CPL 3" }.into());
                self.cpu().user = !user;
                Some(())
            }
            Kernel::Invalidate => {
                self.chooser.tell(|| "the kernel invalidates a translation".into());
                let cpu = self.cpu();
                for asid in 1..cpu.tlb.len() {
                    let used = cpu.tlb[asid].iter().any(|t| *t != 0);
                    cpu.taken_back |= (used as u8) << asid;
                }
                Some(())
            }
            Kernel::Remap => {
                let frame = self.frame(|s, f| f >= s.machine.world.free())?;
                self.chooser.tell(|| format!("the virtual page of K0 is remapped to frame {frame}"));
                self.cpu().tlb[0][frame] |= X;
                Some(())
            }
            Kernel::Alias => {
                let frame = self.frame(|s, f| f >= KERNEL && s.state.rights[f] == Right::Data)?;
                self.chooser.tell(|| format!("a writable alias of {} is made", self.machine.world.frame_name(frame)));
                self.state.aliased |= 1 << frame;
                Some(())
            }
            Kernel::Device => self.device(),
        }
    }

    fn user(&mut self) -> Option<()> {
        let mut moves = vec![User::Write, User::TouchHypervisor, User::Enter, User::LoadSegment];
        if self.machine.options.left_out == Some(Switch::QuietDevices) {
            moves.push(User::Device);
        }
        match self.chooser.among(&moves) {
            User::Write => self.write(false, false),
            User::TouchHypervisor => self.touch_hypervisor(false),
            User::Enter => {
                let (way, closed) = self.chooser.among(&WAYS);
                self.chooser.tell(|| format!("a user program enters the kernel by {way}"));
                if self.has(closed) {
                    self.enter_kernel();
                } else {
                    self.cpu().user = false;
                }
                Some(())
            }
            User::LoadSegment => {
                let first = self.chooser.choose(FRAMES);
                let last = self.chooser.choose(FRAMES + 1);
                let world = self.machine.world;
                self.chooser.tell(|| {
                    let next = if last == FRAMES { String::new() } else { format!(" and {}", world.frame_name(last)) };
                    format!("a user program loads a segment, its instruction in {}{next}", world.frame_name(first))
                });
                let last = if last == FRAMES { NONE } else { last as u8 };
                self.segment_load([first as u8, last]);
                Some(())
            }
            User::Device => self.device(),
        }
    }

    fn windowed(&mut self) -> Option<()> {
        let user = self.cpu().user;
        let window = self.cpu().window.expect("a window is open");
        if window.closed {
            self.chooser.tell(|| "the window was closed for another CPU".into());
            self.close_window(false);
            return Some(());
        }
        // SYSCALL is on in the kernel view only, and off for a segment load.
        let syscall =
            window.view == View::Kernel && window.purpose != Purpose::Segment && !self.has(Part::WindowSyscall);
        let mut moves = vec![Windowed::Plain, Windowed::Event];
        if syscall {
            moves.push(Windowed::Syscall);
        }
        if syscall && !user {
            moves.push(Windowed::Sysret);
        }
        match self.chooser.among(&moves) {
            Windowed::Plain => {
                for frame in window.frames.into_iter().filter(|f| *f != NONE) {
                    // The instruction writes what it can.
                    self.state.content[frame as usize] = crate::world::ANY;
                }
                if self.has(Part::WindowTrap) {
                    self.chooser.tell(|| "the instruction runs and writes".into());
                    self.close_window(true);
                } else {
                    self.cpu().window.as_mut()?.trapped = false;
                }
            }
            Windowed::Event => {
                self.chooser.tell(|| "an event ends the window".into());
                self.close_window(false);
            }
            Windowed::Syscall => {
                self.chooser.tell(|| "the instruction is SYSCALL, and its mask clears the trap flag".into());
                self.cpu().user = false;
                self.cpu().window.as_mut()?.trapped = false;
            }
            Windowed::Sysret => {
                self.chooser.tell(|| "the instruction is SYSRET, which loads a clear trap flag".into());
                self.cpu().user = true;
                self.cpu().window.as_mut()?.trapped = false;
            }
        }
        Some(())
    }

    /// One of the frames for which something holds.
    fn frame(&self, wanted: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let free = self.machine.world.free();
        let alike = |f: usize| f > free && self.state.description(f - 1) == self.state.description(f);
        let list: Vec<usize> = (0..FRAMES).filter(|f| wanted(self, *f) && !alike(*f)).collect();
        (!list.is_empty()).then(|| self.chooser.among(&list))
    }

    /// Rights of this CPU's view on a frame.
    fn right(&self, frame: usize) -> u8 {
        let view = self.state.cpus[self.cpu].view;
        self.machine.nested(&self.state, self.cpu, view, frame)
    }

    /// The kernel executes where it is not allowed to.
    fn fetch(&mut self) -> Option<()> {
        let frame = self.frame(|s, f| s.right(f) & X == 0)?;
        let world = self.machine.world;
        let name = world.frame_name(frame);
        let patching = self.cpu().patching == frame as u8;
        let own = world.kernel_page(frame).map(|_| IMAGE + 0x1000 * (frame - KERNEL) as u64);
        let va = match own {
            Some(base) if patching => {
                // Before, at and behind every site; before boot is over only where instructions begin.
                let early: &[usize] = &[0x300, 0, CHOICE, CALL, LABEL, EDGE];
                let late: &[usize] =
                    &[0x300, 0xff0, 0, CHOICE - 29, CHOICE, CALL - 29, CALL, LABEL - 29, LABEL, EDGE - 29, EDGE];
                let list = if self.state.ghost.booted { late } else { early };
                base + self.chooser.among(list) as u64
            }
            Some(base) if world.kernel_page(frame) != Some(Page::Init) || !self.state.ghost.freed => base,
            _ => self.chooser.among(&world.addresses),
        };
        self.chooser.tell(|| format!("the kernel executes at {va:#x}, mapped to {name}"));
        if frame == HYPERVISOR && self.has(Part::HypervisorMarked) || frame == DEVICE && self.has(Part::DeviceMarked) {
            self.flush = true;
        }
        self.kernel_fetch(frame, va);
        Some(())
    }

    /// A program executes, in the kernel view still.
    fn user_fetch(&mut self) -> Option<()> {
        self.chooser.tell(|| "a user program runs".into());
        self.enter_user();
        Some(())
    }

    /// A write where it is not allowed.
    fn write(&mut self, from_within: bool, delivering: bool) -> Option<()> {
        let frame = self.frame(|s, f| f >= KERNEL && s.state.rights[f] != Right::Data && s.right(f) & W == 0)?;
        let name = self.machine.world.frame_name(frame);
        self.chooser.tell(|| {
            let what = if delivering { "an event is delivered to a stack in" } else { "somebody writes to" };
            format!("{what} {name}{}", if from_within { ", the instruction lies there too" } else { "" })
        });
        self.data_access(frame, from_within, delivering);
        Some(())
    }

    /// An access to memory the guest does not have.
    fn touch_hypervisor(&mut self, delivering: bool) -> Option<()> {
        if self.right(HYPERVISOR) & (W | SCRATCH) != 0 {
            return None;
        }
        self.chooser.tell(|| {
            let how = if delivering { "an event is delivered to a stack in" } else { "somebody writes to" };
            format!("{how} the hypervisor's memory")
        });
        if self.has(Part::HypervisorMarked) {
            let _or_else_a_fault_in_delivery = self.open_window(Purpose::Absent, [HYPERVISOR as u8, NONE], delivering);
        } else {
            self.patched(HYPERVISOR as u8);
        }
        if delivering {
            self.redeliver();
        }
        Some(())
    }

    /// A device writes to memory, whatever its rights.
    fn device(&mut self) -> Option<()> {
        let frame = self.frame(|s, f| f >= KERNEL && s.state.rights[f] != Right::Data)?;
        let name = self.machine.world.frame_name(frame);
        self.chooser.tell(|| format!("a device writes to {name}"));
        self.state.content[frame] = crate::world::ANY;
        Some(())
    }

    /// Frames that can be written to just now hold anything.
    fn forget_written(&mut self) {
        self.forget_writable();
    }
}
