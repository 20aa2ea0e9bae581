//! vCPU, RAM and machine together: the deterministic inside of the boundary, entered and fed by
//! whoever drives it (the primary's loop, or the backup's replay of its log).
//!
//! A driver's cycle: [`Guest::enter`]; at an exit, if [`Access::needs_clock`], apply an
//! `Input::Clock`; [`Guest::carry_out`]; take the machine's effects; apply inputs; again.

mod counting;
mod entries;
mod flip;
mod hash;
mod later_code;
mod paging;
mod snapshot;
mod stack;
mod tsc_trap;

use devices::machine::{Machine, MachineConfig};
use devices::{Effect, GuestMemory, Input};

use counting::Count;
pub use counting::{Counting, SeekCounters, Skid, Sought};
pub use flip::{Flip, UnknownFlip};
pub use hash::StateHash;
pub use later_code::LaterRdtsc;
use replay::Point;
use tsc_trap::{TrappedRdtsc, TscTrap};

use crate::boot::BootState;
use crate::clock::Clock;
use crate::cpu_state::RunState;
use crate::error::VmmError;
use crate::kvm::{BREAKPOINTS, Exit, Vcpu, Vm};
use crate::memory::PageSet;

/// A guest: one vCPU, its RAM, its machine, and how many synchronous exits it has made.
pub struct Guest {
    vcpu: Vcpu,
    vm: Vm,
    machine: Machine,
    config: MachineConfig,
    exits: u64,
    halted: bool,
    /// The last access was answered with a fault that KVM raises at the next entry. An interrupt
    /// injected beside it would be lost: KVM clears its interrupt queue once the fault is in.
    fault_due: bool,
    /// The guest stands where its replica can stand too: at an exit or right behind a snapshot. Where
    /// a kick stopped it, nothing may be injected: the replica is not stopped there.
    at_position: bool,
    clock: Clock,
    counting: Option<Counting>,
    count: Count,
    /// Where it stands, if that is between two exits.
    point: Option<Point>,
    /// Where it leaves a repeated string instruction, which it is to do before it can land: its end, and the handler
    /// of page faults.
    leaving: Option<[Option<u64>; 2]>,
    /// Somebody follows this guest, or it follows somebody: interrupts land at positions only.
    followed: bool,
    /// An interrupt waits for the guest to be able to take it, and the guest is to be stopped there.
    awaits_window: bool,
    tsc_trap: TscTrap,
    /// Where the guest's kernel makes memory executable.
    later_code: Option<u64>,
    later_rdtsc: LaterRdtsc,
    dirty: PageSet,
}

/// Why the guest is not running.
#[derive(Debug)]
pub enum Stop {
    /// A synchronous exit; the exit count has risen by one.
    Exit(Access),
    /// A signal or `immediate_exit` stopped it where it was; the exit count stands still.
    Kicked,
    /// It cannot go on: KVM refuses to run it.
    Crashed(String),
}

/// A synchronous exit that is to be carried out.
#[derive(Debug)]
pub struct Access {
    exit: Exit,
    needs_clock: bool,
    rdtsc: Option<Box<TrappedRdtsc>>,
}

impl Access {
    /// Whether the driver must apply a fresh `Input::Clock` before [`Guest::carry_out`].
    pub fn needs_clock(&self) -> bool {
        self.needs_clock
    }

    /// The exit itself.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl Guest {
    /// Puts the parts together. `ram_bytes` of RAM are counted as dirty from the start.
    pub fn new(vm: Vm, vcpu: Vcpu, config: MachineConfig, clock: Clock) -> Guest {
        let dirty = PageSet::empty(crate::memory::ram_bytes(vm.memory()));
        Guest {
            vcpu,
            vm,
            machine: Machine::new(&config),
            config,
            exits: 0,
            halted: false,
            fault_due: false,
            at_position: true,
            clock,
            counting: None,
            count: Count::of(clock),
            point: None,
            leaving: None,
            followed: true,
            awaits_window: false,
            tsc_trap: TscTrap::default(),
            later_code: None,
            later_rdtsc: LaterRdtsc::default(),
            dirty,
        }
    }

    /// Puts the vCPU before the first instruction of what was loaded, and counts all of RAM's
    /// pages that were written for it as dirty.
    pub fn start_at(&mut self, state: &BootState) -> Result<(), VmmError> {
        let mut sregs = state.sregs();
        // What KVM made is kept where booting has no opinion.
        sregs.interrupt_bitmap = [0; 4];
        self.vcpu.set_sregs(&sregs)?;
        self.vcpu.set_regs(state.regs());
        self.later_code = state.rewrite.later_code.function;
        self.vcpu.debug(self.breakpoints(None))?;
        self.vcpu.settle()
    }

