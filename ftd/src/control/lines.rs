//! Bytes to lines.

/// Longest request, in bytes.
pub const LINE_BYTES_MAX: usize = 4096;

/// A line of more than [`LINE_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// What has come of a client's lines. Bounded if more is pushed only when no line is left to take.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing more comes: what is there is a line.
    pub fn finish(&mut self) {
        if !self.bytes.is_empty() {
            self.bytes.push(b'\n');
        }
    }

    /// The next line that is not blank, without its end.
    ///
    /// # Errors
    /// [`TooLong`], from then on.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Result<Vec<u8>, TooLong>> {
        loop {
            let end = self.bytes.iter().position(|byte| *byte == b'\n');
            if end.unwrap_or(self.bytes.len()) > LINE_BYTES_MAX {
                return Some(Err(TooLong));
            }
            let mut line: Vec<u8> = self.bytes.drain(..=end?).collect();
            line.pop();
            if !line.trim_ascii().is_empty() {
                return Some(Ok(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_blank_ones_do_not() {
        let mut lines = Lines::default();
        lines.push(b"one");
        assert_eq!(lines.next(), None);
        lines.push(b"\n\n \r\ntwo\nthr");
        assert_eq!(lines.next(), Some(Ok(b"one".to_vec())));
        assert_eq!(lines.next(), Some(Ok(b"two".to_vec())));
        assert_eq!(lines.next(), None);
        lines.finish();
        assert_eq!(lines.next(), Some(Ok(b"thr".to_vec())));
        lines.finish();
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_line_has_its_limit_with_an_end_and_without() {
        for end in [&b""[..], b"\n"] {
            let mut lines = Lines::default();
            lines.push(&[b'x'; LINE_BYTES_MAX]);
            assert_eq!(lines.next(), None);
            lines.push(b"y");
            lines.push(end);
            assert_eq!(lines.next(), Some(Err(TooLong)));
        }
    }
}
