//! Telling the network where the guest is now.
//!
//! After going live the guest's MAC address is behind another port of every switch on the way.
//! Frames from that address teach them: a RARP request, which asks nobody to change anything and is
//! what QEMU sends after migration, and for each address known to be the guest's a gratuitous ARP
//! (request and reply form, as some stacks heed only one) or an unsolicited neighbour advertisement.
//!
//! VLAN-tagged frames are left alone: nothing is learned from them, and nothing is announced on a
//! tagged VLAN (the guest's own next frame there does it).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// RARP's "request reverse" (RFC 903).
const RARP_REQUEST: u16 = 3;
const NEXT_HEADER_ICMPV6: u8 = 58;
const ICMPV6_NEIGHBOUR_SOLICITATION: u8 = 135;
const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Addresses of each kind that are remembered; a guest that claims more loses the oldest.
const ADDRESSES_MAX: usize = 32;
/// Shortest Ethernet frame without FCS, in bytes.
const FRAME_BYTES_MIN: usize = 60;

/// Learns the guest's addresses from the frames it sends. It is fed on the primary with what goes
/// out, and on the backup with what its machine would send, so both know the same.
///
/// The guest's word in ARP and neighbour discovery counts. The source of an IPv4 packet counts only
/// as long as the guest has claimed no address by ARP: a guest that routes sends packets from many
/// addresses, and announcing those would hijack their owners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressLearner {
    /// The sources of the frames.
    macs: Vec<Mac>,
    /// Claimed by ARP.
    arp: Vec<(Mac, Ipv4Addr)>,
    /// Seen as the source of a packet.
    ipv4: Vec<(Mac, Ipv4Addr)>,
    /// Claimed by neighbour discovery.
    ipv6: Vec<(Mac, Ipv6Addr)>,
}

impl AddressLearner {
    /// One that knows the MAC address of the guest's network device, so that there is something to
    /// announce even before the guest has sent a frame.
    pub fn new(mac: Mac) -> Self {
        AddressLearner {
            macs: vec![mac],
            ..AddressLearner::default()
        }
    }

    /// Takes note of a frame the guest sends. Any bytes will do.
    pub fn observe(&mut self, frame: &[u8]) {
        let _ = self.learn(frame);
    }

    fn learn(&mut self, frame: &[u8]) -> Option<()> {
        let mac: Mac = array(frame, 6)?;
        let multicast = mac[0] & 1 == 1;
        if multicast || mac == Mac::default() {
            return None;
        }
        remember(&mut self.macs, mac);
        match be16(frame, 12)? {
            ETHERTYPE_ARP => {
                let operation = be16(frame, 20)?;
                let of_ipv4 = array(frame, 14)? == [0, 1, 8, 0, 6, 4];
                let sender = Ipv4Addr::from(array::<4>(frame, 28)?);
                // A sender in ARP that is not the frame's own speaks for another.
                if of_ipv4
                    && matches!(operation, ARP_REQUEST | ARP_REPLY)
                    && array::<6>(frame, 22)? == mac
                    && is_a_host(sender)
                {
                    remember(&mut self.arp, (mac, sender));
                }
            }
            ETHERTYPE_IPV4 => {
                let source = Ipv4Addr::from(array::<4>(frame, 26)?);
                if frame.get(14)? >> 4 == 4 && is_a_host(source) {
                    remember(&mut self.ipv4, (mac, source));
                }
            }
            ETHERTYPE_IPV6 => {
                let source = Ipv6Addr::from(array::<16>(frame, 22)?);
                // Neighbour discovery comes from the link itself, which the hop limit proves.
                if *frame.get(20)? != NEXT_HEADER_ICMPV6 || *frame.get(21)? != 255 {
                    return None;
                }
                let address = match *frame.get(54)? {
                    // From "::" this is duplicate address detection: not the guest's yet.
                    ICMPV6_NEIGHBOUR_SOLICITATION => source,
                    ICMPV6_NEIGHBOUR_ADVERTISEMENT => Ipv6Addr::from(array::<16>(frame, 62)?),
                    _ => return None,
                };
                if !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() {
                    remember(&mut self.ipv6, (mac, address));
                }
            }
            _ => {}
        }
        Some(())
    }

    /// The IPv4 addresses that would be announced, with their MAC addresses.
    pub fn ipv4(&self) -> impl Iterator<Item = (Mac, Ipv4Addr)> + '_ {
        let fallback = self
            .ipv4
            .iter()
            .filter(|(mac, _)| !self.arp.iter().any(|(claimer, _)| claimer == mac));
        self.arp.iter().chain(fallback).copied()
    }

    /// The IPv6 addresses that would be announced, with their MAC addresses.
    pub fn ipv6(&self) -> impl Iterator<Item = (Mac, Ipv6Addr)> + '_ {
        self.ipv6.iter().copied()
    }

    /// The frames to write to the TAP when going live. As frames get lost, writing them again after
    /// some tens of milliseconds, a few times, is good practice (QEMU: 5 times from 50 ms on).
    pub fn announcements(&self) -> Vec<Vec<u8>> {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let mut frames = Vec::new();
        for &mac in &self.macs {
            frames.push(arp(
                ETHERTYPE_RARP,
                RARP_REQUEST,
                (mac, nobody),
                (mac, nobody),
            ));
        }
        for (mac, address) in self.ipv4() {
            let own = (mac, address);
            let target = (Mac::default(), address);
            frames.push(arp(ETHERTYPE_ARP, ARP_REQUEST, own, target));
            frames.push(arp(ETHERTYPE_ARP, ARP_REPLY, own, (BROADCAST, address)));
        }
        for (mac, address) in self.ipv6() {
            frames.push(neighbour_advertisement(mac, address));
        }
        frames
    }
}

