//! Frames that come for a guest which is on its way to another host.

use std::collections::VecDeque;

use crate::host::clock::monotonic_ns;

/// Most frames kept; more are lost, as in a full ring.
const FRAMES_MAX: usize = 4096;
/// Most bytes of them.
const BYTES_MAX: usize = 8 << 20;

/// Addresses of an Ethernet frame (IEEE 802.3): who it is for, then who it is from.
const TO: std::ops::Range<usize> = 0..6;
const FROM: std::ops::Range<usize> = 6..12;

/// The frames, in order.
#[derive(Debug, Default)]
pub(super) struct LateFrames {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Frames for which there was no room.
    pub(super) lost: u64,
    /// When the network was seen to know the guest's new place.
    pub(super) announced_at: Option<u64>,
}

impl LateFrames {
    /// Takes what came in at the TAP of the guest with this address.
    pub(super) fn take(&mut self, frame: &[u8], guest: [u8; 6]) {
        if is_from(frame, guest) {
            self.announced_at.get_or_insert_with(monotonic_ns);
        } else if self.announced_at.is_none() || is_for(frame, guest) {
            // What is for all reaches the guest by itself once it has been announced.
            self.push(frame);
        }
    }

    /// Adds a frame.
    fn push(&mut self, frame: &[u8]) {
        if self.frames.len() >= FRAMES_MAX || self.bytes + frame.len() > BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame.to_vec());
    }

    /// Adds older ones.
    pub(super) fn put_before(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames.into_iter().rev() {
            self.bytes += frame.len();
            self.frames.push_front(frame);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The oldest one.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

/// Whether a frame is from the guest: as one that comes in, it says that the guest is live elsewhere, and that
/// this host's bridge knows.
fn is_from(frame: &[u8], guest: [u8; 6]) -> bool {
    frame.get(FROM) == Some(&guest[..])
}

/// Whether a frame is for the guest alone.
fn is_for(frame: &[u8], guest: [u8; 6]) -> bool {
    frame.get(TO) == Some(&guest[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x66, 0x74, 0x64];

    #[test]
    fn frames_are_bounded_and_keep_their_order() {
        let mut late = LateFrames::default();
        for number in 0..FRAMES_MAX + 3 {
            late.push(&number.to_le_bytes());
        }
        assert_eq!((late.frames.len(), late.lost), (FRAMES_MAX, 3));
        late.put_before(vec![vec![1], vec![2]]);
        assert_eq!(late.pop(), Some(vec![1]));
        assert_eq!(late.pop(), Some(vec![2]));
        assert_eq!(late.pop(), Some(0_usize.to_le_bytes().to_vec()));
        let mut late = LateFrames::default();
        late.push(&vec![0; BYTES_MAX]);
        late.push(&[1]);
        assert_eq!((late.frames.len(), late.lost), (1, 1));
    }

    #[test]
    fn addresses_tell_where_a_frame_belongs() {
        let other = [2; 6];
        let to_guest = [&GUEST[..], &other, b"payload"].concat();
        let from_guest = [&[0xff; 6][..], &GUEST, b"payload"].concat();
        assert!(is_for(&to_guest, GUEST) && !is_from(&to_guest, GUEST));
        assert!(is_from(&from_guest, GUEST) && !is_for(&from_guest, GUEST));
        assert!(!is_for(&[1; 5], GUEST) && !is_from(&[1; 8], GUEST));
        // From the announcement on, only what this host's bridge has sent here by mistake.
        let to_all = [&[0xff; 6][..], &other, b"payload"].concat();
        let mut late = LateFrames::default();
        for frame in [&to_all, &to_guest, &from_guest, &to_all, &to_guest] {
            late.take(frame, GUEST);
        }
        assert!(late.announced_at.is_some());
        let kept: Vec<_> = std::iter::from_fn(|| late.pop()).collect();
        assert_eq!(kept, [to_all, to_guest.clone(), to_guest]);
    }
}
