//! RDTSC (`0F 31`) becomes IN EAX, imm8 (`E5 ib`): two bytes for two.
//!
//! `0F 31` also occurs inside operands, so each place is decoded first. A sweep over a whole
//! kernel would take too long on an emulated host; instead decoding starts at many points shortly
//! before the place. x86 code synchronises itself: after a few instructions, nearly all of them
//! run on the true instruction boundaries, and they vote. Where the vote is not clear, the section
//! is swept from its start after all.

use devices::layout::TSC_PORT;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

const RDTSC: [u8; 2] = [0x0f, 0x31];
const IN_EAX_IMM8: u8 = 0xe5;
const RDTSCP: [u8; 3] = [0x0f, 0x01, 0xf9];

/// Decoding starts this many to `START_FAR` bytes before a place.
const START_NEAR: usize = 32;
const START_FAR: usize = 128;

/// What was found in a piece of code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// RDTSC instructions that now are IN.
    pub rewritten: usize,
    /// RDTSC instructions with a prefix, which stay.
    pub left: usize,
    /// RDTSCP instructions, which stay.
    pub rdtscp: usize,
}

/// Rewrites `code`, which is linked for `address`.
pub fn rewrite(code: &mut [u8], address: u64) -> Found {
    let mut found = Found::default();
    // All places are judged on the unchanged code.
    let sites: Vec<(usize, Site)> = places(code)
        .map(|at| (at, judge(code, address, at)))
        .collect();
    for (at, site) in sites {
        let is_rdtsc = code[at..].starts_with(&RDTSC);
        match (is_rdtsc, site) {
            (true, Site::Begins) => {
                code[at..at + 2].copy_from_slice(&[IN_EAX_IMM8, TSC_PORT]);
                found.rewritten += 1;
            }
            (true, Site::Prefixed) => found.left += 1,
            (false, Site::Begins | Site::Prefixed) => found.rdtscp += 1,
            (_, Site::Operand) => {}
        }
    }
    found
}

/// What the bytes at a place are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    /// An RDTSC or RDTSCP that begins here.
    Begins,
    /// One with a prefix before this place.
    Prefixed,
    /// Part of something else.
    Operand,
}

/// Lets the points before `at` vote. Paths that meet go on as one, so that each is decoded only as
/// far as it is new.
fn judge(code: &[u8], address: u64, at: usize) -> Site {
    let sweep = || {
        Path::new(code, address, 0, at)
            .last()
            .unwrap_or(Site::Operand)
    };
    if at <= START_FAR {
        return sweep();
    }
    let first = at - START_FAR;
    let mut outcomes: [Option<Option<Site>>; START_FAR] = [None; START_FAR];
    let mut votes = [0_usize; 3];
    let mut trail = Vec::with_capacity(START_FAR);
    for start in first..at - START_NEAR {
        trail.clear();
        let mut path = Path::new(code, address, start, at);
        let outcome = loop {
            let here = path.position();
            match here
                .checked_sub(first)
                .and_then(|index| outcomes.get(index))
            {
                Some(Some(known)) => break *known,
                Some(None) => trail.push(here - first),
                None => {}
            }
            if let Some(end) = path.step() {
                break end;
            }
        };
        for index in &trail {
            outcomes[*index] = Some(outcome);
        }
        if let Some(site) = outcome {
            votes[site as usize] += 1;
        }
    }
    let all: usize = votes.iter().sum();
    [Site::Begins, Site::Prefixed, Site::Operand]
        .into_iter()
        .find(|site| votes[*site as usize] * 4 > all * 3)
        .unwrap_or_else(sweep)
}

/// Decoding on towards a place.
struct Path<'a> {
    decoder: Decoder<'a>,
    instruction: Instruction,
    start: usize,
    at: usize,
}

impl<'a> Path<'a> {
    fn new(code: &'a [u8], address: u64, start: usize, at: usize) -> Self {
        // No instruction is longer than 15 bytes.
        let end = code.len().min(at + 15);
        let ip = address.wrapping_add(start as u64);
        Self {
            decoder: Decoder::with_ip(64, &code[start..end], ip, DecoderOptions::NONE),
            instruction: Instruction::default(),
            start,
            at,
        }
    }

    fn position(&self) -> usize {
        self.start + self.decoder.position()
    }

    /// Decodes one instruction. At the one that reaches the place, says what is there; nothing if
    /// that is no valid instruction, because then this path runs beside the true one.
    fn step(&mut self) -> Option<Option<Site>> {
        let begin = self.position();
        if !self.decoder.can_decode() {
            return Some(None);
        }
        self.decoder.decode_out(&mut self.instruction);
        if self.position() <= self.at {
            return None;
        }
        let is_rdtsc = matches!(self.instruction.code(), Code::Rdtsc | Code::Rdtscp);
        Some(match (is_rdtsc, begin == self.at) {
            (true, true) => Some(Site::Begins),
            (true, false) => Some(Site::Prefixed),
            (false, _) => (!self.instruction.is_invalid()).then_some(Site::Operand),
        })
    }

    fn last(mut self) -> Option<Site> {
        loop {
            if let Some(end) = self.step() {
                return end;
            }
        }
    }
}

/// Every place where an RDTSC or RDTSCP may be. Blocks without one's first two bytes are passed
/// over by a loop that the compiler can vectorise, because it does not stop early.
fn places(code: &[u8]) -> impl Iterator<Item = usize> {
    const BLOCK: usize = 64;
    let may_begin = |a: u8, b: u8| (a == RDTSC[0]) & ((b == RDTSC[1]) | (b == RDTSCP[1]));
    (0..code.len())
        .step_by(BLOCK)
        .filter(move |start| {
            let block = &code[*start..code.len().min(start + BLOCK + 1)];
            block
                .iter()
                .zip(&block[1..])
                .fold(false, |hit, (a, b)| hit | may_begin(*a, *b))
        })
        .flat_map(move |start| start..code.len().min(start + BLOCK))
        .filter(|at| code[*at..].starts_with(&RDTSC) || code[*at..].starts_with(&RDTSCP))
}

/// Every RDTSC in `code` by a full linear sweep: the oracle of the tests.
#[cfg(test)]
pub(super) fn sweep_all(code: &[u8], address: u64) -> Vec<usize> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .iter()
        .filter(|instruction| instruction.code() == Code::Rdtsc)
        .map(|instruction| (instruction.ip() - address) as usize)
        .collect()
}
