//! virtio-net (virtio 1.2, section 5.1): one queue pair, no offloads, so every frame is complete.

use serde::{Deserialize, Serialize};

use super::chain::{Segment, gather, scatter};
use super::device::Rings;
use super::error::{FaultReason, Stop, VirtioError};
use super::queue::Queue;
use crate::{Effect, GuestMemory, Input, RestoreError};

const NAME: &str = "virtio-net";
/// receiveq1, section 5.1.2.
const RECEIVE: usize = 0;
/// transmitq1.
const TRANSMIT: usize = 1;
/// VIRTIO_NET_F_MAC.
const FEATURE_MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_MRG_RXBUF.
const FEATURE_MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_STATUS.
const FEATURE_STATUS: u64 = 1 << 16;
/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;
/// struct virtio_net_hdr of version 1 (section 5.1.6), in bytes.
const HEADER_BYTES: u64 = 12;
/// Where num_buffers is in it.
const NUM_BUFFERS_AT: usize = 10;

/// Largest size of each queue.
pub(super) const QUEUE_SIZES: &[u16] = &[256, 256];

/// Shortest frame: an Ethernet header, in bytes.
pub const FRAME_BYTES_MIN: usize = 14;
/// Longest frame: 64 KiB after an Ethernet header with a VLAN tag, in bytes.
pub const FRAME_BYTES_MAX: usize = 18 + (64 << 10);

/// What a network card is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// The card's MAC address.
    pub mac: [u8; 6],
}

/// State of virtio-net.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The configuration; must be the same where the state is restored.
    pub config: NetConfig,
    /// Receive buffers at hand when the device last looked.
    pub rx_buffers: u16,
    /// Frames lost because there was no driver or no large enough buffer for them.
    pub rx_frames_dropped: u64,
    /// Frames of the guest that no Ethernet segment could carry.
    pub tx_frames_dropped: u64,
}

/// The device.
#[derive(Debug)]
pub(super) struct Net {
    state: NetState,
}

impl Net {
    pub fn new(config: &NetConfig) -> Self {
        Net {
            state: NetState {
                config: config.clone(),
                rx_buffers: 0,
                rx_frames_dropped: 0,
                tx_frames_dropped: 0,
            },
        }
    }

    pub fn features(&self) -> u64 {
        FEATURE_MAC | FEATURE_STATUS | FEATURE_MRG_RXBUF
    }

    /// struct virtio_net_config (section 5.1.4) up to status.
    pub fn config_space(&self) -> [u8; 8] {
        let mut space = [0; 8];
        space[..6].copy_from_slice(&self.state.config.mac);
        space[6..].copy_from_slice(&LINK_UP.to_le_bytes());
        space
    }

    pub fn can_accept(&self) -> bool {
        self.state.rx_buffers > 0
    }

    pub fn notify(
        &mut self,
        rings: &mut Rings<'_>,
        queue: usize,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        match queue {
            RECEIVE => self.look_for_buffers(rings),
            _ => self.transmit(rings, effects),
        }
    }

    /// Counts receive buffers, and has the driver tell of new ones only if there are none.
    fn look_for_buffers(&mut self, rings: &mut Rings<'_>) -> Result<(), FaultReason> {
        let queue = &rings.queues[RECEIVE];
        self.state.rx_buffers = queue.available(rings.mem)?;
        queue.set_notify(rings.mem, self.state.rx_buffers == 0)
    }

    /// Takes all frames at once; the guest does not wait for the output rule.
    fn transmit(
        &mut self,
        rings: &mut Rings<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), FaultReason> {
        let queue = &mut rings.queues[TRANSMIT];
        let used_before = queue.next_used();
        for _ in 0..queue.available(rings.mem)? {
            queue.take(rings.mem, rings.chain)?;
            let chain = &*rings.chain;
            let len = chain
                .readable_bytes
                .checked_sub(HEADER_BYTES)
                .ok_or(chain.shape_fault())?;
            if (FRAME_BYTES_MIN as u64..=FRAME_BYTES_MAX as u64).contains(&len) {
                // The header has nothing to say: no offload was negotiated.
                let mut frame = vec![0; len as usize];
                gather(rings.mem, &chain.readable, HEADER_BYTES, &mut frame)?;
                effects.push(Effect::NetTx { frame });
            } else {
                self.state.tx_frames_dropped = self.state.tx_frames_dropped.saturating_add(1);
            }
            queue.add_used(rings.mem, chain.head, 0)?;
        }
        queue.set_notify(rings.mem, true)?;
        rings.interrupt_for(TRANSMIT, used_before)
    }

