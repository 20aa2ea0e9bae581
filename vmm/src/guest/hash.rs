//! The hash of a guest's whole state: what a record and its replay must agree on at the end.

use std::fmt;

use devices::layout::PAGE_BYTES;
use serde::{Deserialize, Serialize};

use super::Guest;
use crate::error::VmmError;
use crate::memory::{ram_bytes, read_page};

/// BLAKE3 over registers, machine and RAM, apart and together, so that a difference has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// Of the encoded [`crate::cpu_state::CpuState`].
    pub cpu: [u8; 32],
    /// Of the encoded machine state.
    pub machine: [u8; 32],
    /// Of all RAM in rising order.
    pub memory: [u8; 32],
}

impl StateHash {
    /// One hash of all three.
    pub fn combined(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.cpu)
            .update(&self.machine)
            .update(&self.memory);
        *hasher.finalize().as_bytes()
    }

    /// The names of the parts in which two hashes differ.
    pub fn differences(&self, other: &StateHash) -> Vec<&'static str> {
        let StateHash {
            cpu,
            machine,
            memory,
        } = self;
        [
            ("registers", *cpu == other.cpu),
            ("device state", *machine == other.machine),
            ("memory", *memory == other.memory),
        ]
        .into_iter()
        .filter_map(|(name, equal)| (!equal).then_some(name))
        .collect()
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from(self.combined()).to_hex())
    }
}

impl Guest {
    /// Hashes the guest where it stands; settles the vCPU first.
    pub fn state_hash(&mut self) -> Result<StateHash, VmmError> {
        let cpu = self.save_cpu()?.encode()?;
        let machine = self.save_machine()?;
        let mut memory = blake3::Hasher::new();
        let mut page = [0u8; PAGE_BYTES as usize];
        for gfn in 0..ram_bytes(self.memory()) / PAGE_BYTES {
            read_page(self.memory(), gfn, &mut page);
            memory.update(&page);
        }
        Ok(StateHash {
            cpu: blake3::hash(&cpu).into(),
            machine: blake3::hash(&machine).into(),
            memory: memory.finalize().into(),
        })
    }
}