fn is_a_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_broadcast()
        && !address.is_loopback()
}

/// Appends what isn't there yet, at the cost of the oldest when there are too many.
fn remember<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.contains(&item) {
        return;
    }
    if list.len() == ADDRESSES_MAX {
        list.remove(0);
    }
    list.push(item);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// An ARP or RARP packet (RFC 826, RFC 903), broadcast.
fn arp(
    ether_type: u16,
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES_MIN);
    frame.extend(BROADCAST);
    frame.extend(sender.0);
    frame.extend(ether_type.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame.resize(FRAME_BYTES_MIN, 0);
    frame
}

/// An unsolicited neighbour advertisement to all nodes, with the Override flag and the target's
/// link-layer address (RFC 4861, sections 4.4 and 7.2.6).
fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = vec![ICMPV6_NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(address.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac);
    let len = icmp.len() as u16;
    // The checksum covers a pseudo-header (RFC 8200, section 8.1).
    let mut summed = Vec::new();
    summed.extend(address.octets());
    summed.extend(all_nodes.octets());
    summed.extend(u32::from(len).to_be_bytes());
    summed.extend([0, 0, 0, NEXT_HEADER_ICMPV6]);
    summed.extend(&icmp);
    icmp[2..4].copy_from_slice(&internet_checksum(&summed).to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(icmp);
    frame
}

/// RFC 1071, over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUEST: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn sent_arp(sender: Ipv4Addr) -> Vec<u8> {
        let target = (Mac::default(), Ipv4Addr::new(10, 0, 0, 1));
        arp(ETHERTYPE_ARP, ARP_REQUEST, (GUEST, sender), target)
    }

    fn sent_ipv4(source: Ipv4Addr) -> Vec<u8> {
        let mut frame = [&[0x02; 6][..], &GUEST, &[8, 0, 0x45]].concat();
        frame.resize(60, 0);
        frame[26..30].copy_from_slice(&source.octets());
        frame
    }

    #[test]
    fn knows_the_mac_before_the_guest_speaks() {
        let frames = AddressLearner::new(GUEST).announcements();
        assert_eq!(frames.len(), 1);
        // Byte for byte what QEMU's announce_self_create makes.
        let mut qemu = [
            &[0xff; 6][..],
            &GUEST,
            &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3],
        ]
        .concat();
        qemu.extend([&GUEST[..], &[0; 4], &GUEST, &[0; 4]].concat());
        qemu.resize(60, 0);
        assert_eq!(frames[0], qemu);
    }

    #[test]
    fn learns_from_arp_and_announces_both_forms() {
        let mut learner = AddressLearner::new(GUEST);
        let address = Ipv4Addr::new(10, 0, 0, 7);
        learner.observe(&sent_arp(Ipv4Addr::UNSPECIFIED));
        assert_eq!(learner.ipv4().count(), 0, "an ARP probe claims nothing yet");
        learner.observe(&sent_arp(address));
        learner.observe(&sent_arp(address));
        assert_eq!(learner.ipv4().collect::<Vec<_>>(), [(GUEST, address)]);
        let frames = learner.announcements();
        let operations: Vec<_> = frames.iter().map(|frame| be16(frame, 20)).collect();
        assert_eq!(operations, [Some(3), Some(1), Some(2)]);
        for frame in &frames[1..] {
            assert_eq!(frame[28..32], address.octets());
            assert_eq!(frame[38..42], address.octets());
        }
    }

    #[test]
    fn packets_count_only_until_arp_does() {
        let mut learner = AddressLearner::default();
        let own = Ipv4Addr::new(10, 0, 0, 7);
        let routed = Ipv4Addr::new(8, 8, 8, 8);
        learner.observe(&sent_ipv4(own));
        assert_eq!(learner.ipv4().collect::<Vec<_>>(), [(GUEST, own)]);
        learner.observe(&sent_arp(own));
        learner.observe(&sent_ipv4(routed));
        assert_eq!(learner.ipv4().collect::<Vec<_>>(), [(GUEST, own)]);
    }

    #[test]
    fn neighbour_discovery_is_learned_and_announced() {
        let mut learner = AddressLearner::new(GUEST);
        let address: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        let frame = neighbour_advertisement(GUEST, address);
        learner.observe(&frame);
        assert_eq!(learner.ipv6().collect::<Vec<_>>(), [(GUEST, address)]);
        assert_eq!(learner.announcements()[1], frame);
        // The checksum over the pseudo-header and a packet with its checksum in place is 0.
        let mut summed = frame[22..54].to_vec();
        summed.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        summed.extend(&frame[54..]);
        assert_eq!(internet_checksum(&summed), 0);
        let mut forwarded = frame;
        forwarded[21] = 64;
        let mut other = AddressLearner::new(GUEST);
        other.observe(&forwarded);
        assert_eq!(other.ipv6().count(), 0);
    }

    #[test]
    fn a_guest_that_claims_the_whole_net_is_bounded() {
        let mut learner = AddressLearner::new(GUEST);
        for last in 0..=255 {
            learner.observe(&sent_arp(Ipv4Addr::new(10, 0, 1, last)));
        }
        let known: Vec<_> = learner.ipv4().collect();
        assert_eq!(known.len(), ADDRESSES_MAX);
        assert_eq!(known[ADDRESSES_MAX - 1].1, Ipv4Addr::new(10, 0, 1, 255));
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(
            ether_type in prop::sample::select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0]),
            mut frame in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            if frame.len() >= 14 {
                frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            }
            let mut learner = AddressLearner::new(GUEST);
            learner.observe(&frame);
            for frame in learner.announcements() {
                prop_assert!(frame.len() >= FRAME_BYTES_MIN);
            }
        }
    }
}
