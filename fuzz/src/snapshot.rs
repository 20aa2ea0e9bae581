//! The state of a machine or a vCPU, as a peer sends it in a snapshot.

use devices::machine::MachineState;
use vmm::cpu_state::CpuState;

use crate::heap::bounded;
use crate::rig::{Rig, config};
use crate::source::Source;
use crate::{chips, virtio};

/// The first byte: 0 for a vCPU's state; else how many of the last bytes say what happens to the machine
/// afterwards. The rest is the state.
///
/// # Panics
/// A state that is accepted comes out differently when it is saved again, the machine with it panics, or
/// memory is not bounded by what came.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let after = usize::from(source.u8());
    let rest = source.rest();
    let limit = (4 << 20) + 64 * rest.len();
    if after == 0 {
        if let Ok(state) = bounded(limit, || CpuState::decode(rest)) {
            let again = state.encode().expect("it can be encoded");
            let decoded = CpuState::decode(&again).expect("it was encoded here");
            assert_eq!(decoded.encode().expect("it can be encoded"), again);
        }
        return;
    }
    let (bytes, after) = rest.split_at(rest.len().saturating_sub(after - 1));
    let Ok(state) = bounded(limit, || MachineState::decode(bytes)) else {
        return;
    };
    let Some(mut rig) = Rig::new(config(2, true, true, true), Some(&state), None) else {
        return;
    };
    assert_eq!(rig.machine().save(), state);
    let mut source = Source::new(after);
    while !source.is_empty() {
        chips::anywhere(&mut rig, &mut source);
        virtio::anywhere(&mut rig, &mut source);
    }
    rig.finish();
}
