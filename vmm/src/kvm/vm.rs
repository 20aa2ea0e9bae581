//! Opening KVM and making a VM.

use devices::GuestMemory;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
    kvm_cpuid_entry2, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::error::VmmError;
use crate::memory::{PageSet, ram_bytes, take_device_dirty};

/// The slot that holds all of guest RAM.
const RAM_SLOT: u32 = 0;

/// Opens `/dev/kvm` and checks its API version and the capabilities ftd cannot do without.
pub fn open_kvm() -> Result<Kvm, VmmError> {
    let kvm = Kvm::new()
        .map_err(|e| VmmError::OpenKvm(std::io::Error::from_raw_os_error(e.errno())))?;
    if kvm.get_api_version() != kvm_bindings::KVM_API_VERSION as i32 {
        return Err(VmmError::MissingCapability { what: "API version 12" });
    }
    let needed = [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
        (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
        (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    ];
    for (cap, what) in needed {
        if !kvm.check_extension(cap) {
            return Err(VmmError::MissingCapability { what });
        }
    }
    Ok(kvm)
}

/// What the host's KVM can give a guest by CPUID.
pub fn supported_cpuid(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, VmmError> {
    Ok(kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(VmmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?
        .as_slice()
        .to_vec())
}

/// A VM: guest RAM in one slot with its dirty log on.
pub struct Vm {
    fd: VmFd,
    memory: GuestMemory,
    /// Pages written since the last [`Vm::take_dirty`] of whoever else asked.
    pending: PageSet,
}

impl Vm {
    /// Makes a VM over `memory`, whose MSR accesses named by `denied_msrs` exit to user space.
    pub fn new(kvm: &Kvm, memory: GuestMemory, denied_msrs: &[u32]) -> Result<Vm, VmmError> {
        let fd = kvm.create_vm().map_err(VmmError::ioctl("KVM_CREATE_VM"))?;
        fd.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            args: [
                u64::from(
                    KVM_MSR_EXIT_REASON_INVAL
                        | KVM_MSR_EXIT_REASON_UNKNOWN
                        | KVM_MSR_EXIT_REASON_FILTER,
                ),
                0,
                0,
                0,
            ],
            ..Default::default()
        })
        .map_err(VmmError::ioctl("KVM_ENABLE_CAP(KVM_CAP_X86_USER_SPACE_MSR)"))?;
        filter_msrs(&fd, denied_msrs)?;
        // kvm_intel keeps a real-mode task segment and page table in these three pages.
        // They lie in device space, where no RAM is. kvm_amd ignores them.
        let _ = fd.set_identity_map_address(0xfeff_c000);
        let _ = fd.set_tss_address(0xfeff_d000);
        let bytes = ram_bytes(&memory);
        let vm = Vm { fd, pending: PageSet::empty(bytes), memory };
        vm.map_ram(bytes)?;
        Ok(vm)
    }

    #[allow(unsafe_code)]
    fn map_ram(&self, bytes: u64) -> Result<(), VmmError> {
        let host = self.memory.get_host_address(GuestAddress(0)).map_err(|e| VmmError::Memory {
            bytes,
            why: e.to_string(),
        })?;
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: 0,
            memory_size: bytes,
            userspace_addr: host as u64,
        };
        // SAFETY: the mapping is `bytes` long, and lives as long as `self.memory`, which is dropped
        // after `self.fd` (fields drop in order of declaration) and is never unmapped before.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(VmmError::ioctl("KVM_SET_USER_MEMORY_REGION"))
    }

    /// The file descriptor, to make vCPUs on.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Moves the pages written (by vCPU or device) since the last call into `into`.
    pub fn take_dirty(&mut self, into: &mut PageSet) -> Result<(), VmmError> {
        let bytes = ram_bytes(&self.memory);
        let log = self
            .fd
            .get_dirty_log(RAM_SLOT, bytes as usize)
            .map_err(VmmError::ioctl("KVM_GET_DIRTY_LOG"))?;
        into.add(&log);
        take_device_dirty(&self.memory, &mut self.pending);
        for gfn in self.pending.iter() {
            into.insert(gfn);
        }
        self.pending.clear();
        Ok(())
    }
}

fn filter_msrs(fd: &VmFd, denied: &[u32]) -> Result<(), VmmError> {
    // One range an MSR, at most 16 of them (KVM_MSR_FILTER_MAX_RANGES); a 0 bit denies.
    let bitmap = [0u8; 1];
    let ranges: Vec<MsrFilterRange<'_>> = denied
        .iter()
        .take(16)
        .map(|&base| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 1,
            bitmap: &bitmap,
        })
        .collect();
    if ranges.is_empty() {
        return Ok(());
    }
    fd.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .map_err(VmmError::ioctl("KVM_X86_SET_MSR_FILTER"))
}
