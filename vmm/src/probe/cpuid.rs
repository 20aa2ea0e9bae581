//! Whether the guest sees the CPU model and nothing of the host's CPU.

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{DATA, Level, Scratch};
use crate::cpu_model::features::{NEVER, Register};
use crate::cpu_model::{CpuModel, leaves};
use crate::error::VmmError;
use crate::kvm::Exit;
use crate::kvm::vm::supported_cpuid;

/// Runs CPUID for the (EAX, ECX) pairs at 180000h until EAX is -1; results go to 180400h.
const CODE: [u8; 44] = [
    0xbe, 0x00, 0x00, 0x18, 0x00, // mov $0x180000, %esi
    0xbf, 0x00, 0x04, 0x18, 0x00, // mov $0x180400, %edi
    0x8b, 0x06, // 1: mov (%rsi), %eax
    0x8b, 0x4e, 0x04, // mov 4(%rsi), %ecx
    0x83, 0xf8, 0xff, // cmp $-1, %eax
    0x74, 0x15, // je 2f
    0x0f, 0xa2, // cpuid
    0x89, 0x07, // mov %eax, (%rdi)
    0x89, 0x5f, 0x04, // mov %ebx, 4(%rdi)
    0x89, 0x4f, 0x08, // mov %ecx, 8(%rdi)
    0x89, 0x57, 0x0c, // mov %edx, 12(%rdi)
    0x83, 0xc6, 0x08, // add $8, %esi
    0x83, 0xc7, 0x10, // add $16, %edi
    0xeb, 0xe1, // jmp 1b
    0xe6, 0x81, // 2: out %al, $0x81
    0xf4, // hlt
];
const RESULTS: u64 = DATA + 0x400;

/// Asks as the guest's kernel and as its user code.
pub fn enforced(kvm: &Kvm) -> Result<Finding, VmmError> {
    let model = match CpuModel::for_host(&supported_cpuid(kvm)?) {
        Ok(model) => model,
        Err(error) => return Ok(Finding::no(error.to_string())),
    };
    let given = leaves::of(model);
    for (level, who) in [
        (Level::Kernel, "the guest's kernel"),
        (Level::User, "the guest's user code"),
    ] {
        let mut scratch = Scratch::new(kvm, level, &CODE)?;
        let seen = match ask(&mut scratch, &given)? {
            Ok(seen) => seen,
            Err(exit) => return Ok(Finding::no(scratch.describe(exit))),
        };
        if let Some(differs) = difference(&given, &seen) {
            return Ok(Finding::no(format!(
                "{who} sees the host's CPU instead of {model}: {differs}"
            )));
        }
    }
    Ok(Finding::yes(format!(
        "kernel and user code see {model} and nothing else"
    )))
}

type Answers = Vec<[u32; 4]>;

/// EAX, EBX, ECX, EDX for each leaf.
fn ask(
    scratch: &mut Scratch,
    leaves: &[kvm_cpuid_entry2],
) -> Result<Result<Answers, Exit>, VmmError> {
    let mut questions: Vec<u8> = Vec::new();
    for leaf in leaves {
        questions.extend_from_slice(&leaf.function.to_le_bytes());
        questions.extend_from_slice(&leaf.index.to_le_bytes());
    }
    questions.extend_from_slice(&u32::MAX.to_le_bytes());
    scratch.put(DATA, &questions)?;
    let exit = scratch.run()?;
    if !matches!(exit, Exit::PortOut { port: 0x81, .. }) {
        return Ok(Err(exit));
    }
    Ok(Ok((0..leaves.len() as u64)
        .map(|at| {
            [0, 4, 8, 12].map(|word| u32::from_le_bytes(scratch.get(RESULTS + at * 16 + word)))
        })
        .collect()))
}

/// Names of features that should be hidden and are not, or else the leaves that differ.
fn difference(given: &[kvm_cpuid_entry2], seen: &[[u32; 4]]) -> Option<String> {
    let mut visible = Vec::new();
    let mut differing = Vec::new();
    for (leaf, &seen) in given.iter().zip(seen) {
        let given = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
        if given == seen {
            continue;
        }
        differing.push(format!("{:x}h", leaf.function));
        let bits = |register| match register {
            Register::Eax => (given[0], seen[0]),
            Register::Ebx => (given[1], seen[1]),
            Register::Ecx => (given[2], seen[2]),
            Register::Edx => (given[3], seen[3]),
        };
        visible.extend(
            NEVER
                .iter()
                .filter(|feature| feature.function == leaf.function && leaf.index == 0)
                .filter(|feature| {
                    let (given, seen) = bits(feature.register);
                    (seen & !given) >> feature.bit & 1 == 1
                })
                .map(|feature| feature.name),
        );
    }
    if differing.is_empty() {
        return None;
    }
    differing.dedup();
    Some(if visible.is_empty() {
        format!("leaves {} differ", differing.join(", "))
    } else {
        format!("not hidden are {}", visible.join(", "))
    })
}
