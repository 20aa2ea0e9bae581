//! What a client says to the control socket.

use ftd::control::Request;
use ftd::control::lines::{LINE_BYTES_MAX, Lines};
use ftd::control::request::check_flip;

use crate::heap::bounded;
use crate::source::Source;

/// The first byte is the size of the pieces in which the rest arrives.
///
/// # Panics
/// Pieces make a difference, a line is too long, or memory is not bounded.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let piece = usize::from(source.u8()) + 1;
    let text = source.rest();
    let limit = (64 << 10) + 8 * text.len();
    let whole = bounded(limit, || lines(text, text.len().max(1)));
    assert_eq!(whole, bounded(limit, || lines(text, piece)));
    for line in whole {
        assert!(line.len() <= LINE_BYTES_MAX && !line.contains(&b'\n'));
        match bounded(limit, || Request::parse(&line)) {
            Ok(Request::Flip(flip)) => {
                let _ = check_flip(flip, 1 << 30);
            }
            Ok(Request::Status | Request::Failover | Request::BreakOut) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn lines(text: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for piece in text.chunks(piece) {
        lines.push(piece);
        while let Some(line) = lines.next_line() {
            match line {
                Ok(line) => found.push(line),
                Err(_) => return found,
            }
        }
    }
    lines.finish();
    while let Some(Ok(line)) = lines.next_line() {
        found.push(line);
    }
    found
}
