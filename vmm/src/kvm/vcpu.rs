//! One vCPU, entered through [`Vcpu::run`]; general registers travel in the shared page
//! (KVM_CAP_SYNC_REGS), so that reading them at an exit costs no system call.

use std::cell::Cell;

use kvm_bindings::{
    CpuId, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, Msrs,
    kvm_cpuid_entry2, kvm_guest_debug, kvm_guest_debug_arch, kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuFd};
use libc::{EAGAIN, EINTR};

use super::exit::{self, Exit};
use super::vm::Vm;
use crate::error::VmmError;

const RFLAGS_RF: u64 = 1 << 16;
/// SYSENTER's target, of which AMD processors use the low half (APM vol. 2, 6.1.2). KVM keeps what
/// the guest wrote whole, but cuts what a snapshot sets.
const SYSENTER_TARGET: [u32; 2] = [0x175, 0x176];

/// Hardware breakpoints that a vCPU has.
pub const BREAKPOINTS: usize = 4;

/// A vCPU of a [`Vm`].
pub struct Vcpu {
    fd: VcpuFd,
    run_bytes: usize,
    amd: bool,
    /// What [`Vcpu::guest_debug`] has set: setting it again would cost a system call.
    debugged: Cell<([Option<u64>; BREAKPOINTS], u32)>,
}

impl Vcpu {
    /// Makes vCPU 0 with this CPUID.
    pub fn new(kvm: &Kvm, vm: &Vm, cpuid: &[kvm_cpuid_entry2]) -> Result<Vcpu, VmmError> {
        let mut fd = vm
            .fd()
            .create_vcpu(0)
            .map_err(VmmError::ioctl("KVM_CREATE_VCPU"))?;
        // "Auth" of AuthenticAMD (APM vol. 3, E.3.1).
        let amd = cpuid
            .iter()
            .any(|leaf| leaf.function == 0 && leaf.ebx == u32::from_le_bytes(*b"Auth"));
        let cpuid = CpuId::from_entries(cpuid).map_err(|_| VmmError::MissingCapability {
            what: "room for the CPU model's CPUID",
        })?;
        fd.set_cpuid2(&cpuid)
            .map_err(VmmError::ioctl("KVM_SET_CPUID2"))?;
        let run_bytes = kvm
            .get_vcpu_mmap_size()
            .map_err(VmmError::ioctl("KVM_GET_VCPU_MMAP_SIZE"))?;
        fd.set_sync_valid_reg(SyncReg::Register);
        Ok(Vcpu {
            fd,
            run_bytes,
            amd,
            debugged: Cell::default(),
        })
    }

    /// Whether its CPUID names an AMD processor.
    pub fn is_amd(&self) -> bool {
        self.amd
    }

    /// The file descriptor, for the ioctls that have no wrapper here.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Enters the guest until it exits to user space or the thread gets a signal.
    pub fn run(&mut self) -> Result<Exit, VmmError> {
        match self.fd.run() {
            Ok(_) => Ok(exit::decode(self.fd.get_kvm_run())),
            Err(error) if error.errno() == EINTR || error.errno() == EAGAIN => {
                Ok(Exit::Interrupted)
            }
            // Emulation the kernel can't do, and the like: reported in the shared page as well.
            Err(error) => Err(VmmError::ioctl("KVM_RUN")(error)),
        }
    }

    /// Finishes what the last exit left to do (the result of an IN reaches its register) without
    /// running an instruction, and brings the flags in the shared page up to date. A vCPU that is being
    /// single-stepped may end a step by that: the answer.
    pub fn finish_access(&mut self) -> Result<bool, VmmError> {
        self.fd.set_kvm_immediate_exit(1);
        let settled = self.run();
        self.fd.set_kvm_immediate_exit(0);
        match settled? {
            Exit::Interrupted => Ok(false),
            exit if exit.is_step() => Ok(true),
            exit => Err(VmmError::BadSnapshot(format!(
                "settling the vCPU ended in {exit:?}"
            ))),
        }
    }

    /// The same, where steps don't matter.
    pub fn settle(&mut self) -> Result<(), VmmError> {
        self.finish_access().map(drop)
    }

    /// Address of `immediate_exit`, for a signal handler to set.
    pub fn immediate_exit_flag(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Clears `immediate_exit` after a kick.
    pub fn clear_immediate_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }

    /// The general registers at the last exit.
    pub fn regs(&self) -> kvm_regs {
        self.fd.sync_regs().regs
    }

    /// Changes the general registers before the next entry.
    pub fn set_regs(&mut self, regs: kvm_regs) {
        self.fd.sync_regs_mut().regs = regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    /// Whether KVM has yet to take over changed general registers.
    pub fn has_new_regs(&mut self) -> bool {
        self.fd.get_kvm_run().kvm_dirty_regs != 0
    }

    /// Special registers (a system call).
    pub fn sregs(&self) -> Result<kvm_sregs, VmmError> {
        self.fd
            .get_sregs()
            .map_err(VmmError::ioctl("KVM_GET_SREGS"))
    }

    /// Sets the special registers.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), VmmError> {
        self.fd
            .set_sregs(sregs)
            .map_err(VmmError::ioctl("KVM_SET_SREGS"))
    }

