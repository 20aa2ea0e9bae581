//! A vCPU's whole state as one value: what a snapshot carries and a state hash covers.

mod fpu;

use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events};
use serde::{Deserialize, Serialize};

use fpu::Fpu;

use crate::error::VmmError;
use crate::kvm::Vcpu;

/// Version of [`CpuState`]'s encoding; a snapshot of another version is refused.
pub const CPU_STATE_VERSION: u16 = 4;

/// MSRs that belong to the guest's architectural state. Special registers hold EFER, FS and GS
/// base; clocks and counters are hidden or filtered; the rest of what KVM lists is host policy.
pub const GUEST_MSRS: [u32; 14] = [
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0x1a0,       // IA32_MISC_ENABLE
    0x1d9,       // IA32_DEBUGCTL
    0x277,       // IA32_PAT
    0x2ff,       // IA32_MTRR_DEF_TYPE
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0102, // KERNEL_GS_BASE
    0x48,        // IA32_SPEC_CTRL
    0x140,       // IA32_MISC_FEATURES_ENABLES: CPUID faults in user code
];

/// Everything that decides what a vCPU does next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    version: u16,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: Fpu,
    debugregs: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
    run: RunState,
}

/// What the vCPU loop itself remembers between entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// Addresses of the breakpoints on the guest's #GP and #UD entries, once they are armed.
    pub tsc_breakpoints: [Option<u64>; 2],
    /// That of the breakpoint where the guest's kernel makes memory executable.
    pub later_code: Option<u64>,
    /// The guest executed HLT and waits for an interrupt.
    pub halted: bool,
}

impl CpuState {
    /// Reads the state of a settled vCPU ([`Vcpu::settle`]).
    pub fn save(vcpu: &Vcpu, run: RunState) -> Result<CpuState, VmmError> {
        let fd = vcpu.fd();
        Ok(CpuState {
            version: CPU_STATE_VERSION,
            regs: fd.get_regs().map_err(VmmError::ioctl("KVM_GET_REGS"))?,
            sregs: vcpu.sregs()?,
            fpu: Fpu::save(vcpu)?,
            debugregs: fd
                .get_debug_regs()
                .map_err(VmmError::ioctl("KVM_GET_DEBUGREGS"))?,
            events: fd
                .get_vcpu_events()
                .map_err(VmmError::ioctl("KVM_GET_VCPU_EVENTS"))?,
            msrs: GUEST_MSRS
                .iter()
                .filter_map(|&index| read_msr(vcpu, index))
                .collect(),
            run,
        })
    }

    /// Makes a settled vCPU be in this state, but for the breakpoint of its run state, which is
    /// the caller's to arm.
    pub fn load(&self, vcpu: &mut Vcpu) -> Result<(), VmmError> {
        let CpuState {
            version: _,
            regs,
            sregs,
            fpu,
            debugregs,
            events,
            msrs,
            run: _,
        } = self;
        vcpu.set_sregs(sregs)?;
        vcpu.set_cr8(sregs.cr8);
        let fd = vcpu.fd();
        fpu.load(vcpu)?;
        fd.set_debug_regs(debugregs)
            .map_err(VmmError::ioctl("KVM_SET_DEBUGREGS"))?;
        for &(index, data) in msrs {
            write_msr(vcpu, index, data)?;
        }
        fd.set_vcpu_events(events)
            .map_err(VmmError::ioctl("KVM_SET_VCPU_EVENTS"))?;
        fd.set_regs(regs).map_err(VmmError::ioctl("KVM_SET_REGS"))?;
        vcpu.set_regs(*regs);
        Ok(())
    }

    /// The encoding that a snapshot carries.
    pub fn encode(&self) -> Result<Vec<u8>, VmmError> {
        postcard::to_allocvec(self)
            .map_err(|error| VmmError::BadSnapshot(format!("CPU state: {error}")))
    }

    /// Decodes and validates what a peer or a log file says.
    pub fn decode(bytes: &[u8]) -> Result<CpuState, VmmError> {
        let (version, _) = postcard::take_from_bytes::<u16>(bytes)
            .map_err(|error| VmmError::BadSnapshot(format!("CPU state: {error}")))?;
        if version != CPU_STATE_VERSION {
            return Err(VmmError::BadSnapshot(format!(
                "CPU state has version {version}, this ftd reads {CPU_STATE_VERSION}"
            )));
        }
        let (state, rest) = postcard::take_from_bytes::<CpuState>(bytes)
            .map_err(|error| VmmError::BadSnapshot(format!("CPU state: {error}")))?;
        if !rest.is_empty() {
            return Err(VmmError::BadSnapshot(
                "CPU state is followed by other bytes".to_owned(),
            ));
        }
        if let Some(&(index, _)) = state.msrs.iter().find(|(i, _)| !GUEST_MSRS.contains(i)) {
            return Err(VmmError::BadSnapshot(format!(
                "CPU state sets MSR {index:#x}"
            )));
        }
        Ok(state)
    }

    /// What the vCPU loop remembers.
    pub fn run_state(&self) -> RunState {
        self.run
    }

    /// The general registers.
    pub fn regs(&self) -> &kvm_regs {
        &self.regs
    }
}

fn read_msr(vcpu: &Vcpu, index: u32) -> Option<(u32, u64)> {
    // If the host has none, nor does the guest.
    Some((index, vcpu.msr(index)?))
}

fn write_msr(vcpu: &Vcpu, index: u32, data: u64) -> Result<(), VmmError> {
    let refused = |why: String| VmmError::BadSnapshot(format!("MSR {index:#x}: {why}"));
    let msrs = Msrs::from_entries(&[kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }])
    .map_err(|error| refused(format!("{error:?}")))?;
    match vcpu.fd().set_msrs(&msrs) {
        Ok(1) => Ok(()),
        Ok(_) => Err(refused(format!(
            "this host's KVM refuses the value {data:#x}"
        ))),
        Err(error) => Err(VmmError::ioctl("KVM_SET_MSRS")(error)),
    }
}
