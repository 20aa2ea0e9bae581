use super::features::{AMD, COMMON, INTEL, INTEL_V2, NEVER, V2};
use super::*;

fn host(model: CpuModel) -> Vec<kvm_cpuid_entry2> {
    leaves::of(model)
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32) -> kvm_cpuid_entry2 {
    *leaves
        .iter()
        .find(|entry| entry.function == function && entry.index == 0)
        .unwrap()
}

fn has(leaves: &[kvm_cpuid_entry2], feature: &features::Feature) -> bool {
    leaves.iter().any(|entry| {
        entry.function == feature.function
            && *leaves::register(&mut entry.clone(), feature.register) & 1 << feature.bit != 0
    })
}

#[test]
fn a_model_has_its_features_and_none_of_the_forbidden() {
    let of: [(CpuModel, &[&[features::Feature]]); 4] = [
        (CpuModel::V1Amd, &[COMMON, AMD]),
        (CpuModel::V1Intel, &[COMMON, INTEL]),
        (CpuModel::V2Amd, &[COMMON, V2, AMD]),
        (CpuModel::V2Intel, &[COMMON, V2, INTEL, INTEL_V2]),
    ];
    for (model, wanted) in of {
        let leaves = cpuid(model, &host(model)).unwrap();
        for feature in wanted.iter().copied().flatten() {
            assert!(has(&leaves, feature), "{model} lacks {}", feature.name);
        }
        for feature in NEVER {
            assert!(!has(&leaves, feature), "{model} has {}", feature.name);
        }
    }
}

#[test]
fn a_host_that_offers_less_gets_a_lesser_model() {
    let mut host = host(CpuModel::V2Amd);
    for entry in &mut host {
        if entry.function == 7 {
            entry.ebx = 0;
        }
    }
    assert_eq!(CpuModel::for_host(&host), Ok(CpuModel::V1Amd));
    host.retain(|entry| entry.function != 1);
    assert!(matches!(
        CpuModel::for_host(&host),
        Err(CpuModelError::Missing {
            model: CpuModel::V1Amd,
            ..
        })
    ));
}

#[test]
fn missing_features_are_named() {
    let mut host = host(CpuModel::V2Amd);
    for entry in &mut host {
        match entry.function {
            1 => entry.ecx &= !(1 << 23 | 1 << 31),
            7 => entry.ebx &= !(1 << 20),
            0x8000_0008 => entry.eax = 36,
            _ => {}
        }
    }
    let error = cpuid(CpuModel::V2Amd, &host).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this host can't run CPU model ftd-v2-amd: its KVM does not offer popcnt, smap, \
         40 physical address bits (it has 36) (`ftd doctor` lists the models that fit)"
    );
}

#[test]
fn the_signature_is_that_of_the_named_cpu() {
    let amd = find(&leaves::of(CpuModel::V2Amd), 1);
    assert_eq!(amd.eax, 0x0083_0f10);
    assert_eq!(amd.ebx, 0x0001_0800);
    assert_eq!(find(&leaves::of(CpuModel::V2Intel), 1).eax, 0x0001_06a3);
}

#[test]
fn kvm_is_announced_with_nothing_but_the_io_delay() {
    let leaves = leaves::of(CpuModel::V2Intel);
    let signature = find(&leaves, leaves::HYPERVISOR);
    assert_eq!(signature.eax, 0x4000_0001);
    let mut text = Vec::new();
    for register in [signature.ebx, signature.ecx, signature.edx] {
        text.extend_from_slice(&register.to_le_bytes());
    }
    assert_eq!(&text, b"KVMKVMKVM\0\0\0");
    assert_eq!(find(&leaves, leaves::HYPERVISOR_FEATURES).eax, 2);
}

#[test]
fn leaves_are_unique() {
    for model in CpuModel::ALL {
        let mut keys: Vec<_> = leaves::of(model)
            .iter()
            .map(|entry| (entry.function, entry.index))
            .collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}

#[test]
fn names_go_both_ways() {
    for model in CpuModel::ALL {
        assert_eq!(model.to_string().parse(), Ok(model));
        assert_eq!(CpuModel::for_host(&host(model)), Ok(model));
    }
    let error = "max".parse::<CpuModel>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no CPU model \"max\"; ftd has ftd-v1-amd, ftd-v1-intel, ftd-v2-amd, \
         ftd-v2-intel"
    );
}

#[test]
fn another_vendor_has_no_model() {
    let error = CpuModel::for_host(&[]).unwrap_err();
    assert!(matches!(error, CpuModelError::Vendor { .. }));
}

#[test]
fn clocks_are_closed() {
    assert_eq!(msr::closed(0x10).unwrap().treatment, msr::Treatment::Clock);
    for number in [
        0x3b,
        0xe7,
        0xe8,
        0x6e0,
        0xc000_0103,
        0xc001_0007,
        0x4b56_4d01,
    ] {
        assert_eq!(
            msr::closed(number).unwrap().treatment,
            msr::Treatment::Fault
        );
    }
    for number in [0x277, 0xc000_0080, 0xc000_0102, 0x800] {
        assert_eq!(msr::closed(number), None, "{number:x}");
    }
}
