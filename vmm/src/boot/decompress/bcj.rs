//! The x86 branch filter of xz: absolute targets of CALL and JMP back to relative ones.
//!
//! The encoder turns `E8/E9 rel32` into an absolute target where its highest byte is 00 or FF, so
//! that calls to one function look alike. To stay reversible where opcode bytes occur inside
//! operands, it remembers which of the last three bytes looked like an opcode.

/// For each pattern of opcode-like bytes just before: whether a conversion is allowed there.
const ALLOWED: [bool; 8] = [true, true, true, false, true, false, false, false];
/// For each such pattern: how many bytes below the highest one is the byte that decides.
const DECIDING_BYTE: [usize; 8] = [0, 1, 2, 2, 3, 3, 3, 3];

/// Undoes the filter on a whole block that starts at offset 0.
pub(super) fn decode_x86(data: &mut [u8]) {
    let Some(last) = data.len().checked_sub(5) else {
        return;
    };
    // Bit n: the byte n+1 before this one looked like an opcode.
    let mut recent = 0_usize;
    let mut previous = None;
    let mut at = 0;
    while at <= last {
        if data[at] & 0xfe != 0xe8 {
            at += 1;
            continue;
        }
        let distance = previous.map_or(usize::MAX, |previous| at - previous);
        previous = Some(at);
        recent = if distance > 3 {
            0
        } else {
            recent << (distance - 1) & 7
        };
        let deciding = data[at + 4 - DECIDING_BYTE[recent]];
        let blocked = recent != 0 && (!ALLOWED[recent] || is_sign(deciding));
        if blocked || !is_sign(data[at + 4]) {
            recent = recent << 1 | 1;
            at += 1;
            continue;
        }
        let operand = &mut data[at + 1..at + 5];
        let target = u32::from_le_bytes([operand[0], operand[1], operand[2], operand[3]]);
        let relative = relative(target, at as u32 + 5, recent);
        operand.copy_from_slice(&relative.to_le_bytes());
        at += 5;
    }
}

fn relative(mut target: u32, next: u32, recent: usize) -> u32 {
    loop {
        let relative = target.wrapping_sub(next);
        if recent == 0 {
            return extend(relative);
        }
        let bits = DECIDING_BYTE[recent] as u32 * 8;
        if !is_sign((relative >> (24 - bits)) as u8) {
            return extend(relative);
        }
        target = relative ^ ((1_u64 << (32 - bits)) - 1) as u32;
    }
}

/// Sign-extends from 25 bits: the highest byte is 00 or FF.
fn extend(value: u32) -> u32 {
    (((value << 7) as i32) >> 7) as u32
}

fn is_sign(byte: u8) -> bool {
    byte == 0 || byte == 0xff
}
