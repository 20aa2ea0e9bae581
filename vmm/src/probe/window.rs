//! Whether the interrupt window opens at the first instruction at which the guest can take an
//! interrupt, every time: on it rests the `exit` clock.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{CODE, Level, RFLAGS_IF, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;

/// How long the guest spins before it lets interrupts in, so that the window falls anywhere in
/// whatever slices the host runs the guest in.
const DELAYS: [u32; 8] = [1, 7, 100, 1000, 3000, 9000, 20_000, 60_000];

struct Opening {
    how: &'static str,
    /// What lets interrupts in, put behind the spin.
    code: &'static [u8],
    /// How far into `code` the window must open.
    opens_at: u64,
    /// The exit that the code makes on its way, before the window.
    exits_first: bool,
}

const OPENINGS: [Opening; 3] = [
    Opening {
        how: "STI",
        code: &[0xfb, 0x90], // sti; nop
        opens_at: 2,         // STI holds interrupts off for one more instruction
        exits_first: false,
    },
    Opening {
        how: "POPF",
        code: &[0x53, 0x9d], // push %rbx; popf
        opens_at: 2,
        exits_first: false,
    },
    Opening {
        how: "an OUT behind STI",
        code: &[0xfb, 0xe6, 0x81], // sti; out %al, $0x81
        opens_at: 3,
        exits_first: true,
    },
];

/// `dec %ecx; jnz` back to it.
const SPIN: [u8; 4] = [0xff, 0xc9, 0x75, 0xfc];
/// INC EDX, which counts how far a late window is.
const COUNT: [u8; 2] = [0xff, 0xc2];
const COUNTS: usize = 2000;

/// Looks at the window behind STI, POPF, and an access in STI's shadow.
pub fn interrupt_window(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut scratch = Scratch::new(kvm, Level::Kernel, &[])?;
    for opening in &OPENINGS {
        for delay in DELAYS {
            if let Some(wrong) = open(&mut scratch, opening, delay)? {
                return Ok(Finding::no(format!(
                    "behind {} the window opens {wrong}",
                    opening.how
                )));
            }
        }
    }
    Ok(Finding::yes(format!(
        "exact in {} of {0} tries",
        OPENINGS.len() * DELAYS.len()
    )))
}

/// What is wrong with one window.
fn open(scratch: &mut Scratch, opening: &Opening, delay: u32) -> Result<Option<String>, VmmError> {
    let mut code = SPIN.to_vec();
    code.extend_from_slice(opening.code);
    for _ in 0..COUNTS {
        code.extend_from_slice(&COUNT);
    }
    code.extend_from_slice(&[0xe6, 0x82, 0xf4]); // out %al, $0x82; hlt
    scratch.restart(&code)?;
    let mut regs = scratch.vcpu.regs();
    regs.rcx = u64::from(delay);
    regs.rbx = regs.rflags | RFLAGS_IF;
    scratch.vcpu.set_regs(regs);
    scratch.vcpu.request_interrupt_window(true);
    if opening.exits_first {
        let exit = scratch.run()?;
        if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
            return Ok(Some(format!("wrongly: {}", scratch.describe(exit))));
        }
        if scratch.vcpu.ready_for_interrupt() {
            return Ok(Some("in STI's shadow".to_owned()));
        }
    }
    let due = CODE + SPIN.len() as u64 + opening.opens_at;
    match scratch.run()? {
        Exit::InterruptWindow => {
            let at = scratch.vcpu.regs().rip;
            if at == due && scratch.vcpu.ready_for_interrupt() {
                return Ok(None);
            }
            let late = at.saturating_sub(due) / COUNT.len() as u64;
            Ok(Some(format!("{late} instructions late")))
        }
        Exit::PortOut { port: 0x82, .. } => Ok(Some(format!(
            "more than {COUNTS} instructions late or not at all"
        ))),
        exit => Ok(Some(format!("wrongly: {}", scratch.describe(exit)))),
    }
}
