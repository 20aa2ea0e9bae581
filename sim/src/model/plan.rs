//! What is to go wrong in a world: drawn from its seed before it begins, so that it can be thinned out.

use std::collections::BTreeSet;

use replay::protocol::{Commit, Release};

use super::kind::Kind;
use super::random::Random;

pub(crate) const MS: u64 = 1_000_000;
/// How long after the last fault everything must have settled.
pub(crate) const SETTLE: u64 = 5_000 * MS;
/// And for each backup but the first: they join one after the other.
const JOINING: u64 = 4_000 * MS;
/// Outputs must flow in that last part of it.
pub(crate) const FLOW: u64 = 1_000 * MS;

/// Which faults a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All, often several at once: the guest may be lost, but nothing else may go wrong.
    Storm,
    /// All but those that destroy a copy of the guest: it may never be lost.
    NoDeaths,
    /// One, of any kind, while the guest is protected: it may never be lost.
    Single,
}

impl Mode {
    /// That of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        [Mode::Storm, Mode::NoDeaths, Mode::Storm, Mode::Single][(seed % 4) as usize]
    }
}

/// One fault at one moment. What it doesn't need is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) host: usize,
    pub(crate) other: usize,
    /// How long it lasts.
    pub(crate) lasts: u64,
    /// For choices of its own.
    pub(crate) bits: u64,
}

/// A world to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) hosts: usize,
    /// Most backups at a time.
    pub(crate) backups: u32,
    pub(crate) commit: Commit,
    pub(crate) release: Release,
    pub(crate) small_buffers: bool,
    pub(crate) delay_max: u64,
    /// The hosts' clocks: thousandths of true time, and what they show at the start.
    pub(crate) clocks: Vec<(u64, u64)>,
    /// What happens by chance.
    pub(crate) chances: BTreeSet<Kind>,
    pub(crate) faults: Vec<Fault>,
    /// No fault begins later.
    pub(crate) faults_end: u64,
    /// Which of many worlds with this plan: 0 but when a failing one is thinned out.
    pub(crate) salt: u64,
}

const KINDS: [(Kind, u64); 16] = [
    (Kind::PowerCut, 4),
    (Kind::ProcessDeath, 4),
    (Kind::Pause, 4),
    (Kind::Partition, 4),
    (Kind::OneWayCut, 4),
    (Kind::BrokenLink, 6),
    (Kind::ArbiterAway, 4),
    (Kind::ArbiterSlow, 2),
    (Kind::ArbiterStale, 2),
    (Kind::StorageCut, 3),
    (Kind::Stop, 2),
    (Kind::HandOver, 6),
    (Kind::ClockStep, 3),
    (Kind::SlowDisk, 3),
    (Kind::DiskErrors, 2),
    (Kind::SlowReplay, 2),
];

const CHANCES: [Kind; 5] = [
    Kind::DelaySpike,
    Kind::AnswerLost,
    Kind::CloneFailure,
    Kind::Divergence,
    Kind::WrongStart,
];

const MANGLING: [Kind; 3] = [
    Kind::MessageLost,
    Kind::MessageDoubled,
    Kind::MessageReordered,
];

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self::new(seed, Mode::of(seed))
    }

    /// The plan of a seed for a kind of world.
    pub(crate) fn new(seed: u64, mode: Mode) -> Self {
        let mut random = Random::new(seed, 1);
        let hosts = random.pick(&[2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 6]);
        let backups = 1 + random.below(hosts as u64 - 1) as u32;
        let commit = random.pick(&[Commit::Received, Commit::Executed, Commit::Verified]);
        let small_buffers = random.one_in(4);
        let delay_max = random.pick(&[MS / 5, 2 * MS, 30 * MS]);
        let mut clock = || {
            let offset = random.below(10_000_000) * MS;
            (random.between(970, 1030), offset)
        };
        let clocks = (0..6).map(|_| clock()).collect();
        let mut chances = BTreeSet::new();
        if mode != Mode::Single {
            chances.extend(CHANCES);
            if random.one_in(4) {
                chances.extend(MANGLING);
            }
        }
        if mode != Mode::Storm {
            chances.remove(&Kind::Divergence);
        }
        let long = mode != Mode::Single && random.one_in(8);
        let faults_end = if long { 20_000 * MS } else { 4_000 * MS };
        let gap = random.pick(&[300, 1000, 2000]) * MS;
        let kinds = kinds(mode, &mut random);
        let mut faults = Vec::new();
        if mode == Mode::Single {
            let at = random.between(1000 * MS, 3500 * MS);
            faults.push(fault(at, &kinds, hosts, &mut random));
        } else {
            let mut at = random.between(MS, gap);
            while at < faults_end {
                let one = fault(at, &kinds, hosts, &mut random);
                if one.kind == Kind::HandOver && random.one_in(2) {
                    // Something goes wrong in the middle of it.
                    let soon = at + random.below(200 * MS);
                    faults.push(fault(soon, &kinds, hosts, &mut random));
                }
                faults.push(one);
                at += random.between(MS, gap);
            }
        }
        let release = random.pick(&[Release::All, Release::Quorum]);
        Plan {
            seed,
            mode,
            hosts,
            backups,
            commit,
            release,
            small_buffers,
            delay_max,
            clocks,
            chances,
            faults,
            faults_end,
            salt: 0,
        }
    }

    /// When the world ends.
    pub(crate) fn end(&self) -> u64 {
        self.faults_end + SETTLE + u64::from(self.backups - 1) * JOINING
    }
}

/// The kinds that a world has, and how often. Half of all storms have but a few of them, which so meet
/// each other more often.
fn kinds(mode: Mode, random: &mut Random) -> Vec<(Kind, u64)> {
    let few = mode != Mode::Single && random.one_in(2);
    let fits = |kind: Kind| mode != Mode::NoDeaths || !kind.kills();
    let all: Vec<_> = KINDS.into_iter().filter(|(kind, _)| fits(*kind)).collect();
    let mut some = all.clone();
    some.retain(|_| !few || random.one_in(3));
    if some.is_empty() { all } else { some }
}

fn fault(at: u64, kinds: &[(Kind, u64)], hosts: usize, random: &mut Random) -> Fault {
    let host = random.below(hosts as u64) as usize;
    let other = (host + 1 + random.below(hosts as u64 - 1) as usize) % hosts;
    Fault {
        at,
        kind: draw(kinds, random),
        host,
        other,
        lasts: random.between(10 * MS, 900 * MS),
        bits: random.next(),
    }
}

fn draw(kinds: &[(Kind, u64)], random: &mut Random) -> Kind {
    let mut at = random.below(kinds.iter().map(|(_, weight)| weight).sum());
    for &(kind, weight) in kinds {
        if at < weight {
            return kind;
        }
        at -= weight;
    }
    Kind::Pause
}
