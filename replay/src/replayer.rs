//! What the backup is to do next: the log in order, handed out at the positions it names.

use std::collections::VecDeque;

use devices::{Effect, Input, MachinePart, VirtualNs};
use thiserror::Error;

use crate::digest::{Difference, Digest};
use crate::entry::{Entry, Epoch, Event, Position};
use crate::recorder::effect_crc;

/// The guest did something else than the log says the primary's did.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Divergence {
    /// The guest read a clock where the primary read none.
    #[error("at {at} the guest reads a clock, but the log says {next}")]
    UnexpectedClock {
        /// Where the guest is.
        at: Position,
        /// What the log says comes next.
        next: String,
    },
    /// The guest is past an entry that it should have met.
    #[error("the guest is at {at}, past an entry at {entry}")]
    Passed {
        /// Where the guest is.
        at: Position,
        /// Where the entry belongs.
        entry: Position,
    },
    /// Another output than the primary's, or none.
    #[error("at {at} the primary made output {expected:#010x}, this guest {found:?}")]
    Output {
        /// Where.
        at: Position,
        /// CRC32C of the primary's output.
        expected: u32,
        /// CRC32C of this guest's, if it made one.
        found: Option<u32>,
    },
    /// More outputs than the primary made.
    #[error("by {at} this guest made {extra} outputs that the primary did not make")]
    ExtraOutputs {
        /// Where.
        at: Position,
        /// How many.
        extra: usize,
    },
    /// The guest halted where the primary's ran on.
    #[error("at {at} this guest waits for an interrupt, the primary's ran on")]
    Idle {
        /// Where.
        at: Position,
    },
    /// The guest ran by a point between two exits, or never came there.
    #[error("the guest missed {point}: {how}")]
    Missed {
        /// The point.
        point: Position,
        /// What it did instead.
        how: String,
    },
    /// The digests of an epoch's end differ.
    #[error("at {at} this copy differs from the primary in {difference}")]
    Digest {
        /// Where.
        at: Position,
        /// What differs, by name.
        difference: Difference,
    },
}

/// The log that is still to be replayed.
#[derive(Debug, Clone, Default)]
pub struct Replayer {
    entries: VecDeque<(Epoch, Entry)>,
    outputs: VecDeque<u32>,
    /// Pages of a snapshot have come out that is not complete: it may span several epochs.
    loading: bool,
}

impl Replayer {
    /// Adds the entries of the next epoch.
    pub fn push_epoch(&mut self, epoch: Epoch, entries: Vec<Entry>) {
        self.entries
            .extend(entries.into_iter().map(|entry| (epoch, entry)));
    }

    /// Whether all entries are used up: the guest must wait for the next epoch.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the next entry lands.
    pub fn next_position(&self) -> Option<Position> {
        self.entries.front().map(|(_, entry)| entry.at)
    }

    /// The clock that the primary read for the access at `at`.
    ///
    /// # Errors
    ///
    /// When the log has no clock there.
    pub fn clock(&mut self, at: Position) -> Result<VirtualNs, Divergence> {
        match self.entries.front() {
            Some((
                _,
                Entry {
                    at: there,
                    event: Event::Input(Input::Clock { now }),
                },
            )) if *there == at => {
                let now = *now;
                self.entries.pop_front();
                Ok(now)
            }
            next => Err(Divergence::UnexpectedClock {
                at,
                next: match next {
                    Some((_, entry)) => format!("{} at {}", entry.event.name(), entry.at),
                    None => "nothing yet".to_owned(),
                },
            }),
        }
    }

    /// The next entry, if it belongs to `at`.
    ///
    /// # Errors
    ///
    /// When the next entry lies before `at`: it can no longer be applied.
    pub fn next_at(&mut self, at: Position) -> Result<Option<(Epoch, Event)>, Divergence> {
        let Some((_, next)) = self.entries.front() else {
            return Ok(None);
        };
        // A snapshot is loaded anywhere between its exit and the next one, and so are the ends of the epochs
        // that it spans.
        let whole = match next.event {
            Event::Pages(_) | Event::Snapshot(_) => true,
            Event::Reached { .. } => self.loading,
            Event::Input(_) | Event::Output { .. } => false,
        };
        if next.at == at || (whole && next.at.exits() == at.exits()) {
            match next.event {
                Event::Pages(_) => self.loading = true,
                Event::Snapshot(_) => self.loading = false,
                _ => {}
            }
            let next = self.entries.pop_front();
            return Ok(next.map(|(epoch, entry)| (epoch, entry.event)));
        }
        if at.is_past(next.at) {
            return Err(Divergence::Passed { at, entry: next.at });
        }
        Ok(None)
    }

