//! Code that gets into the kernel after it was loaded: modules above all.
//!
//! Linux writes a module's code into memory that can't be executed, relocates it and applies its
//! alternatives; when all of that is done it makes it executable, by a function whose arguments name the
//! pages. There the VMM stops the guest and rewrites what is in them (`crate::guest`).

use serde::{Deserialize, Serialize};

use super::super::elf::Elf;
use super::super::symbols;

/// Functions that a kernel has for that, at most.
pub const FUNCTIONS: usize = 2;

/// Each takes the address of the first page, and how many there are (Linux: arch/x86/mm/pat/set_memory.c).
/// Modules go by the first up to 6.8, by the second later.
const MAKE_EXECUTABLE: [&str; FUNCTIONS] = ["set_memory_x", "set_memory_rox"];
/// A kernel with one of these keeps memory that is executable already for its modules (from 6.13 on).
const EXECUTABLE_BEFORE: [&str; 2] = ["execmem_update_copy", "execmem_restore_rox"];

/// Where a kernel makes memory executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaterCode {
    /// Linked addresses of the functions.
    pub functions: [Option<u64>; FUNCTIONS],
    /// All of a module's code passes through one of them, as far as is known.
    pub is_closed: bool,
}

impl LaterCode {
    /// Looks for the functions in the kernel `file`.
    pub(super) fn find(file: &[u8], elf: &Elf) -> Self {
        let [x, rox, copied, restored] = symbols::find(
            file,
            elf,
            [
                MAKE_EXECUTABLE[0],
                MAKE_EXECUTABLE[1],
                EXECUTABLE_BEFORE[0],
                EXECUTABLE_BEFORE[1],
            ],
        );
        let functions = [x, rox];
        let found = functions.iter().any(Option::is_some);
        let is_closed = found && copied.is_none() && restored.is_none();
        Self {
            functions,
            is_closed,
        }
    }
}
