use super::*;

const MSR: u32 = 0x800;
const EOI: u32 = 0x80b;
const SVR: u32 = 0x80f;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const LVT_ERROR: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;

fn set(apic: &mut LocalApic, index: u32, value: u64, now: u64) -> Option<u8> {
    apic.msr_write(index, value, now).unwrap()
}

fn get(apic: &LocalApic, index: u32, now: u64) -> u64 {
    apic.msr_read(index, now).unwrap()
}

/// As Linux's setup_local_APIC leaves it: software-enabled, vectors below 32 held back.
fn linux_apic() -> LocalApic {
    let mut apic = LocalApic::default();
    set(&mut apic, 0x808, 0x10, 0);
    set(&mut apic, SVR, 0x1ff, 0);
    apic
}

fn message(vector: u8, level: bool) -> Message {
    Message {
        vector,
        level,
        destination: 0,
        logical: false,
        delivery: Delivery::Vector,
    }
}

#[test]
fn identifies_itself() {
    let apic = LocalApic::default();
    assert_eq!(get(&apic, 0x802, 0), 0, "ID");
    assert_eq!(get(&apic, 0x803, 0) & 0xff, 0x15, "integrated");
    assert_eq!(get(&apic, 0x803, 0) >> 16, 5, "six LVT entries");
    assert_eq!(get(&apic, 0x80d, 0), 1, "logical x2APIC ID");
}

#[test]
fn one_shot_counts_down_and_fires_once() {
    let mut apic = linux_apic();
    set(&mut apic, DIVIDE, 0x3, 0);
    set(&mut apic, LVT_TIMER, 0xec, 0);
    set(&mut apic, INITIAL, 1000, 50);
    assert_eq!(get(&apic, CURRENT, 50), 1000);
    assert_eq!(get(&apic, CURRENT, 51), 1000, "divided by 16");
    assert_eq!(get(&apic, CURRENT, 50 + 16 * 999), 1);
    assert_eq!(apic.next_deadline(50), Some(16_050));
    apic.advance(16_049);
    assert_eq!(apic.pending_vector(), None);
    apic.advance(16_050);
    assert_eq!(apic.pending_vector(), Some(0xec));
    assert_eq!(get(&apic, CURRENT, 16_050), 0);
    assert_eq!(apic.next_deadline(16_050), None);
    assert_eq!(apic.acknowledge(), Some(0xec));
    assert_eq!(
        set(&mut apic, EOI, 0, 16_050),
        None,
        "edge: nothing for the IOAPIC"
    );
    apic.advance(1_000_000);
    assert_eq!(apic.pending_vector(), None);
}

#[test]
fn periodic_keeps_its_phase_over_missed_periods() {
    let mut apic = linux_apic();
    set(&mut apic, DIVIDE, 0xb, 0);
    set(&mut apic, LVT_TIMER, 0x2_00ec, 0);
    set(&mut apic, INITIAL, 1_000_000, 0);
    apic.advance(3_500_000);
    assert_eq!(apic.next_deadline(3_500_000), Some(4_000_000));
    assert_eq!(get(&apic, CURRENT, 3_500_000), 500_000);
    apic.acknowledge();
    set(&mut apic, EOI, 0, 0);
    assert_eq!(apic.pending_vector(), None, "missed periods count as one");
}

#[test]
fn a_period_of_a_nanosecond_does_not_flood() {
    let mut apic = linux_apic();
    set(&mut apic, DIVIDE, 0xb, 0);
    set(&mut apic, LVT_TIMER, 0x2_00ec, 0);
    set(&mut apic, INITIAL, 1, 0);
    assert_eq!(apic.next_deadline(7), Some(7 + PERIOD_NS_MIN));
}

#[test]
fn zero_stops_and_a_masked_timer_has_no_deadline() {
    let mut apic = linux_apic();
    set(&mut apic, LVT_TIMER, 0xec, 0);
    set(&mut apic, INITIAL, 100, 0);
    set(&mut apic, INITIAL, 0, 0);
    assert_eq!(apic.next_deadline(0), None);
    set(&mut apic, LVT_TIMER, 0x1_00ec, 0);
    set(&mut apic, INITIAL, 100, 0);
    assert_eq!(apic.next_deadline(0), None);
    apic.advance(1000);
    assert_eq!(apic.pending_vector(), None);
}

