//! A driver for tests: it builds rings in guest memory by itself, from the specification, and
//! shares no code with the device's side.

use vm_memory::{Bytes, GuestAddress};

use super::spec::{feature, reg, status};
use super::{VirtioMmio, VirtioMmioState};
use crate::{Effect, GuestMemory, Input};

/// RAM of the test guest, in bytes.
pub const RAM_BYTES: u64 = 32 << 20;
/// Size of each ring the driver sets up.
pub const RING_SIZE: u16 = 16;
/// First byte that [`Guest::buffer`] gives out.
const HEAP: u64 = 1 << 20;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A guest with one device and its driver.
pub struct Guest {
    pub mem: GuestMemory,
    pub device: VirtioMmio,
    pub effects: Vec<Effect>,
    pub rings: Vec<DriverRing>,
    heap: u64,
}

/// The driver's side of one virtqueue.
#[derive(Clone, Copy)]
pub struct DriverRing {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub size: u16,
    pub next_desc: u16,
    pub avail_idx: u16,
    pub used_seen: u16,
}

pub fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap()
}

impl Guest {
    /// A guest whose driver has done nothing yet.
    pub fn cold(device: VirtioMmio) -> Self {
        let ring = |i: u64| DriverRing {
            desc: 0x10000 * (i + 1),
            avail: 0x10000 * (i + 1) + 0x4000,
            used: 0x10000 * (i + 1) + 0x8000,
            size: RING_SIZE,
            next_desc: 0,
            avail_idx: 0,
            used_seen: 0,
        };
        Guest {
            mem: memory(),
            device,
            effects: Vec::new(),
            rings: (0..2).map(ring).collect(),
            heap: HEAP,
        }
    }

    /// A guest whose driver has accepted the offered features but those of `without`.
    pub fn start(device: VirtioMmio, without: u64) -> Self {
        let mut guest = Guest::cold(device);
        guest.initialize(without);
        guest
    }

    /// The initialization of section 3.1.1.
    pub fn initialize(&mut self, without: u64) {
        let accepted = self.negotiate(without);
        assert_ne!(accepted & feature::VERSION_1, 0);
        for queue in 0..self.queues() {
            self.set_up_queue(queue);
        }
        self.add_status(status::DRIVER_OK);
    }

