//! TCP connections of the logging channel: bytes in, messages out, and the other way round.
//!
//! * [`writer`]: the sending half, which another thread may use as well.

pub mod writer;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use replay::EncodedEpoch;
use replay::frame::{FrameDecoder, MAX_FRAME_BYTES, encode_epoch_into, encode_into};
use replay::protocol::{LinkLoss, Message, PeerId};

use self::writer::{SideDoor, Writer};

/// Bytes read from a connection at once.
const READ_BYTES: usize = 256 << 10;

/// What came of serving a connection.
#[derive(Debug)]
pub enum Served {
    /// The connection dialled is there; serve it again.
    Connected,
    /// Bytes came; take the messages out ([`Links::next_message`]), then serve it again.
    Read,
    /// Nothing more for now.
    Idle,
    /// It is over.
    Lost(LinkLoss),
}

struct Link {
    stream: TcpStream,
    token: Token,
    decoder: FrameDecoder,
    writer: Arc<Mutex<Writer>>,
    connected: bool,
    dialled: bool,
    /// Close once `outgoing` is sent.
    closing: bool,
}

/// All connections of this host.
pub struct Links {
    links: BTreeMap<PeerId, Link>,
    next_peer: u64,
    first_token: usize,
    buffer: Vec<u8>,
}

impl Links {
    /// No connections yet; they get mio tokens from `first_token` on.
    pub fn new(first_token: usize) -> Links {
        Links {
            links: BTreeMap::new(),
            next_peer: 1,
            first_token,
            buffer: vec![0; READ_BYTES],
        }
    }

    fn add(
        &mut self,
        registry: &Registry,
        mut stream: TcpStream,
        dialled: bool,
    ) -> io::Result<PeerId> {
        let peer = PeerId(self.next_peer);
        let token = Token(self.first_token + self.next_peer as usize);
        self.next_peer += 1;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut writer = Writer::new(&stream)?;
        writer.set_connected(!dialled);
        let link = Link {
            stream,
            token,
            decoder: FrameDecoder::new(),
            writer: Arc::new(Mutex::new(writer)),
            connected: !dialled,
            dialled,
            closing: false,
        };
        if link.connected {
            let _ = link.stream.set_nodelay(true);
        }
        self.links.insert(peer, link);
        Ok(peer)
    }

    /// Takes the connections that wait at `listener`.
    pub fn accept(&mut self, registry: &Registry, listener: &TcpListener) -> Vec<PeerId> {
        let mut peers = Vec::new();
        while let Ok((stream, from)) = listener.accept() {
            tracing::debug!("connection from {from}");
            match self.add(registry, stream, false) {
                Ok(peer) => peers.push(peer),
                Err(error) => tracing::warn!("cannot serve the connection from {from}: {error}"),
            }
        }
        peers
    }

    /// Dials `address`; [`LinkEvent::Connected`] or [`LinkEvent::Lost`] follows.
    pub fn dial(&mut self, registry: &Registry, address: SocketAddr) -> io::Result<PeerId> {
        let stream = TcpStream::connect(address)?;
        self.add(registry, stream, true)
    }

    /// The connection that has this token.
    pub fn peer_of(&self, token: Token) -> Option<PeerId> {
        self.links
            .iter()
            .find(|(_, link)| link.token == token)
            .map(|(peer, _)| *peer)
    }