    /// An MSR as the guest's processor uses it, if this host's KVM has it (a system call).
    pub fn msr(&self, index: u32) -> Option<u64> {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
            index,
            ..Default::default()
        }])
        .ok()?;
        let read = self.fd.get_msrs(&mut msrs).ok()? == 1;
        let data = msrs.as_slice()[0].data;
        let cut = self.amd && SYSENTER_TARGET.contains(&index);
        read.then_some(if cut { data & 0xffff_ffff } else { data })
    }

    /// Whether an interrupt can be injected at this exit.
    pub fn ready_for_interrupt(&mut self) -> bool {
        self.fd.get_kvm_run().ready_for_interrupt_injection != 0
    }

    /// Asks for an exit at the first point where the guest can take an interrupt.
    pub fn request_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    /// CR8 at the last exit.
    pub fn cr8(&mut self) -> u8 {
        self.fd.get_kvm_run().cr8 as u8 & 0xf
    }

    /// Has the next entry begin with this CR8: without an interrupt controller of its own KVM takes it from the
    /// shared page each time.
    pub fn set_cr8(&mut self, cr8: u64) {
        self.fd.get_kvm_run().cr8 = cr8;
    }

    /// Injects a vector; only when [`Vcpu::ready_for_interrupt`].
    #[allow(unsafe_code)]
    pub fn inject(&mut self, vector: u8) -> Result<(), VmmError> {
        use vmm_sys_util::ioctl::ioctl_with_ref;
        let interrupt = kvm_bindings::kvm_interrupt {
            irq: u32::from(vector),
        };
        // SAFETY: the descriptor is a vCPU's, the kernel only reads the structure.
        let answer = unsafe { ioctl_with_ref(&self.fd, nr::KVM_INTERRUPT(), &interrupt) };
        if answer == 0 {
            return Ok(());
        }
        Err(VmmError::Ioctl {
            what: "KVM_INTERRUPT",
            source: std::io::Error::last_os_error(),
        })
    }

    /// Arms these hardware breakpoints, on instructions, and no others.
    pub fn debug(&self, breakpoints: [Option<u64>; BREAKPOINTS]) -> Result<(), VmmError> {
        self.guest_debug(breakpoints, 0)
    }

    /// The same, and every #DB of the guest becomes an exit.
    pub fn debug_all(&self, breakpoints: [Option<u64>; BREAKPOINTS]) -> Result<(), VmmError> {
        self.guest_debug(breakpoints, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP)
    }

    /// Has the next entry run one instruction, with these breakpoints armed. KVM sets the trap flag where
    /// it knows the guest to stand, so this is to be done anew behind each step, and behind
    /// [`Vcpu::settle`] if registers were changed.
    pub fn single_step(&self, breakpoints: [Option<u64>; BREAKPOINTS]) -> Result<(), VmmError> {
        self.guest_debug(breakpoints, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)
    }

    fn guest_debug(
        &self,
        breakpoints: [Option<u64>; BREAKPOINTS],
        mut control: u32,
    ) -> Result<(), VmmError> {
        let wanted = (breakpoints, control);
        if control & KVM_GUESTDBG_SINGLESTEP == 0 && self.debugged.get() == wanted {
            return Ok(());
        }
        let mut debugreg = [0u64; 8];
        debugreg[7] = 0x400; // the bit that is always one (SDM vol. 3, 18.2.4)
        for (at, address) in breakpoints.into_iter().enumerate() {
            if let Some(address) = address {
                control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
                debugreg[at] = address;
                debugreg[7] |= 2 << (2 * at); // G0 to G3
            }
        }
        let debug = kvm_guest_debug {
            control,
            arch: kvm_guest_debug_arch { debugreg },
            pad: 0,
        };
        self.fd
            .set_guest_debug(&debug)
            .map_err(VmmError::ioctl("KVM_SET_GUEST_DEBUG"))?;
        self.debugged.set(wanted);
        Ok(())
    }

    /// Whether nothing is half done where the vCPU stands: no exception or interrupt on its way, no
    /// interrupt shadow (a system call).
    pub fn is_between_instructions(&self) -> Result<bool, VmmError> {
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(VmmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        let under_way = [
            events.exception.injected,
            events.exception.pending,
            events.interrupt.injected,
            events.interrupt.shadow,
            events.nmi.injected,
            events.nmi.pending,
            events.smi.smm,
        ];
        Ok(under_way.iter().all(|flag| *flag == 0))
    }

    /// Lets the instruction under a hardware breakpoint run: RF masks it for one instruction (SDM vol. 3,
    /// 18.3.1.1).
    pub fn step_over(&mut self) {
        let mut regs = self.regs();
        regs.rflags |= RFLAGS_RF;
        self.set_regs(regs);
    }

    /// The data of the port exit that the vCPU is stopped at.
    #[allow(unsafe_code)]
    pub fn port_data(&mut self) -> &mut [u8] {
        let mapped = self.run_bytes;
        // SAFETY: the wrapper mapped `run_bytes` from the vCPU; its callers hold a port exit, and
        // for any other exit the bounds check keeps the slice within the mapping all the same.
        unsafe { exit::port_data(self.fd.get_kvm_run(), mapped) }
    }

    /// Where the answer to an MMIO load goes.
    pub fn mmio_answer(&mut self) -> &mut [u8; 8] {
        exit::mmio_answer(self.fd.get_kvm_run())
    }

    /// Answers an MSR exit; `None` raises #GP.
    pub fn answer_msr(&mut self, answer: Option<u64>) {
        exit::answer_msr(self.fd.get_kvm_run(), answer);
    }
}

mod nr {
    #![allow(missing_docs)]
    vmm_sys_util::ioctl_iow_nr!(
        KVM_INTERRUPT,
        kvm_bindings::KVMIO,
        0x86,
        kvm_bindings::kvm_interrupt
    );
}