#[test]
fn a_new_divider_keeps_the_count() {
    let mut apic = linux_apic();
    set(&mut apic, DIVIDE, 0xb, 0);
    set(&mut apic, LVT_TIMER, 0xec, 0);
    set(&mut apic, INITIAL, 1000, 0);
    set(&mut apic, DIVIDE, 0x3, 400);
    assert_eq!(get(&apic, CURRENT, 400), 600);
    assert_eq!(apic.next_deadline(400), Some(400 + 600 * 16));
}

#[test]
fn priorities_nest_by_class() {
    let mut apic = linux_apic();
    apic.receive(&message(0x41, false));
    assert_eq!(apic.acknowledge(), Some(0x41));
    apic.receive(&message(0x4f, false));
    assert_eq!(apic.pending_vector(), None, "same class");
    apic.receive(&message(0x51, false));
    assert_eq!(apic.acknowledge(), Some(0x51));
    assert_eq!(get(&apic, 0x80a, 0), 0x50, "PPR");
    set(&mut apic, EOI, 0, 0);
    assert_eq!(get(&apic, 0x80a, 0), 0x40);
    set(&mut apic, EOI, 0, 0);
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn task_priority_holds_vectors_back() {
    let mut apic = linux_apic();
    apic.receive(&message(0x1f, false));
    assert_eq!(apic.pending_vector(), None);
    apic.set_cr8(0);
    assert_eq!(apic.pending_vector(), Some(0x1f));
    apic.set_cr8(15);
    assert_eq!((apic.cr8(), get(&apic, 0x808, 0)), (15, 0xf0));
    apic.receive(&message(0xff, false));
    assert_eq!(apic.pending_vector(), None);
}

#[test]
fn level_interrupts_show_in_tmr_and_end_at_the_ioapic() {
    let mut apic = linux_apic();
    assert!(apic.receive(&message(0x45, true)));
    assert_eq!(get(&apic, 0x81a, 0), 1 << 5, "TMR");
    assert_eq!(get(&apic, 0x822, 0), 1 << 5, "IRR");
    apic.acknowledge();
    assert_eq!(
        (get(&apic, 0x822, 0), get(&apic, 0x812, 0)),
        (0, 1 << 5),
        "in service"
    );
    assert_eq!(set(&mut apic, EOI, 0, 0), Some(0x45));
}

#[test]
fn messages_for_others_are_refused() {
    let mut apic = linux_apic();
    let for_cpu = |destination, logical| Message {
        destination,
        logical,
        ..message(0x40, false)
    };
    assert!(!apic.receive(&for_cpu(3, false)));
    assert!(!apic.receive(&for_cpu(2, true)));
    assert!(apic.receive(&for_cpu(1, true)));
    assert!(apic.receive(&for_cpu(0xff, false)));
    set(&mut apic, SVR, 0xff, 0);
    assert!(!apic.receive(&for_cpu(0, false)), "software-disabled");
}

#[test]
fn self_ipis_come_three_ways() {
    let mut apic = linux_apic();
    set(&mut apic, 0x83f, 0x60, 0);
    set(&mut apic, ICR, 0x4_0000 | 0x71, 0);
    set(&mut apic, ICR, 0x0000_0001_0000_0800 | 0x82, 0);
    for vector in [0x82, 0x71, 0x60] {
        assert_eq!(apic.acknowledge(), Some(vector));
        set(&mut apic, EOI, 0, 0);
    }
    set(&mut apic, ICR, 0x0000_0005_0000_0000 | 0x90, 0);
    set(&mut apic, ICR, 0xc_0000 | 0x91, 0);
    set(&mut apic, ICR, 0x4500, 0);
    assert_eq!(apic.pending_vector(), None, "absent CPUs, INIT");
}

#[test]
fn illegal_vectors_are_errors() {
    let mut apic = linux_apic();
    set(&mut apic, LVT_ERROR, 0xfe, 0);
    set(&mut apic, 0x83f, 0x0f, 0);
    assert_eq!(apic.acknowledge(), Some(0xfe));
    assert_eq!(get(&apic, ESR, 0), 0, "not latched yet");
    set(&mut apic, ESR, 0, 0);
    assert_eq!(get(&apic, ESR, 0), u64::from(ERROR_SEND_VECTOR));
    set(&mut apic, ESR, 0, 0);
    assert_eq!(get(&apic, ESR, 0), 0);
    assert!(apic.receive(&message(3, false)));
    set(&mut apic, ESR, 0, 0);
    assert_eq!(get(&apic, ESR, 0), u64::from(ERROR_RECEIVE_VECTOR));
}

#[test]
fn invalid_msr_accesses_are_refused() {
    let mut apic = linux_apic();
    for index in [0x80b, 0x80e, 0x831, 0x83f, 0x850, 0x8ff, MSR] {
        assert_eq!(apic.msr_read(index, 0), Err(InvalidAccess), "{index:#x}");
    }
    for (index, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80a, 0),
        (0x80d, 0),
        (EOI, 1),
        (ESR, 1),
        (SVR, 0x1000),
        (LVT_TIMER, 0x4_0000),
        (CURRENT, 0),
        (DIVIDE, 4),
        (0x808, 0x100),
        (INITIAL, 1 << 32),
        (ICR, 1 << 20),
        (0x82f, 0),
    ] {
        assert_eq!(
            apic.msr_write(index, value, 0),
            Err(InvalidAccess),
            "{index:#x}"
        );
    }
}

