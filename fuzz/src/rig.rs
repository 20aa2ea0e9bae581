//! A machine, and its twin that is saved and restored along the way: whatever happens to both, nobody can
//! tell them apart, by answers, effects, state or RAM.

use std::cell::RefCell;

use devices::layout::{PAGE_BYTES, VIRTIO_MMIO_BASE};
use devices::machine::{Machine, MachineConfig, MachineState};
use devices::virtio::{DiskConfig, NetConfig};
use devices::{DiskOp, Effect, Input};

use crate::ram::Ram;

/// RAM of the guest, in bytes.
pub const RAM_BYTES: usize = 128 << 10;
/// Capacity of each disk, in bytes.
pub const DISK_BYTES: u64 = 1 << 20;
/// Most data that a guest may make the host hold for one device: 16 MiB, and the request that reached it.
const IN_FLIGHT_BYTES_MAX: usize = 20 << 20;
/// Longest frame of a guest, in bytes.
const FRAME_BYTES_MAX: usize = devices::virtio::FRAME_BYTES_MAX;
/// Most console output at once, in bytes.
const CONSOLE_BYTES_MAX: usize = 64 << 10;

/// A configuration with as many disks, and one of everything else that is asked for.
pub fn config(disks: usize, net: bool, rng: bool, console: bool) -> MachineConfig {
    let disk = |index: usize| DiskConfig {
        capacity_bytes: DISK_BYTES,
        read_only: index == 1,
        serial: format!("disk{index}").as_str().into(),
    };
    MachineConfig {
        boot_unix_seconds: 1_700_000_000,
        disks: (0..disks).map(disk).collect(),
        net: net.then_some(NetConfig {
            mac: [2, 0, 0, 0, 0, 1],
        }),
        rng,
        console,
    }
}

struct Side {
    machine: Machine,
    ram: Ram,
}

/// The two machines.
pub struct Rig {
    config: MachineConfig,
    one: Side,
    twin: Side,
    /// RAM as it would be if no device had written.
    guest: Vec<u8>,
    /// What the machines may do to the world; anything, if a peer's state has it waiting.
    allowed: Option<fn(&Effect) -> bool>,
    /// Address of the virtio window that is played with.
    pub window: u64,
    seen: Vec<Effect>,
}

impl Rig {
    /// Machines of `config` at power-on, or in `state` if that is accepted.
    pub fn new(
        config: MachineConfig,
        state: Option<&MachineState>,
        allowed: Option<fn(&Effect) -> bool>,
    ) -> Option<Rig> {
        let machine = || match state {
            None => Some(Machine::new(&config)),
            Some(state) => Machine::restore(&config, state.clone()).ok(),
        };
        let side = || {
            let machine = machine()?;
            let ram = take_ram();
            Some(Side { machine, ram })
        };
        let (one, twin) = (side()?, side()?);
        Some(Rig {
            config,
            one,
            twin,
            guest: vec![0; RAM_BYTES],
            allowed,
            window: VIRTIO_MMIO_BASE,
            seen: Vec::new(),
        })
    }

