//! TCP connections of the logging channel: bytes in, messages out, and the other way round.
//!
//! * `door`: how fast strangers are let in.
//! * [`session`]: TLS, where the channel has that.
//! * [`writer`]: the sending half, which another thread may use as well.
//!
//! What a stranger can take of this host: a place among few (the core's), for seconds, and a few kilobytes.

mod door;
pub mod session;
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

use self::door::Door;
use self::session::{ChannelError, Session, is_encrypted};
use self::writer::{SideDoor, Writer};
use crate::host::clock::monotonic_ns;
use crate::keys::HostKeys;

/// How long a connection that closes may take to send what was queued, in nanoseconds: the other host may be gone.
const CLOSING_NS_MAX: u64 = 5_000_000_000;
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

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The other host has not answered yet.
    Dialling,
    /// TLS: the other side is not known yet.
    Handshaking,
    /// Nothing has come on a connection without TLS.
    Fresh,
    /// Messages may come.
    Open,
}

struct Link {
    stream: TcpStream,
    token: Token,
    decoder: FrameDecoder,
    writer: Arc<Mutex<Writer>>,
    phase: Phase,
    /// The connection has TLS.
    secure: bool,
    dialled: bool,
    /// The other side has said TLS' goodbye.
    left: bool,
    /// Close once `outgoing` is sent; since when.
    closing: Option<u64>,
}

/// All connections of this host.
pub struct Links {
    links: BTreeMap<PeerId, Link>,
    next_peer: u64,
    first_token: usize,
    buffer: Vec<u8>,
    /// `None`: the channel is not encrypted.
    keys: Option<HostKeys>,
    door: Door,
    /// The connection that is being made.
    dialling: Option<PeerId>,
    trouble: Trouble,
}

