//! The entries of an epoch, as a peer or a log has them.

use replay::{Entry, EpochBuilder, Event, Replayer, decode_epoch};

use crate::heap::bounded;

/// The data are an epoch's bytes.
///
/// # Panics
/// Bytes that are accepted are not what [`EpochBuilder`] makes of their entries, the replayer hands entries
/// out in another order or not at all, or memory is not bounded by what came.
pub fn run(data: &[u8]) {
    // An entry takes at least a byte. While their list grows, it is there twice: half as large as it becomes, and with
    // room for twice as many as there are.
    let limit = (1 << 16) + 3 * size_of::<Entry>() * data.len();
    let Ok(entries) = bounded(limit, || decode_epoch(1, data)) else {
        return;
    };
    let mut builder = EpochBuilder::new(1);
    let mut encoded = None;
    for entry in &entries {
        match &entry.event {
            Event::Reached { digest } => {
                encoded = Some(builder.close(entry.at, *digest).expect("it was accepted"));
            }
            event => builder.push(entry.at, event).expect("it was accepted"),
        }
    }
    let encoded = encoded.expect("an epoch ends in `reached`");
    assert_eq!(encoded.bytes, data, "every epoch has one encoding");
    assert_eq!(encoded.entries as usize, entries.len());

    let mut replayer = Replayer::default();
    replayer.push_epoch(1, entries.clone());
    for entry in entries {
        let at = replayer.next_position().expect("one is left");
        let (_, event) = replayer
            .next_at(at)
            .expect("it is there")
            .expect("it belongs there");
        assert_eq!(event, entry.event);
    }
    assert!(replayer.is_empty());
}
