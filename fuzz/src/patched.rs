//! Images of disks, whole but for some damage. Random bytes are no file system, and a whole one would be too
//! large for a corpus: the data choose an image and say what of it is other than it should be.

use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

use crate::source::Source;

/// Unit in which an image's zeros are left out when places are counted, in bytes.
const BLOCK: usize = 512;

/// A whole image, and where in it there is anything but zeros.
#[derive(Debug)]
pub struct Base {
    bytes: Vec<u8>,
    blocks: Vec<usize>,
}

impl Base {
    fn unpack(packed: &[u8]) -> Base {
        let mut bytes = Vec::new();
        let unpacked = GzDecoder::new(packed).read_to_end(&mut bytes);
        unpacked.expect("an image of this crate's");
        let blocks = bytes.chunks(BLOCK).enumerate();
        let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let blocks = used.map(|(index, _)| index * BLOCK).collect();
        Base { bytes, blocks }
    }

    /// Patches: where (three bytes: in the parts that are not zero), how many bytes, and the bytes.
    pub fn patched(&self, source: &mut Source<'_>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        while !source.is_empty() {
            let place = usize::from(source.u16()) | usize::from(source.u8()) << 16;
            let patch = source.bytes(64);
            let block = place / BLOCK % self.blocks.len().max(1);
            let start = self
                .blocks
                .get(block)
                .map_or(0, |start| start + place % BLOCK);
            let len = patch.len().min(bytes.len() - start);
            bytes[start..start + len].copy_from_slice(&patch[..len]);
        }
        bytes
    }
}

/// Images that are unpacked once.
#[derive(Debug)]
pub struct Bases<const N: usize> {
    packed: [&'static [u8]; N],
    unpacked: [OnceLock<Base>; N],
}

impl<const N: usize> Bases<N> {
    /// Of these gzip files.
    pub const fn new(packed: [&'static [u8]; N]) -> Self {
        Bases {
            packed,
            unpacked: [const { OnceLock::new() }; N],
        }
    }

    /// The first byte: 0, the rest is the image; else one of these with patches.
    pub fn image(&self, source: &mut Source<'_>) -> Vec<u8> {
        match usize::from(source.u8()).checked_sub(1) {
            None => source.rest().to_vec(),
            Some(choice) => {
                let index = choice % N;
                let base = self.unpacked[index].get_or_init(|| Base::unpack(self.packed[index]));
                base.patched(source)
            }
        }
    }
}
