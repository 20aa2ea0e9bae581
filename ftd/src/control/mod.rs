//! The control socket: what a running ftd says of itself, and test hooks.
//!
//! A Unix stream socket (mode 0600); one JSON object a line in, one a line out.
//!
//! * `{"ask":"status"}` is answered by `{"ok":true,...}` with the fields of [`Report`].
//! * `{"ask":"failover"}` has a primary hand its guest to its backup; the answer, `{"ok":true,...}` with the
//!   fields of [`HandedOver`], waits until the guest is live there.
//! * `{"ask":"flip","what":"ram:0xa00000"}` changes a bit of this copy of the guest between two epochs;
//!   only with `--debug-hooks`.
//! * What can't be answered gets `{"ok":false,"error":"..."}`.
//!
//! The daemon's own event loop serves it and never waits for a client: requests are bounded, clients are
//! few, and one that does not take its answer is dropped.
//!
//! * [`client`]: asking a running ftd.
//! * [`lines`]: bytes to lines.
//! * [`meter`]: the rate of the log.
//! * [`prometheus`]: the report for Prometheus.
//! * [`report`]: the answer to `status`.
//! * [`request`]: what may be asked.
//! * [`server`]: the socket of a running ftd.
//! * [`table`]: the report for people.

pub mod client;
pub mod lines;
pub mod meter;
pub mod prometheus;
pub mod report;
pub mod request;
pub mod server;
pub mod table;

pub use report::{BackupReport, Failover, HandedOver, LastClone, Report};
pub use request::Request;
pub use server::{Answers, Control, ControlOptions};
