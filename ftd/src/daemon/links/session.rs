//! TLS on a connection: what comes is taken apart, what goes is sealed. No socket is touched but by
//! [`Session::write_to`].
//!
//! Both sides show a key of the pair before anything else is believed. A connection that ends without TLS'
//! own goodbye has only failed: whoever is on the way between the hosts could have ended it, and a backup must
//! not take that for the end of its primary.

use std::io::{self, BufRead, Write};

use replay::frame::MAX_HANDSHAKE_BYTES;
use rustls::{AlertDescription, Connection, InvalidMessage};

use crate::keys::HostKeys;

/// Bytes that may wait, sealed, for the socket.
const SEALED_BYTES_MAX: usize = 64 << 10;
/// First bytes of a TLS record that opens a connection, or ends it with an alert (RFC 8446, 5.1).
const RECORDS: [[u8; 2]; 2] = [[0x16, 0x03], [0x15, 0x03]];

/// Why the two ends of the logging channel do not understand each other.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Its certificate is of another authority.
    #[error(
        "its key is not of this pair: give both hosts files that one run of 'ftd keys' made (--keys)"
    )]
    NotOfThePair(#[source] rustls::Error),
    /// It shows no certificate.
    #[error("it shows no key: no ftd of this pair does that")]
    NoKey,
    /// It does not accept this side's certificate.
    #[error(
        "it takes this host's key for one of another pair: give both hosts files that one run of 'ftd keys' \
         made (--keys)"
    )]
    TurnedDown,
    /// It sends what is no TLS.
    #[error(
        "it does not encrypt the channel, but this host does: start it with --keys as well ('ftd keys' makes \
         them)"
    )]
    Plain,
    /// It sends TLS where none is expected.
    #[error(
        "it encrypts the channel, but this host does not: start this host with --keys as well ('ftd keys' \
         makes them)"
    )]
    Encrypted,
    /// It is gone before the handshake was done.
    #[error("it left in the middle of the handshake: was it started with --keys, too?")]
    LeftEarly,
    /// It is no partner in a handshake.
    #[error("its handshake has more than {MAX_HANDSHAKE_BYTES} bytes: it is no ftd")]
    Endless,
    /// The connection ended, but nobody who has a key said so.
    #[error("the connection was ended by somebody, not by the other side's word")]
    Truncated,
    /// Something else.
    #[error("TLS failed: {0}")]
    Tls(#[source] rustls::Error),
}

impl ChannelError {
    fn new(error: rustls::Error) -> ChannelError {
        use rustls::Error;
        match error {
            Error::NoCertificatesPresented => ChannelError::NoKey,
            Error::InvalidCertificate(_) => ChannelError::NotOfThePair(error),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => ChannelError::Plain,
            Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::DecryptError
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied,
            ) => ChannelError::TurnedDown,
            Error::AlertReceived(AlertDescription::UnexpectedMessage) => ChannelError::Plain,
            other => ChannelError::Tls(other),
        }
    }
}

/// Whether a connection without TLS begins as one with it does.
pub(super) fn is_encrypted(first: &[u8]) -> bool {
    RECORDS.iter().any(|record| first.starts_with(record))
}

/// The TLS of one connection.
#[derive(Debug)]
pub(super) struct Session {
    tls: Connection,
    handshake_bytes: usize,
}

impl Session {
    /// One at its start, of a connection that was `dialled` here or accepted.
    pub(super) fn new(keys: &HostKeys, dialled: bool) -> io::Result<Session> {
        let mut tls = match dialled {
            true => keys.dials().map(Connection::Client),
            false => keys.accepts().map(Connection::Server),
        }
        .map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(SEALED_BYTES_MAX));
        Ok(Session {
            tls,
            handshake_bytes: 0,
        })
    }

    /// Whether the other side is not known yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether sealed bytes wait for the socket.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Takes in what the socket gave, and hands on what it says. Whether the other side has said goodbye.
    ///
    /// # Errors
    /// [`ChannelError`]; an alert that tells the other side may wait for the socket then.
    pub(super) fn take(
        &mut self,
        mut sealed: &[u8],
        mut to: impl FnMut(&[u8]),
    ) -> Result<bool, ChannelError> {
        let mut over = false;
        while !sealed.is_empty() {
            if self.handshake_bytes > MAX_HANDSHAKE_BYTES {
                return Err(ChannelError::Endless);
            }
            let handshaking = self.tls.is_handshaking();
            let taken = self.tls.read_tls(&mut sealed);
            if let (true, Ok(count)) = (handshaking, &taken) {
                self.handshake_bytes += count;
            }
            let state = self.tls.process_new_packets().map_err(ChannelError::new)?;
            over = state.peer_has_closed();
            let mut reader = self.tls.reader();
            while let Ok(said) = reader.fill_buf()
                && !said.is_empty()
            {
                let length = said.len();
                to(said);
                reader.consume(length);
            }
            match taken {
                // After a goodbye nothing is read any more.
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    return Err(ChannelError::Tls(rustls::Error::General(error.to_string())));
                }
            }
        }
        Ok(over)
    }

    /// Seals the beginning of `plain`: so many bytes of it.
    pub(super) fn seal(&mut self, plain: &[u8]) -> usize {
        // It fails never: what does not fit is not taken.
        self.tls.writer().write(plain).unwrap_or(0)
    }

    /// Gives the socket sealed bytes, as `write(2)` does.
    pub(super) fn write_to(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        self.tls.write_tls(socket)
    }

    /// Seals a goodbye.
    pub(super) fn say_goodbye(&mut self) {
        self.tls.send_close_notify();
    }
}