#[test]
fn software_disabling_masks_the_local_vectors() {
    let mut apic = linux_apic();
    set(&mut apic, LVT_TIMER, 0xec, 0);
    set(&mut apic, SVR, 0xff, 0);
    assert_eq!(get(&apic, LVT_TIMER, 0), 0x1_00ec);
    set(&mut apic, LVT_TIMER, 0xec, 0);
    assert_eq!(get(&apic, LVT_TIMER, 0), 0x1_00ec);
    assert!(!apic.passes_external());
}

#[test]
fn lint0_passes_external_interrupts_from_power_on() {
    let mut apic = LocalApic::default();
    assert!(apic.passes_external());
    set(&mut apic, LVT_LINT0, 0x1_0700, 0);
    assert!(!apic.passes_external());
    apic.set_apic_base(LAPIC_BASE | BASE_BSP).unwrap();
    assert!(apic.passes_external(), "disabled: straight to the CPU");
}

#[test]
fn lint0_in_fixed_mode_requests_its_vector() {
    let mut apic = linux_apic();
    set(&mut apic, LVT_LINT0, 0x30, 0);
    apic.set_lint0(true);
    assert_eq!(apic.acknowledge(), Some(0x30));
    apic.set_lint0(true);
    assert_eq!(apic.pending_vector(), None);
    set(&mut apic, EOI, 0, 0);
    set(&mut apic, LVT_LINT0, 0x8030, 0);
    assert_eq!(apic.acknowledge(), Some(0x30), "level");
    assert_eq!(get(&apic, LVT_LINT0, 0), 0xc030, "remote IRR");
    set(&mut apic, EOI, 0, 0);
    assert_eq!(apic.pending_vector(), Some(0x30), "still high");
}

#[test]
fn window_serves_xapic_mode() {
    let mut apic = LocalApic::default();
    let mut word = |offset: u64, value: Option<u32>| {
        if let Some(value) = value {
            apic.mmio_write(offset, &value.to_le_bytes(), 0);
        }
        let mut data = [0; 4];
        apic.mmio_read(offset, &mut data, 0);
        u32::from_le_bytes(data)
    };
    assert_eq!(word(0xf0, Some(0x1ff)), 0x1ff);
    assert_eq!(word(0xd0, Some(0x0200_0000)), 0x0200_0000);
    assert_eq!(word(0xe0, Some(0x0fff_ffff)), 0x0fff_ffff);
    assert_eq!(word(0x310, Some(0)), 0);
    assert_eq!(word(0x300, Some(0x4_1044)), 0x4_0044, "never busy");
    assert_eq!(word(0x30, Some(7)), VERSION_REGISTER);
    assert_eq!(word(0x280, Some(0)), 0);
    word(0x3f0, None);
    assert_eq!(word(0x280, Some(0)), ERROR_REGISTER);
    assert_eq!(apic.acknowledge(), Some(0x44));
    assert_eq!(apic.mmio_write(0xb0, &[0; 4], 0), None);
    assert_eq!(apic.isr.highest(), None);
    assert_eq!(
        apic.mmio_write(0xb0, &[0], 0),
        None,
        "partial writes are dropped"
    );
    assert!(LocalApic::mmio_needs_clock(0x380, true));
    assert!(LocalApic::mmio_needs_clock(0x390, false));
    assert!(!LocalApic::mmio_needs_clock(0xb0, true));
}

