//! Opening KVM and making a VM.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use devices::GuestMemory;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MAX_CPUID_ENTRIES, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_cpuid_entry2, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::dirty::DirtyRam;
use crate::cpu_model::msr::MsrRange;
use crate::error::VmmError;
use crate::memory::Ram;

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Capabilities that ftd cannot do without, by their names in the kernel's API.
const NEEDED: [(Cap, &str); 10] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::SetGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
];

/// Opens KVM at `device` and checks its API version and the capabilities ftd cannot do without.
pub fn open_kvm(device: &Path) -> Result<Kvm, VmmError> {
    let kvm = open_device(device)?;
    match missing_capabilities(&kvm).first() {
        Some(what) => Err(VmmError::MissingCapability { what }),
        None => Ok(kvm),
    }
}

/// Opens KVM at `device`, whatever it lacks.
pub fn open_device(device: &Path) -> Result<Kvm, VmmError> {
    let open = |source| VmmError::OpenKvm {
        device: device.to_owned(),
        source,
    };
    let path = CString::new(device.as_os_str().as_bytes())
        .map_err(|error| open(std::io::Error::other(error)))?;
    let kvm = Kvm::new_with_path(&path)
        .map_err(|error| open(std::io::Error::from_raw_os_error(error.errno())))?;
    match kvm.get_api_version() {
        version if version == kvm_bindings::KVM_API_VERSION as i32 => Ok(kvm),
        version if version < 0 => Err(VmmError::NotKvm {
            device: device.to_owned(),
        }),
        found => Err(VmmError::ApiVersion { found }),
    }
}

/// The needed capabilities that `kvm` says it lacks.
pub fn missing_capabilities(kvm: &Kvm) -> Vec<&'static str> {
    NEEDED
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect()
}

/// What the host's KVM can give a guest by CPUID.
pub fn supported_cpuid(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, VmmError> {
    Ok(kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(VmmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?
        .as_slice()
        .to_vec())
}

/// A VM: guest RAM in one slot.
pub struct Vm {
    fd: Arc<VmFd>,
    dirty: DirtyRam,
}

impl Vm {
    /// Makes a VM over `memory`, whose accesses to `closed` MSRs exit to user space.
    pub fn new(kvm: &Kvm, memory: Ram, closed: &[MsrRange]) -> Result<Vm, VmmError> {
        let fd = create(kvm)?;
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
        .map_err(VmmError::ioctl(
            "KVM_ENABLE_CAP(KVM_CAP_X86_USER_SPACE_MSR)",
        ))?;
        filter_msrs(&fd, closed)?;
        // kvm_intel keeps a real-mode task segment and page table in these three pages.
        // They lie in device space, where no RAM is. kvm_amd ignores them.
        let _ = fd.set_identity_map_address(0xfeff_c000);
        let _ = fd.set_tss_address(0xfeff_d000);
        let fd = Arc::new(fd);
        let dirty = DirtyRam::new(Arc::clone(&fd), memory)?;
        Ok(Vm { fd, dirty })
    }

    /// The file descriptor, to make vCPUs on.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        self.dirty.memory()
    }

    /// RAM and dirty log together, for another thread.
    pub fn dirty_ram(&self) -> DirtyRam {
        self.dirty.clone()
    }
}

/// A signal, or on some hosts mere load, may cut the making of a VM short.
const CREATE_TRIES: u32 = 20;

fn create(kvm: &Kvm) -> Result<VmFd, VmmError> {
    let mut tries = 1;
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && tries < CREATE_TRIES => tries += 1,
            made => return made.map_err(VmmError::ioctl("KVM_CREATE_VM")),
        }
    }
}

/// Most MSRs that one range's bitmap covers (KVM_MSR_FILTER_MAX_BITMAP_SIZE, in bits).
const RANGE_MSRS_MAX: u32 = 0x600 * 8;

fn filter_msrs(fd: &VmFd, closed: &[MsrRange]) -> Result<(), VmmError> {
    let windows = bitmaps(closed);
    let ranges: Vec<MsrFilterRange<'_>> = windows
        .iter()
        .map(|(base, msr_count, bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: *base,
            msr_count: *msr_count,
            bitmap,
        })
        .collect();
    if ranges.is_empty() {
        return Ok(());
    }
    fd.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .map_err(VmmError::ioctl("KVM_X86_SET_MSR_FILTER"))
}

/// Windows of MSRs, each with a bitmap in which a 0 bit closes one: KVM takes at most 16 ranges.
fn bitmaps(closed: &[MsrRange]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut indices: Vec<u32> = closed
        .iter()
        .flat_map(|range| range.first..range.first + range.count)
        .collect();
    indices.sort_unstable();
    let mut windows: Vec<(u32, u32, Vec<u8>)> = Vec::new();
    for index in indices {
        match windows.last_mut() {
            Some((base, count, _)) if index - *base < RANGE_MSRS_MAX => *count = index - *base + 1,
            _ => windows.push((index, 1, Vec::new())),
        }
        if let Some((base, count, bitmap)) = windows.last_mut() {
            bitmap.resize(count.div_ceil(8) as usize, 0xff);
            let bit = index - *base;
            bitmap[(bit / 8) as usize] &= !(1 << (bit % 8));
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_model::msr::{CLOSED, closed};

    #[test]
    fn every_closed_msr_has_a_zero_bit_and_no_other_has() {
        let windows = bitmaps(CLOSED);
        assert!(windows.len() <= 16, "KVM takes no more than 16 ranges");
        let is_closed = |msr: u32| {
            windows.iter().any(|(base, count, bitmap)| {
                msr.checked_sub(*base).is_some_and(|bit| {
                    bit < *count && bitmap[(bit / 8) as usize] >> (bit % 8) & 1 == 0
                })
            })
        };
        for msr in (0..0x4000)
            .chain(0xc000_0000..0xc000_4000)
            .chain(0xc001_0000..0xc001_4000)
        {
            assert_eq!(is_closed(msr), closed(msr).is_some(), "{msr:#x}");
        }
    }
}
