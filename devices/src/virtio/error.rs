//! The two ways a virtio device can be misused: by its driver ([`Fault`]) and by whoever feeds it
//! inputs or a saved state ([`VirtioError`]).

use serde::{Deserialize, Serialize};

use crate::RestoreError;

/// What the guest's driver did wrong. The device sets DEVICE_NEEDS_RESET, remembers the first
/// fault, and touches its queues no more until the driver resets it: a driver that breaks a queue
/// is broken or hostile, and nothing it queued afterwards can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("virtqueue {queue}: {reason}")]
pub struct Fault {
    /// The queue on which it happened.
    pub queue: u16,
    /// What happened.
    pub reason: FaultReason,
}

/// Why a [`Fault`] was raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FaultReason {
    /// QueueNum is no power of two, or above QueueNumMax.
    #[error("size {size} is not a power of two between 1 and the offered maximum")]
    QueueSize {
        /// What the driver wrote.
        size: u32,
    },
    /// A ring's address breaks its alignment or the ring is not wholly in RAM.
    #[error("the {ring:?} ring at {address:#x} is misaligned or outside RAM")]
    QueueAddress {
        /// Which part of the queue.
        ring: Ring,
        /// Its guest-physical address.
        address: u64,
    },
    /// The available ring holds more chains than the queue has descriptors.
    #[error("the driver claims {claimed} available chains, more than the queue can hold")]
    AvailableIndex {
        /// How many chains it claims.
        claimed: u16,
    },
    /// A descriptor index is not below the size of its table.
    #[error("descriptor index {index} is outside its table")]
    DescriptorIndex {
        /// The index.
        index: u16,
    },
    /// A chain does not end (a loop), or is longer than a chain may be.
    #[error("a descriptor chain loops or is too long")]
    ChainTooLong,
    /// An indirect descriptor that was not negotiated, is nested, has NEXT set, or whose table is
    /// empty, too large or no multiple of 16 bytes.
    #[error("an indirect descriptor is malformed")]
    Indirect,
    /// A device-readable descriptor follows a device-writable one (section 2.7.4.2).
    #[error("a device-readable buffer follows a device-writable one")]
    BufferOrder,
    /// A buffer or an indirect table is not wholly in RAM.
    #[error("buffer at {address:#x} of {len} bytes is not in RAM")]
    OutsideRam {
        /// Its guest-physical address.
        address: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A chain has fewer or more device-readable or device-writable bytes than its device can
    /// work with, so that not even an error status could be reported.
    #[error("a chain of {readable} readable and {writable} writable bytes makes no request")]
    RequestShape {
        /// Device-readable bytes.
        readable: u64,
        /// Device-writable bytes.
        writable: u64,
    },
}

/// A part of a split virtqueue (section 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// The descriptor table.
    Descriptor,
    /// The available ring (the driver area).
    Available,
    /// The used ring (the device area).
    Used,
}

/// An input or a saved state that does not fit the device: it came from another machine, another
/// version, or a damaged log. The device is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VirtioError {
    /// The input is for another kind of device.
    #[error("an input of this kind is not for a {device}")]
    Misrouted {
        /// The device it was given to.
        device: &'static str,
    },
    /// A completion for another disk.
    #[error("a completion for disk {found} was given to disk {expected}")]
    WrongDisk {
        /// The disk in the input.
        found: u8,
        /// The disk that got it.
        expected: u8,
    },
    /// A completion for a request that was never made or is already complete.
    #[error("disk {disk} has no outstanding request {id}")]
    UnknownRequest {
        /// The disk.
        disk: u8,
        /// The identifier.
        id: u64,
    },
    /// Read data for a request that is no read, or `Done` for one that is.
    #[error("the outcome for request {id} of disk {disk} is not of the request's kind")]
    WrongOutcome {
        /// The disk.
        disk: u8,
        /// The identifier.
        id: u64,
    },
    /// A read's data is not as long as was asked for.
    #[error("request {id} of disk {disk} read {found} bytes, {expected} were asked for")]
    ReadLength {
        /// The disk.
        disk: u8,
        /// The identifier.
        id: u64,
        /// Bytes in the input.
        found: usize,
        /// Bytes asked for.
        expected: u32,
    },
    /// A frame that no Ethernet segment can have carried.
    #[error("a received frame has {len} bytes")]
    FrameLength {
        /// Its length in bytes.
        len: usize,
    },
    /// No entropy, or more of it than is wanted.
    #[error("{found} bytes of entropy came where {wanted} were wanted")]
    EntropyLength {
        /// Bytes in the input.
        found: usize,
        /// Bytes wanted; 0 when the device was not waiting for any.
        wanted: u32,
    },
    /// A saved state that this device cannot have produced.
    #[error(transparent)]
    State(#[from] RestoreError),
}

/// Why handling an input stopped: the input itself is wrong, or the driver is.
#[derive(Debug)]
pub(super) enum Stop {
    Input(VirtioError),
    Driver(FaultReason),
}

impl From<VirtioError> for Stop {
    fn from(error: VirtioError) -> Self {
        Stop::Input(error)
    }
}

impl From<FaultReason> for Stop {
    fn from(reason: FaultReason) -> Self {
        Stop::Driver(reason)
    }
}
