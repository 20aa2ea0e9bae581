//! The deterministic boundary (the log entries of Scales et al. 2010, section 2.1): what may come
//! in is an [`Input`], what may go out is an [`Effect`].

use serde::{Deserialize, Serialize};

use crate::VirtualNs;

/// A non-deterministic event on its way into the machine. Each one applied on the primary is a
/// log entry; the backup applies the same ones at the same positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The virtual clock was read: it is now `now` nanoseconds after power-on. Timers that are due
    /// fire as a deterministic consequence. A `now` below the machine's current time is ignored.
    Clock {
        /// Nanoseconds since power-on.
        now: VirtualNs,
    },
    /// A frame (Ethernet, without FCS and without virtio header) arrived for the network device.
    NetRx {
        /// The frame's bytes.
        frame: Vec<u8>,
    },
    /// A disk request that the device had emitted as [`Effect::Disk`] is complete.
    DiskDone {
        /// Index of the disk, as in [`DiskRequest::disk`].
        disk: u8,
        /// The request's identifier, as in [`DiskRequest::id`].
        id: u64,
        /// What came of it.
        outcome: DiskOutcome,
    },
    /// Bytes typed at a console.
    ConsoleIn {
        /// Which console.
        console: Console,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Random bytes for virtio-rng, in answer to [`Effect::EntropyWanted`].
    Entropy {
        /// The bytes, at most as many as were wanted.
        bytes: Vec<u8>,
    },
    /// The ACPI power button was pressed (a clean shut-down is asked of the guest).
    PowerButton,
}

/// What became of a disk request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOutcome {
    /// A read's data, exactly as long as was asked for.
    Read(Vec<u8>),
    /// A write, flush or discard was carried out.
    Done,
    /// The request failed; the guest sees VIRTIO_BLK_S_IOERR or VIRTIO_BLK_S_UNSUPP.
    Failed(DiskError),
}

/// Why a disk request failed, as far as the guest can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskError {
    /// VIRTIO_BLK_S_IOERR.
    Io,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

/// Which of the guest's consoles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Console {
    /// The 16550 at COM1 (ttyS0).
    Serial,
    /// The virtio console (hvc0).
    Virtio,
}

/// Something the machine asks of the outside world. Outputs among them ([`Effect::is_output`]) are
/// held under the output rule until the log before them is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// A disk request; its completion comes back as [`Input::DiskDone`].
    Disk(DiskRequest),
    /// A frame (Ethernet, without FCS and without virtio header) leaves the guest.
    NetTx {
        /// The frame's bytes.
        frame: Vec<u8>,
    },
    /// Bytes the guest wrote to a console.
    ConsoleOut {
        /// Which console.
        console: Console,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The guest's virtio-rng wants up to `len` random bytes; answered by [`Input::Entropy`].
    EntropyWanted {
        /// How many bytes at most.
        len: u32,
    },
    /// The guest powered itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset (ACPI reset register, i8042 pulse, port CF9h, or triple fault).
    Reset,
}

impl Effect {
    /// Whether the outside world can see this effect, so that the output rule must hold it back.
    /// Reads from a disk and requests for entropy are visible to nobody.
    pub fn is_output(&self) -> bool {
        match self {
            Effect::Disk(request) => !matches!(request.op, DiskOp::Read { .. }),
            Effect::NetTx { .. } | Effect::ConsoleOut { .. } => true,
            Effect::PowerOff | Effect::Reset => true,
            Effect::EntropyWanted { .. } => false,
        }
    }

    /// Bytes of data that it makes the host keep until it is carried out.
    pub fn data_bytes(&self) -> usize {
        match self {
            Effect::NetTx { frame } => frame.len(),
            Effect::ConsoleOut { bytes, .. } => bytes.len(),
            Effect::Disk(request) => match &request.op {
                DiskOp::Write { data, .. } => data.len(),
                DiskOp::Read { .. } | DiskOp::Flush | DiskOp::Discard { .. } => 0,
            },
            Effect::EntropyWanted { .. } | Effect::PowerOff | Effect::Reset => 0,
        }
    }
}

/// A request to one of the machine's disks. Data of a write was copied out of guest memory at the
/// moment of the request (the paper's bounce buffer), so no DMA runs beside the vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRequest {
    /// Index of the disk, 0 for the first.
    pub disk: u8,
    /// Unique per disk for the life of the machine; rising by one from 0 in order of issue.
    pub id: u64,
    /// What is asked.
    pub op: DiskOp,
}

/// The operations of a disk request. Offsets and lengths are bytes, multiples of 512, and within
/// the disk's capacity (the device model checked them).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOp {
    /// Read `len` bytes at `offset`.
    Read {
        /// Byte offset.
        offset: u64,
        /// Byte count.
        len: u32,
    },
    /// Write `data` at `offset`.
    Write {
        /// Byte offset.
        offset: u64,
        /// The data.
        data: Vec<u8>,
    },
    /// Make all completed writes durable.
    Flush,
    /// Give `len` bytes at `offset` back (they read as anything afterwards).
    Discard {
        /// Byte offset.
        offset: u64,
        /// Byte count.
        len: u64,
    },
}
