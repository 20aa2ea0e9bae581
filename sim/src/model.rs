//! Several cores in a simulated world, checked at every step. A seed gives a world and all that
//! happens in it; the same seed gives the same again.
//!
//! The world is worse than TCP and real hosts: [`kind::Kind`] lists what goes wrong in it, and
//! [`violation::Rule`] what must hold all the same.

mod arbiter;
mod disk;
mod ending;
mod faults;
mod guests;
mod handing;
mod hosts;
pub(crate) mod kind;
mod links;
mod live;
mod net;
mod node;
pub(crate) mod plan;
mod random;
pub(crate) mod sabotage;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
pub(crate) mod trace;
pub(crate) mod violation;
pub(crate) mod world;
