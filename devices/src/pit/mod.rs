//! The 8254 interval timer (ports 40h to 43h) and the system control port 61h.
//!
//! Channel 0 is IRQ 0, which Linux uses until it has calibrated the local APIC's timer against it;
//! channel 2 can be gated and read through port 61h; channel 1 (memory refresh) counts for nobody.

mod channel;

use channel::Channel;
use serde::{Deserialize, Serialize};

use crate::lapic::PERIOD_NS_MIN;
use crate::{RestoreError, VirtualNs};

/// Frequency of the three counters in Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// Half the period of the memory refresh signal that port 61h's bit 4 shows.
const REFRESH_NS: u64 = 15_085;

/// The chip. Its state is all it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit {
    channels: [Channel; 3],
    /// Port 61h bit 1: the speaker would sound.
    speaker: bool,
    /// Port 61h bit 0: channel 2's gate.
    gate_2: bool,
}

impl Default for Pit {
    fn default() -> Self {
        // A PC's firmware has loaded counter 0. There is none here, and Linux reads the counter for
        // its first random numbers, waiting until its status says that a count was loaded.
        let system = Channel::loaded();
        let channels = [system, Channel::new(true), Channel::new(false)];
        Pit {
            channels,
            speaker: false,
            gate_2: false,
        }
    }
}

impl Pit {
    /// Whether the chip decodes `port`.
    pub fn owns_port(port: u16) -> bool {
        matches!(port, 0x40..=0x43 | 0x61)
    }

    /// Reads one byte of `port`, which is one that [`Pit::owns_port`].
    pub fn read(&mut self, port: u16, now: VirtualNs) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(now),
            0x61 => {
                let refresh = now / REFRESH_NS % 2 == 1;
                u8::from(self.gate_2)
                    | u8::from(self.speaker) << 1
                    | u8::from(refresh) << 4
                    | u8::from(self.channels[2].output(now)) << 5
            }
            // The control word can't be read.
            _ => 0xff,
        }
    }

    /// Writes one byte to `port`, which is one that [`Pit::owns_port`].
    pub fn write(&mut self, port: u16, value: u8, now: VirtualNs) {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].write(value, now),
            0x43 if value >> 6 == 3 => self.read_back(value, now),
            0x43 => self.channels[usize::from(value >> 6)].control(value, now),
            0x61 => {
                self.gate_2 = value & 1 != 0;
                self.speaker = value & 2 != 0;
                self.channels[2].set_gate(self.gate_2, now);
            }
            _ => {}
        }
    }

    /// The read-back command: latches counts and states of several counters.
    fn read_back(&mut self, value: u8, now: VirtualNs) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) != 0 {
                if value & 0x20 == 0 {
                    channel.latch_count(now);
                }
                if value & 0x10 == 0 {
                    channel.latch_status(now);
                }
            }
        }
    }

    /// Level of IRQ 0.
    pub fn irq(&self, now: VirtualNs) -> bool {
        self.channels[0].output(now)
    }

    /// Whether IRQ 0 rose after `from` and not later than `to` (several times count as one).
    pub fn irq_rose(&self, from: VirtualNs, to: VirtualNs) -> bool {
        self.channels[0].rose(from, to)
    }

    /// When IRQ 0 will next rise, as seen from `now`.
    pub fn next_deadline(&self, now: VirtualNs) -> Option<VirtualNs> {
        self.channels[0].next_rise(now, PERIOD_NS_MIN)
    }

    /// Checks a state that came from outside; `now` is the machine's time in it.
    pub fn validate(&self, now: VirtualNs) -> Result<(), RestoreError> {
        let Pit {
            channels,
            speaker: _,
            gate_2,
        } = self;
        for channel in channels {
            if let Some(field) = channel.impossible_field(now) {
                return Err(RestoreError::field("pit", field));
            }
        }
        let gates = channels.iter().map(Channel::gate).eq([true, true, *gate_2]);
        RestoreError::check(gates, "pit", "gate_2")
    }
}

#[cfg(test)]
mod tests;
