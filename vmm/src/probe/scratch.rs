//! A virtual machine for a few instructions: 4 MiB of RAM, one vCPU in 64-bit mode with the low
//! 4 GiB mapped to themselves, and an exception reported as an OUT of its vector.

use std::time::Duration;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use crate::cpu_model;
use crate::error::VmmError;
use crate::kvm::vm::supported_cpuid;
use crate::kvm::{Exit, Kick, KickTimer, Vcpu, Vm, kick};
use crate::memory::Ram;

/// Where the code under test starts.
pub const CODE: u64 = 0x10_0000;
/// A page that it may use as it likes.
pub const DATA: u64 = 0x18_0000;
/// Top of the kernel's stack.
pub const STACK: u64 = 0x20_0000;
/// Top of the user's stack.
const USER_STACK: u64 = 0x28_0000;
/// Guest RAM in bytes.
pub const RAM_BYTES: u64 = 4 << 20;
/// The port to which an exception's stub writes the vector.
pub const EXCEPTION_PORT: u16 = 0x80;
/// Selector of user code, for IRETQ; user data is the next.
pub const USER_CODE: u16 = 0x33;
/// Selector of user data.
pub const USER_DATA: u16 = 0x3b;

const GDT: u64 = 0x2000;
const TSS: u64 = 0x2800;
const IDT: u64 = 0x3000;
/// Where the exceptions' stubs start.
pub const STUBS: u64 = 0x4000;
/// Bytes from one stub to the next.
pub const STUB_BYTES: u64 = 8;
const PAGE_TABLES: u64 = 0x9000;
const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
/// Vectors that have a gate: the exceptions and one for INT 20h.
const VECTORS: u64 = 0x21;

const PRESENT_WRITABLE_USER: u64 = 7;
const LARGE: u64 = 1 << 7;
/// CR0: PE, MP, ET, NE, WP, PG.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// CR4.TSD: RDTSC is the kernel's alone.
pub const CR4_TSD: u64 = 1 << 2;
/// EFER: SCE, LME, LMA.
const EFER: u64 = 1 | 1 << 8 | 1 << 10;
const RFLAGS_ALWAYS: u64 = 2;
/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_IOPL_3: u64 = 3 << 12;

/// How long a few instructions may take. Far longer than any host needs; a probe ends all the same.
const PATIENCE: Duration = Duration::from_millis(1000);

/// The privilege level that the code starts at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// CPL 0.
    Kernel,
    /// CPL 3, with I/O allowed (IOPL 3) so that it can end in an OUT.
    User,
}

/// The machine. It must stay on the thread that made it, which takes the kick signal.
pub struct Scratch {
    /// Its vCPU.
    pub vcpu: Vcpu,
    /// Its RAM and VM.
    pub vm: Vm,
    level: Level,
}

impl Scratch {
    /// A machine that stands before `code`, with interrupts off.
    pub fn new(kvm: &Kvm, level: Level, code: &[u8]) -> Result<Scratch, VmmError> {
        let memory = Ram::allocate(RAM_BYTES)?;
        let vm = Vm::new(kvm, memory, cpu_model::msr::CLOSED)?;
        let supported = supported_cpuid(kvm)?;
        let cpuid = match cpu_model::CpuModel::for_host(&supported) {
            Ok(model) => cpu_model::leaves::of(model),
            Err(_) => supported,
        };
        let vcpu = Vcpu::new(kvm, &vm, &cpuid)?;
        let put = |at: u64, bytes: &[u8]| write(&vm, at, bytes);
        put(GDT, &bytes_of(&gdt()))?;
        put(TSS + 4, &STACK.to_le_bytes())?; // RSP0 (SDM vol. 3, 8.7)
        put(PAGE_TABLES, &bytes_of(&page_tables()))?;
        for vector in 0..VECTORS {
            put(IDT + vector * 16, &gate(STUBS + vector * STUB_BYTES))?;
            // mov $vector, %al; out %al, $0x80; hlt
            let stub = [0xb0, vector as u8, 0xe6, EXCEPTION_PORT as u8, 0xf4];
            put(STUBS + vector * STUB_BYTES, &stub)?;
        }
        Kick::prepare(&vcpu)?;
        let mut scratch = Scratch { vcpu, vm, level };
        scratch.restart(code)?;
        Ok(scratch)
    }

    /// Puts it before other code, as if it were new: making a machine takes longer than a probe.
    pub fn restart(&mut self, code: &[u8]) -> Result<(), VmmError> {
        self.vcpu.request_interrupt_window(false);
        self.vcpu.settle()?;
        self.put(CODE, code)?;
        self.vcpu
            .set_sregs(&sregs(self.vcpu.sregs()?, self.level))?;
        let (rsp, iopl) = match self.level {
            Level::Kernel => (STACK, 0),
            Level::User => (USER_STACK, RFLAGS_IOPL_3),
        };
        self.vcpu.set_regs(kvm_regs {
            rip: CODE,
            rsp,
            rflags: RFLAGS_ALWAYS | iopl,
            ..Default::default()
        });
        // Single-stepping starts at the RIP that KVM knows when it is asked for.
        self.vcpu.settle()
    }

