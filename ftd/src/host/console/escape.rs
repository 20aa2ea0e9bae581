//! The way out of a terminal whose every key goes to the guest, as in QEMU: Ctrl-A, then x to end
//! ftd, or a (or Ctrl-A again) to send Ctrl-A itself.

const CTRL_A: u8 = 0x01;

/// Finds the escapes in what is typed.
#[derive(Debug, Default)]
pub(super) struct Escape {
    /// Ctrl-A was the last key.
    pending: bool,
}

impl Escape {
    /// What of `typed` is for the guest, and whether ftd is to end.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (false, CTRL_A) => self.pending = true,
                (true, b'x') => return (bytes, true),
                (true, b'a' | CTRL_A) => bytes.push(CTRL_A),
                (true, _) => bytes.extend([CTRL_A, byte]),
                (false, _) => bytes.push(byte),
            }
        }
        (bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_found_across_reads() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(escape.filter(b"ac"), (b"\x01c".to_vec(), false));
        assert_eq!(
            escape.filter(b"\x01\x01x\x01q"),
            (b"\x01x\x01q".to_vec(), false)
        );
        assert_eq!(escape.filter(b"z\x01"), (b"z".to_vec(), false));
        assert_eq!(escape.filter(b"xrest"), (vec![], true));
    }
}
