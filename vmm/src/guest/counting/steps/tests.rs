//! What is left of steps when nobody follows the guest any more.

use devices::machine::MachineConfig;
use kvm_ioctls::Kvm;

use super::*;
use crate::clock::Clock;
use crate::guest::Stop;
use crate::probe::scratch::{Level, Scratch};

/// The port that the code writes to when it is through.
const DONE: u8 = 0x81;

/// Steps through the first exit of `code`, then goes on without steps.
fn goes_on(kvm: &Kvm, code: &[u8]) {
    let done = [0x90, 0x90, 0xe6, DONE, 0xf4]; // NOP, NOP, OUT, HLT
    let Scratch { vm, vcpu, .. } =
        Scratch::new(kvm, Level::Kernel, &[code, &done].concat()).expect("a machine");
    let config = MachineConfig {
        boot_unix_seconds: 0,
        disks: Vec::new(),
        net: None,
        rng: false,
        console: false,
    };
    let mut guest = Guest::new(vm, vcpu, config, Clock::Step);
    let Ok(Stop::Exit(access)) = guest.enter() else {
        panic!("{code:x?}: no exit");
    };
    guest.carry_out(access).expect("an access");
    guest.set_followed(false);
    let Ok(Stop::Exit(access)) = guest.enter() else {
        panic!("{code:x?}: no other exit");
    };
    let data = guest.vcpu.port_data().to_vec();
    assert!(
        matches!(access.exit, Exit::PortOut { port, .. } if port == u16::from(DONE)),
        "{code:x?}: {:?} {data:x?}",
        access.exit
    );
}

#[test]
fn without_steps_the_guest_meets_no_old_one() {
    let Ok(kvm) = crate::kvm::open_kvm(crate::kvm::DEVICE.as_ref()) else {
        eprintln!("skipped: this machine has no usable /dev/kvm");
        return;
    };
    // Each kind of access that KVM finishes when it enters the guest again.
    let accesses: [&[u8]; 6] = [
        &[0xe4, 0x71],                      // IN AL, 71h
        &[0xe6, 0x70],                      // OUT 70h, AL
        &[0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32], // MOV ECX, 1Bh; RDMSR
        &[
            0xb9, 0x1b, 0, 0, 0, 0xb8, 0, 13, 0xe0, 0xfe, 0x31, 0xd2, 0x0f, 0x30,
        ], // ...; WRMSR
        &[0xb8, 0xb0, 0, 0xe0, 0xfe, 0x89, 0x10], // MOV EAX, FEE000B0h; MOV [RAX], EDX
        &[0xb8, 0x20, 0, 0xe0, 0xfe, 0x8b, 0x10], // MOV EAX, FEE00020h; MOV EDX, [RAX]
    ];
    for access in accesses {
        goes_on(&kvm, access);
    }
    // IN AL, 71h; then an interrupt's return to code that was stepped: PUSH RSP; POP RAX; PUSH 18h; PUSH RAX; PUSHFQ;
    // OR DWORD [RSP], 100h; PUSH 10h; LEA RAX, [RIP+3]; PUSH RAX; IRETQ.
    let returns = [
        0xe4, 0x71, 0x54, 0x58, 0x6a, 0x18, 0x50, 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x6a, 0x10,
        0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcf,
    ];
    goes_on(&kvm, &returns);
    // The same, and the next instruction is one that every KVM emulates: CPUID.
    goes_on(&kvm, &[&returns[..], &[0x0f, 0xa2]].concat());
}
