//! The output rule, judged from outside: packet captures of the guest's network and of the logging
//! channel, taken by `tcpdump` in one kernel (so that their times compare), are read afterwards.
//! No frame of the guest may have left its host before the backup's acknowledgement of the epoch
//! that records it had come back.
//!
//! Architecture invariant: **nothing here uses `replay` or `devices`**; the channel's format is
//! decoded by code of its own.
//!
//! * [`pcap`]: capture files.
//! * [`packet`]: Ethernet, IP and TCP headers.
//! * [`stream`]: TCP streams put together again.
//! * [`channel`]: the logging channel's frames: outputs recorded, epochs acknowledged.
//! * [`judge`]: guest frames against the channel.
//! * [`speakers`]: from which host they came, and whether two hosts had a live copy.

pub mod channel;
pub mod crc;
pub mod judge;
pub mod packet;
pub mod pcap;
pub mod speakers;
pub mod stream;

use std::fs::File;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use channel::{Channel, ChannelFault};
use judge::{GuestFrame, Verdict, Windows};
use packet::Mac;
use stream::Streams;

/// Why captures can't be judged at all.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file can't be read, or is no capture.
    #[error("cannot read the capture {path}")]
    File {
        /// The file.
        path: String,
        /// What was wrong.
        #[source]
        source: pcap::PcapError,
    },
    /// The channel's bytes are not what this oracle understands.
    #[error("cannot follow the logging channel in {path}")]
    Channel {
        /// The capture.
        path: String,
        /// What was wrong.
        #[source]
        source: ChannelFault,
    },
}

/// A capture of what leaves one host for the guest's network.
#[derive(Debug, Clone)]
pub struct LanCapture {
    /// The file.
    pub path: PathBuf,
    /// Whether the host was the primary when the capture began; the other one has to be silent
    /// until it goes live.
    pub of_primary: bool,
}

/// What is to be judged.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Captures of the logging channel, in both directions, where the primary is attached.
    pub log: Vec<PathBuf>,
    /// The channel's TCP port.
    pub log_port: u16,
    /// Captures of the guest's network.
    pub lan: Vec<LanCapture>,
    /// The guest's address, by which its MAC is found.
    pub guest: IpAddr,
    /// Times from which on a side may speak without acknowledgement, until a backup acknowledges
    /// again: it had won the arbiter (nanoseconds since 1970).
    pub alone_from_unix_ns: Vec<u64>,
    /// When the side that was the backup first won the arbiter, and could be a primary from then on.
    pub backup_won_unix_ns: Option<u64>,
}

/// Reads the captures and judges every frame of the guest.
///
/// # Errors
/// When a file can't be read, or the channel can't be understood from its beginning.
pub fn judge(evidence: &Evidence) -> Result<Verdict, CaptureError> {
    let mut channel = Channel::default();
    for path in &evidence.log {
        read_channel(path, evidence.log_port, &mut channel)?;
    }
    channel.sort();
    let mut frames = Vec::new();
    let mut truncated = 0;
    for lan in &evidence.lan {
        truncated += read_lan(lan, &mut frames)?;
    }
    let guest = guest_mac(&frames, evidence.guest);
    frames.retain(|frame| guest.is_some() && packet::source(&frame.bytes) == guest);
    frames.sort_by_key(|frame| frame.at_unix_ns);
    let windows = Windows::new(&channel, &evidence.alone_from_unix_ns)
        .and_of_backup_from(evidence.backup_won_unix_ns);
    let mut verdict = judge::judge(&channel, &frames, &windows);
    verdict.packets_truncated = truncated;
    verdict.speeches = speakers::speeches(&frames);
    Ok(verdict)
}

fn open(path: &Path) -> Result<pcap::Reader<BufReader<File>>, CaptureError> {
    let failed = |source| CaptureError::File {
        path: path.display().to_string(),
        source,
    };
    let file = File::open(path).map_err(|error| failed(error.into()))?;
    pcap::Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(failed)
}

fn read_channel(path: &Path, port: u16, channel: &mut Channel) -> Result<(), CaptureError> {
    let name = || path.display().to_string();
    let mut reader = open(path)?;
    let mut streams = Streams::new(port);
    loop {
        let packet = reader.next().map_err(|source| CaptureError::File {
            path: name(),
            source,
        })?;
        let Some(packet) = packet else {
            return Ok(());
        };
        for chunk in streams.packet(packet.at_unix_ns, &packet.bytes) {
            let took = channel.take(&chunk);
            took.map_err(|source| CaptureError::Channel {
                path: name(),
                source,
            })?;
        }
    }
}

fn read_lan(lan: &LanCapture, frames: &mut Vec<GuestFrame>) -> Result<u64, CaptureError> {
    let mut reader = open(&lan.path)?;
    let mut truncated = 0;
    loop {
        let packet = reader.next().map_err(|source| CaptureError::File {
            path: lan.path.display().to_string(),
            source,
        })?;
        let Some(packet) = packet else {
            return Ok(truncated);
        };
        truncated += u64::from(packet.truncated);
        frames.push(GuestFrame {
            at_unix_ns: packet.at_unix_ns,
            of_primary: lan.of_primary,
            bytes: packet.bytes,
        });
    }
}

fn guest_mac(frames: &[GuestFrame], guest: IpAddr) -> Option<Mac> {
    frames.iter().find_map(|frame| {
        (packet::sender_ip(&frame.bytes) == Some(guest)).then(|| packet::source(&frame.bytes))?
    })
}

#[cfg(test)]
mod tests;
