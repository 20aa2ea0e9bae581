//! Hostile input for everything of ftd that reads what it did not write: one function a target.
//!
//! A target takes any bytes and panics when a promise is broken; no panic of ftd's own is part of any
//! promise. `scripts/fuzz` has libFuzzer choose the bytes; `cargo test` feeds each file of
//! `fuzz/corpus/TARGET` through the same functions, so what was found once stays fixed.
//!
//! * From a peer: [`frames`], [`epochs`], [`protocol`], [`snapshot`].
//! * From a guest: [`virtio`] (four devices), [`chips`] (three groups), both on a [`rig`]; and
//!   [`disk_image`] and [`boot_image`], since a guest writes its own disk.
//! * From files: [`log`], [`kernel`], [`rewrite`], [`config`], [`arbiter`] (shared storage).
//! * From local clients: [`control`].
//!
//! [`heap`] counts what a target allocates, [`source`] makes choices of bytes, [`patched`] damages an image.

pub mod arbiter;
pub mod boot_image;
pub mod chips;
pub mod config;
pub mod control;
pub mod disk_image;
pub mod epochs;
pub mod frames;
pub mod heap;
pub mod kernel;
pub mod log;
pub mod patched;
pub mod protocol;
pub mod ram;
pub mod rewrite;
pub mod rig;
pub mod snapshot;
pub mod source;
pub mod third_party;
pub mod virtio;

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    ("arbiter", arbiter::run),
    ("boot_image", boot_image::run),
    ("config", config::run),
    ("control", control::run),
    ("disk_image", disk_image::run),
    ("epochs", epochs::run),
    ("frames", frames::run),
    ("interrupts", chips::interrupts),
    ("kernel", kernel::run),
    ("log", log::run),
    ("protocol", protocol::run),
    ("rewrite", rewrite::run),
    ("serial", chips::serial),
    ("snapshot", snapshot::run),
    ("timers", chips::timers),
    ("virtio_block", virtio::block),
    ("virtio_console", virtio::console),
    ("virtio_net", virtio::net),
    ("virtio_rng", virtio::rng),
];

/// Feeds `data` to the target called `name`.
///
/// # Panics
/// A promise is broken, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.expect("a target's name");
    target(data);
}
