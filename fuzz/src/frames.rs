//! What arrives on the logging channel, before anybody knows who sent it.

use replay::frame::{FrameDecoder, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, encode};
use replay::protocol::Message;

use crate::heap::bounded;
use crate::source::Source;

/// The first byte: bit 0, the rest are frames to be sealed with right checksums; bit 1, the peer is known.
/// The second is the size of the pieces in which they arrive.
///
/// # Panics
/// Pieces make a difference, a message is not the same when it is sent again, an error does not stay, or
/// memory is not bounded by what came.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mode = source.u8();
    let piece = usize::from(source.u8()) + 1;
    let stream = match mode & 1 {
        0 => source.rest().to_vec(),
        _ => sealed(&mut source),
    };
    let limit = match mode & 2 {
        0 => MAX_HANDSHAKE_BYTES,
        _ => MAX_FRAME_BYTES,
    };
    // The shortest page is a byte; a page in memory is 32, and vectors grow by half of what they hold. Serde
    // takes up to 1 MiB at the word of a length.
    let memory = (4 << 20) + 160 * stream.len();
    let whole = bounded(memory, || decode(&stream, stream.len().max(1), limit));
    let pieces = bounded(memory, || decode(&stream, piece, limit));
    assert_eq!(whole, pieces);
    for message in whole.0 {
        let frame = encode(&message).expect("what was received can be sent");
        let (again, end) = decode(&frame, frame.len(), MAX_FRAME_BYTES);
        assert_eq!((again, end), (vec![message], Ok(())));
    }
}

type Decoded = (Vec<Message>, Result<(), String>);

fn decode(stream: &[u8], piece: usize, limit: usize) -> Decoded {
    let mut decoder = FrameDecoder::new();
    decoder.set_limit(limit);
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(b"more");
                    assert_eq!(decoder.next(), Err(error.clone()), "an error stays");
                    return (messages, Err(error.to_string()));
                }
            }
        }
    }
    (
        messages,
        decoder.finish().map_err(|error| error.to_string()),
    )
}

/// Frames of any type whose checksums are right: type, epoch, length, body.
fn sealed(source: &mut Source<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !source.is_empty() {
        let (kind, epoch) = (source.u8(), source.any());
        let body = source.bytes(1 << 20);
        stream.extend_from_slice(&seal(kind, epoch, body));
    }
    stream
}

/// A frame with this type, epoch and body.
pub fn seal(kind: u8, epoch: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'F', b't', replay::frame::FRAME_VERSION, kind];
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&epoch.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc32c::crc32c(&frame);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(body);
    frame
}
