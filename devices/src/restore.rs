//! Why a saved state is refused. Saved states come from a peer or a file, so every value that a
//! chip could not have reached by itself is an error, never a panic later on.

/// A saved state that no machine of this version and configuration can have produced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A chip's field holds a value the chip cannot hold.
    #[error("saved state of {chip}: field {field} holds an impossible value")]
    Field {
        /// The chip, as its module is called (`"pit"`, `"virtio-blk"`).
        chip: &'static str,
        /// The field of its state struct.
        field: &'static str,
    },
    /// The state was written by another version of the format.
    #[error("saved state has format version {found}, this program reads version {expected}")]
    Version {
        /// Version in the state.
        found: u32,
        /// The version this program writes and reads.
        expected: u32,
    },
    /// The state has another set of devices than the configuration.
    #[error(
        "saved state has {found} virtio devices, the machine's configuration has {expected}: \
         start both sides with the same devices"
    )]
    Devices {
        /// Devices in the state.
        found: usize,
        /// Devices in the configuration.
        expected: usize,
    },
    /// The bytes are not the canonical encoding of a state (truncated, trailing bytes, bit flips).
    #[error("saved machine state is damaged")]
    Encoding(#[source] Option<postcard::Error>),
}

impl RestoreError {
    /// Shorthand for [`RestoreError::Field`].
    pub fn field(chip: &'static str, field: &'static str) -> Self {
        RestoreError::Field { chip, field }
    }

    /// `Ok` when `valid`, else [`RestoreError::Field`].
    pub fn check(valid: bool, chip: &'static str, field: &'static str) -> Result<(), Self> {
        if valid {
            Ok(())
        } else {
            Err(Self::field(chip, field))
        }
    }
}