    /// Notes an output that this guest made; the log's own record of it comes later.
    pub fn made_output(&mut self, effect: &Effect) {
        self.outputs.push_back(effect_crc(effect));
    }

    /// Compares with the primary's output.
    pub fn check_output(&mut self, at: Position, expected: u32) -> Result<(), Divergence> {
        match self.outputs.pop_front() {
            Some(found) if found == expected => Ok(()),
            found => Err(Divergence::Output {
                at,
                expected,
                found,
            }),
        }
    }

    /// Compares at the end of an epoch. `parts` are the machine's, which the digests' marks stand for.
    pub fn check_reached(
        &mut self,
        at: Position,
        expected: &Digest,
        found: &Digest,
        parts: impl FnOnce() -> Vec<MachinePart>,
    ) -> Result<(), Divergence> {
        if !self.outputs.is_empty() {
            return Err(Divergence::ExtraOutputs {
                at,
                extra: self.outputs.len(),
            });
        }
        if expected == found {
            return Ok(());
        }
        match expected.difference(found, &parts()) {
            Some(difference) => Err(Divergence::Digest { at, difference }),
            None => Ok(()),
        }
    }

    /// Forgets what was expected: a snapshot has replaced the guest's state.
    pub fn forget_outputs(&mut self) {
        self.outputs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Point, Snapshot};
    use crate::registers::RegisterSum;

    fn entry(exit: u64, event: Event) -> Entry {
        Entry {
            at: Position::Exit(exit),
            event,
        }
    }

    #[test]
    fn entries_come_out_where_they_belong() {
        let mut replayer = Replayer::default();
        replayer.push_epoch(
            7,
            vec![
                entry(2, Event::Input(Input::Clock { now: 9 })),
                entry(2, Event::Input(Input::PowerButton)),
                entry(
                    4,
                    Event::Reached {
                        digest: Digest::default(),
                    },
                ),
            ],
        );
        assert_eq!(replayer.next_at(Position::Exit(1)), Ok(None));
        assert_eq!(replayer.clock(Position::Exit(2)), Ok(9));
        assert!(replayer.clock(Position::Exit(2)).is_err());
        assert!(matches!(
            replayer.next_at(Position::Exit(2)),
            Ok(Some((7, Event::Input(_))))
        ));
        assert_eq!(replayer.next_at(Position::Exit(2)), Ok(None));
        assert!(replayer.next_at(Position::Exit(5)).is_err());
    }

    /// It is taken where the primary stood, and applied where this copy stands: behind the same exit.
    #[test]
    fn a_snapshot_of_several_epochs_is_loaded_behind_a_counted_point() {
        let reached = || Event::Reached {
            digest: Digest::default(),
        };
        let point = Position::Counted {
            exits: 4,
            point: Point {
                branches: 7,
                rip: 0x1000,
                rflags: 2,
                registers: RegisterSum::default(),
                stack: 0,
            },
        };
        let mut replayer = Replayer::default();
        replayer.push_epoch(
            1,
            vec![entry(4, Event::Pages(Vec::new())), entry(4, reached())],
        );
        let snapshot = Event::Snapshot(Box::new(Snapshot {
            cpu: Vec::new(),
            machine: Vec::new(),
            pages: Vec::new(),
        }));
        replayer.push_epoch(2, vec![entry(4, snapshot), entry(4, reached())]);
        for name in ["pages of a snapshot", "the end of an epoch", "a snapshot"] {
            let (_, event) = replayer.next_at(point).unwrap().unwrap();
            assert_eq!(event.name(), name);
        }
        // It stands at the exit from here on; at a point it would have run by.
        assert!(replayer.clone().next_at(point).is_err());
        assert!(replayer.next_at(Position::Exit(4)).unwrap().is_some());
    }

    #[test]
    fn a_different_output_a_missing_one_and_an_extra_one_are_divergences() {
        let at = Position::Exit(1);
        let frame = |byte| Effect::NetTx { frame: vec![byte] };
        let mut replayer = Replayer::default();
        replayer.made_output(&frame(1));
        assert_eq!(replayer.check_output(at, effect_crc(&frame(1))), Ok(()));
        assert!(replayer.check_output(at, 1).is_err());
        replayer.made_output(&frame(1));
        assert!(replayer.check_output(at, effect_crc(&frame(2))).is_err());
        replayer.made_output(&frame(1));
        assert!(
            replayer
                .check_reached(at, &Digest::default(), &Digest::default(), Vec::new)
                .is_err()
        );
    }
}
