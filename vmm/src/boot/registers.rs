//! Page tables, GDT and the registers a guest starts with.
//!
//! The 64-bit entry of the Linux/x86 boot protocol: long mode, paging on with the kernel, the zero
//! page and the command line identity-mapped, `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18, interrupts
//! off, RSI pointing to the zero page.

use devices::GuestMemory;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::low_memory as low;
use super::rewrite::RewriteReport;

/// `__BOOT_CS`.
pub const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS`.
pub const DATA_SELECTOR: u16 = 0x18;
/// A task state segment, which VMX wants to see loaded; nobody uses it.
pub const TASK_SELECTOR: u16 = 0x20;

/// The GDT: two empty entries, flat 64-bit code, flat data, a 64-bit TSS (two entries).
pub const GDT: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
    0,
];

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_TSD: u64 = 1 << 2;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// APIC base: the default address, enabled, bootstrap processor.
const APIC_BASE: u64 = devices::layout::LAPIC_BASE | 1 << 11 | 1 << 8;

const PTE_PRESENT: u64 = 1;
const PTE_WRITABLE: u64 = 1 << 1;
const PDE_LARGE: u64 = 1 << 7;

/// The registers of a loaded guest before its first instruction, and what the loader did to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootState {
    /// Physical (and identity-mapped) address of the first instruction.
    pub rip: u64,
    /// Address of the zero page.
    pub rsi: u64,
    /// Top of a small stack below the zero page.
    pub rsp: u64,
    /// Only the bit that is always 1: interrupts off.
    pub rflags: u64,
    /// Protected mode and paging.
    pub cr0: u64,
    /// The page map level 4.
    pub cr3: u64,
    /// PAE, and TSD if RDTSC is closed.
    pub cr4: u64,
    /// Long mode enabled and active.
    pub efer: u64,
    /// IA32_APIC_BASE: enabled, in xAPIC mode.
    pub apic_base: u64,
    /// Address of the GDT.
    pub gdt_base: u64,
    /// Limit of the GDT in bytes less one.
    pub gdt_limit: u16,
    /// First address after the kernel.
    pub kernel_end: u64,
    /// What was changed in the kernel.
    pub rewrite: RewriteReport,
}

impl BootState {
    pub(super) fn new(entry: u64, kernel_end: u64, rewrite: RewriteReport) -> Self {
        let tsd = if rewrite.requested { CR4_TSD } else { 0 };
        Self {
            rip: entry,
            rsi: low::ZERO_PAGE,
            rsp: low::STACK_TOP,
            rflags: 2,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: low::PAGE_TABLES,
            cr4: CR4_PAE | tsd,
            efer: EFER_LME | EFER_LMA,
            apic_base: APIC_BASE,
            gdt_base: low::GDT,
            gdt_limit: (GDT.len() * 8 - 1) as u16,
            kernel_end,
            rewrite,
        }
    }

    /// General registers for KVM_SET_REGS.
    #[must_use]
    pub fn regs(&self) -> kvm_regs {
        kvm_regs {
            rip: self.rip,
            rsi: self.rsi,
            rsp: self.rsp,
            rflags: self.rflags,
            ..Default::default()
        }
    }

    /// Special registers for KVM_SET_SREGS.
    #[must_use]
    pub fn sregs(&self) -> kvm_sregs {
        let data = segment(DATA_SELECTOR, 0x3, 0, 1);
        kvm_sregs {
            cs: kvm_segment {
                db: 0,
                l: 1,
                ..segment(CODE_SELECTOR, 0xb, 0, 1)
            },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: kvm_segment {
                limit: 0x67,
                db: 0,
                s: 0,
                ..segment(TASK_SELECTOR, 0xb, 0, 0)
            },
            ldt: kvm_segment {
                unusable: 1,
                type_: 2,
                ..Default::default()
            },
            gdt: kvm_dtable {
                base: self.gdt_base,
                limit: self.gdt_limit,
                ..Default::default()
            },
            idt: kvm_dtable::default(),
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            apic_base: self.apic_base,
            ..Default::default()
        }
    }
}

fn segment(selector: u16, type_: u8, base: u64, g: u8) -> kvm_segment {
    kvm_segment {
        base,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Writes the GDT and page tables that map the low 4 GiB to themselves in 2 MiB pages.
///
/// # Errors
///
/// `mem` does not reach up to the tables.
pub fn write_tables(mem: &GuestMemory) -> Result<(), BootError> {
    let gdt: Vec<u8> = GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    mem.write_slice(&gdt, GuestAddress(low::GDT))?;

    let page = devices::layout::PAGE_BYTES;
    let level3 = low::PAGE_TABLES + page;
    let level2 = level3 + page;
    let flags = PTE_PRESENT | PTE_WRITABLE;

    let mut tables = vec![0_u64; (low::PAGE_TABLE_PAGES * 512) as usize];
    tables[0] = level3 | flags;
    for gigabyte in 0..4 {
        tables[512 + gigabyte] = (level2 + gigabyte as u64 * page) | flags;
    }
    for (index, entry) in tables[1024..].iter_mut().enumerate() {
        *entry = (index as u64) << 21 | PDE_LARGE | flags;
    }
    let bytes: Vec<u8> = tables
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    mem.write_slice(&bytes, GuestAddress(low::PAGE_TABLES))?;
    Ok(())
}