    pub fn negotiate(&mut self, without: u64) -> u64 {
        self.write(reg::STATUS, 0);
        self.write(reg::STATUS, status::ACKNOWLEDGE);
        self.write(reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        let accepted = self.offered() & !without;
        for half in 0..2 {
            self.write(reg::DRIVER_FEATURES_SEL, half);
            self.write(reg::DRIVER_FEATURES, (accepted >> (32 * half)) as u32);
        }
        self.add_status(status::FEATURES_OK);
        accepted
    }

    pub fn add_status(&mut self, bits: u32) {
        let status = self.read(reg::STATUS);
        self.write(reg::STATUS, status | bits);
    }

    pub fn offered(&mut self) -> u64 {
        self.write(reg::DEVICE_FEATURES_SEL, 0);
        let low = self.read(reg::DEVICE_FEATURES);
        self.write(reg::DEVICE_FEATURES_SEL, 1);
        u64::from(self.read(reg::DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    pub fn queues(&mut self) -> usize {
        let mut count = 0;
        loop {
            self.write(reg::QUEUE_SEL, count);
            if self.read(reg::QUEUE_NUM_MAX) == 0 {
                return count as usize;
            }
            count += 1;
        }
    }

    pub fn set_up_queue(&mut self, queue: usize) {
        let ring = &mut self.rings[queue];
        (ring.next_desc, ring.avail_idx, ring.used_seen) = (0, 0, 0);
        let ring = *ring;
        let zeros = vec![0; 0x4000];
        for base in [ring.desc, ring.avail, ring.used] {
            self.mem.write_slice(&zeros, GuestAddress(base)).unwrap();
        }
        self.write(reg::QUEUE_SEL, queue as u32);
        self.write(reg::QUEUE_NUM, u32::from(ring.size));
        for (low, address) in [
            (reg::QUEUE_DESC_LOW, ring.desc),
            (reg::QUEUE_DRIVER_LOW, ring.avail),
            (reg::QUEUE_DEVICE_LOW, ring.used),
        ] {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.device.read(&self.mem, offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes();
        self.device
            .write(&self.mem, offset, &data, &mut self.effects);
    }

    /// Memory for a buffer of `len` bytes.
    pub fn buffer(&mut self, len: usize) -> u64 {
        let address = self.heap;
        self.heap = (address + len as u64 + 15) & !15;
        assert!(self.heap <= RAM_BYTES, "the test guest is out of memory");
        address
    }

    pub fn buffer_with(&mut self, bytes: &[u8]) -> u64 {
        let address = self.buffer(bytes.len());
        self.mem.write_slice(bytes, GuestAddress(address)).unwrap();
        address
    }

    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub fn put_u16(&self, address: u64, value: u16) {
        let bytes = value.to_le_bytes();
        self.mem.write_slice(&bytes, GuestAddress(address)).unwrap();
    }

    pub fn get_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.bytes(address, 2).try_into().unwrap())
    }

    pub fn put_descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.mem.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Makes a chain of raw descriptors (address, length, flags) available, without a
    /// notification; NEXT is set where it belongs. Returns the head.
    pub fn add_raw(&mut self, queue: usize, descriptors: &[(u64, u32, u16)]) -> u16 {
        let ring = self.rings[queue];
        let head = ring.next_desc;
        let last = descriptors.len() - 1;
        for (i, &(address, len, flags)) in descriptors.iter().enumerate() {
            let index = (head + i as u16) % ring.size;
            let flags = if i < last { flags | NEXT } else { flags };
            let next = (index + 1) % ring.size;
            self.put_descriptor(ring.desc + 16 * u64::from(index), address, len, flags, next);
        }
        self.rings[queue].next_desc = (head + descriptors.len() as u16) % ring.size;
        self.push_avail(queue, head);
        head
    }

    pub fn push_avail(&mut self, queue: usize, head: u16) {
        let ring = self.rings[queue];
        let slot = u64::from(ring.avail_idx % ring.size);
        self.put_u16(ring.avail + 4 + 2 * slot, head);
        self.rings[queue].avail_idx = ring.avail_idx.wrapping_add(1);
        self.put_u16(ring.avail + 2, ring.avail_idx.wrapping_add(1));
    }

    /// Makes a chain available: readable buffers with these bytes, writable ones of these sizes,
    /// filled with 0xee. Returns the head and the addresses of the writable ones.
    pub fn add(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> (u16, Vec<u64>) {
        let mut descriptors = Vec::new();
        for bytes in readable {
            descriptors.push((self.buffer_with(bytes), bytes.len() as u32, 0));
        }
        let mut addresses = Vec::new();
        for &len in writable {
            let address = self.buffer_with(&vec![0xee; len]);
            addresses.push(address);
            descriptors.push((address, len as u32, WRITE));
        }
        (self.add_raw(queue, &descriptors), addresses)
    }

    pub fn notify(&mut self, queue: usize) {
        self.write(reg::QUEUE_NOTIFY, queue as u32);
    }

    /// What the device has used since the last call: (head, length).
    pub fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let ring = self.rings[queue];
        let index = self.get_u16(ring.used + 2);
        let mut used = Vec::new();
        let mut seen = ring.used_seen;
        while seen != index {
            let at = ring.used + 4 + 8 * u64::from(seen % ring.size);
            let element = self.bytes(at, 8);
            used.push((
                u32::from_le_bytes(element[..4].try_into().unwrap()),
                u32::from_le_bytes(element[4..].try_into().unwrap()),
            ));
            seen = seen.wrapping_add(1);
        }
        self.rings[queue].used_seen = seen;
        used
    }

    /// The avail_event field: the device wants to hear of the entry with this index.
    pub fn avail_event(&self, queue: usize) -> u16 {
        let ring = self.rings[queue];
        self.get_u16(ring.used + 4 + 8 * u64::from(ring.size))
    }

    /// Asks for an interrupt once the used index passes `index`.
    pub fn set_used_event(&self, queue: usize, index: u16) {
        let ring = self.rings[queue];
        self.put_u16(ring.avail + 4 + 2 * u64::from(ring.size), index);
    }

    pub fn input(&mut self, input: Input) -> Result<(), super::VirtioError> {
        self.device.input(&self.mem, input, &mut self.effects)
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Reads and acknowledges InterruptStatus, as a driver's handler does.
    pub fn take_interrupt(&mut self) -> u32 {
        let status = self.read(reg::INTERRUPT_STATUS);
        assert_eq!(self.device.interrupt_line(), status != 0);
        self.write(reg::INTERRUPT_ACK, status);
        status
    }

    /// Replaces the device by a fresh one restored from the old one's state, through its encoding.
    pub fn move_to(&mut self, mut fresh: VirtioMmio) {
        let saved = self.device.save();
        let encoded = postcard::to_allocvec(&saved).unwrap();
        let state: VirtioMmioState = postcard::from_bytes(&encoded).unwrap();
        fresh.restore(state).unwrap();
        assert_eq!(fresh.save(), saved);
        self.device = fresh;
    }
}
