//! Closes the time-stamp counter in a kernel before it runs.
//!
//! Stock KVM can't make RDTSC exit, so the loader changes the kernel's code (ARCHITECTURE: sources
//! of non-determinism):
//!
//! * [`rdtsc`]: each RDTSC in the kernel becomes IN EAX, which exits; the VMM answers.
//! * [`cr4`]: CR4.TSD, set at the start, survives the kernel's first load of CR4. The kernel then
//!   keeps it (`cr4_init_shadow`), so that RDTSC in user space faults.
//! * `later`: modules have RDTSC, too; where the kernel makes their code executable is found.
//! * `clears`: where the kernel would clear or toggle TSD later, it no longer does.

mod clears;
pub mod cr4;
mod follow;
mod later;
pub mod rdtsc;
pub mod view;

use serde::{Deserialize, Serialize};

use super::elf::{Code, Elf, ElfError};
pub use later::LaterCode;

/// What was changed in a kernel, and what was found and could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteReport {
    /// Whether rewriting was asked for at all.
    pub requested: bool,
    /// RDTSC instructions that now are IN.
    pub rdtsc_sites: usize,
    /// RDTSC instructions that could not be rewritten (they have a prefix, or it is uncertain
    /// whether they are instructions). Anything but 0 leaves a hole.
    pub rdtsc_left: usize,
    /// RDTSCP instructions. CPUID hides RDTSCP, so none of them should run; Linux patches them in
    /// only where CPUID has it.
    pub rdtscp_sites: usize,
    /// Whether CR4.TSD survives: every load of CR4 on the start-up path, of which there is at least
    /// one, keeps it; or there is no load of CR4 anywhere, as in tiny guests.
    pub cr4_site: bool,
    /// Immediate operands that were changed for it.
    pub cr4_patches: usize,
    /// Places that would have cleared or toggled TSD later, and no longer do. Linux has three.
    pub cr4_clears: usize,
    /// Where the kernel makes memory executable, for the modules that it loads later.
    pub later_code: LaterCode,
    /// Whether the code was found by section headers; if not, data in executable segments may
    /// have been taken for code.
    pub by_sections: bool,
}

impl RewriteReport {
    /// Whether the time-stamp counter is closed, for all that can be seen at load time.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requested && self.rdtsc_left == 0 && self.cr4_site
    }
}

/// Rewrites the kernel in the ELF file `file`.
///
/// # Errors
///
/// `file` is not an ELF executable for x86-64, or is damaged.
pub fn close_rdtsc(file: &mut [u8]) -> Result<RewriteReport, ElfError> {
    let elf = Elf::parse(file)?;
    let code: Vec<Code> = elf.code().to_vec();
    let by_sections = elf.code_by_sections();
    let entry = elf.entry_address()?;
    let segments = view::View::segments_of(&elf);
    let later_code = LaterCode::find(file, &elf);

    let mut report = RewriteReport {
        requested: true,
        later_code,
        by_sections,
        ..Default::default()
    };
    for code in &code {
        let found = rdtsc::rewrite(&mut file[range(code)], code.address);
        report.rdtsc_sites += found.rewritten;
        report.rdtsc_left += found.left;
        report.rdtscp_sites += found.rdtscp;
    }
    let loads_cr4 = code.iter().any(|code| cr4::may_load(&file[range(code)]));
    let mut view = view::View::new(file, segments);
    let kept = cr4::keep_tsd(&mut view, entry);
    for code in &code {
        report.cr4_clears += clears::leave_tsd(&mut view, range(code), code.address);
    }
    report.cr4_site = kept.kept || !loads_cr4;
    report.cr4_patches = kept.patches;
    Ok(report)
}

/// Where the code is in the file; [`Elf::parse`] has checked that it is there.
fn range(code: &Code) -> std::ops::Range<usize> {
    code.offset as usize..(code.offset + code.bytes) as usize
}

#[cfg(test)]
mod tests;
