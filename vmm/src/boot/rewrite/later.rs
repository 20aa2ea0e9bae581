//! Code that gets into the kernel after it was loaded: modules above all.
//!
//! Linux writes a module's code into memory that can't be executed, relocates it and applies its
//! alternatives; when all of that is done it makes it executable, by a function whose arguments name the
//! pages. There the VMM stops the guest and rewrites what is in them (`crate::guest`).

use serde::{Deserialize, Serialize};

use super::super::elf::Elf;
use super::super::symbols;

/// It takes the address of the first page, and how many there are (Linux: arch/x86/mm/pat/set_memory.c).
const MAKE_EXECUTABLE: &str = "set_memory_x";
/// The one that modules go by in a kernel that has [`BY_ROX`] (from 6.9 on).
const MAKE_ROX: &str = "set_memory_rox";
const BY_ROX: &str = "module_enable_text_rox";
/// A kernel with one of these keeps memory that is executable already for its modules (from 6.13 on).
const EXECUTABLE_BEFORE: [&str; 2] = ["execmem_update_copy", "execmem_restore_rox"];

/// Where a kernel makes memory executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaterCode {
    /// Linked address of the function.
    pub function: Option<u64>,
    /// All of a module's code passes through it, as far as is known.
    pub is_closed: bool,
}

impl LaterCode {
    /// Looks for the function in the kernel `file`.
    pub(super) fn find(file: &[u8], elf: &Elf) -> Self {
        let names = [
            MAKE_EXECUTABLE,
            MAKE_ROX,
            BY_ROX,
            EXECUTABLE_BEFORE[0],
            EXECUTABLE_BEFORE[1],
        ];
        let [x, rox, by_rox, copied, restored] = symbols::find(file, elf, names);
        let function = if by_rox.is_some() { rox } else { x };
        let is_closed = function.is_some() && copied.is_none() && restored.is_none();
        Self {
            function,
            is_closed,
        }
    }
}
