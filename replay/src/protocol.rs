//! The replication protocol.

mod message;

pub use message::{
    Ack, ByeReason, Commit, DiskFacts, EndReason, Facts, Generation, Hello, Join, Message,
    PROTOCOL_VERSION, RejectReason, Welcome,
};
