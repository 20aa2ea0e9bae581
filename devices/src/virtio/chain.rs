//! Descriptor chains (virtio 1.2, sections 2.7.4 and 2.7.5), parsed once and strictly.
//!
//! `virtio_queue`'s iterator ends at the first broken descriptor as if the chain ended there, so a
//! hostile chain would pass for a short one. Here every defect is a [`FaultReason`].

use serde::{Deserialize, Serialize};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, Permissions};

use super::error::FaultReason;
use crate::GuestMemory;

/// Most descriptors in one chain, and in one indirect table (QEMU's limit; Linux stays below it).
pub const CHAIN_DESCRIPTORS_MAX: u16 = 1024;
/// Size of a descriptor in guest memory, in bytes.
pub const DESCRIPTOR_BYTES: u32 = 16;

/// A piece of guest memory that a descriptor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
}

/// One parsed chain: its buffers lay wholly in RAM when it was parsed. Reused from chain to chain,
/// so that a request costs no allocation.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of the first descriptor, which names the chain in the used ring.
    pub head: u16,
    /// Device-readable buffers, in order.
    pub readable: Vec<Segment>,
    /// Device-writable buffers, in order.
    pub writable: Vec<Segment>,
    /// Sum of `readable`, in bytes.
    pub readable_bytes: u64,
    /// Sum of `writable`, in bytes.
    pub writable_bytes: u64,
}

impl Chain {
    /// Reads the chain that starts at `head` of the table at `table` with `size` descriptors.
    pub fn parse(
        &mut self,
        mem: &GuestMemory,
        table: u64,
        size: u16,
        head: u16,
        indirect_allowed: bool,
    ) -> Result<(), FaultReason> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.readable_bytes = 0;
        self.writable_bytes = 0;

        let (mut table, mut size, mut index) = (table, size, head);
        let mut indirect = false;
        // Each step uses a descriptor of the current table, so more steps than descriptors is a loop.
        let mut left = size.min(CHAIN_DESCRIPTORS_MAX);
        loop {
            if index >= size {
                return Err(FaultReason::DescriptorIndex { index });
            }
            left = left.checked_sub(1).ok_or(FaultReason::ChainTooLong)?;
            let descriptor = read_descriptor(mem, table, index)?;
            if descriptor.refers_to_indirect_table() {
                let entries = descriptor.len() / DESCRIPTOR_BYTES;
                if !indirect_allowed
                    || indirect
                    || descriptor.has_next()
                    || entries == 0
                    || entries > u32::from(CHAIN_DESCRIPTORS_MAX)
                    || !descriptor.len().is_multiple_of(DESCRIPTOR_BYTES)
                {
                    return Err(FaultReason::Indirect);
                }
                indirect = true;
                table = descriptor.addr().0;
                // At most CHAIN_DESCRIPTORS_MAX, checked above.
                size = entries as u16;
                index = 0;
                left = size;
                continue;
            }
            self.push(mem, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    fn push(&mut self, mem: &GuestMemory, descriptor: &Descriptor) -> Result<(), FaultReason> {
        let segment = Segment {
            address: descriptor.addr().0,
            len: descriptor.len(),
        };
        let writable = descriptor.is_write_only();
        if !writable && !self.writable.is_empty() {
            return Err(FaultReason::BufferOrder);
        }
        if segment.len == 0 {
            return Ok(());
        }
        segment.check(
            mem,
            if writable {
                Permissions::Write
            } else {
                Permissions::Read
            },
        )?;
        let (segments, bytes) = if writable {
            (&mut self.writable, &mut self.writable_bytes)
        } else {
            (&mut self.readable, &mut self.readable_bytes)
        };
        segments.push(segment);
        // At most 2 * 1024 segments below 2^32 bytes each: no overflow.
        *bytes += u64::from(segment.len);
        Ok(())
    }

    /// The fault of a chain whose sizes make no request.
    pub fn shape_fault(&self) -> FaultReason {
        FaultReason::RequestShape {
            readable: self.readable_bytes,
            writable: self.writable_bytes,
        }
    }
}

impl Segment {
    fn check(&self, mem: &GuestMemory, access: Permissions) -> Result<(), FaultReason> {
        if mem.check_range(GuestAddress(self.address), self.len as usize, access) {
            Ok(())
        } else {
            Err(self.fault())
        }
    }

    fn fault(&self) -> FaultReason {
        FaultReason::OutsideRam {
            address: self.address,
            len: self.len,
        }
    }
}

fn read_descriptor(mem: &GuestMemory, table: u64, index: u16) -> Result<Descriptor, FaultReason> {
    let outside = FaultReason::OutsideRam {
        address: table,
        len: DESCRIPTOR_BYTES,
    };
    let address = table
        .checked_add(u64::from(index) * u64::from(DESCRIPTOR_BYTES))
        .ok_or(outside)?;
    mem.read_obj(GuestAddress(address)).map_err(|_| outside)
}

/// Calls `copy` for each run of `len` bytes that starts `skip` bytes into the segments, with the
/// guest address and the range within the caller's buffer. Bytes beyond the segments are left out.
fn walk(
    segments: &[Segment],
    mut skip: u64,
    len: usize,
    mut copy: impl FnMut(
        GuestAddress,
        std::ops::Range<usize>,
    ) -> Result<(), vm_memory::GuestMemoryError>,
) -> Result<(), FaultReason> {
    let mut done = 0;
    for segment in segments {
        if done == len {
            break;
        }
        let bytes = u64::from(segment.len);
        if skip >= bytes {
            skip -= bytes;
            continue;
        }
        // Fits: at most a segment's length, which is 32 bits.
        let run = ((bytes - skip) as usize).min(len - done);
        let address = segment.address.checked_add(skip).ok_or(segment.fault())?;
        copy(GuestAddress(address), done..done + run).map_err(|_| segment.fault())?;
        done += run;
        skip = 0;
    }
    Ok(())
}

/// Copies from guest memory: fills `buffer` from `skip` bytes into the segments on.
pub fn gather(
    mem: &GuestMemory,
    segments: &[Segment],
    skip: u64,
    buffer: &mut [u8],
) -> Result<(), FaultReason> {
    let len = buffer.len();
    walk(segments, skip, len, |address, range| {
        mem.read_slice(&mut buffer[range], address)
    })
}

/// Copies to guest memory: writes `bytes` from `skip` bytes into the segments on.
pub fn scatter(
    mem: &GuestMemory,
    segments: &[Segment],
    skip: u64,
    bytes: &[u8],
) -> Result<(), FaultReason> {
    walk(segments, skip, bytes.len(), |address, range| {
        mem.write_slice(&bytes[range], address)
    })
}

#[cfg(test)]
mod tests;