    /// Runs it to its next exit. [`Exit::Interrupted`] if none came in a second.
    pub fn run(&mut self) -> Result<Exit, VmmError> {
        self.run_for(PATIENCE)
    }

    /// Runs it to its next exit, or for so long.
    pub fn run_for(&mut self, patience: Duration) -> Result<Exit, VmmError> {
        let mut timer = KickTimer::new()?;
        timer.set(patience);
        let exit = self.vcpu.run();
        drop(timer);
        kick::acknowledge();
        exit
    }

    /// Writes to its RAM.
    pub fn put(&self, at: u64, bytes: &[u8]) -> Result<(), VmmError> {
        write(&self.vm, at, bytes)
    }

    /// Reads from its RAM.
    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        // An address outside of RAM, which no probe has, reads as zeros.
        let _ = self.vm.memory().read_slice(&mut bytes, GuestAddress(at));
        bytes
    }

    /// Turns a bit of CR4 on.
    pub fn set_cr4(&mut self, bits: u64) -> Result<(), VmmError> {
        let mut sregs = self.vcpu.sregs()?;
        sregs.cr4 |= bits;
        self.vcpu.set_sregs(&sregs)
    }

    /// The byte of an OUT that it is stopped at.
    pub fn out_byte(&mut self) -> u8 {
        self.vcpu.port_data().first().copied().unwrap_or(0)
    }

    /// How an exit reads to a person, when it is not what the probe expected.
    pub fn describe(&mut self, exit: Exit) -> String {
        match exit {
            Exit::PortOut {
                port: EXCEPTION_PORT,
                ..
            } => format!("the guest got exception {}", self.out_byte()),
            Exit::Failed { reason, detail } => {
                format!("KVM gave up (exit {reason}, detail {detail:#x})")
            }
            Exit::Interrupted => "no exit came within a second".to_owned(),
            Exit::Shutdown => "the guest ended in a triple fault".to_owned(),
            Exit::Halt => "the guest ran on to its HLT".to_owned(),
            other => format!("the guest ended in {other:?}"),
        }
    }
}

fn write(vm: &Vm, at: u64, bytes: &[u8]) -> Result<(), VmmError> {
    vm.memory()
        .write_slice(bytes, GuestAddress(at))
        .map_err(|error| VmmError::Memory {
            bytes: RAM_BYTES,
            why: error.to_string(),
        })
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Kernel code and data at 10h, a TSS at 20h, user code at 30h, user data at 38h.
fn gdt() -> [u64; 8] {
    let tss = 0x67 | (TSS & 0xff_ffff) << 16 | 0x8b << 40;
    [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        tss,
        0,
        0x00af_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
    ]
}

/// An interrupt gate that user code may call (SDM vol. 3, 6.14.1).
fn gate(to: u64) -> [u8; 16] {
    let low = to & 0xffff | u64::from(KERNEL_CODE) << 16 | 0xee << 40 | (to >> 16 & 0xffff) << 48;
    let mut gate = [0; 16];
    gate[..8].copy_from_slice(&low.to_le_bytes());
    gate
}

/// One level 4, one level 3, four level 2 tables of 2 MiB pages; user code may use them all.
fn page_tables() -> Vec<u64> {
    let mut tables = vec![0; 6 * 512];
    tables[0] = (PAGE_TABLES + 0x1000) | PRESENT_WRITABLE_USER;
    for gigabyte in 0..4 {
        tables[512 + gigabyte] =
            (PAGE_TABLES + 0x2000 + gigabyte as u64 * 0x1000) | PRESENT_WRITABLE_USER;
    }
    for (index, entry) in tables[1024..].iter_mut().enumerate() {
        *entry = (index as u64) << 21 | LARGE | PRESENT_WRITABLE_USER;
    }
    tables
}

fn sregs(made: kvm_sregs, level: Level) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, l: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    let (code, data) = match level {
        Level::Kernel => (KERNEL_CODE, KERNEL_DATA),
        Level::User => (USER_CODE, USER_DATA),
    };
    let data = segment(data, 0x3, 0);
    let table = |base, limit| kvm_dtable {
        base,
        limit,
        ..Default::default()
    };
    kvm_sregs {
        cs: segment(code, 0xb, 1),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            base: TSS,
            limit: 0x67,
            selector: 0x20,
            type_: 0xb,
            present: 1,
            ..Default::default()
        },
        ldt: kvm_segment {
            unusable: 1,
            type_: 2,
            ..Default::default()
        },
        gdt: table(GDT, 8 * 8 - 1),
        idt: table(IDT, (VECTORS * 16 - 1) as u16),
        cr0: CR0,
        cr3: PAGE_TABLES,
        cr4: CR4,
        efer: EFER,
        ..made
    }
}
