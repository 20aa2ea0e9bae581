//! Disk Paxos (Gafni and Lamport, "Disk Paxos", 2000) with one disk, as a state machine without
//! I/O: it says what to read or write next, and is told what came of it.
//!
//! Each bidder owns one block on the disk, which it alone writes and all read. A bidder
//!
//! 1. reads all blocks, its own among them: what an earlier life of it wrote still counts;
//! 2. writes a ballot higher than any it saw (`mbal`), then reads all blocks, and takes the value
//!    (`inp`) of the highest ballot that got as far as step 3 (`bal`), or its own if none did;
//! 3. writes that value with its ballot (`bal` = `mbal`), then reads all blocks;
//! 4. has decided, and writes that down, so that others need not repeat it.
//!
//! Whoever reads a higher `mbal` than its own in step 2 or 3 waits a little and starts over at 2.
//! Two bidders can't both get through step 3 with different values: of the two writes in step 3 one
//! came first, and the later bidder's reads in step 2 either came after it, and took the value, or
//! before it, and then the first bidder's reads in step 3 saw the later one's higher ballot.
//!
//! What it needs of the disk: a read that doesn't overlap a write returns the last completed write;
//! one that does may return the old or the new block; a write cut short by a crash leaves the old or
//! the new one. (`record` makes such blocks of sectors that may be torn.) A write that a dead host
//! had begun must not reach the disk after that host is back and has read its block.
//!
//! Blocks are reused for later generations. One that holds an earlier generation is as good as
//! empty; one that holds a later generation ends the bid: what was decided may be gone.

/// A bidder's block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Block<V> {
    /// The generation that the rest is about; 0 for a block never written.
    pub generation: u64,
    /// The highest ballot its owner began.
    pub mbal: u64,
    /// The highest ballot its owner proposed a value in, 0 for none.
    pub bal: u64,
    /// The value proposed in `bal`.
    pub inp: Option<V>,
    /// Whether `inp` is known to be decided.
    pub decided: bool,
}

