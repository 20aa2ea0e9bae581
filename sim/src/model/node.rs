//! A simulated host: a core, and as much of a daemon and a guest as the core's rules are about.

use std::collections::{BTreeSet, VecDeque};

use replay::codec::EncodedEpoch;
use replay::entry::Epoch;
use replay::protocol::{Config, Core, Event, Facts, PeerId, Start};

/// One host.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Core,
    /// Which run of the daemon this is, over all hosts.
    pub(super) run: u64,
    pub(super) up: bool,
    /// How often its power was cut.
    pub(super) power_cuts: u64,
    /// Events that wait while the process is stopped.
    pub(super) paused: Option<Vec<Event>>,
    /// It hands its guest over, or tries to.
    pub(super) handing: Option<Handing>,
    /// It was told to stop, and only waits for its disks.
    pub(super) leaving: bool,
    /// It has told its core so: nothing is under way any more.
    pub(super) left: bool,
    pub(super) clock: HostClock,
    pub(super) guest: Option<Guest>,
    /// Pages that are left of the copy that was dropped last.
    pub(super) leftover: u64,
    pub(super) dialling: bool,
    /// How often it has looked for a primary.
    pub(super) dials: usize,
    pub(super) wake_at: u64,
    /// Until when its writes take long.
    pub(super) slow_disk_until: u64,
    pub(super) slow_replay_until: u64,
    /// Until when it can't reach the arbiter.
    pub(super) storage_cut_until: u64,
    /// When its last sign of life was written beside the arbiter's generation.
    pub(super) signed_at: u64,
    /// The generation that it bids for, and since when.
    pub(super) asked: (u64, u64),
    /// It was silent for too long: nothing goes out until it has won anew.
    pub(super) lapsed: bool,
    /// When the last write that it gave to the disk lands.
    pub(super) writes_until: u64,
}

impl Node {
    pub(super) fn new(core: Core, rate: u64, offset: u64) -> Self {
        Node {
            core,
            run: 0,
            up: false,
            power_cuts: 0,
            paused: None,
            handing: None,
            leaving: false,
            left: false,
            clock: HostClock {
                rate,
                offset,
                stepped_at: None,
            },
            guest: None,
            leftover: 0,
            dialling: false,
            dials: 1,
            wake_at: u64::MAX,
            slow_disk_until: 0,
            slow_replay_until: 0,
            storage_cut_until: 0,
            signed_at: 0,
            asked: (0, 0),
            lapsed: false,
            writes_until: 0,
        }
    }
}

/// A hand-over under way: the guest stands still.
#[derive(Debug)]
pub(super) struct Handing {
    /// When it is given up if the backup does not have it all by then.
    pub(super) by: u64,
    /// The backup was offered the guest.
    pub(super) offered: bool,
}

/// A host's monotonic clock.
#[derive(Debug)]
pub(super) struct HostClock {
    /// In thousandths of true time.
    rate: u64,
    offset: u64,
    /// When it was stepped last.
    pub(super) stepped_at: Option<u64>,
}

impl HostClock {
    /// What it shows at a true time.
    pub(super) fn show(&self, now: u64) -> u64 {
        self.offset + now * self.rate / 1000
    }

    /// When it will show a time, or now if it does already.
    pub(super) fn when(&self, shows: u64, now: u64) -> u64 {
        let at = (shows.saturating_sub(self.offset) * 1000).div_ceil(self.rate);
        at.max(now)
    }

    pub(super) fn step(&mut self, now: u64, forward: bool, by: u64) {
        self.stepped_at = Some(now);
        self.offset = match forward {
            true => self.offset + by,
            false => self.offset.saturating_sub(by),
        };
    }
}

/// One copy of the guest.
#[derive(Debug)]
pub(super) struct Guest {
    /// Which copy, over all.
    pub(super) serial: u64,
    /// The state it is in: what it last executed.
    pub(super) tip: Option<usize>,
    /// The last epoch closed, or delivered.
    pub(super) epoch: Epoch,
    pub(super) live: bool,
    pub(super) stopped: bool,
    /// A live clone is under way to this peer.
    pub(super) cloning: Option<PeerId>,
    /// Until when that peer may take to say what RAM it has; none once it has said it.
    pub(super) told_until: Option<u64>,
    /// The next epoch begins with a snapshot.
    pub(super) snapshot_next: bool,
    /// From this epoch on outputs are held.
    pub(super) hold_from: Option<Epoch>,
    pub(super) held: VecDeque<(Epoch, usize)>,
    /// Epochs to be replayed.
    pub(super) ahead: VecDeque<(Epoch, usize)>,
    /// The last one of them.
    pub(super) delivered: Option<usize>,
    /// Requests that the disk works on for this copy.
    pub(super) flying: BTreeSet<usize>,
    /// Requests that are done, and whether well; the next epoch tells the guest.
    pub(super) done: Vec<(usize, bool)>,
    pub(super) clock: VirtualClock,
}

impl Guest {
    pub(super) fn new(serial: u64, host_ns: u64) -> Self {
        Guest {
            serial,
            tip: None,
            epoch: 0,
            live: false,
            stopped: false,
            cloning: None,
            told_until: None,
            snapshot_next: false,
            hold_from: None,
            held: VecDeque::new(),
            ahead: VecDeque::new(),
            delivered: None,
            flying: BTreeSet::new(),
            done: Vec::new(),
            clock: VirtualClock {
                base: 0,
                since: host_ns,
                shown: 0,
            },
        }
    }
}

/// The guest's virtual time, made from its host's clock as the daemon makes it.
#[derive(Debug)]
pub(super) struct VirtualClock {
    base: u64,
    since: u64,
    shown: u64,
}

impl VirtualClock {
    pub(super) fn now(&mut self, host_ns: u64) -> u64 {
        let now = self.base + host_ns.saturating_sub(self.since);
        self.shown = self.shown.max(now);
        self.shown
    }

    pub(super) fn rebase(&mut self, host_ns: u64, base: u64) {
        (self.base, self.since, self.shown) = (base, host_ns, base);
    }
}

pub(super) fn config(start: Start, node: usize) -> Config {
    let facts = Facts {
        vm_id: "model".to_owned(),
        cpu_model: "baseline".to_owned(),
        clock: "exit".to_owned(),
        ram_bytes: 1 << 20,
        machine_digest: [0; 32],
        disks: Vec::new(),
        image_id: Vec::new(),
    };
    Config::new(start, &format!("host{node}"), facts)
}

/// An epoch that only says which content it is.
pub(super) fn epoch(epoch: Epoch, content: usize, snapshot: bool, padding: usize) -> EncodedEpoch {
    let mut bytes = vec![if snapshot { 8 } else { 6 }];
    bytes.extend_from_slice(&(content as u64).to_le_bytes());
    bytes.resize(bytes.len() + padding, 0);
    EncodedEpoch {
        epoch,
        bytes,
        entries: 1,
        released: 0,
    }
}

/// Undoes [`epoch`]: content and whether it is a snapshot.
pub(super) fn content(epoch: &EncodedEpoch) -> (usize, bool) {
    let mut number = [0; 8];
    number.copy_from_slice(&epoch.bytes[1..9]);
    (u64::from_le_bytes(number) as usize, epoch.bytes[0] == 8)
}
