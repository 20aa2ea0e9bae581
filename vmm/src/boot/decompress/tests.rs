use super::*;
use proptest::prelude::*;

/// An ELF-like image of some size, compressible and not all zero.
fn image() -> Vec<u8> {
    let mut image = b"\x7fELF".to_vec();
    image.extend((0..300_000_u32).map(|at| (at / 7 % 251) as u8));
    image
}

/// The kernel's build appends the size to each format.
fn with_size(mut packed: Vec<u8>, image: &[u8]) -> Vec<u8> {
    packed.extend_from_slice(&(image.len() as u32).to_le_bytes());
    packed
}

fn lz4(image: &[u8]) -> Vec<u8> {
    let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in image.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
        packed.extend_from_slice(&block);
    }
    with_size(packed, image)
}

fn gzip(image: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(image).unwrap();
    encoder.finish().unwrap()
}

fn zstd(image: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    with_size(ruzstd::encoding::compress_to_vec(image, level), image)
}

fn xz(image: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    lzma_rs::xz_compress(&mut io::Cursor::new(image), &mut packed).unwrap();
    with_size(packed, image)
}

fn lzma(image: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    lzma_rs::lzma_compress(&mut io::Cursor::new(image), &mut packed).unwrap();
    with_size(packed, image)
}

#[test]
fn every_format_gives_the_image_back() {
    let image = image();
    for (name, packed) in [
        ("LZ4", lz4(&image)),
        ("gzip", gzip(&image)),
        ("zstd", zstd(&image)),
        ("xz", xz(&image)),
        ("LZMA", lzma(&image)),
        ("none", image.clone()),
    ] {
        let unpacked = decompress(&packed).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(*unpacked == image[..], "{name}");
    }
}

#[test]
fn an_lz4_image_of_several_blocks_is_put_together() {
    let image: Vec<u8> = (0..20_u32 << 20).map(|at| (at >> 12) as u8).collect();
    assert!(*decompress(&lz4(&image)).unwrap() == image[..]);
}

#[test]
fn the_x86_filter_of_xz_is_undone() {
    // Made by `xz --x86 --lzma2=dict=4KiB --check=crc32` from `code_like`.
    let packed = include_bytes!("testdata/x86-bcj.xz");
    assert_eq!(decompress(packed).unwrap(), code_like());
}

/// Calls and jumps, and opcode bytes where none are.
fn code_like() -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut x = 12345_u32;
    for i in 0..400_i32 {
        x = x.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        let at = out.len() as i32;
        match (x >> 16) % 7 {
            0 => {
                out.push(0xe8);
                out.extend_from_slice(&(i * 37 % 5000 - at).to_le_bytes());
            }
            1 => {
                out.push(0xe9);
                out.extend_from_slice(&(-((x >> 8) as i32 % 3000)).to_le_bytes());
            }
            2 => out.extend_from_slice(&[0xe8, 0xe8, 0xe9]),
            3 => out.extend_from_slice(&[0x00, 0xff, 0xe8, 0x00]),
            4 => out.extend_from_slice(&[0xe8, 0xff, 0xff, 0xff, 0xff]),
            _ => out.extend_from_slice(&[(x >> 5) as u8, (x >> 13) as u8]),
        }
    }
    out
}

#[test]
fn unsupported_and_unknown_formats_are_named() {
    let message = |payload: &[u8]| decompress(payload).unwrap_err().to_string();
    assert_eq!(
        message(b"BZh91AY"),
        "it is compressed with bzip2; ftd reads gzip, LZ4, zstd, xz and LZMA"
    );
    assert_eq!(
        message(b"what?"),
        "its format is not known (it begins with [77, 68, 61, 74, 3f])"
    );
}

#[test]
fn a_truncated_payload_is_damaged() {
    let image = image();
    for packed in [
        lz4(&image),
        gzip(&image),
        zstd(&image),
        xz(&image),
        lzma(&image),
    ] {
        let half = &packed[..packed.len() / 2];
        let error = decompress(half).unwrap_err();
        assert!(matches!(error, DecompressError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_payload_that_never_ends_is_refused() {
    // A block of a few bytes that expands to 8 MiB, often enough to pass the limit.
    let block = lz4_flex::block::compress(&vec![0; 8 << 20]);
    let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
    for _ in 0..=KERNEL_BYTES_MAX >> 23 {
        packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
        packed.extend_from_slice(&block);
    }
    assert!(matches!(decompress(&packed), Err(DecompressError::TooBig)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_payloads_end_in_an_error_or_an_image(
        format in 0..6_usize,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<proptest::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let image = &image()[..20_000];
        let mut packed = match format {
            0 => lz4(image),
            1 => gzip(image),
            2 => zstd(image),
            3 => xz(image),
            4 => lzma(image),
            _ => include_bytes!("testdata/x86-bcj.xz").to_vec(),
        };
        for (at, byte) in damage {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        if cut {
            packed.truncate(keep.index(packed.len()));
        }
        let _ = decompress(&packed);
    }
}
