//! Guest frames against the channel: each must be recorded in an epoch that the backup had
//! acknowledged before the frame left. The tolerance is zero: a frame that leaves at the very
//! nanosecond of the acknowledgement is a violation.
//!
//! What can't be judged so: writes to a shared disk, which pass no network, and what the survivor
//! sends alone.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::channel::{self, Channel};
use super::packet;
use super::speakers::Speech;

/// Most violations that are told in words; all are counted.
const WORDS_MAX: usize = 10;

/// A frame on the guest's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFrame {
    /// When it left its host, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// Whether that host was the primary when the capture began.
    pub of_primary: bool,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// When the guest has no backup, so that no rule applies to what it sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Windows {
    /// From the first time to the second, in nanoseconds since 1970.
    alone: Vec<(u64, u64)>,
    /// From when on the side that was the backup may be a primary.
    of_backup_from: u64,
}

impl Windows {
    /// Alone until the backup's first acknowledgement, and from each time in `alone_from` (a side
    /// has won the arbiter) until an epoch that was sent later is acknowledged.
    pub fn new(channel: &Channel, alone_from: &[u64]) -> Self {
        let until = |from: u64| {
            let later = channel.epoch_times.iter().find(|(at, _)| *at > from);
            let covered = later.and_then(|(sent, epoch)| {
                channel
                    .acks
                    .iter()
                    .find(|ack| ack.at_unix_ns > *sent && ack.epoch >= *epoch)
            });
            covered.map_or(u64::MAX, |ack| ack.at_unix_ns)
        };
        let starts = std::iter::once(0).chain(alone_from.iter().copied());
        Windows {
            alone: starts.map(|from| (from, until(from))).collect(),
            of_backup_from: u64::MAX,
        }
    }

    /// The side that was the backup won the arbiter at that time.
    pub fn and_of_backup_from(self, unix_ns: Option<u64>) -> Self {
        Windows {
            of_backup_from: unix_ns.unwrap_or(u64::MAX),
            ..self
        }
    }

    fn is_alone(&self, at_unix_ns: u64) -> bool {
        self.alone
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&at_unix_ns))
    }
}

/// What the captures show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Guest frames that were recorded and acknowledged, or should have been: those the output rule
    /// applies to.
    pub judged: u64,
    /// Of these, frames that left before the acknowledgement of their epoch.
    pub violations: u64,
    /// Of these, frames that left while the guest was protected and that no epoch records.
    pub unmatched: u64,
    /// Of these, frames that the backup's host sent before it had won the arbiter.
    pub backup_spoke: u64,
    /// Frames that left while there was no backup; no rule applies to them.
    pub unjudged_alone: u64,
    /// Least time from an acknowledgement to the frame it set free, in microseconds.
    pub margin_us_min: Option<u64>,
    /// Median time from an output's record on the channel to the frame, in microseconds: what the
    /// output rule costs.
    pub held_us_median: Option<u64>,
    /// Epochs on the channel.
    pub epochs: u64,
    /// Acknowledgements on the channel.
    pub acks: u64,
    /// Outputs of any kind that the epochs record.
    pub outputs_recorded: u64,
    /// Bytes of the log on the channel, without live clones.
    pub log_bytes: u64,
    /// Places where the channel's capture lacks bytes.
    pub capture_losses: u64,
    /// Guest frames that were captured in part only.
    pub packets_truncated: u64,
    /// The first few violations in words.
    pub findings: Vec<String>,
    /// Which host the guest's frames came from, in order of time.
    #[serde(default)]
    pub speeches: Vec<Speech>,
}

impl Verdict {
    /// Frames for which it can't be shown that they were released after their acknowledgement.
    pub fn released_before_ack(&self) -> u64 {
        self.violations + self.unmatched + self.backup_spoke
    }

    /// This verdict and that on a later capture, of the same guest.
    pub fn and(self, later: Verdict) -> Verdict {
        let least = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().min();
        Verdict {
            judged: self.judged + later.judged,
            violations: self.violations + later.violations,
            unmatched: self.unmatched + later.unmatched,
            backup_spoke: self.backup_spoke + later.backup_spoke,
            unjudged_alone: self.unjudged_alone + later.unjudged_alone,
            margin_us_min: least(self.margin_us_min, later.margin_us_min),
            held_us_median: self.held_us_median.or(later.held_us_median),
            epochs: self.epochs + later.epochs,
            acks: self.acks + later.acks,
            outputs_recorded: self.outputs_recorded + later.outputs_recorded,
            log_bytes: self.log_bytes + later.log_bytes,
            capture_losses: self.capture_losses + later.capture_losses,
            packets_truncated: self.packets_truncated + later.packets_truncated,
            findings: [self.findings, later.findings].concat(),
            speeches: [self.speeches, later.speeches].concat(),
        }
    }

