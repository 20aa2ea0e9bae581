//! What a replaying guest let out that the primary may not have let out.

use std::collections::VecDeque;

use devices::Effect;
use replay::Epoch;

/// Most outputs that are kept. More than these wait only behind a backup that is far behind.
const OUTPUTS_MAX: usize = 4096;
/// Most bytes of them.
const BYTES_MAX: usize = 4 << 20;

/// The outputs of a replaying guest that the primary has not yet said are out, oldest first. A
/// backup that goes live makes them good: a frame or a line that gets out twice is better than one
/// that nobody sees. Writes to disks are not among them, the machine knows those itself.
#[derive(Debug, Default)]
pub struct Unreleased {
    outputs: VecDeque<(Epoch, Effect)>,
    bytes: usize,
}

impl Unreleased {
    /// The guest made an output in `epoch`. When there are too many the oldest are forgotten.
    pub fn made(&mut self, epoch: Epoch, effect: Effect) {
        if matches!(effect, Effect::Disk(_) | Effect::EntropyWanted { .. }) {
            return;
        }
        self.bytes += effect.data_bytes();
        self.outputs.push_back((epoch, effect));
        while self.outputs.len() > OUTPUTS_MAX || self.bytes > BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// What was made up to the end of `epoch` is out.
    pub fn out_through(&mut self, epoch: Epoch) {
        while self.outputs.front().is_some_and(|(of, _)| *of <= epoch) {
            self.forget_oldest();
        }
    }

    /// All that is left, in the order the guest made it.
    pub fn into_outputs(self) -> impl Iterator<Item = Effect> {
        self.outputs.into_iter().map(|(_, effect)| effect)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, effect)) = self.outputs.pop_front() {
            self.bytes -= effect.data_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Effect {
        let frame = vec![7; len];
        Effect::NetTx { frame }
    }

    #[test]
    fn what_is_out_is_forgotten() {
        let mut unreleased = Unreleased::default();
        unreleased.made(3, frame(60));
        unreleased.made(4, Effect::EntropyWanted { len: 8 });
        unreleased.made(4, frame(61));
        unreleased.made(5, Effect::PowerOff);
        unreleased.out_through(3);
        unreleased.out_through(2);
        assert_eq!(unreleased.bytes, 61);
        let left: Vec<_> = unreleased.into_outputs().collect();
        assert_eq!(left, [frame(61), Effect::PowerOff]);
    }

    #[test]
    fn the_newest_are_kept_when_there_are_too_many() {
        let mut unreleased = Unreleased::default();
        for len in 0..OUTPUTS_MAX + 10 {
            unreleased.made(1, frame(len % 100));
        }
        assert_eq!(unreleased.outputs.len(), OUTPUTS_MAX);
        assert_eq!(unreleased.outputs[0].1, frame(10));
        unreleased.made(2, frame(BYTES_MAX));
        assert_eq!(unreleased.outputs.len(), 1);
        unreleased.out_through(2);
        assert_eq!(unreleased.bytes, 0);
    }
}