const VERSION_REGISTER: u32 = 0x0005_0015;

#[test]
fn flat_and_cluster_destinations_match_in_xapic_mode() {
    let mut apic = LocalApic::default();
    apic.set_apic_base(LAPIC_BASE | BASE_BSP).unwrap();
    apic.set_apic_base(LAPIC_BASE | BASE_BSP | BASE_ENABLE)
        .unwrap();
    assert_eq!(apic.msr_read(0x803, 0), Err(InvalidAccess), "no x2APIC");
    apic.mmio_write(0xd0, &0x0400_0000u32.to_le_bytes(), 0);
    assert!(apic.matches_logical(0x06));
    assert!(!apic.matches_logical(0x01));
    apic.mmio_write(0xd0, &0x2400_0000u32.to_le_bytes(), 0);
    apic.mmio_write(0xe0, &0x0fff_ffffu32.to_le_bytes(), 0);
    assert!(apic.matches_logical(0x2c));
    assert!(!apic.matches_logical(0x14));
}

#[test]
fn window_commands_have_8_bit_destinations_whatever_the_mode() {
    let mut apic = linux_apic();
    let mut send = |destination: u32, command: u32| {
        apic.mmio_write(0xd0, &0x0100_0000u32.to_le_bytes(), 0);
        apic.mmio_write(0x310, &destination.to_le_bytes(), 0);
        apic.mmio_write(0x300, &command.to_le_bytes(), 0);
        let vector = apic.acknowledge();
        apic.mmio_write(0xb0, &[0; 4], 0);
        vector
    };
    assert_eq!(send(0, 0x51), Some(0x51));
    assert_eq!(send(0x0100_0000, 0x852), Some(0x52));
    assert_eq!(send(0x0200_0000, 0x853), None);
    assert_eq!(send(0xff00_0000, 0x54), Some(0x54));
}

#[test]
fn apic_base_takes_legal_steps_only() {
    let mut apic = linux_apic();
    let (off, xapic) = (LAPIC_BASE | BASE_BSP, LAPIC_BASE | BASE_BSP | BASE_ENABLE);
    let x2apic = xapic | BASE_X2APIC;
    assert_eq!(apic.apic_base(), x2apic);
    assert_eq!(apic.set_apic_base(xapic), Err(InvalidAccess));
    assert_eq!(apic.set_apic_base(x2apic + 0x1000), Err(InvalidAccess));
    assert_eq!(apic.set_apic_base(x2apic | 1), Err(InvalidAccess));
    assert_eq!(apic.set_apic_base(off | BASE_X2APIC), Err(InvalidAccess));
    apic.set_apic_base(off).unwrap();
    assert_eq!(apic.svr, 0xff, "reset");
    assert_eq!(apic.set_apic_base(x2apic), Err(InvalidAccess));
    apic.set_apic_base(xapic).unwrap();
    apic.set_apic_base(x2apic).unwrap();
}

#[test]
fn impossible_states_are_refused() {
    let field = |change: fn(&mut LocalApic)| {
        let mut apic = linux_apic();
        change(&mut apic);
        apic.validate(10)
    };
    assert_eq!(field(|_| ()), Ok(()));
    let refused = |name| Err(RestoreError::field("lapic", name));
    assert_eq!(field(|apic| apic.base = 0), refused("base"));
    assert_eq!(field(|apic| apic.irr.set(3, true)), refused("irr"));
    assert_eq!(field(|apic| apic.lvt[0] = 1 << 30), refused("lvt"));
    assert_eq!(
        field(|apic| apic.timer.start(5, 0)),
        refused("deadline"),
        "overdue"
    );
    assert_eq!(
        field(|apic| apic.timer.start(5, 1000)),
        refused("deadline"),
        "too far"
    );
}
