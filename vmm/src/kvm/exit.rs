//! A synchronous exit, decoded from `struct kvm_run` (Documentation/virt/kvm/api.rst, section 5)
//! into a value that borrows nothing, so that the machine can be asked while the vCPU stays usable.

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, kvm_run,
};

/// Why KVM_RUN came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// IN from a port: `count` items of `size` bytes (more than one only for REP INS).
    PortIn {
        /// I/O port.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// Items.
        count: u32,
    },
    /// OUT to a port.
    PortOut {
        /// I/O port.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// Items.
        count: u32,
    },
    /// A load from device space.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// Bytes, at most 8.
        len: u8,
    },
    /// A store to device space.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// Bytes, at most 8.
        len: u8,
        /// The data, little-endian.
        data: [u8; 8],
    },
    /// RDMSR of a filtered, unknown or refused MSR.
    ReadMsr {
        /// ECX.
        index: u32,
    },
    /// WRMSR to one.
    WriteMsr {
        /// ECX.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// HLT.
    Halt,
    /// The guest can take an interrupt now, as was asked.
    InterruptWindow,
    /// CR8 was lowered.
    SetTpr,
    /// A breakpoint or single step; `pc` is the linear RIP.
    Debug {
        /// Linear address of the instruction about to run.
        pc: u64,
        /// DR6 as the guest would see it.
        dr6: u64,
    },
    /// Triple fault.
    Shutdown,
    /// KVM_RUN was cut short by a signal or `immediate_exit`; not a synchronous exit.
    Interrupted,
    /// KVM gave up; not recoverable.
    Failed {
        /// KVM_EXIT_* number.
        reason: u32,
        /// Suberror or hardware reason.
        detail: u64,
    },
}

/// DR6.BS: a single step is over (SDM vol. 3, 18.2.3).
const DR6_SINGLE_STEP: u64 = 1 << 14;

impl Exit {
    /// The end of a single step, before the instruction at `pc`.
    pub fn step(pc: u64) -> Exit {
        let dr6 = DR6_SINGLE_STEP;
        Exit::Debug { pc, dr6 }
    }

    /// Whether this is the end of a single step. (A breakpoint on the next instruction may show as well, but is
    /// not met yet; even one that isn't armed.)
    pub fn is_step(self) -> bool {
        matches!(self, Exit::Debug { dr6, .. } if dr6 & DR6_SINGLE_STEP != 0)
    }
}

/// Decodes the exit that `run` holds.
#[allow(unsafe_code)]
pub fn decode(run: &kvm_run) -> Exit {
    let any = &run.__bindgen_anon_1;
    // SAFETY: exit_reason says which member of the union the kernel filled in; all of them are
    // plain integers, for which any bit pattern is valid.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_IO => {
                let io = any.io;
                let (port, size, count) = (io.port, io.size, io.count);
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Exit::PortIn { port, size, count }
                } else {
                    Exit::PortOut { port, size, count }
                }
            }
            KVM_EXIT_MMIO => {
                let mmio = any.mmio;
                let (address, len) = (mmio.phys_addr, mmio.len.min(8) as u8);
                if mmio.is_write == 0 {
                    Exit::MmioRead { address, len }
                } else {
                    Exit::MmioWrite {
                        address,
                        len,
                        data: mmio.data,
                    }
                }
            }
            KVM_EXIT_X86_RDMSR => Exit::ReadMsr {
                index: any.msr.index,
            },
            KVM_EXIT_X86_WRMSR => Exit::WriteMsr {
                index: any.msr.index,
                value: any.msr.data,
            },
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::InterruptWindow,
            KVM_EXIT_SET_TPR => Exit::SetTpr,
            KVM_EXIT_DEBUG => {
                let arch = any.debug.arch;
                Exit::Debug {
                    pc: arch.pc,
                    dr6: arch.dr6,
                }
            }
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_SYSTEM_EVENT => Exit::Shutdown,
            KVM_EXIT_FAIL_ENTRY => Exit::Failed {
                reason: KVM_EXIT_FAIL_ENTRY,
                detail: any.fail_entry.hardware_entry_failure_reason,
            },
            KVM_EXIT_INTERNAL_ERROR => Exit::Failed {
                reason: KVM_EXIT_INTERNAL_ERROR,
                detail: u64::from(any.internal.suberror),
            },
            reason => Exit::Failed { reason, detail: 0 },
        }
    }
}

/// Where an MMIO load's answer goes; valid while the exit that `run` holds is a `MmioRead`.
#[allow(unsafe_code)]
pub fn mmio_answer(run: &mut kvm_run) -> &mut [u8; 8] {
    // SAFETY: plain bytes; the caller decoded a MmioRead from this run.
    unsafe { &mut run.__bindgen_anon_1.mmio.data }
}

/// Answers an MSR exit: `Ok(value)` for a read, `Ok(0)` for a write, `Err(())` to raise #GP.
#[allow(unsafe_code)]
pub fn answer_msr(run: &mut kvm_run, answer: Option<u64>) {
    // SAFETY: plain integers; the caller decoded an MSR exit from this run.
    let msr = unsafe { &mut run.__bindgen_anon_1.msr };
    msr.error = u8::from(answer.is_none());
    if let Some(value) = answer {
        msr.data = value;
    }
}

/// The data of a port exit: `size * count` bytes in the pages shared with the kernel.
///
/// # Safety
/// `run` must be the start of a `mapped` byte long kvm_run mapping that currently holds a port exit.
#[allow(unsafe_code)]
pub unsafe fn port_data(run: &mut kvm_run, mapped: usize) -> &mut [u8] {
    // SAFETY: the caller holds a port exit.
    let io = unsafe { run.__bindgen_anon_1.io };
    let len = usize::from(io.size) * io.count as usize;
    let offset = io.data_offset as usize;
    if offset.checked_add(len).is_none_or(|end| end > mapped) {
        return &mut [];
    }
    // SAFETY: within the mapping, by the check above; bytes have no alignment or validity demands,
    // and the exclusive borrow of `run` keeps every other access away.
    unsafe {
        let start = std::ptr::from_mut(run).cast::<u8>().add(offset);
        std::slice::from_raw_parts_mut(start, len)
    }
}
