//! The drill: what a person runs before trusting ftd. It starts a primary and a backup, lets a
//! client with its own ledger write to the guest, kills a side, and says what was lost.
//!
//! Architecture invariant: **nothing in `drill` uses the daemon's code.** The client speaks Redis'
//! protocol by itself, the capture decodes the logging channel by itself, and what is lost is
//! counted from the client's own ledger: an oracle that shares code with what it judges shares its
//! mistakes too. The daemons are started as a person would start them, by their command line
//! ([`plan`]), and tell what they did in their event logs ([`events`]).
//!
//! * [`cli`]: the options of `ftd drill` and of the ledger's client.
//! * [`plan`]: what is started with which arguments; the one place that knows the daemon's flags.
//! * [`site`]: where: two hosts of the testbed, or two namespaces of this host.
//! * [`scenario`]: what can happen, each a script in a file.
//! * [`conduct`]: one drill, from power-on to report.
//! * [`ledger`]: the client: writes, remembers what was acknowledged, reads it all back.
//! * [`capture`]: judges the output rule from packet captures of the guest's network and the channel.
//! * [`events`]: the daemons' event logs.
//! * [`report`]: what came of it: for people, as JSON, as a page with a timeline.
//! * [`process`]: child processes that end with the drill.

pub mod capture;
pub mod cli;
pub mod conduct;
pub mod events;
pub mod ledger;
pub mod plan;
pub mod process;
pub mod report;
pub mod scenario;
pub mod site;
