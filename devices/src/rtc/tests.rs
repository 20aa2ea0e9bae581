use super::*;

const SECOND: u64 = NS_PER_SECOND;
/// 2024-02-29 23:59:58 UTC, a Thursday.
const BOOT: u64 = 1_709_251_198;

fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.write(0x70, index, now);
    rtc.read(0x71, now)
}

fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.write(0x70, index, now);
    rtc.write(0x71, value, now);
}

fn shown(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| get(rtc, index, now))
}

#[test]
fn shows_boot_time_plus_virtual_time_in_bcd() {
    let mut rtc = Rtc::new(BOOT);
    assert_eq!(
        shown(&mut rtc, 0),
        [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]
    );
    assert_eq!(
        shown(&mut rtc, 2 * SECOND),
        [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]
    );
    assert_eq!(get(&mut rtc, D, 0), 0x80);
}

#[test]
fn twelve_hours_and_binary() {
    let mut rtc = Rtc::new(BOOT);
    set(&mut rtc, B, B_BINARY, 0);
    assert_eq!(get(&mut rtc, HOURS, 0), 0x80 | 11);
    assert_eq!(get(&mut rtc, HOURS, 2 * SECOND), 12, "midnight");
    assert_eq!(get(&mut rtc, 0x02, 0), 59);
    set(&mut rtc, HOURS, 0x80 | 12, 0);
    set(&mut rtc, B, B_BINARY | B_24_HOURS, 0);
    assert_eq!(get(&mut rtc, HOURS, 0), 12, "noon");
}

#[test]
fn linux_sets_the_time_under_set() {
    let mut rtc = Rtc::new(BOOT);
    let now = SECOND / 2;
    set(&mut rtc, B, B_SET | B_24_HOURS, now);
    for (index, value) in [
        (0x09, 0x30),
        (0x08, 0x12),
        (0x07, 0x31),
        (0x04, 0x01),
        (0x02, 0x02),
        (0x00, 0x03),
    ] {
        set(&mut rtc, index, value, now);
    }
    assert_eq!(get(&mut rtc, 0x00, now + 5 * SECOND), 3, "held");
    set(&mut rtc, B, B_24_HOURS, now + 5 * SECOND);
    assert_eq!(
        shown(&mut rtc, now + 6 * SECOND - 1)[1..4],
        [0x30, 0x12, 0x31]
    );
    assert_eq!(get(&mut rtc, 0x00, now + 6 * SECOND - 1), 0x03);
    assert_eq!(get(&mut rtc, 0x00, now + 6 * SECOND), 0x04);
}

#[test]
fn update_in_progress_is_up_just_before_the_second() {
    let mut rtc = Rtc::new(BOOT);
    assert_eq!(get(&mut rtc, A, SECOND - UPDATE_AHEAD_NS - 1), 0x26);
    assert_eq!(get(&mut rtc, A, SECOND - UPDATE_AHEAD_NS), 0xa6);
    assert_eq!(get(&mut rtc, A, SECOND), 0x26);
}

#[test]
fn alarm_interrupts_and_reading_c_clears() {
    let mut rtc = Rtc::new(BOOT);
    set(&mut rtc, SECONDS_ALARM, 0x00, 0);
    set(&mut rtc, 0x03, 0xc0, 0);
    set(&mut rtc, HOURS_ALARM, 0x00, 0);
    set(&mut rtc, B, B_24_HOURS | 0x20, 0);
    assert_eq!(rtc.next_deadline(0), Some(SECOND));
    rtc.advance(0, SECOND);
    assert!(!rtc.irq());
    rtc.advance(SECOND, 2 * SECOND);
    assert!(rtc.irq());
    assert_eq!(rtc.next_deadline(2 * SECOND), None);
    assert_eq!(get(&mut rtc, C, 2 * SECOND), 0x80 | 0x40 | 0x20 | 0x10);
    assert!(!rtc.irq());
}

#[test]
fn alarm_is_found_in_a_long_step() {
    let mut rtc = Rtc::new(BOOT);
    set(&mut rtc, HOURS_ALARM, 0x12, 0);
    set(&mut rtc, B, B_24_HOURS | 0x20, 0);
    rtc.advance(0, 12 * 3600 * SECOND);
    assert!(!rtc.irq());
    rtc.advance(12 * 3600 * SECOND, u64::MAX);
    assert!(rtc.irq());
}

#[test]
fn periodic_interrupt_has_its_rate() {
    let mut rtc = Rtc::new(BOOT);
    set(&mut rtc, A, 0x2f, 0);
    set(&mut rtc, B, B_24_HOURS | 0x40, 0);
    assert_eq!(rtc.next_deadline(0), Some(SECOND / 2));
    rtc.advance(0, SECOND / 2 - 1);
    assert!(!rtc.irq());
    rtc.advance(SECOND / 2 - 1, SECOND / 2);
    assert!(rtc.irq());
}

#[test]
fn memory_keeps_bytes_and_needs_no_clock() {
    let mut rtc = Rtc::new(BOOT);
    set(&mut rtc, 0x0f, 0x5a, 0);
    set(&mut rtc, 0x7f, 0xa5, 0);
    assert_eq!(get(&mut rtc, 0x0f, 0), 0x5a);
    assert!(!rtc.needs_clock(0x71, false));
    assert_eq!(get(&mut rtc, 0x7f, 0), 0xa5);
    rtc.write(0x70, 0, 0);
    assert!(rtc.needs_clock(0x71, false));
    assert!(!rtc.needs_clock(0x70, true));
}

#[test]
fn impossible_states_are_refused() {
    let rtc = Rtc {
        memory: vec![0; 4],
        ..Rtc::new(BOOT)
    };
    assert_eq!(rtc.validate(0), Err(RestoreError::field("rtc", "memory")));
    let rtc = Rtc {
        base_at: 1,
        ..Rtc::new(BOOT)
    };
    assert_eq!(rtc.validate(0), Err(RestoreError::field("rtc", "base_at")));
}