    fn note(&mut self, text: String) {
        if self.findings.len() < WORDS_MAX {
            self.findings.push(text);
        }
    }
}

/// Judges the guest's frames, which must be sorted by time, as the channel's acknowledgements must.
pub fn judge(channel: &Channel, frames: &[GuestFrame], windows: &Windows) -> Verdict {
    let mut verdict = Verdict {
        epochs: channel.epochs,
        acks: channel.acks.len() as u64,
        outputs_recorded: channel.outputs.len() as u64,
        log_bytes: channel.log_bytes,
        capture_losses: channel.losses,
        ..Verdict::default()
    };
    let mut records = Records::new(channel);
    let covers = Covers::new(channel);
    let (mut margins, mut held) = (Vec::new(), Vec::new());
    for frame in frames {
        let at = frame.at_unix_ns;
        let alone = windows.is_alone(at);
        if !frame.of_primary && !alone && at < windows.of_backup_from {
            verdict.judged += 1;
            verdict.backup_spoke += 1;
            verdict.note(format!(
                "{at}: the backup's host sent a frame before it was live"
            ));
            continue;
        }
        // What was sent alone may be said again later (a router solicitation): it must not take
        // that one's record.
        let record = records.find(&frame.bytes, if alone { at } else { u64::MAX });
        let Some(record) = record else {
            if alone {
                verdict.unjudged_alone += 1;
            } else {
                verdict.judged += 1;
                verdict.unmatched += 1;
                verdict.note(format!(
                    "{at}: a frame of {} bytes that no epoch records",
                    frame.bytes.len()
                ));
            }
            continue;
        };
        match covers.first(record.epoch) {
            Some(acknowledged) if acknowledged < at => {
                verdict.judged += 1;
                margins.push((at - acknowledged) / 1000);
                held.push(at.saturating_sub(record.at_unix_ns) / 1000);
            }
            _ if alone => verdict.unjudged_alone += 1,
            late => {
                verdict.judged += 1;
                verdict.violations += 1;
                let when = late.map_or("never".into(), |ack| {
                    format!("{:.3} ms after", (ack - at) as f64 / 1e6)
                });
                verdict.note(format!(
                    "{at}: a frame of epoch {}, acknowledged {when}",
                    record.epoch
                ));
            }
        }
    }
    held.sort_unstable();
    verdict.margin_us_min = margins.into_iter().min();
    verdict.held_us_median = held.get(held.len() / 2).copied();
    verdict
}

/// Finds a frame's record. Frames leave in the order of their records, so a content that occurs
/// several times is looked for behind the last one found first.
struct Records<'a> {
    channel: &'a Channel,
    by_crc: HashMap<u32, Vec<usize>>,
    after: usize,
}

impl<'a> Records<'a> {
    fn new(channel: &'a Channel) -> Self {
        let mut by_crc: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, output) in channel.outputs.iter().enumerate() {
            by_crc.entry(output.crc).or_default().push(index);
        }
        Records {
            channel,
            by_crc,
            after: 0,
        }
    }

    /// The record of `frame` among those that were on the channel before `before_unix_ns`.
    fn find(&mut self, frame: &[u8], before_unix_ns: u64) -> Option<channel::Output> {
        let index = self
            .take(channel::frame_crc(frame), before_unix_ns)
            .or_else(|| {
                // A card of the host's may have padded a short frame.
                self.take(channel::frame_crc(packet::unpadded(frame)?), before_unix_ns)
            })?;
        self.after = self.after.max(index + 1);
        Some(self.channel.outputs[index])
    }

    fn take(&mut self, crc: u32, before_unix_ns: u64) -> Option<usize> {
        let indices = self.by_crc.get_mut(&crc)?;
        let next = indices.partition_point(|index| *index < self.after);
        let at = if next < indices.len() { next } else { 0 };
        let sent = self.channel.outputs.get(*indices.get(at)?)?.at_unix_ns;
        (sent < before_unix_ns).then(|| indices.remove(at))
    }
}

/// When an epoch was first covered by an acknowledgement: (epoch, time) rising in both.
struct Covers(Vec<(u64, u64)>);

impl Covers {
    fn new(channel: &Channel) -> Self {
        let mut covers: Vec<(u64, u64)> = Vec::new();
        for ack in &channel.acks {
            if covers.last().is_none_or(|(epoch, _)| ack.epoch > *epoch) {
                covers.push((ack.epoch, ack.at_unix_ns));
            }
        }
        Covers(covers)
    }

    fn first(&self, epoch: u64) -> Option<u64> {
        let at = self.0.partition_point(|(covered, _)| *covered < epoch);
        self.0.get(at).map(|(_, at_unix_ns)| *at_unix_ns)
    }
}
