//! What the primary says of its execution, and when an epoch ends.

use devices::{Effect, Input};

use crate::codec::{CodecError, EncodedEpoch, EpochBuilder};
use crate::digest::Digest;
use crate::entry::{Epoch, Event, Page, Position, Snapshot};

/// When an epoch ends. It ends at once when an output waits or the guest idles; this bounds it
/// while neither happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPolicy {
    /// Most entries.
    pub entries_max: u32,
    /// Most encoded bytes.
    pub bytes_max: usize,
    /// Longest age of its first entry, in nanoseconds.
    pub age_ns_max: u64,
}

impl Default for EpochPolicy {
    fn default() -> Self {
        EpochPolicy {
            entries_max: 512,
            bytes_max: 64 << 10,
            age_ns_max: 5_000_000,
        }
    }
}

/// Turns what happens on the primary into epochs.
#[derive(Debug)]
pub struct Recorder {
    builder: EpochBuilder,
    policy: EpochPolicy,
    opened_at_ns: Option<u64>,
    output_waits: bool,
}

impl Recorder {
    /// A recorder whose first epoch is `first`.
    pub fn new(first: Epoch, policy: EpochPolicy) -> Recorder {
        Recorder {
            builder: EpochBuilder::new(first),
            policy,
            opened_at_ns: None,
            output_waits: false,
        }
    }

    /// The epoch that is open.
    pub fn epoch(&self) -> Epoch {
        self.builder.epoch()
    }

    /// Whether the open epoch has no entry.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Records that `input` is applied at `at`.
    ///
    /// # Errors
    ///
    /// When the epoch cannot hold it (see [`EpochBuilder::push`]).
    pub fn input(&mut self, at: Position, input: Input) -> Result<(), CodecError> {
        self.builder.push(at, &Event::Input(input))
    }

    /// Records that the machine made an output, and that the epoch should be closed for it.
    pub fn output(&mut self, at: Position, effect: &Effect) -> Result<(), CodecError> {
        self.output_waits = true;
        self.builder.push(
            at,
            &Event::Output {
                crc: effect_crc(effect),
            },
        )
    }

    /// Records pages of a coming snapshot.
    pub fn pages(&mut self, at: Position, pages: Vec<Page>) -> Result<(), CodecError> {
        self.builder.push(at, &Event::Pages(pages))
    }

    /// Records a snapshot.
    pub fn snapshot(&mut self, at: Position, snapshot: Snapshot) -> Result<(), CodecError> {
        self.builder.push(at, &Event::Snapshot(Box::new(snapshot)))
    }

    /// Whether the open epoch should be closed now. `idle`: the guest is about to wait.
    pub fn should_close(&mut self, now_ns: u64, idle: bool) -> bool {
        if self.builder.is_empty() {
            return false;
        }
        let opened = *self.opened_at_ns.get_or_insert(now_ns);
        self.output_waits
            || idle
            || self.builder.entries() >= self.policy.entries_max
            || self.builder.len_bytes() >= self.policy.bytes_max
            || now_ns.saturating_sub(opened) >= self.policy.age_ns_max
    }

    /// Closes the epoch at `at`, where the guest's digest is `digest`.
    pub fn close(&mut self, at: Position, digest: Digest) -> Result<EncodedEpoch, CodecError> {
        self.opened_at_ns = None;
        self.output_waits = false;
        self.builder.close(at, digest)
    }
}

/// The checksum by which an output is known in the log: CRC32C of the effect's postcard encoding.
pub fn effect_crc(effect: &Effect) -> u32 {
    crc_of(effect)
}

/// CRC32C of a value's postcard encoding, of which no copy is kept.
pub fn crc_of(value: &impl serde::Serialize) -> u32 {
    postcard::serialize_with_flavor(value, CrcFlavor::default()).unwrap_or_default()
}

/// Gathers some bytes before it sums them up: postcard writes most of them one by one.
struct CrcFlavor {
    crc: u32,
    bytes: [u8; 256],
    len: usize,
}

impl Default for CrcFlavor {
    fn default() -> CrcFlavor {
        CrcFlavor {
            crc: 0,
            bytes: [0; 256],
            len: 0,
        }
    }
}

impl CrcFlavor {
    fn sum_up(&mut self) {
        self.crc = crc32c::crc32c_append(self.crc, self.bytes.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

impl postcard::ser_flavors::Flavor for CrcFlavor {
    type Output = u32;

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        if self.len == self.bytes.len() {
            self.sum_up();
        }
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = data;
            self.len += 1;
        }
        Ok(())
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        if data.len() > self.bytes.len() / 2 {
            self.sum_up();
            self.crc = crc32c::crc32c_append(self.crc, data);
            return Ok(());
        }
        data.iter().try_for_each(|byte| self.try_push(*byte))
    }

    fn finalize(mut self) -> postcard::Result<u32> {
        self.sum_up();
        Ok(self.crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outputs_checksum_is_that_of_its_encoding() {
        let effect = Effect::NetTx {
            frame: (0..=255).collect(),
        };
        let bytes = postcard::to_allocvec(&effect).unwrap();
        assert_eq!(effect_crc(&effect), crc32c::crc32c(&bytes));
    }

    #[test]
    fn an_epoch_ends_for_an_output_an_idle_guest_and_old_age() {
        let at = Position::Exit(3);
        let mut recorder = Recorder::new(1, EpochPolicy::default());
        assert!(!recorder.should_close(0, true));
        recorder.input(at, Input::Clock { now: 5 }).unwrap();
        assert!(!recorder.should_close(10, false));
        assert!(recorder.should_close(10, true));
        assert!(recorder.should_close(10 + EpochPolicy::default().age_ns_max, false));
        recorder.output(at, &Effect::PowerOff).unwrap();
        assert!(recorder.should_close(11, false));
        let epoch = recorder.close(at, Digest::default()).unwrap();
        assert_eq!((epoch.epoch, epoch.entries), (1, 3));
        assert!(!recorder.should_close(12, true));
    }

    #[test]
    fn the_checksum_is_that_of_the_encoding() {
        for len in [0, 1, 127, 128, 129, 255, 256, 257, 1000] {
            let words: Vec<u16> = (0..len).collect();
            let value = (len, &words, "x".repeat(usize::from(len)), [7u8; 5]);
            let bytes = postcard::to_allocvec(&value).unwrap();
            assert_eq!(crc_of(&value), crc32c::crc32c(&bytes), "{len}");
        }
    }
}
