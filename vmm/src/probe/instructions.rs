//! Whether the host's KVM runs what a Linux kernel is made of, at CPL 0: a KVM that emulates guest
//! kernels knows some of it only.

use kvm_ioctls::Kvm;

use super::Finding;
use super::scratch::{EXCEPTION_PORT, Level, Scratch};
use crate::error::VmmError;
use crate::kvm::Exit;

/// `out %al, $0x81; hlt`.
const END: [u8; 3] = [0xe6, 0x81, 0xf4];

struct Sample {
    name: &'static str,
    code: &'static [u8],
    /// The vector it must end in, or none if it must run through.
    vector: Option<u8>,
}

const fn sample(name: &'static str, code: &'static [u8], vector: Option<u8>) -> Sample {
    Sample { name, code, vector }
}

const SAMPLES: [Sample; 11] = [
    sample("FXSAVE", &[0x0f, 0xae, 0x04, 0x25, 0, 0, 0x18, 0], None),
    sample("MOVAPS", &[0x0f, 0x29, 0x04, 0x25, 0, 0, 0x18, 0], None),
    sample(
        "CMPXCHG16B",
        &[0x48, 0x0f, 0xc7, 0x0c, 0x25, 0, 0, 0x18, 0],
        None,
    ),
    sample("SWAPGS", &[0x0f, 0x01, 0xf8], None),
    sample("INVLPG", &[0x0f, 0x01, 0x38], None),
    sample("MOV to DR0", &[0x0f, 0x23, 0xc0], None),
    sample("MOV to CR3", &[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8], None),
    sample("INT3", &[0xcc], Some(3)),
    sample("UD2", &[0x0f, 0x0b], Some(6)),
    sample("INT 20h", &[0xcd, 0x20], Some(0x20)),
    sample("IRETQ and SYSCALL", &SYSCALL, None),
];

/// To user code by IRETQ, which comes back to the kernel, two bytes behind, by SYSCALL.
const SYSCALL: [u8; 57] = [
    0xb9, 0x81, 0x00, 0x00, 0xc0, // mov $0xc0000081, %ecx (STAR)
    0x31, 0xc0, // xor %eax, %eax
    0xba, 0x10, 0x00, 0x23, 0x00, // mov $0x230010, %edx
    0x0f, 0x30, // wrmsr
    0xb9, 0x82, 0x00, 0x00, 0xc0, // mov $0xc0000082, %ecx (LSTAR)
    0xb8, 0x39, 0x00, 0x10, 0x00, // mov $0x100039, %eax
    0x31, 0xd2, // xor %edx, %edx
    0x0f, 0x30, // wrmsr
    0xb9, 0x84, 0x00, 0x00, 0xc0, // mov $0xc0000084, %ecx (SFMASK)
    0x31, 0xc0, // xor %eax, %eax
    0x0f, 0x30, // wrmsr
    0x6a, 0x3b, // push $0x3b
    0x68, 0x00, 0x00, 0x28, 0x00, // push $0x280000
    0x6a, 0x02, // push $2
    0x6a, 0x33, // push $0x33
    0x68, 0x37, 0x00, 0x10, 0x00, // push $0x100037
    0x48, 0xcf, // iretq
    0x0f, 0x05, // 100037: syscall
];

/// Runs each sample in the guest's kernel.
pub fn kernel(kvm: &Kvm) -> Result<Finding, VmmError> {
    let mut failed = Vec::new();
    let mut last = None;
    for sample in &SAMPLES {
        let mut code = sample.code.to_vec();
        code.extend_from_slice(&END);
        // Where KVM gave up the machine is not usable any more.
        let mut scratch = match last.take() {
            Some(scratch) => scratch,
            None => Scratch::new(kvm, Level::Kernel, &[])?,
        };
        scratch.restart(&code)?;
        // An error of KVM_RUN is an answer too.
        let right = match (scratch.run(), sample.vector) {
            (Ok(Exit::PortOut { port: 0x81, .. }), None) => true,
            (
                Ok(Exit::PortOut {
                    port: EXCEPTION_PORT,
                    ..
                }),
                Some(vector),
            ) => scratch.out_byte() == vector,
            _ => false,
        };
        if right {
            last = Some(scratch);
        } else {
            failed.push(sample.name);
        }
    }
    if failed.is_empty() {
        return Ok(Finding::yes(format!("all {} samples run", SAMPLES.len())));
    }
    Ok(Finding::no(format!(
        "guest kernels can't use {}",
        failed.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::CODE;
    use super::*;

    #[test]
    fn syscall_comes_back_behind_itself() {
        let end = CODE + SYSCALL.len() as u64;
        assert_eq!(SYSCALL[20..24], (end as u32).to_le_bytes());
        assert_eq!(SYSCALL[49..53], (end as u32 - 2).to_le_bytes());
        assert_eq!(SYSCALL[55..], [0x0f, 0x05]);
    }
}
