//! Which of the requests to a disk may run now: the order that a disk owes its guest.
//!
//! Requests run in any order and at the same time, except that
//! * two that touch a common unit run in the order of issue, unless both only read;
//! * a flush runs after every write and discard issued before it. (Not the other way round: what is
//!   issued after a flush may run before it, as virtio 1.2, section 5.2.6.2 allows.)

use std::collections::VecDeque;

use devices::{DiskOp, DiskRequest};

/// What a request touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read(Range),
    Write(Range),
    Flush,
}

/// Units from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Requests in order of issue that are not finished yet.
#[derive(Debug)]
pub(super) struct Schedule {
    granule: u64,
    next_ticket: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    access: Access,
    /// `None` once it was started.
    request: Option<DiskRequest>,
}

impl Schedule {
    /// `granule` is the unit of the disk below in bytes (see `Image::granule`), not 0.
    pub(super) fn new(granule: u64) -> Self {
        Schedule {
            granule,
            next_ticket: 0,
            entries: VecDeque::new(),
        }
    }

    /// Appends a request.
    pub(super) fn push(&mut self, request: DiskRequest) {
        let access = match &request.op {
            DiskOp::Read { offset, len } => Access::Read(self.range(*offset, u64::from(*len))),
            DiskOp::Write { offset, data } => Access::Write(self.range(*offset, data.len() as u64)),
            DiskOp::Flush => Access::Flush,
            DiskOp::Discard { offset, len } => Access::Write(self.range(*offset, *len)),
        };
        self.entries.push_back(Entry {
            ticket: self.next_ticket,
            access,
            request: Some(request),
        });
        self.next_ticket += 1;
    }

    /// Takes the earliest request that may run now; [`Schedule::finish`] must follow with its
    /// ticket. `None` if all of them wait for others, or there are none.
    pub(super) fn start(&mut self) -> Option<(u64, DiskRequest)> {
        let index = (0..self.entries.len()).find(|&index| {
            let entry = &self.entries[index];
            entry.request.is_some()
                && !self
                    .entries
                    .iter()
                    .take(index)
                    .any(|earlier| must_wait(entry.access, earlier.access))
        })?;
        let entry = &mut self.entries[index];
        entry.request.take().map(|request| (entry.ticket, request))
    }

    /// Forgets a started request: those that waited for it may run.
    pub(super) fn finish(&mut self, ticket: u64) {
        self.entries.retain(|entry| entry.ticket != ticket);
    }

    /// Number of requests that are not finished.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of requests that were started and are not finished.
    pub(super) fn running(&self) -> usize {
        let started = |entry: &&Entry| entry.request.is_none();
        self.entries.iter().filter(started).count()
    }

    fn range(&self, offset: u64, len: u64) -> Range {
        Range {
            start: offset / self.granule,
            end: offset.saturating_add(len).div_ceil(self.granule),
        }
    }
}

