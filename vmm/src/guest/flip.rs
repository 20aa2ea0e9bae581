//! A test hook: one bit of a guest changed behind its back, for a digest to find.

use std::str::FromStr;

use vm_memory::{Bytes, GuestAddress};

use super::Guest;
use crate::error::VmmError;

/// The UART's scratch register: nothing depends on it but what a program keeps there.
const SCRATCH_PORT: u16 = 0x3ff;

/// What is changed: its lowest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// The byte of RAM at this guest-physical address.
    Ram(u64),
    /// R10: the tiny guests use it for nothing, so that it stays changed.
    Register,
    /// The serial port's scratch register.
    Device,
}

/// Not a flip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of ram:ADDRESS (hexadecimal), register, device")]
pub struct UnknownFlip(String);

impl FromStr for Flip {
    type Err = UnknownFlip;

    fn from_str(text: &str) -> Result<Flip, UnknownFlip> {
        let address = text
            .strip_prefix("ram:")
            .and_then(|digits| u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok());
        match (text, address) {
            (_, Some(address)) => Ok(Flip::Ram(address)),
            ("register", _) => Ok(Flip::Register),
            ("device", _) => Ok(Flip::Device),
            _ => Err(UnknownFlip(text.to_owned())),
        }
    }
}

impl Guest {
    /// Changes a bit where the guest stands.
    pub fn flip(&mut self, flip: Flip) -> Result<(), VmmError> {
        match flip {
            Flip::Ram(address) => {
                let at = GuestAddress(address);
                let memory = self.vm.memory();
                let flipped = memory
                    .read_obj::<u8>(at)
                    .and_then(|byte| memory.write_obj(byte ^ 1, at));
                flipped.map_err(|_| VmmError::BadInput(format!("no RAM at {address:#x}")))
            }
            Flip::Register => {
                self.vcpu.settle()?;
                let mut regs = self.vcpu.regs();
                regs.r10 ^= 1;
                self.vcpu.set_regs(regs);
                Ok(())
            }
            Flip::Device => {
                let mut byte = [0];
                self.machine.pio_read(SCRATCH_PORT, &mut byte);
                self.machine.pio_write(SCRATCH_PORT, &[byte[0] ^ 1]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_are_read() {
        assert_eq!("ram:0x1800".parse(), Ok(Flip::Ram(0x1800)));
        assert_eq!("ram:1800".parse(), Ok(Flip::Ram(0x1800)));
        assert_eq!("register".parse(), Ok(Flip::Register));
        assert_eq!("device".parse(), Ok(Flip::Device));
        assert!("ram:".parse::<Flip>().is_err() && "disk".parse::<Flip>().is_err());
    }
}
