//! A log file.

use replay::EncodedEpoch;
use replay::log::{LogEnd, LogError, LogHeader, LogReader, LogWriter};

use crate::frames::seal;
use crate::heap::bounded;
use crate::source::Source;

/// The first byte: 0, the rest is the file; else it is a header and frames, to be sealed with right
/// checksums.
///
/// # Panics
/// A log that is accepted is not the same when it is written again, or memory is not bounded by what is
/// there.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let file = match source.u8() {
        0 => source.rest().to_vec(),
        mode => sealed(&mut source, mode),
    };
    let limit = (4 << 20) + 64 * file.len();
    let Ok((header, epochs, end)) = bounded(limit, || read(&file)) else {
        return;
    };
    let mut writer = LogWriter::create(Vec::new(), &header).expect("it was read");
    for epoch in &epochs {
        writer.append(epoch).expect("it was read");
    }
    assert_eq!(writer.entries(), end.entries);
    let again = writer
        .finish(end.position, end.state_hash)
        .expect("it was read");
    assert_eq!(read(&again).expect("it was written"), (header, epochs, end));
}

fn read(file: &[u8]) -> Result<(LogHeader, Vec<EncodedEpoch>, LogEnd), LogError> {
    let mut reader = LogReader::open(file)?;
    let mut epochs = Vec::new();
    while let Some(epoch) = reader.next_epoch()? {
        epochs.push(epoch);
    }
    assert_eq!(reader.offset(), file.len() as u64);
    let end = reader.end().cloned().expect("it has ended");
    Ok((reader.header().clone(), epochs, end))
}

fn sealed(source: &mut Source<'_>, mode: u8) -> Vec<u8> {
    let own;
    let header = match mode {
        1 => source.bytes(1 << 16),
        _ => {
            own = default_header();
            &own
        }
    };
    let mut file = b"FTDLOG\x1a\n".to_vec();
    file.extend_from_slice(&replay::log::LOG_VERSION.to_le_bytes());
    file.extend_from_slice(&(header.len() as u32).to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(header).to_le_bytes());
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file.extend_from_slice(header);
    while !source.is_empty() {
        let (kind, epoch) = (source.u8(), source.any());
        let body = source.bytes(1 << 16);
        file.extend_from_slice(&seal(kind, epoch, body));
    }
    file
}

/// A header as `ftd record` writes it.
fn default_header() -> Vec<u8> {
    let header = LogHeader {
        cpu_model: "baseline-v1".to_owned(),
        ram_bytes: 256 << 20,
        machine_config: Vec::new(),
        cmdline: String::new(),
        kernel_blake3: String::new(),
        initrd_blake3: String::new(),
        disk_bytes: vec![1 << 30],
        clock: "exit".to_owned(),
        boot_time_ns: 0,
        first_epoch: 1,
    };
    postcard::to_allocvec(&header).expect("a header can be encoded")
}