    /// Those that are armed all along, and one `more`.
    fn breakpoints(&self, more: Option<u64>) -> [Option<u64>; BREAKPOINTS] {
        let [fault, undefined] = self.tsc_trap.addresses();
        [fault, undefined, self.later_code, more]
    }

    /// Synchronous exits since power-on: the n of `Position::Exit(n)`.
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What the machine was made from.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// The vCPU, to set its first registers and to reach its kick flag.
    pub fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// The effects since the last call, in order.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.machine.effects()
    }

    /// Applies an input where the guest stands.
    pub fn apply(&mut self, input: Input) -> Result<(), VmmError> {
        self.machine
            .input(self.vm.memory(), input)
            .map_err(|error| VmmError::BadInput(error.to_string()))
    }

    /// Has the guest's branches counted this way, once [`Guest::count_branches`] is called.
    pub fn set_counting(&mut self, counting: Option<Counting>) {
        self.counting = counting;
    }

    /// How its positions are made.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether anybody follows this guest (as at first). If not, an interrupt lands wherever the guest
    /// is stopped.
    pub fn set_followed(&mut self, followed: bool) {
        self.followed = followed;
    }

    /// Whether an interrupt is pending that this entry can't inject and that no window exit will wait
    /// for: it lands at an exit that the guest makes by itself, or behind a snapshot.
    pub fn interrupt_stranded(&mut self) -> bool {
        self.followed
            && !self.clock.has_window()
            && self.machine.pending_interrupt()
            && !self.can_inject()
    }

    /// Whether the vCPU, stopped anywhere, could take an interrupt now.
    pub fn interruptible(&mut self) -> bool {
        self.vcpu.ready_for_interrupt() && !self.fault_due && !self.is_behind_sti()
    }

    fn can_inject(&mut self) -> bool {
        (self.at_position || !self.followed) && self.interruptible()
    }

    /// Whether the guest waits in HLT and nothing it could wake for is pending.
    pub fn is_idle(&mut self) -> bool {
        self.halted && !(self.machine.pending_interrupt() && self.vcpu.ready_for_interrupt())
    }

    /// Injects what is pending and runs the guest to its next stop. Must not be called when
    /// [`Guest::is_idle`].
    pub fn enter(&mut self) -> Result<Stop, VmmError> {
        self.inject_pending()?;
        let exit = match self.run_on() {
            Ok(exit) => exit,
            Err(error) => return Ok(Stop::Crashed(format!("{error:?}; {}", self.whereabouts()))),
        };
        if self.has_left(&exit)? {
            self.at_position = false;
            return Ok(Stop::Kicked);
        }
        match exit {
            Exit::Interrupted => {
                self.vcpu.clear_immediate_exit();
                self.at_position = false;
                return Ok(Stop::Kicked);
            }
            Exit::Failed { reason, detail } => {
                return Ok(Stop::Crashed(format!(
                    "KVM exit {reason} (detail {detail:#x}); {}",
                    self.whereabouts()
                )));
            }
            _ => {}
        }
        self.exits += 1;
        self.at_position = true;
        self.point = None;
        let rdtsc = match exit {
            Exit::Debug { pc, .. } => self
                .tsc_trap
                .inspect(&self.vcpu, self.vm.memory(), pc)?
                .map(Box::new),
            _ => None,
        };
        let needs_clock = rdtsc.is_some() || self.exit_needs_clock(&exit);
        Ok(Stop::Exit(Access {
            exit,
            needs_clock,
            rdtsc,
        }))
    }

    fn inject_pending(&mut self) -> Result<(), VmmError> {
        let mut window = false;
        if self.machine.pending_interrupt() {
            window = true;
            if self.can_inject()
                && let Some(vector) = self.machine.take_interrupt()
            {
                self.vcpu.inject(vector)?;
                self.halted = false;
                window = self.machine.pending_interrupt();
            }
        }
        let may_ask = self.clock.has_window() || !self.followed;
        self.awaits_window = window && may_ask;
        // Between single steps the window is seen from here.
        let ask = self.awaits_window && !self.is_stepped();
        self.vcpu.request_interrupt_window(ask);
        self.fault_due = false;
        Ok(())
    }

    fn exit_needs_clock(&self, exit: &Exit) -> bool {
        match *exit {
            Exit::PortIn { port, .. } => self.machine.pio_needs_clock(port, false),
            Exit::PortOut { port, .. } => self.machine.pio_needs_clock(port, true),
            Exit::MmioRead { address, .. } => self.machine.mmio_needs_clock(address, false),
            Exit::MmioWrite { address, .. } => self.machine.mmio_needs_clock(address, true),
            Exit::ReadMsr { index } => self.machine.msr_needs_clock(index, false),
            Exit::WriteMsr { index, .. } => self.machine.msr_needs_clock(index, true),
            _ => false,
        }
    }

    /// Carries out the access of an exit on the machine. Its effects are waiting afterwards.
    pub fn carry_out(&mut self, access: Access) -> Result<(), VmmError> {
        let Guest {
            vcpu,
            vm,
            machine,
            fault_due,
            later_code,
            later_rdtsc,
            ..
        } = self;
        let memory = vm.memory();
        match access.exit {
            Exit::PortIn { port, size, .. } => {
                for item in vcpu.port_data().chunks_exact_mut(usize::from(size.max(1))) {
                    machine.pio_read(port, item);
                }
                if port == u16::from(devices::layout::TSC_PORT) && size == 4 {
                    // The rewritten RDTSC: EAX is the port's data, EDX is set here.
                    // Where KVM emulates the IN, setting registers makes it forget the data, so EAX
                    // is set as well.
                    let mut regs = vcpu.regs();
                    regs.rax = machine.tsc() & 0xffff_ffff;
                    regs.rdx = machine.tsc() >> 32;
                    vcpu.set_regs(regs);
                }
            }
            Exit::PortOut { port, size, .. } => {
                for item in vcpu.port_data().chunks_exact(usize::from(size.max(1))) {
                    machine.pio_write(port, item);
                }
            }
            Exit::MmioRead { address, len } => {
                let answer = vcpu.mmio_answer();
                answer.fill(0);
                machine.mmio_read(memory, address, &mut answer[..usize::from(len)]);
            }
            Exit::MmioWrite { address, len, data } => {
                machine.mmio_write(memory, address, &data[..usize::from(len)]);
            }
            Exit::ReadMsr { index } => {
                let value = machine.msr_read(index);
                *fault_due = value.is_none();
                vcpu.answer_msr(value);
            }
            Exit::WriteMsr { index, value } => {
                let done = machine.msr_write(index, value);
                *fault_due = done.is_none();
                vcpu.answer_msr(done.map(|()| value));
            }
            Exit::Halt => self.halted = true,
            Exit::Debug { pc, .. } => match access.rdtsc {
                Some(rdtsc) => rdtsc.emulate(vcpu, machine.tsc())?,
                None => {
                    if *later_code == Some(pc) {
                        later_rdtsc.add(later_code::close(memory, &vcpu.regs(), &vcpu.sregs()?));
                    }
                    vcpu.step_over();
                }
            },
            Exit::Shutdown => machine.triple_fault(),
            Exit::SetTpr => machine.set_cr8(vcpu.cr8()),
            Exit::InterruptWindow | Exit::Interrupted | Exit::Failed { .. } => {}
        }
        let moved = self
            .tsc_trap
            .watch(self.exits, &self.vcpu, self.vm.memory())?;
        if moved {
            self.arm()?;
        }
        Ok(())
    }

    /// Whether the guest was seen to have opened user space's RDTSC again (it cleared CR4.TSD), so
    /// that replicas may differ.
    pub fn tsc_is_open(&self) -> bool {
        self.tsc_trap.lost()
    }

    /// RDTSC in code that its kernel got later, as far as this process has run it.
    pub fn later_rdtsc(&self) -> LaterRdtsc {
        self.later_rdtsc
    }

    fn run_state(&self) -> RunState {
        RunState {
            tsc_breakpoints: self.tsc_trap.addresses(),
            later_code: self.later_code,
            halted: self.halted,
        }
    }

    /// Where the vCPU is, for a crash report.
    fn whereabouts(&self) -> String {
        let regs = self.vcpu.fd().get_regs().unwrap_or_default();
        let sregs = self.vcpu.fd().get_sregs().unwrap_or_default();
        format!(
            "after exit {} at CS:RIP {:#x}:{:#x}, RSP {:#x}, RFLAGS {:#x}, CR0 {:#x}, CR2 {:#x}, \
             CR3 {:#x}, CR4 {:#x}",
            self.exits,
            sregs.cs.selector,
            regs.rip,
            regs.rsp,
            regs.rflags,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4
        )
    }
}
