//! The drill: what a person runs before trusting ftd. It starts a primary and a backup, lets a
//! client with its own ledger write to the guest, kills a side, and says what was lost.
//!
//! Architecture invariant: **nothing in `drill` uses the daemon's code.** The client speaks Redis'
//! protocol by itself, the capture decodes the logging channel by itself, and what is lost is
//! counted from the client's own ledger: an oracle that shares code with what it judges shares its
//! mistakes too.
//!
//! * [`ledger`]: the client: writes, remembers what was acknowledged, reads it all back.
//! * [`capture`]: judges the output rule from packet captures of the guest's network and the channel.

pub mod capture;
pub mod ledger;
