use super::*;

/// As Linux's init_8259A does it, then with the given masks.
fn linux_pic(auto_eoi: bool, primary_mask: u8, secondary_mask: u8) -> Pic {
    let mut pic = Pic::default();
    let icw4 = if auto_eoi { 0x03 } else { 0x01 };
    pic.write(0x21, 0xff);
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, icw4)] {
        pic.write(port, value);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x01)] {
        pic.write(port, value);
    }
    pic.write(0x21, primary_mask);
    pic.write(0xa1, secondary_mask);
    pic
}

#[test]
fn linux_probe_reads_its_mask_back() {
    let mut pic = Pic::default();
    pic.write(0xa1, 0xff);
    pic.write(0x21, 0xfb);
    assert_eq!(pic.read(0x21), 0xfb);
    assert_eq!(pic.read(0xa1), 0xff);
}

#[test]
fn edge_is_latched_acknowledged_once_and_ended() {
    let mut pic = linux_pic(false, 0xfe, 0xff);
    pic.set_line(0, true);
    pic.set_line(0, false);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x30);
    assert!(!pic.output());
    pic.set_line(0, true);
    assert!(!pic.output(), "in service");
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x30);
    pic.write(0x20, 0x60);
    assert!(
        !pic.output(),
        "the line is still high, but that is no new edge"
    );
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut pic = linux_pic(true, 0xfe, 0xff);
    pic.set_line(0, true);
    assert_eq!(pic.acknowledge(), 0x30);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0);
}

#[test]
fn priorities_nest() {
    let mut pic = linux_pic(false, 0, 0xff);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.set_line(5, true);
    assert!(!pic.output());
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x31);
    pic.write(0x20, 0x20);
    assert!(!pic.output(), "4 is still in service and above 5");
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x35);
}

#[test]
fn cascade_delivers_two_requests_in_turn() {
    let mut pic = linux_pic(false, 0xfb, 0);
    pic.set_line(12, true);
    pic.set_line(8, true);
    assert_eq!(pic.acknowledge(), 0x38);
    assert!(!pic.output());
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x62);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x3c);
}

#[test]
fn level_line_requests_as_long_as_it_is_high() {
    let mut pic = linux_pic(false, 0xfb, 0);
    pic.set_line(9, true);
    assert_eq!(pic.acknowledge(), 0x39);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert!(pic.output());
    pic.set_line(9, false);
    assert!(!pic.output());
    assert_eq!(pic.acknowledge(), 0x37, "spurious");
}

#[test]
fn special_mask_lets_lower_requests_pass() {
    let mut pic = linux_pic(false, 0, 0xff);
    pic.set_line(3, true);
    pic.acknowledge();
    pic.write(0x21, 0x08);
    pic.set_line(6, true);
    assert!(!pic.output());
    pic.write(0x20, 0x68);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut pic = linux_pic(false, 0, 0xff);
    pic.set_line(3, true);
    pic.acknowledge();
    pic.write(0x20, 0xa0);
    pic.set_line(3, false);
    pic.set_line(3, true);
    pic.set_line(7, true);
    assert_eq!(pic.acknowledge(), 0x37);
}

#[test]
fn poll_acknowledges() {
    let mut pic = linux_pic(false, 0, 0xff);
    pic.set_line(5, true);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x85);
    assert_eq!(pic.read(0x21), 0);
    assert!(!pic.output());
}

#[test]
fn elcr_keeps_fixed_inputs_edge_triggered() {
    let mut pic = Pic::default();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn impossible_states_are_refused() {
    let mut pic = Pic::default();
    pic.primary.lowest = 9;
    assert_eq!(pic.validate(), Err(RestoreError::field("pic", "lowest")));
    let mut pic = Pic::default();
    pic.primary.irr = 4;
    assert_eq!(pic.validate(), Err(RestoreError::field("pic", "irr")));
}
