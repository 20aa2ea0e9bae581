//! The contents of each model's CPUID leaves.
//!
//! Nothing in them comes from the host or depends on the run: the APIC ID is 0 (there is one vCPU),
//! OSXSAVE is 0 (there is no XSAVE).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::CpuModel;
use super::features::{AMD, COMMON, Feature, INTEL, INTEL_V2, Register, V2};

/// Leaf of the hypervisor's signature.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// Leaf of KVM's paravirtual features.
pub const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
/// KVM_FEATURE_NOP_IO_DELAY: writes to port 80h as delays are not needed.
const NOP_IO_DELAY: u32 = 1 << 1;

/// Highest basic leaf: the structured extended features.
const BASIC_MAX: u32 = 7;
/// Highest extended leaf: the address sizes.
const EXTENDED_MAX: u32 = 0x8000_0008;

/// The leaves of `model`.
#[must_use]
pub fn of(model: CpuModel) -> Vec<kvm_cpuid_entry2> {
    let mut leaves = Leaves(Vec::new());
    let features: &[&[Feature]] = match model {
        CpuModel::V1Amd => &[COMMON, AMD],
        CpuModel::V1Intel => &[COMMON, INTEL],
        CpuModel::V2Amd => &[COMMON, V2, AMD],
        CpuModel::V2Intel => &[COMMON, V2, INTEL, INTEL_V2],
    };
    match model {
        CpuModel::V1Amd => leaves.amd("ftd virtual CPU, x86-64, AMD"),
        CpuModel::V2Amd => leaves.amd("ftd virtual CPU, x86-64-v2, AMD"),
        CpuModel::V1Intel => leaves.intel("ftd virtual CPU, x86-64, Intel"),
        CpuModel::V2Intel => leaves.intel("ftd virtual CPU, x86-64-v2, Intel"),
    }
    for feature in features.iter().copied().flatten() {
        leaves.set(feature);
    }
    leaves.0
}

/// The vendor in leaf 0: its registers are in the order EBX, EDX, ECX.
#[must_use]
pub fn vendor(entry: &kvm_cpuid_entry2) -> [u8; 12] {
    let mut vendor = [0; 12];
    for (chunk, value) in vendor
        .chunks_exact_mut(4)
        .zip([entry.ebx, entry.edx, entry.ecx])
    {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    vendor
}

struct Version {
    family: u32,
    model: u32,
    stepping: u32,
}

impl Version {
    /// EAX of leaf 1: the extended family counts on from 15.
    fn signature(&self) -> u32 {
        let family = self.family.min(15);
        let extended_family = self.family.saturating_sub(15);
        self.stepping
            | (self.model & 0xf) << 4
            | family << 8
            | (self.model >> 4) << 16
            | extended_family << 20
    }
}

struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    fn common(&mut self, vendor: &[u8; 12], version: Version) {
        let [b, d, c] = words(vendor);
        self.add(0, None, [BASIC_MAX, b, c, d]);
        // EBX: APIC ID 0, 1 logical processor, cache lines of 8 * 8 bytes.
        self.add(1, None, [version.signature(), 1 << 16 | 8 << 8, 0, 0]);
        for function in [2, 3, 5, 6] {
            self.add(function, None, [0; 4]);
        }
        self.add(7, Some(0), [0; 4]);

        let [b, c, d] = words(b"KVMKVMKVM\0\0\0");
        self.add(HYPERVISOR, None, [HYPERVISOR_FEATURES, b, c, d]);
        self.add(HYPERVISOR_FEATURES, None, [NOP_IO_DELAY, 0, 0, 0]);

        let [b, d, c] = words(vendor);
        self.add(0x8000_0000, None, [EXTENDED_MAX, b, c, d]);
        self.add(0x8000_0001, None, [0; 4]);
        for function in [0x8000_0005, 0x8000_0006, 0x8000_0007] {
            self.add(function, None, [0; 4]);
        }
    }

    fn amd(&mut self, brand: &str) {
        self.common(
            b"AuthenticAMD",
            Version {
                family: 0x17,
                model: 0x31,
                stepping: 0,
            },
        );
        self.brand(brand);
        self.add(4, Some(0), [0; 4]);
        // AMD repeats the signature.
        let signature = self.entry(1).eax;
        self.entry(0x8000_0001).eax = signature;
        // TLBs: 64 entries, full. L1: 32 KiB, 8 ways, a line of 64 bytes, data and instructions.
        let l1 = 32 << 24 | 8 << 16 | 1 << 8 | 64;
        *self.entry(0x8000_0005) = leaf(0x8000_0005, None, [0xff40_ff40, 0xff40_ff40, l1, l1]);
        // L2: 512 KiB, 8 ways. L3: 16 MiB (units of 512 KiB), 16 ways.
        let l2 = 512 << 16 | 6 << 12 | 1 << 8 | 64;
        let l3 = 32 << 18 | 8 << 12 | 1 << 8 | 64;
        *self.entry(0x8000_0006) = leaf(0x8000_0006, None, [0, 0x4200_4200, l2, l3]);
        self.add(0x8000_0008, None, [48 << 8 | 40, 0, 0, 0]);
    }

    fn intel(&mut self, brand: &str) {
        self.common(
            b"GenuineIntel",
            Version {
                family: 6,
                model: 0x1a,
                stepping: 3,
            },
        );
        self.brand(brand);
        // Leaf 2: "see leaf 4", and TLBs that Linux only prints.
        self.entry(2).eax = 0x00ff_5a01;
        // Leaf 4: type and level, ways, line of 64 bytes, sets. One core, one thread.
        let cache = |kind: u32, level: u32, ways: u32, sets: u32| {
            [
                kind | level << 5 | 1 << 8,
                (ways - 1) << 22 | 63,
                sets - 1,
                0,
            ]
        };
        for (index, values) in [
            cache(1, 1, 8, 64),
            cache(2, 1, 8, 64),
            cache(3, 2, 8, 1024),
            cache(3, 3, 16, 8192),
            [0; 4],
        ]
        .into_iter()
        .enumerate()
        {
            self.add(4, Some(index as u32), values);
        }
        self.entry(0x8000_0006).ecx = 512 << 16 | 6 << 12 | 64;
        // 39 bits: the least that Intel CPUs with EPT have.
        self.add(0x8000_0008, None, [48 << 8 | 39, 0, 0, 0]);
    }

    /// The brand string, in three leaves.
    fn brand(&mut self, text: &str) {
        let mut brand = [0; 48];
        brand[..text.len()].copy_from_slice(text.as_bytes());
        for (leaf, bytes) in (0x8000_0002..).zip(brand.chunks_exact(16)) {
            let mut values = [0; 4];
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            self.add(leaf, None, values);
        }
    }

    fn set(&mut self, feature: &Feature) {
        let entry = self.entry(feature.function);
        *register(entry, feature.register) |= 1 << feature.bit;
    }

    fn add(&mut self, function: u32, index: Option<u32>, values: [u32; 4]) {
        self.0.push(leaf(function, index, values));
    }

    /// The first entry of a leaf, which is added if it isn't there.
    fn entry(&mut self, function: u32) -> &mut kvm_cpuid_entry2 {
        let at = self.0.iter().position(|entry| entry.function == function);
        let at = at.unwrap_or_else(|| {
            self.add(function, None, [0; 4]);
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

fn leaf(function: u32, index: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index: index.unwrap_or(0),
        flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// One of an entry's registers.
pub(super) fn register(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

fn words(text: &[u8; 12]) -> [u32; 3] {
    let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    [word(0), word(4), word(8)]
}
