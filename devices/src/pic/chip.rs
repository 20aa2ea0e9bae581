//! One 8259A (Intel data sheet 231468): request, service and mask registers, and the commands.

use serde::{Deserialize, Serialize};

/// Where the initialisation sequence stands: which word the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Init {
    /// Initialised; a write sets the mask (OCW1).
    Ready,
    /// ICW2, the vector base, is due.
    Icw2,
    /// ICW3, the cascade wiring, is due.
    Icw3,
    /// ICW4, the modes, is due.
    Icw4,
}

/// One chip of the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chip {
    /// Levels of the input lines.
    pub(super) lines: u8,
    /// Interrupt request register.
    pub(super) irr: u8,
    /// In-service register.
    pub(super) isr: u8,
    /// Interrupt mask register.
    pub(super) imr: u8,
    /// Edge/level control register: set bits are level-triggered.
    pub(super) elcr: u8,
    /// Vector of input 0 (ICW2), a multiple of 8.
    pub(super) base: u8,
    /// The input with the lowest priority, 0 to 7; the next one has the highest.
    pub(super) lowest: u8,
    /// Stage of initialisation.
    pub(super) init: Init,
    /// ICW1 announced an ICW4.
    pub(super) icw4_due: bool,
    /// ICW1 said that there is no cascade.
    pub(super) single: bool,
    /// ICW1's LTIM: all inputs are level-triggered.
    pub(super) all_level: bool,
    /// ICW4's AEOI.
    pub(super) auto_eoi: bool,
    /// OCW2: rotate priorities on automatic EOI.
    pub(super) rotate_on_auto_eoi: bool,
    /// ICW4's SFNM: a secondary chip's higher requests pass while its line is in service.
    pub(super) fully_nested_special: bool,
    /// OCW3's SMM: masked inputs in service block nobody.
    pub(super) special_mask: bool,
    /// OCW3: the command port reads the ISR, not the IRR.
    pub(super) read_isr: bool,
    /// OCW3's P: the next read is a poll.
    pub(super) poll: bool,
}

/// The primary chip's input that the secondary chip drives.
pub(super) const CASCADE: u8 = 2;

impl Chip {
    /// A chip as firmware would leave it: all inputs masked, vectors at `base`.
    pub(super) fn new(base: u8, elcr: u8) -> Self {
        Chip {
            lines: 0,
            irr: 0,
            isr: 0,
            imr: 0xff,
            elcr,
            base,
            lowest: 7,
            init: Init::Ready,
            icw4_due: false,
            single: false,
            all_level: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            fully_nested_special: false,
            special_mask: false,
            read_isr: false,
            poll: false,
        }
    }

    /// Bits of the inputs that are level-triggered.
    fn level_triggered(&self) -> u8 {
        if self.all_level { 0xff } else { self.elcr }
    }

    /// Drives input `irq` (0 to 7).
    pub(super) fn set_line(&mut self, irq: u8, high: bool) {
        let bit = 1u8 << irq;
        let rising = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if self.level_triggered() & bit != 0 {
            self.irr = (self.irr & !bit) | (self.lines & bit);
        } else if rising {
            self.irr |= bit;
        }
    }

    /// Makes the request of `irq` be exactly `high` (the cascade input).
    pub(super) fn set_request(&mut self, irq: u8, high: bool) {
        let bit = 1u8 << irq;
        self.irr = if high {
            self.irr | bit
        } else {
            self.irr & !bit
        };
    }

    /// Rank (0 is the highest) of the most urgent input in `inputs`; 8 when there is none.
    fn rank(&self, inputs: u8) -> u32 {
        inputs
            .rotate_right(u32::from((self.lowest + 1) & 7))
            .trailing_zeros()
    }

    /// The input with rank `rank` (less than 8).
    fn input(&self, rank: u32) -> u8 {
        (self.lowest + 1 + rank as u8) & 7
    }

    /// The input the chip asks for service for. `primary` chips see their cascade specially.
    pub(super) fn pending(&self, primary: bool) -> Option<u8> {
        let rank = self.rank(self.irr & !self.imr);
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if primary && self.fully_nested_special {
            blocking &= !(1 << CASCADE);
        }
        (rank < self.rank(blocking)).then(|| self.input(rank))
    }

    /// The CPU acknowledges input `irq`.
    pub(super) fn acknowledge(&mut self, irq: u8) {
        let bit = 1u8 << irq;
        if self.level_triggered() & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = irq;
        }
    }

    /// A write to the command port (A0 = 0).
    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.begin_init(value);
        } else if value & 0x08 != 0 {
            self.operation_command_3(value);
        } else {
            self.operation_command_2(value);
        }
    }

    /// ICW1: everything but the lines and the ELCR starts over.
    fn begin_init(&mut self, value: u8) {
        let (base, elcr, lines) = (self.base, self.elcr, self.lines);
        *self = Chip::new(base, elcr);
        self.lines = lines;
        self.imr = 0;
        self.all_level = value & 0x08 != 0;
        self.single = value & 0x02 != 0;
        self.icw4_due = value & 0x01 != 0;
        self.irr = self.lines & self.level_triggered();
        self.init = Init::Icw2;
    }

    /// OCW3: special mask, poll, and which register the command port reads.
    fn operation_command_3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        self.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    /// OCW2: ends of interrupt and priority rotation.
    fn operation_command_2(&mut self, value: u8) {
        let (named, command) = (value & 7, value >> 5);
        match command {
            0 | 4 => self.rotate_on_auto_eoi = command == 4,
            1 | 5 => {
                let mut in_service = self.isr;
                if self.special_mask {
                    in_service &= !self.imr;
                }
                let rank = self.rank(in_service);
                if rank < 8 {
                    let irq = self.input(rank);
                    self.isr &= !(1 << irq);
                    if command == 5 {
                        self.lowest = irq;
                    }
                }
            }
            3 | 7 => {
                self.isr &= !(1 << named);
                if command == 7 {
                    self.lowest = named;
                }
            }
            6 => self.lowest = named,
            _ => {}
        }
    }

    /// A write to the data port (A0 = 1).
    pub(super) fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4_due {
            Init::Icw4
        } else {
            Init::Ready
        };
        match self.init {
            Init::Ready => self.imr = value,
            Init::Icw2 => {
                self.base = value & 0xf8;
                self.init = if self.single { after_icw3 } else { Init::Icw3 };
            }
            // The wiring is fixed; what the guest believes about it changes nothing.
            Init::Icw3 => self.init = after_icw3,
            Init::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.fully_nested_special = value & 0x10 != 0;
                self.init = Init::Ready;
            }
        }
    }

    /// Sets the edge/level control register; level inputs then request as their lines stand.
    pub(super) fn write_elcr(&mut self, value: u8) {
        self.elcr = value;
        let level = self.level_triggered();
        self.irr = (self.irr & !level) | (self.lines & level);
    }

    /// Whether every field holds a value the chip can reach. Destructured so that a new field
    /// can't be forgotten here; returns the name of the field that is wrong.
    pub(super) fn impossible_field(&self) -> Option<&'static str> {
        let Chip {
            lines: _,
            irr: _,
            isr: _,
            imr: _,
            elcr: _,
            base,
            lowest,
            init: _,
            icw4_due: _,
            single: _,
            all_level: _,
            auto_eoi: _,
            rotate_on_auto_eoi: _,
            fully_nested_special: _,
            special_mask: _,
            read_isr: _,
            poll: _,
        } = self;
        if base & 7 != 0 {
            return Some("base");
        }
        (*lowest > 7).then_some("lowest")
    }
}
