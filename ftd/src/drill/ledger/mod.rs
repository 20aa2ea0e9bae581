//! A Redis client that keeps a ledger: every acknowledged write is noted (and synced to a file)
//! before it counts, and in the end a new connection must find each of them, once.
//!
//! * [`resp`]: Redis' wire protocol, as much as is needed.
//! * [`plan`]: which writes are sent, in which order, with which values.
//! * [`book`]: the ledger: what was acknowledged, when, and how long nothing was.
//! * [`connection`]: one connection's life: send, receive, count a break, connect again.
//! * [`check`]: the read-back that finds lost and doubled writes.
//! * [`client`]: all of it together: [`run_client`].

pub mod book;
pub mod check;
pub mod client;
pub mod connection;
pub mod plan;
pub mod resp;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod fake;

pub use client::{ClientOptions, ClientReport, run_client};
pub use plan::Seed;

/// Why the client could not do its work. A write that was lost is no error but a finding, see
/// [`ClientReport`].
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger's file can't be written.
    #[error("cannot write the ledger {path}")]
    Book {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server did not answer PING in time.
    #[error("{address} did not answer within {seconds} s")]
    NotReady {
        /// The server's address.
        address: String,
        /// How long it was tried, in seconds.
        seconds: u64,
    },
    /// The connection failed or ended.
    #[error("connection to {address} failed")]
    Connection {
        /// The server's address.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server sent what is not Redis' protocol.
    #[error("{address} sent no valid Redis answer")]
    Protocol {
        /// The server's address.
        address: String,
        /// What was wrong with it.
        #[source]
        source: resp::RespError,
    },
    /// A command before the writing was not carried out.
    #[error("Redis answered '{command}' with {answer}")]
    Command {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
    /// An option makes no sense.
    #[error("{0}")]
    Options(String),
}
