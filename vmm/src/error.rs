//! What can go wrong between ftd and the host's KVM.

use std::path::PathBuf;

use thiserror::Error;

/// An error of the VMM. None of them is reachable by a guest that merely misbehaves inside its own
/// machine; those end as faults in the guest or as [`crate::guest::Stop::Crashed`].
#[derive(Debug, Error)]
pub enum VmmError {
    /// KVM's device could not be opened.
    #[error(
        "cannot open {}: load kvm_intel or kvm_amd, or add this user to group kvm (`ftd doctor` \
         lists what this host has)", .device.display()
    )]
    OpenKvm {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// What was opened is no KVM.
    #[error("{} is not a KVM device (`ftd doctor` lists what this host has)", .device.display())]
    NotKvm {
        /// The device.
        device: PathBuf,
    },
    /// A KVM of another age.
    #[error(
        "this host's KVM has API version {found}, ftd needs {}",
        kvm_bindings::KVM_API_VERSION
    )]
    ApiVersion {
        /// Its version.
        found: i32,
    },
    /// The host's KVM does not do what ftd cannot do without, though it says it would.
    #[error("this host's KVM can't run this guest: {found} (`ftd doctor` lists what it can)")]
    Unfit {
        /// What a probe saw.
        found: String,
    },
    /// The host's KVM lacks something ftd cannot do without.
    #[error("this host's KVM lacks {what} (`ftd doctor` lists what it has)")]
    MissingCapability {
        /// The capability's name in the kernel's API.
        what: &'static str,
    },
    /// An ioctl failed.
    #[error("KVM: {what} failed")]
    Ioctl {
        /// The ioctl.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A host resource failed.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Guest RAM could not be had.
    #[error("cannot allocate {bytes} bytes of guest memory: {why}")]
    Memory {
        /// Size asked for.
        bytes: u64,
        /// The reason.
        why: String,
    },
    /// A snapshot that came over the channel or from a log is not one of this machine.
    #[error("the snapshot cannot be loaded: {0}")]
    BadSnapshot(String),
    /// An input of the log does not fit the machine's state.
    #[error("an input does not fit the machine: {0}")]
    BadInput(String),
}

/// An error and its causes in a line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl VmmError {
    /// Wraps an errno from kvm-ioctls.
    pub fn ioctl(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmmError {
        move |error| VmmError::Ioctl {
            what,
            source: std::io::Error::from_raw_os_error(error.errno()),
        }
    }
}
