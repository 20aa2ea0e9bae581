//! Capture files as `tcpdump -w` writes them (draft-ietf-opsawg-pcap): either byte order, micro- or
//! nanoseconds, Ethernet only.

use std::io::{ErrorKind, Read};

/// Longest packet that is believed, in bytes: tcpdump's own limit.
const PACKET_BYTES_MAX: u32 = 262_144;

/// Why a file is no capture that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It doesn't begin as a capture does.
    #[error("not a pcap file")]
    Magic,
    /// It was not taken on an Ethernet-like interface.
    #[error("link type {0}, but Ethernet (1) is needed")]
    LinkType(u32),
    /// A packet longer than any.
    #[error("a packet of {0} bytes")]
    PacketLength(u32),
}

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When the kernel saw it, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it was longer than what was kept.
    pub truncated: bool,
}

/// Reads a capture packet by packet.
pub struct Reader<R> {
    input: R,
    big_endian: bool,
    fraction_ns: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// When it isn't one of an Ethernet capture.
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let mut header = [0; 24];
        input.read_exact(&mut header)?;
        let magic = [header[0], header[1], header[2], header[3]];
        let (big_endian, fraction_ns) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1),
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1),
            _ => return Err(PcapError::Magic),
        };
        let reader = Reader {
            input,
            big_endian,
            fraction_ns,
        };
        match reader.word(&header, 20) & 0x0fff_ffff {
            1 => Ok(reader),
            other => Err(PcapError::LinkType(other)),
        }
    }

    /// The next packet; `None` at the end, also where the file was cut off in a packet because
    /// its writer was killed.
    ///
    /// # Errors
    /// When the file can't be read or holds an impossible length.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Packet>, PcapError> {
        let mut header = [0; 16];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let [seconds, fraction, kept, length] = [0, 4, 8, 12].map(|at| self.word(&header, at));
        if kept > PACKET_BYTES_MAX {
            return Err(PcapError::PacketLength(kept));
        }
        let mut bytes = vec![0; kept as usize];
        if !self.fill(&mut bytes)? {
            return Ok(None);
        }
        let at_unix_ns =
            u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.fraction_ns;
        Ok(Some(Packet {
            at_unix_ns,
            bytes,
            truncated: kept < length,
        }))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, PcapError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(magic: [u8; 4], link: u32) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
        bytes.extend_from_slice(&link.to_le_bytes());
        bytes
    }

    #[test]
    fn microseconds_and_nanoseconds_and_a_torn_end() {
        for (magic, ns) in [
            ([0xd4, 0xc3, 0xb2, 0xa1], 5000),
            ([0x4d, 0x3c, 0xb2, 0xa1], 5),
        ] {
            let mut file = header(magic, 1);
            for word in [7u32, 5, 3, 4] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend_from_slice(b"abc");
            file.extend_from_slice(&[1, 2, 3]);
            let mut reader = Reader::new(&file[..]).expect("header");
            let packet = reader.next().expect("packet").expect("one");
            assert_eq!(packet.at_unix_ns, 7_000_000_000 + ns);
            assert_eq!(
                (packet.bytes.as_slice(), packet.truncated),
                (&b"abc"[..], true)
            );
            assert_eq!(reader.next().expect("end"), None);
        }
    }

    #[test]
    fn other_files_are_refused() {
        let link = header([0xd4, 0xc3, 0xb2, 0xa1], 113);
        assert!(matches!(
            Reader::new(&link[..]),
            Err(PcapError::LinkType(113))
        ));
        assert!(matches!(Reader::new(&[7; 24][..]), Err(PcapError::Magic)));
        assert!(matches!(Reader::new(&[7; 3][..]), Err(PcapError::Io(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = header([0xd4, 0xc3, 0xb2, 0xa1], 1);
            file.extend(bytes);
            let mut reader = Reader::new(&file[..]).expect("header");
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