    /// Whether the connection was made by [`Links::dial`].
    pub fn is_dialled(&self, peer: PeerId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.dialled)
    }

    /// The other end of the connection.
    pub fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.links.get(&peer)?.stream.peer_addr().ok()
    }

    /// Accepted by the protocol: large frames may come.
    pub fn establish(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.decoder.set_limit(MAX_FRAME_BYTES);
        }
    }

    /// Queues a message and sends what the socket takes.
    pub fn send(&mut self, peer: PeerId, message: &Message) {
        let Some(link) = self.links.get(&peer) else {
            return;
        };
        let mut writer = link.writer();
        match encode_into(message, writer.queue()) {
            Ok(()) => drop(writer.flush()),
            Err(error) => tracing::error!("cannot encode a message: {error}"),
        }
    }

    /// Queues an epoch and sends what the socket takes.
    pub fn send_epoch(&mut self, peer: PeerId, epoch: &EncodedEpoch) {
        if let Some(link) = self.links.get(&peer) {
            let mut writer = link.writer();
            encode_epoch_into(epoch, writer.queue());
            // A failure shows again, and is reported, when the connection is served.
            drop(writer.flush());
        }
    }

    /// A way to `peer` for another thread.
    pub fn side_door(&self, peer: PeerId) -> Option<SideDoor> {
        let link = self.links.get(&peer)?;
        Some(SideDoor::new(Arc::clone(&link.writer)))
    }

    /// Bytes that wait to be sent to `peer`.
    pub fn backlog_bytes(&self, peer: PeerId) -> usize {
        self.links
            .get(&peer)
            .map_or(0, |link| link.writer().backlog_bytes())
    }

    /// The largest backlog of any connection, in bytes.
    pub fn backlog_bytes_max(&self) -> usize {
        self.links
            .keys()
            .map(|peer| self.backlog_bytes(*peer))
            .max()
            .unwrap_or(0)
    }

    /// Closes a connection once what was queued is sent.
    pub fn close(&mut self, registry: &Registry, peer: PeerId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.closing = true;
        let sent = link.writer().flush();
        if sent.is_err() || link.is_flushed() {
            self.drop_link(registry, peer);
        }
    }

    fn drop_link(&mut self, registry: &Registry, peer: PeerId) {
        if let Some(mut link) = self.links.remove(&peer) {
            let _ = registry.deregister(&mut link.stream);
            link.writer().close();
        }
    }

    /// Serves a connection that mio says is ready, one step at a time.
    pub fn serve(&mut self, registry: &Registry, peer: PeerId) -> Served {
        let Some(link) = self.links.get_mut(&peer) else {
            return Served::Idle;
        };
        let served = link.serve(&mut self.buffer);
        let closing = link.closing;
        if matches!(served, Served::Lost(_)) || closing && link.is_flushed() {
            self.drop_link(registry, peer);
        }
        if closing { Served::Idle } else { served }
    }

    /// The next whole message. One at a time: what it says may lift the limit for the next.
    pub fn next_message(&mut self, peer: PeerId) -> Result<Option<Message>, LinkLoss> {
        match self.links.get_mut(&peer) {
            Some(link) if !link.closing => link
                .decoder
                .next()
                .map_err(|error| LinkLoss::Broken(error.to_string())),
            _ => Ok(None),
        }
    }
}

impl Link {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_flushed(&self) -> bool {
        self.writer().backlog_bytes() == 0
    }

    fn serve(&mut self, buffer: &mut [u8]) -> Served {
        if !self.connected {
            return self.finish_connect();
        }
        let sent = self.writer().flush();
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Served::Lost(LinkLoss::Closed),
                Ok(count) => {
                    self.decoder.push(&buffer[..count]);
                    Served::Read
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != ErrorKind::WouldBlock => Served::Lost(loss(&error)),
                // Only now: a peer that has left in order, and was reset for what it no longer read, has
                // said goodbye before.
                Err(_) => match &sent {
                    Ok(()) => Served::Idle,
                    Err(error) => Served::Lost(loss(error)),
                },
            };
        }
    }

    fn finish_connect(&mut self) -> Served {
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Served::Lost(loss(&error)),
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.connected = true;
                self.writer().set_connected(true);
                let _ = self.stream.set_nodelay(true);
                Served::Connected
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Served::Idle,
            Err(error) => Served::Lost(loss(&error)),
        }
    }
}

fn loss(error: &io::Error) -> LinkLoss {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionRefused => {
            LinkLoss::Closed
        }
        _ => LinkLoss::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