    /// Does the same to both.
    ///
    /// # Panics
    /// It can be told which is which.
    pub fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        mut act: impl FnMut(&mut Machine, &devices::GuestMemory) -> T,
    ) -> T {
        let Rig { one, twin, .. } = self;
        let answer = act(&mut one.machine, one.ram.memory());
        assert_eq!(answer, act(&mut twin.machine, twin.ram.memory()));
        answer
    }

    /// The guest writes to its RAM.
    pub fn poke(&mut self, address: u64, data: &[u8]) {
        self.one.ram.poke(address, data);
        self.twin.ram.poke(address, data);
        let start = address.min(RAM_BYTES as u64) as usize;
        let len = data.len().min(RAM_BYTES - start);
        self.guest[start..start + len].copy_from_slice(&data[..len]);
    }

    /// Two bytes of its RAM.
    pub fn peek_u16(&mut self, address: u64) -> u16 {
        self.one.ram.u16_at(address)
    }

    /// The machine, to be looked at.
    pub fn machine(&self) -> &Machine {
        &self.one.machine
    }

    /// An input comes in; whether it was accepted.
    pub fn input(&mut self, input: &Input) -> bool {
        self.both(|machine, mem| machine.input(mem, input.clone()))
            .is_ok()
    }

    /// What came out since the last call.
    ///
    /// # Panics
    /// It is nothing that this machine may do, or too much of it.
    pub fn effects(&mut self) -> &[Effect] {
        let seen = self.both(|machine, _| machine.effects().collect::<Vec<_>>());
        if let Some(allowed) = self.allowed {
            for effect in &seen {
                assert!(allowed(effect), "an effect of another kind: {effect:?}");
                check(effect);
            }
        }
        let waiting: usize = self
            .one
            .machine
            .outstanding()
            .iter()
            .map(|r| size(&r.op))
            .sum();
        assert!(waiting <= IN_FLIGHT_BYTES_MAX, "{waiting} bytes in flight");
        self.seen = seen;
        &self.seen
    }

    /// The twin travels to another host.
    ///
    /// # Panics
    /// Its state is refused there, or comes out differently.
    pub fn travel(&mut self) {
        let saved = self.twin.machine.save();
        let decoded = MachineState::decode(&saved.encode()).expect("it was encoded here");
        assert_eq!(decoded, saved);
        self.twin.machine = Machine::restore(&self.config, decoded).expect("it was saved here");
        assert_eq!(self.twin.machine.save(), saved);
    }

    /// Compares all there is.
    ///
    /// # Panics
    /// The two differ, or a page that a device wrote is not marked as dirty.
    pub fn finish(mut self) {
        self.effects();
        let (saved, twin) = (self.one.machine.save(), self.twin.machine.save());
        assert_eq!(saved, twin);
        assert_eq!(saved.encode(), twin.encode());
        assert!(self.one.ram.bytes() == self.twin.ram.bytes(), "RAM differs");
        let dirty = self.one.ram.take_dirty();
        assert_eq!(dirty, self.twin.ram.take_dirty());
        let page = PAGE_BYTES as usize;
        let pages = self
            .one
            .ram
            .bytes()
            .chunks(page)
            .zip(self.guest.chunks(page));
        for (gfn, (now, by_guest)) in pages.enumerate() {
            let marked = dirty[gfn / 64] >> (gfn % 64) & 1 != 0;
            assert!(
                marked || now == by_guest,
                "page {gfn} was written and is not dirty"
            );
        }
        POOL.with_borrow_mut(|pool| pool.extend([self.one.ram, self.twin.ram]));
    }
}

thread_local! {
    /// To be used again: a mapping costs more than most runs.
    static POOL: RefCell<Vec<Ram>> = const { RefCell::new(Vec::new()) };
}

fn take_ram() -> Ram {
    match POOL.with_borrow_mut(Vec::pop) {
        Some(mut ram) => {
            ram.clear();
            ram
        }
        None => Ram::new(RAM_BYTES),
    }
}

/// What a request holds of memory, in bytes.
fn size(op: &DiskOp) -> usize {
    match op {
        DiskOp::Read { len, .. } => *len as usize,
        DiskOp::Write { data, .. } => data.len(),
        DiskOp::Flush | DiskOp::Discard { .. } => 0,
    }
}

fn check(effect: &Effect) {
    match effect {
        Effect::Disk(request) => {
            let (offset, len) = match &request.op {
                DiskOp::Flush => (0, 0),
                DiskOp::Read { offset, len } => (*offset, u64::from(*len)),
                DiskOp::Write { offset, data } => (*offset, data.len() as u64),
                DiskOp::Discard { offset, len } => (*offset, *len),
            };
            let end = offset.checked_add(len).expect("an end");
            assert!(end <= DISK_BYTES, "{request:?} lies beyond the disk");
            assert!(
                offset % 512 == 0 && len % 512 == 0,
                "{request:?} is no whole sectors"
            );
            assert!(request.disk != 1 || !effect.is_output() || request.op == DiskOp::Flush);
        }
        Effect::NetTx { frame } => assert!(frame.len() <= FRAME_BYTES_MAX),
        Effect::ConsoleOut { bytes, .. } => {
            assert!(!bytes.is_empty() && bytes.len() <= CONSOLE_BYTES_MAX);
        }
        Effect::EntropyWanted { len } => assert!(*len <= 4096),
        Effect::PowerOff | Effect::Reset => {}
    }
}
