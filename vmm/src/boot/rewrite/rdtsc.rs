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
    let sites: Vec<(usize, Site)> = places(code, &RDTSC)
        .map(|at| (at, judge(code, address, at)))
        .collect();
    for (at, site) in sites {
        match site {
            Site::Rdtsc => {
                code[at..at + 2].copy_from_slice(&[IN_EAX_IMM8, TSC_PORT]);
                found.rewritten += 1;
            }
            Site::Prefixed => found.left += 1,
            Site::Operand => {}
        }
    }
    found.rdtscp = places(code, &RDTSCP)
        .filter(|at| judge(code, address, *at) != Site::Operand)
        .count();
    found
}

/// What the bytes at a place are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    /// An RDTSC or RDTSCP that begins here.
    Rdtsc,
    /// One with a prefix before this place.
    Prefixed,
    /// Part of something else.
    Operand,
}

fn judge(code: &[u8], address: u64, at: usize) -> Site {
    if at <= START_FAR {
        return sweep(code, address, 0, at).unwrap_or(Site::Operand);
    }
    let mut votes = [0_usize; 3];
    for start in at - START_FAR..at - START_NEAR {
        if let Some(site) = sweep(code, address, start, at) {
            votes[site as usize] += 1;
        }
    }
    let all: usize = votes.iter().sum();
    for site in [Site::Rdtsc, Site::Prefixed, Site::Operand] {
        if votes[site as usize] * 4 > all * 3 {
            return site;
        }
    }
    sweep(code, address, 0, at).unwrap_or(Site::Operand)
}

/// Decodes from `start` up to `at`. None if it meets an invalid instruction near `at`: then this
/// was no true boundary.
fn sweep(code: &[u8], address: u64, start: usize, at: usize) -> Option<Site> {
    // No instruction is longer than 15 bytes.
    let end = code.len().min(at + 15);
    let ip = address.wrapping_add(start as u64);
    let mut decoder = Decoder::with_ip(64, &code[start..end], ip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut valid = true;
    loop {
        let begin = start + decoder.position();
        if begin > at {
            return valid.then_some(Site::Operand);
        }
        if !decoder.can_decode() {
            return None;
        }
        decoder.decode_out(&mut instruction);
        valid = !instruction.is_invalid();
        let next = start + decoder.position();
        if next <= at {
            continue;
        }
        let is_rdtsc = matches!(instruction.code(), Code::Rdtsc | Code::Rdtscp);
        return match (is_rdtsc, begin == at) {
            (true, true) => Some(Site::Rdtsc),
            (true, false) => Some(Site::Prefixed),
            (false, _) => valid.then_some(Site::Operand),
        };
    }
}

/// Every place where `pattern` occurs. Blocks without its first two bytes are passed over by a
/// loop that the compiler can vectorise, because it does not stop early.
fn places<'a>(code: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    const BLOCK: usize = 64;
    let (first, second) = (pattern[0], pattern[1]);
    (0..code.len())
        .step_by(BLOCK)
        .filter(move |start| {
            let block = &code[*start..code.len().min(start + BLOCK + 1)];
            block
                .iter()
                .zip(&block[1..])
                .fold(false, |hit, (a, b)| hit | ((*a == first) & (*b == second)))
        })
        .flat_map(move |start| start..code.len().min(start + BLOCK))
        .filter(move |at| code[*at..].starts_with(pattern))
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
