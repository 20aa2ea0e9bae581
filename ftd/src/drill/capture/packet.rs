//! Headers of Ethernet II, ARP (RFC 826), IPv4 (RFC 791), IPv6 (RFC 8200, without extension
//! headers) and TCP (RFC 9293), as far as the oracle needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet address.
pub type Mac = [u8; 6];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERNET_BYTES: usize = 14;
const PROTOCOL_TCP: u8 = 6;

/// A TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
    /// Sequence number of its first byte (or of SYN).
    pub sequence: u32,
    /// Acknowledgement number, if ACK is set.
    pub acknowledged: Option<u32>,
    /// SYN: a new connection.
    pub syn: bool,
    /// What it carries.
    pub payload: &'a [u8],
}

/// The sender's Ethernet address.
pub fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(6..12)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn ipv4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from_bits(long(bytes, at)?)))
}

fn ipv6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// The IP address that the frame's sender claims, in an ARP or IP header.
pub fn sender_ip(frame: &[u8]) -> Option<IpAddr> {
    let body = frame.get(ETHERNET_BYTES..)?;
    match word(frame, 12)? {
        ETHERTYPE_ARP => ipv4(body, 14),
        ETHERTYPE_IPV4 => ipv4(body, 12),
        ETHERTYPE_IPV6 => ipv6(body, 8),
        _ => None,
    }
}

/// The frame without the padding that an Ethernet card added to reach 60 bytes, if it has any.
pub fn unpadded(frame: &[u8]) -> Option<&[u8]> {
    let body = frame.get(ETHERNET_BYTES..)?;
    let length = match word(frame, 12)? {
        ETHERTYPE_ARP => 28,
        ETHERTYPE_IPV4 => usize::from(word(body, 2)?),
        ETHERTYPE_IPV6 => 40 + usize::from(word(body, 4)?),
        _ => return None,
    };
    (length < body.len()).then(|| &frame[..ETHERNET_BYTES + length])
}

/// The TCP segment in a frame, if it holds one that isn't a fragment.
pub fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let body = frame.get(ETHERNET_BYTES..)?;
    let (from, to, tcp) = match word(frame, 12)? {
        ETHERTYPE_IPV4 => {
            let header_bytes = usize::from(body.first()? & 0xf) * 4;
            let length = usize::from(word(body, 2)?);
            let fragment = word(body, 6)? & 0x3fff != 0;
            if *body.get(9)? != PROTOCOL_TCP || fragment {
                return None;
            }
            (
                ipv4(body, 12)?,
                ipv4(body, 16)?,
                body.get(header_bytes..length)?,
            )
        }
        ETHERTYPE_IPV6 => {
            let length = usize::from(word(body, 4)?);
            if *body.get(6)? != PROTOCOL_TCP {
                return None;
            }
            (ipv6(body, 8)?, ipv6(body, 24)?, body.get(40..40 + length)?)
        }
        _ => return None,
    };
    let data = usize::from(tcp.get(12)? >> 4) * 4;
    let flags = *tcp.get(13)?;
    Some(Segment {
        from: SocketAddr::new(from, word(tcp, 0)?),
        to: SocketAddr::new(to, word(tcp, 2)?),
        sequence: long(tcp, 4)?,
        acknowledged: (flags & 0x10 != 0).then_some(long(tcp, 8)?),
        syn: flags & 0x02 != 0,
        payload: tcp.get(data..)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_is_taken_off() {
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        assert_eq!(unpadded(&arp).map(<[u8]>::len), Some(42));
        assert_eq!(unpadded(&arp[..42]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            kind in proptest::sample::select(vec![ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6]),
        ) {
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            }
            let _ = (segment(&bytes), unpadded(&bytes), sender_ip(&bytes), source(&bytes));
        }
    }
}
