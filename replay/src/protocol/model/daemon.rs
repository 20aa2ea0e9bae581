//! A simulated host: a core, and as much of a daemon and a guest as the core's rules are about.

use std::collections::VecDeque;

use crate::codec::EncodedEpoch;
use crate::entry::Epoch;
use crate::protocol::{Config, Core, Event, Facts, PeerId, Start};

/// One host.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Core,
    /// Which run of the daemon this is, over all hosts.
    pub(super) run: u64,
    pub(super) up: bool,
    /// Events that wait while the process is stopped.
    pub(super) paused: Option<Vec<Event>>,
    /// The host's clock, in thousandths of true time.
    pub(super) rate: u64,
    pub(super) guest: Option<Guest>,
    pub(super) dialling: bool,
    pub(super) wake_at: u64,
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
    /// The next epoch begins with a snapshot.
    pub(super) snapshot_next: bool,
    /// From this epoch on outputs are held.
    pub(super) hold_from: Option<Epoch>,
    pub(super) held: VecDeque<(Epoch, usize)>,
    /// Epochs to be replayed.
    pub(super) ahead: VecDeque<(Epoch, usize)>,
    /// The last one of them.
    pub(super) delivered: Option<usize>,
}

impl Guest {
    pub(super) fn new(serial: u64) -> Self {
        Guest {
            serial,
            tip: None,
            epoch: 0,
            live: false,
            stopped: false,
            cloning: None,
            snapshot_next: false,
            hold_from: None,
            held: VecDeque::new(),
            ahead: VecDeque::new(),
            delivered: None,
        }
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
    }
}

/// Undoes [`epoch`]: content and whether it is a snapshot.
pub(super) fn content(epoch: &EncodedEpoch) -> (usize, bool) {
    let mut number = [0; 8];
    number.copy_from_slice(&epoch.bytes[1..9]);
    (u64::from_le_bytes(number) as usize, epoch.bytes[0] == 8)
}