impl<V> Block<V> {
    /// A block that says nothing about `generation`.
    pub fn empty(generation: u64) -> Self {
        Block {
            generation,
            mbal: 0,
            bal: 0,
            inp: None,
            decided: false,
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<V> {
    /// Read the block of this slot, then call [`Bid::read`]. The slots of one round are asked for
    /// in rising order from 0, so that one read of all of them, begun at slot 0, serves a round.
    Read {
        /// The slot.
        slot: usize,
    },
    /// Write this to the own block, durably, then call [`Bid::written`].
    Write(Block<V>),
    /// Let others finish: wait a random time, more as `round` (from 1) rises, then call
    /// [`Bid::waited`].
    Wait {
        /// How many times this bid has been outbid.
        round: u32,
    },
    /// It is over.
    Done(Outcome<V>),
}

/// How a bid ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome<V> {
    /// This value is decided, for ever.
    Decided(V),
    /// The block of some slot belongs to a later generation.
    Superseded {
        /// That generation.
        newest: u64,
    },
    /// The own block isn't what was written there: somebody else writes to it.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step<V> {
    /// Reading all blocks: before the first ballot, in step 2 or in step 3.
    Reading(Round, usize),
    /// Writing the own block at the beginning of step 2, step 3 or step 4.
    Writing(Round),
    Waiting,
    Done(Outcome<V>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Round {
    Survey,
    Prepare,
    Propose,
    Publish,
}

/// One bidder's way to a decision on one generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bid<V> {
    me: usize,
    slots: usize,
    value: V,
    /// The own block, as last written or (before that) as found.
    own: Block<V>,
    /// The highest ballot seen in any block.
    highest: u64,
    /// The value of the highest `bal` seen in this round.
    best: (u64, Option<V>),
    outbid: u32,
    step: Step<V>,
}

impl<V: Clone + PartialEq> Bid<V> {
    /// The bid of the bidder in slot `me` of `slots` for `value` (its own name) to be the winner of
    /// `generation` (not 0).
    pub fn new(me: usize, slots: usize, generation: u64, value: V) -> Self {
        Bid {
            me,
            slots,
            value,
            own: Block::empty(generation),
            highest: 0,
            best: (0, None),
            outbid: 0,
            step: Step::Reading(Round::Survey, 0),
        }
    }

    /// What to do next. The same until the matching call below.
    pub fn action(&self) -> Action<V> {
        match &self.step {
            Step::Reading(_, slot) => Action::Read { slot: *slot },
            Step::Writing(_) => Action::Write(self.own.clone()),
            Step::Waiting => Action::Wait { round: self.outbid },
            Step::Done(outcome) => Action::Done(outcome.clone()),
        }
    }

    /// Whether the value is decided already and only its announcement to others is being written:
    /// a failure of that write changes nothing.
    pub fn is_publishing(&self) -> bool {
        self.step == Step::Writing(Round::Publish)
    }

    /// The block that [`Action::Read`] asked for; `None` if it was never written.
    pub fn read(&mut self, block: Option<Block<V>>) {
        let Step::Reading(round, slot) = self.step else {
            return;
        };
        self.step = match self.heed(round, slot, block) {
            Some(step) => step,
            None if slot + 1 < self.slots => Step::Reading(round, slot + 1),
            None => self.end_of(round),
        };
    }

    /// [`Action::Write`] is done, and durable.
    pub fn written(&mut self) {
        let Step::Writing(round) = self.step else {
            return;
        };
        self.step = match (round, &self.own.inp) {
            (Round::Publish, Some(value)) => Step::Done(Outcome::Decided(value.clone())),
            _ => Step::Reading(round, 0),
        };
    }

    /// [`Action::Wait`] is over.
    pub fn waited(&mut self) {
        if self.step == Step::Waiting {
            self.step = self.begin_ballot();
        }
    }

    /// Takes note of a block; the step that follows from it at once, if any.
    fn heed(&mut self, round: Round, slot: usize, block: Option<Block<V>>) -> Option<Step<V>> {
        let generation = self.own.generation;
        if let Some(block) = &block
            && block.generation > generation
        {
            let newest = block.generation;
            return Some(Step::Done(Outcome::Superseded { newest }));
        }
        let block = block
            .filter(|block| block.generation == generation)
            .unwrap_or_else(|| Block::empty(generation));
        if slot == self.me {
            if round == Round::Survey {
                self.own = block.clone();
            } else if block != self.own {
                return Some(Step::Done(Outcome::Conflict));
            }
        }
        if block.decided
            && let Some(value) = block.inp
        {
            return Some(Step::Done(Outcome::Decided(value)));
        }
        self.highest = self.highest.max(block.mbal);
        if round != Round::Survey && block.mbal > self.own.mbal {
            self.outbid = self.outbid.saturating_add(1);
            return Some(Step::Waiting);
        }
        if block.bal > self.best.0 {
            self.best = (block.bal, block.inp);
        }
        None
    }

    /// All blocks were read and nothing stood in the way.
    fn end_of(&mut self, round: Round) -> Step<V> {
        match round {
            Round::Survey => self.begin_ballot(),
            Round::Prepare => {
                let value = self.best.1.take().unwrap_or_else(|| self.value.clone());
                self.own.bal = self.own.mbal;
                self.own.inp = Some(value);
                Step::Writing(Round::Propose)
            }
            Round::Propose | Round::Publish => {
                self.own.decided = true;
                Step::Writing(Round::Publish)
            }
        }
    }

    fn begin_ballot(&mut self) -> Step<V> {
        // Ballots of slot s are s + 1, s + 1 + slots, ...: no two bidders share one.
        let (slots, first) = (self.slots as u64, self.me as u64 + 1);
        let rounds = (self.highest + 1).saturating_sub(first).div_ceil(slots);
        self.own.mbal = first + rounds * slots;
        self.best = (0, None);
        Step::Writing(Round::Prepare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drives a bid over blocks that nobody else touches; returns the outcome and the writes.
    fn run(blocks: &mut [Option<Block<u8>>], me: usize, value: u8) -> (Outcome<u8>, usize) {
        let mut bid = Bid::new(me, blocks.len(), 5, value);
        let mut writes = 0;
        loop {
            match bid.action() {
                Action::Read { slot } => bid.read(blocks[slot].clone()),
                Action::Write(block) => {
                    blocks[me] = Some(block);
                    writes += 1;
                    bid.written();
                }
                Action::Wait { .. } => bid.waited(),
                Action::Done(outcome) => return (outcome, writes),
            }
        }
    }

    #[test]
    fn alone_it_takes_three_writes_and_then_none() {
        let mut blocks = vec![None; 8];
        assert_eq!(run(&mut blocks, 3, 30), (Outcome::Decided(30), 3));
        assert_eq!(run(&mut blocks, 3, 31), (Outcome::Decided(30), 0));
        assert_eq!(run(&mut blocks, 6, 60), (Outcome::Decided(30), 0));
    }

    #[test]
    fn a_proposed_value_is_taken_over() {
        let mut blocks = vec![None; 3];
        blocks[2] = Some(Block {
            mbal: 9,
            bal: 6,
            inp: Some(22),
            ..Block::empty(5)
        });
        blocks[1] = Some(Block {
            mbal: 5,
            bal: 5,
            inp: Some(11),
            ..Block::empty(5)
        });
        assert_eq!(run(&mut blocks, 0, 0).0, Outcome::Decided(22));
        let own = blocks[0].clone().unwrap();
        assert_eq!((own.mbal, own.bal, own.decided), (10, 10, true));
    }

    #[test]
    fn earlier_generations_are_empty_and_later_ones_end_it() {
        let other = |generation| {
            Some(Block {
                mbal: 4,
                bal: 4,
                inp: Some(99),
                decided: true,
                ..Block::empty(generation)
            })
        };
        let mut blocks = vec![None, other(4)];
        assert_eq!(run(&mut blocks, 0, 1).0, Outcome::Decided(1));
        let mut blocks = vec![None, other(6)];
        let superseded = Outcome::Superseded { newest: 6 };
        assert_eq!(run(&mut blocks, 0, 1), (superseded, 0));
    }

    #[test]
    fn a_second_writer_of_the_own_block_is_noticed() {
        let mut bid = Bid::new(0, 2, 5, 1u8);
        bid.read(None);
        bid.read(None);
        assert!(matches!(bid.action(), Action::Write(_)));
        bid.written();
        bid.read(Some(Block {
            mbal: 3,
            ..Block::empty(5)
        }));
        assert_eq!(bid.action(), Action::Done(Outcome::Conflict));
    }
}