fn must_wait(later: Access, earlier: Access) -> bool {
    match (earlier, later) {
        (Access::Write(_), Access::Flush) => true,
        (_, Access::Flush) | (Access::Flush, _) | (Access::Read(_), Access::Read(_)) => false,
        (Access::Read(first) | Access::Write(first), Access::Read(next) | Access::Write(next)) => {
            first.overlaps(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(offset: u64, len: u32) -> DiskOp {
        DiskOp::Read { offset, len }
    }

    fn write(offset: u64, len: usize) -> DiskOp {
        let data = vec![0; len];
        DiskOp::Write { offset, data }
    }

    fn schedule(granule: u64, ops: &[DiskOp]) -> Schedule {
        let mut schedule = Schedule::new(granule);
        for (id, op) in (0..).zip(ops.iter().cloned()) {
            schedule.push(DiskRequest { disk: 0, id, op });
        }
        schedule
    }

    fn start_all(schedule: &mut Schedule) -> Vec<u64> {
        std::iter::from_fn(|| schedule.start().map(|(_, request)| request.id)).collect()
    }

    /// First and last unit of 1024 bytes, and whether it writes; `None` for a flush.
    fn units(op: &DiskOp) -> Option<(u64, u64, bool)> {
        let (offset, len, writes) = match op {
            DiskOp::Read { offset, len } => (*offset, u64::from(*len), false),
            DiskOp::Write { offset, data } => (*offset, data.len() as u64, true),
            DiskOp::Discard { offset, len } => (*offset, *len, true),
            DiskOp::Flush => return None,
        };
        Some((offset / 1024, (offset + len - 1) / 1024, writes))
    }

    #[test]
    fn a_flush_waits_for_writes_only() {
        let ops = [
            read(0, 512),
            write(512, 512),
            DiskOp::Flush,
            write(4096, 512),
            DiskOp::Flush,
        ];
        let mut schedule = schedule(1, &ops);
        assert_eq!(start_all(&mut schedule), [0, 1, 3]);
        schedule.finish(1);
        assert_eq!(start_all(&mut schedule), [2]);
        schedule.finish(3);
        assert_eq!(start_all(&mut schedule), [4]);
    }

    #[test]
    fn overlapping_requests_keep_their_order_unless_both_read() {
        let ops = [
            read(0, 1024),
            read(512, 1024),
            write(1024, 512),
            read(0, 2048),
        ];
        let mut schedule = schedule(1, &ops);
        assert_eq!(start_all(&mut schedule), [0, 1]);
        schedule.finish(0);
        assert!(start_all(&mut schedule).is_empty());
        schedule.finish(1);
        assert_eq!(start_all(&mut schedule), [2]);
        schedule.finish(2);
        assert_eq!(start_all(&mut schedule), [3]);
    }

    #[test]
    fn neighbours_in_one_unit_of_the_disk_below_overlap() {
        let ops = [write(0, 512), write(512, 512), write(4096, 512)];
        assert_eq!(start_all(&mut schedule(1, &ops)), [0, 1, 2]);
        assert_eq!(start_all(&mut schedule(4096, &ops)), [0, 2]);
    }

    fn op() -> impl Strategy<Value = DiskOp> {
        prop_oneof![
            (0u64..16, 1u32..5).prop_map(|(at, len)| read(at * 512, len * 512)),
            (0u64..16, 1usize..5).prop_map(|(at, len)| write(at * 512, len * 512)),
            Just(DiskOp::Flush),
            (0u64..16, 1u64..5).prop_map(|(at, len)| DiskOp::Discard {
                offset: at * 512,
                len: len * 512,
            }),
        ]
    }

    proptest! {
        /// However the running requests finish, every one runs once, and no two that must not
        /// change places do.
        #[test]
        fn order_holds_and_nothing_starves(
            ops in prop::collection::vec(op(), 0..24),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            let mut schedule = schedule(1024, &ops);
            let mut running = Vec::new();
            let mut finished = Vec::new();
            for pick in picks.iter().take(ops.len()) {
                while let Some((ticket, request)) = schedule.start() {
                    let later = units(&request.op);
                    for earlier in (0..request.id).filter(|id| !finished.contains(id)) {
                        let clash = match (units(&ops[earlier as usize]), later) {
                            (Some((a, b, writes)), Some((c, d, also))) => {
                                (writes || also) && a.max(c) <= b.min(d)
                            }
                            (Some((_, _, writes)), None) => writes,
                            (None, _) => false,
                        };
                        prop_assert!(!clash, "{} ran before {earlier} had finished", request.id);
                    }
                    running.push((ticket, request.id));
                }
                prop_assert!(!running.is_empty(), "starved");
                let (ticket, id) = running.swap_remove(pick.index(running.len()));
                schedule.finish(ticket);
                finished.push(id);
            }
            prop_assert_eq!(schedule.len(), 0);
        }
    }
}
