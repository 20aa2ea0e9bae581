//! A hostile peer: whatever it says, in any order, the core keeps its promises. This side's daemon does what
//! the core says, at any time that suits the data.

mod daemon;
mod words;

use replay::protocol::{Commit, Config, Core, DiskFacts, Facts, Start};

use crate::source::Source;
use daemon::Daemon;

/// RAM of the guest, in bytes.
const RAM_BYTES: u64 = 1 << 20;
/// How much log may be ahead, in bytes.
const LAG_BYTES_MAX: u64 = 4096;

fn facts() -> Facts {
    Facts {
        vm_id: "vm".to_owned(),
        cpu_model: "baseline-v1".to_owned(),
        clock: "exit".to_owned(),
        ram_bytes: RAM_BYTES,
        machine_digest: [1; 32],
        disks: vec![DiskFacts {
            capacity_bytes: 1 << 20,
            shared: true,
        }],
        image_id: vec![2; 8],
    }
}

/// The first byte: how this side starts and what it waits for; the rest, what happens.
///
/// # Panics
/// This side goes live without a generation that it won; lets out what no acknowledgement covers, or
/// anything after its end; wants to be called again at once; holds more log than its bound; or does more
/// about an event than can be meant.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mode = source.u8();
    let start = match mode & 1 {
        0 => Start::Primary { generation: 0 },
        _ => Start::Backup,
    };
    let mut config = Config::new(start, "here", facts());
    config.lag_bytes_max = LAG_BYTES_MAX;
    config.backups_max = 1 + u32::from(mode >> 3 & 3);
    config.commit = match mode >> 1 & 3 {
        0 => Commit::Executed,
        1 => Commit::Verified,
        _ => Commit::Received,
    };
    let mut daemon = Daemon::new(Core::new(config, 0));
    while !source.is_empty() && !daemon.has_halted() {
        daemon.step(&mut source);
    }
}