    pub fn input(&mut self, rings: Option<&mut Rings<'_>>, input: Input) -> Result<(), Stop> {
        let Input::NetRx { frame } = input else {
            return Err(VirtioError::Misrouted { device: NAME }.into());
        };
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
            return Err(VirtioError::FrameLength { len: frame.len() }.into());
        }
        let Some(rings) = rings else {
            self.drop_frame();
            return Ok(());
        };
        let used_before = rings.queues[RECEIVE].next_used();
        if !receive(rings, &frame)? {
            self.drop_frame();
        }
        self.look_for_buffers(rings)?;
        Ok(rings.interrupt_for(RECEIVE, used_before)?)
    }

    fn drop_frame(&mut self) {
        self.state.rx_frames_dropped = self.state.rx_frames_dropped.saturating_add(1);
    }

    pub fn abandon(&mut self) {
        self.state.rx_buffers = 0;
    }

    pub fn save(&self) -> NetState {
        self.state.clone()
    }

    pub fn restore(&mut self, state: NetState) -> Result<(), RestoreError> {
        let NetState {
            config,
            rx_buffers,
            rx_frames_dropped: _,
            tx_frames_dropped: _,
        } = &state;
        RestoreError::check(*config == self.state.config, NAME, "config")?;
        RestoreError::check(*rx_buffers <= QUEUE_SIZES[RECEIVE], NAME, "rx_buffers")?;
        self.state = state;
        Ok(())
    }
}

/// Puts a frame into receive buffers; false if those at hand can't hold it.
fn receive(rings: &mut Rings<'_>, frame: &[u8]) -> Result<bool, FaultReason> {
    let mem = rings.mem;
    let queue = &mut rings.queues[RECEIVE];
    let buffers = queue.available(mem)?;
    if buffers == 0 {
        return Ok(false);
    }
    // Bounded by FRAME_BYTES_MAX.
    let total = HEADER_BYTES + frame.len() as u64;
    queue.take(mem, rings.chain)?;
    let chain = &*rings.chain;
    if chain.writable_bytes < HEADER_BYTES {
        return Err(chain.shape_fault());
    }
    if chain.writable_bytes >= total {
        write_frame(mem, &chain.writable, 1, frame)?;
        queue.add_used(mem, chain.head, total as u32)?;
        return Ok(true);
    }
    if rings.features & FEATURE_MRG_RXBUF == 0 {
        queue.untake(1);
        return Ok(false);
    }

    // The rare long frame: spread over several buffers (section 5.1.6.4).
    let mut segments = chain.writable.clone();
    let mut room = chain.writable_bytes;
    let mut parts = vec![(chain.head, chain.writable_bytes)];
    while room < total {
        if parts.len() == usize::from(buffers) {
            // As many as were available, which is 16 bits.
            queue.untake(parts.len() as u16);
            return Ok(false);
        }
        queue.take(mem, rings.chain)?;
        let chain = &*rings.chain;
        if chain.writable_bytes == 0 {
            return Err(chain.shape_fault());
        }
        segments.extend_from_slice(&chain.writable);
        room += chain.writable_bytes;
        parts.push((chain.head, chain.writable_bytes));
    }
    write_frame(mem, &segments, parts.len() as u16, frame)?;
    hand_back(queue, mem, &parts, total)?;
    Ok(true)
}

fn write_frame(
    mem: &GuestMemory,
    segments: &[Segment],
    buffers: u16,
    frame: &[u8],
) -> Result<(), FaultReason> {
    let mut header = [0; HEADER_BYTES as usize];
    header[NUM_BUFFERS_AT..].copy_from_slice(&buffers.to_le_bytes());
    scatter(mem, segments, 0, &header)?;
    scatter(mem, segments, HEADER_BYTES, frame)
}

/// Uses the buffers of a frame of `total` bytes, each as far as it was filled.
fn hand_back(
    queue: &mut Queue,
    mem: &GuestMemory,
    parts: &[(u16, u64)],
    total: u64,
) -> Result<(), FaultReason> {
    let mut left = total;
    for &(head, room) in parts {
        // At most `total`, which is below 2^17.
        let written = room.min(left);
        queue.add_used(mem, head, written as u32)?;
        left -= written;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
