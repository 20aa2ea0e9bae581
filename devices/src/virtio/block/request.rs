//! What a descriptor chain asks of the disk (virtio 1.2, section 5.2.6).

use super::{
    DISCARD_SECTORS_MAX, DiskConfig, REQUEST_BYTES_MAX, SECTOR_BYTES, SERIAL_BYTES, STATUS_IOERR,
    STATUS_OK, STATUS_UNSUPP, Target,
};
use crate::virtio::chain::{Chain, Segment, gather, scatter};
use crate::virtio::error::FaultReason;
use crate::{DiskOp, GuestMemory};

/// struct virtio_blk_req before its data: type, reserved, sector.
const HEADER_BYTES: u64 = 16;
/// struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags.
const DISCARD_BYTES: u64 = 16;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;

/// A parsed request.
#[derive(Debug)]
pub(super) enum Request {
    /// The world must act.
    Emit { op: DiskOp, target: Target },
    /// The device answers by itself.
    Answer {
        status: u8,
        status_address: u64,
        /// Bytes of the writable part filled, from its start on.
        written: u32,
    },
}

/// Reads a request out of guest memory, with all of its data. Framing is free (section 2.7.4.1):
/// the first 16 readable bytes are the header and the last writable one is the status, however
/// they are cut into descriptors.
pub(super) fn parse(
    mem: &GuestMemory,
    chain: &Chain,
    config: &DiskConfig,
) -> Result<Request, FaultReason> {
    let data_out = chain
        .readable_bytes
        .checked_sub(HEADER_BYTES)
        .ok_or(chain.shape_fault())?;
    let last = chain.writable.last().ok_or(chain.shape_fault())?;
    let status_address = last.address + u64::from(last.len - 1);
    let data_in = chain.writable_bytes - 1;

    let mut header = [0; HEADER_BYTES as usize];
    gather(mem, &chain.readable, 0, &mut header)?;
    let kind = le32(&header[..4]);
    let sector = le64(&header[8..]);

    let answer = |status| Request::Answer {
        status,
        status_address,
        // An error status at the end of room for data leaves a hole before it.
        written: u32::from(data_in == 0),
    };
    let emit = |op, data| Request::Emit {
        op,
        target: Target {
            head: chain.head,
            status_follows: data_in == 0 || !Vec::is_empty(&data),
            data,
            status_address,
        },
    };
    Ok(match kind {
        TYPE_IN => match extent(sector, data_in, config) {
            Some(_) if data_in == 0 => answer(STATUS_OK),
            // At most REQUEST_BYTES_MAX.
            Some(offset) => emit(
                DiskOp::Read {
                    offset,
                    len: data_in as u32,
                },
                without_last_byte(&chain.writable),
            ),
            None => answer(STATUS_IOERR),
        },
        TYPE_OUT => match extent(sector, data_out, config) {
            _ if config.read_only => answer(STATUS_IOERR),
            Some(_) if data_out == 0 => answer(STATUS_OK),
            Some(offset) => {
                let mut data = vec![0; data_out as usize];
                gather(mem, &chain.readable, HEADER_BYTES, &mut data)?;
                emit(DiskOp::Write { offset, data }, Vec::new())
            }
            None => answer(STATUS_IOERR),
        },
        TYPE_FLUSH => emit(DiskOp::Flush, Vec::new()),
        TYPE_GET_ID => {
            let serial = serial(config);
            let len = (data_in as usize).min(serial.len());
            scatter(mem, &chain.writable, 0, &serial[..len])?;
            let hole = data_in > serial.len() as u64;
            Request::Answer {
                status: STATUS_OK,
                status_address,
                // At most 21.
                written: len as u32 + u32::from(!hole),
            }
        }
        TYPE_DISCARD if !config.read_only => {
            if data_out != DISCARD_BYTES {
                return Ok(answer(STATUS_IOERR));
            }
            let mut range = [0; DISCARD_BYTES as usize];
            gather(mem, &chain.readable, HEADER_BYTES, &mut range)?;
            let sectors = le32(&range[8..12]);
            let flags = le32(&range[12..]);
            match discard(le64(&range[..8]), sectors, config) {
                // Flags are for write-zeroes (section 5.2.6.2).
                _ if flags != 0 => answer(STATUS_UNSUPP),
                Some(op) => emit(op, Vec::new()),
                None => answer(STATUS_IOERR),
            }
        }
        _ => answer(STATUS_UNSUPP),
    })
}

/// Byte offset of `sector` if `len` bytes from there on make a request on this disk.
fn extent(sector: u64, len: u64, config: &DiskConfig) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let possible =
        len <= REQUEST_BYTES_MAX && len.is_multiple_of(SECTOR_BYTES) && fits(offset, len, config);
    possible.then_some(offset)
}

fn discard(sector: u64, sectors: u32, config: &DiskConfig) -> Option<DiskOp> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let len = u64::from(sectors) * SECTOR_BYTES;
    let possible = (1..=DISCARD_SECTORS_MAX).contains(&sectors) && fits(offset, len, config);
    possible.then_some(DiskOp::Discard { offset, len })
}

fn fits(offset: u64, len: u64, config: &DiskConfig) -> bool {
    let capacity = config.capacity_bytes / SECTOR_BYTES * SECTOR_BYTES;
    offset.checked_add(len).is_some_and(|end| end <= capacity)
}

/// Whether [`parse`] can have made the operation: for states that come from a peer.
pub(super) fn is_possible(op: &DiskOp, config: &DiskConfig) -> bool {
    let transfer = |offset: u64, len: u64| {
        len > 0
            && offset.is_multiple_of(SECTOR_BYTES)
            && extent(offset / SECTOR_BYTES, len, config).is_some()
    };
    match *op {
        DiskOp::Read { offset, len } => transfer(offset, u64::from(len)),
        DiskOp::Write { offset, ref data } => {
            !config.read_only && transfer(offset, data.len() as u64)
        }
        DiskOp::Flush => true,
        DiskOp::Discard { offset, len } => {
            !config.read_only
                && offset.is_multiple_of(SECTOR_BYTES)
                && len.is_multiple_of(SECTOR_BYTES)
                && u32::try_from(len / SECTOR_BYTES)
                    .is_ok_and(|sectors| discard(offset / SECTOR_BYTES, sectors, config).is_some())
        }
    }
}

/// The segments less the status byte at their end.
fn without_last_byte(segments: &[Segment]) -> Vec<Segment> {
    let mut data = segments.to_vec();
    if let Some(last) = data.last_mut() {
        last.len -= 1;
    }
    data.retain(|segment| segment.len > 0);
    data
}

fn serial(config: &DiskConfig) -> [u8; SERIAL_BYTES] {
    let mut padded = [0; SERIAL_BYTES];
    let bytes = config.serial.as_bytes();
    let len = bytes.len().min(SERIAL_BYTES);
    padded[..len].copy_from_slice(&bytes[..len]);
    padded
}

fn le32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