impl Links {
    /// No connections yet; they get mio tokens from `first_token` on. With `keys` they have TLS, and only
    /// hosts of the same pair are listened to.
    pub fn new(first_token: usize, keys: Option<HostKeys>) -> Links {
        Links {
            links: BTreeMap::new(),
            next_peer: 1,
            first_token,
            buffer: vec![0; READ_BYTES],
            keys,
            door: Door::default(),
            dialling: None,
            trouble: Trouble::default(),
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
        let session = match &self.keys {
            Some(keys) => Some(Session::new(keys, dialled)?),
            None => None,
        };
        let secure = session.is_some();
        let mut writer = Writer::new(&stream, session)?;
        writer.set_connected(!dialled);
        let link = Link {
            stream,
            token,
            decoder: FrameDecoder::new(),
            writer: Arc::new(Mutex::new(writer)),
            phase: match (dialled, secure) {
                (true, _) => Phase::Dialling,
                (false, true) => Phase::Handshaking,
                (false, false) => Phase::Fresh,
            },
            secure,
            dialled,
            left: false,
            closing: None,
        };
        if !dialled {
            let _ = link.stream.set_nodelay(true);
        }
        self.links.insert(peer, link);
        Ok(peer)
    }

    /// Takes the connections that wait at `listener`, as fast as strangers are let in; the others wait there
    /// until [`Links::accept_at`].
    pub fn accept(&mut self, registry: &Registry, listener: &TcpListener) -> Vec<PeerId> {
        let mut peers = Vec::new();
        while self.door.opens(monotonic_ns()) {
            let Ok((stream, from)) = listener.accept() else {
                self.door.nobody_waits();
                break;
            };
            tracing::debug!("connection from {from}");
            match self.add(registry, stream, false) {
                Ok(peer) => peers.push(peer),
                Err(error) => tracing::warn!("cannot serve the connection from {from}: {error}"),
            }
        }
        peers
    }

    /// When to look at the listener again without being told to, if somebody may wait there.
    pub fn accept_at(&self) -> Option<u64> {
        self.door.opens_at()
    }

    /// Dials `address`; [`Served::Connected`] or [`Served::Lost`] follows, unless this is called again
    /// before.
    pub fn dial(&mut self, registry: &Registry, address: SocketAddr) -> io::Result<PeerId> {
        if let Some(before) = self.dialling.take() {
            self.drop_link(registry, before);
        }
        let stream = TcpStream::connect(address)?;
        let peer = self.add(registry, stream, true)?;
        self.dialling = Some(peer);
        Ok(peer)
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

    /// The largest backlog of any connection that goes on, in bytes.
    pub fn backlog_bytes_max(&self) -> usize {
        let open = self.links.values().filter(|link| link.closing.is_none());
        open.map(|link| link.writer().backlog_bytes())
            .max()
            .unwrap_or(0)
    }

    /// Drops connections whose other end has not taken what was queued before they were closed.
    pub fn drop_stuck(&mut self, registry: &Registry, now_ns: u64) {
        let is_stuck = |link: &Link| {
            let since = link.closing;
            since.is_some_and(|since| now_ns.saturating_sub(since) > CLOSING_NS_MAX)
        };
        while let Some((&peer, _)) = self.links.iter().find(|(_, link)| is_stuck(link)) {
            self.drop_link(registry, peer);
        }
    }

    /// Closes a connection once what was queued is sent.
    pub fn close(&mut self, registry: &Registry, peer: PeerId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.closing.get_or_insert_with(monotonic_ns);
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
        let served = match served {
            Ok(served) => served,
            Err(error) => {
                // A stranger who has left, of which there are many, is no news; a peer that is lost is told
                // of elsewhere.
                let news = match error {
                    ChannelError::LeftEarly => link.dialled,
                    ChannelError::Truncated => false,
                    _ => true,
                };
                if news {
                    let address = link.stream.peer_addr().ok();
                    self.trouble.tell(address, &error.to_string());
                }
                Served::Lost(match error {
                    ChannelError::LeftEarly => LinkLoss::Closed,
                    error => LinkLoss::Broken(error.to_string()),
                })
            }
        };
        let closing = link.closing.is_some();
        let over = matches!(served, Served::Lost(_));
        if over || closing && link.is_flushed() {
            self.drop_link(registry, peer);
        }
        if self.dialling == Some(peer) && (over || matches!(served, Served::Connected)) {
            self.dialling = None;
        }
        if closing { Served::Idle } else { served }
    }

    /// The next whole message. One at a time: what it says may lift the limit for the next.
    pub fn next_message(&mut self, peer: PeerId) -> Result<Option<Message>, LinkLoss> {
        match self.links.get_mut(&peer) {
            Some(link) if link.closing.is_none() => link
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

    fn serve(&mut self, buffer: &mut [u8]) -> Result<Served, ChannelError> {
        if self.phase == Phase::Dialling {
            match self.finish_connect() {
                Served::Connected if self.secure => self.phase = Phase::Handshaking,
                Served::Connected => {
                    self.phase = Phase::Fresh;
                    return Ok(Served::Connected);
                }
                other => return Ok(other),
            }
        }
        let sent = self.writer().flush();
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => self.end(),
                Ok(count) => match self.take(&buffer[..count])? {
                    Served::Idle => continue,
                    served => Ok(served),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != ErrorKind::WouldBlock => self.fail(&error),
                // Only now: a peer that has left in order, and was reset for what it no longer read, has
                // said goodbye before.
                Err(_) => match &sent {
                    Ok(()) => Ok(Served::Idle),
                    Err(error) => self.fail(error),
                },
            };
        }
    }

    /// Takes in what the socket gave.
    fn take(&mut self, bytes: &[u8]) -> Result<Served, ChannelError> {
        if !self.secure {
            if self.phase == Phase::Fresh && is_encrypted(bytes) {
                return Err(ChannelError::Encrypted);
            }
            self.phase = Phase::Open;
            self.decoder.push(bytes);
            return Ok(Served::Read);
        }
        let Link {
            writer, decoder, ..
        } = self;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = writer.session() else {
            return Ok(Served::Idle);
        };
        let mut heard = false;
        let taken = session.take(bytes, |said| {
            heard = true;
            decoder.push(said);
        });
        let known = !session.is_handshaking();
        let answers = session.wants_write();
        // Its own failure shows when the connection is read again; what was said before it counts.
        let flushed = match answers || taken.is_err() {
            true => writer.flush(),
            false => Ok(()),
        };
        drop(writer);
        self.left |= taken?;
        if let Err(error) = flushed {
            tracing::debug!("cannot answer in TLS: {error}");
        }
        if self.phase == Phase::Handshaking && known {
            self.phase = Phase::Open;
            if self.dialled {
                return Ok(Served::Connected);
            }
        }
        Ok(if heard { Served::Read } else { Served::Idle })
    }

    /// The connection was closed.
    fn end(&self) -> Result<Served, ChannelError> {
        match self.phase {
            Phase::Handshaking => Err(ChannelError::LeftEarly),
            _ if self.secure && !self.left => Err(ChannelError::Truncated),
            _ => Ok(Served::Lost(LinkLoss::Closed)),
        }
    }

    /// The socket has failed. Of one with TLS nothing follows: anybody can send a reset.
    fn fail(&self, error: &io::Error) -> Result<Served, ChannelError> {
        match loss(error) {
            LinkLoss::Closed if self.secure => self.end(),
            loss => Ok(Served::Lost(loss)),
        }
    }

    fn finish_connect(&mut self) -> Served {
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Served::Lost(loss(&error)),
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.writer().set_connected(true);
                let _ = self.stream.set_nodelay(true);
                Served::Connected
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Served::Idle,
            Err(error) => Served::Lost(loss(&error)),
        }
    }
}

/// What is told of connections that come to nothing: who dials does so several times a second, and strangers
/// must not fill the journal.
#[derive(Debug, Default)]
struct Trouble {
    told: Option<(String, u64)>,
}

impl Trouble {
    /// The same is told again after a minute, something else after a second.
    fn tell(&mut self, address: Option<SocketAddr>, what: &str) {
        const SECOND: u64 = 1_000_000_000;
        let now = monotonic_ns();
        let who = address.map_or("a host".to_owned(), |address| address.to_string());
        if let Some((before, at)) = &self.told {
            let pause = if before == what { 60 * SECOND } else { SECOND };
            if now.saturating_sub(*at) < pause {
                tracing::debug!("logging channel, {who}: {what}");
                return;
            }
        }
        tracing::warn!("logging channel, {who}: {what}");
        self.told = Some((what.to_owned(), now));
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
