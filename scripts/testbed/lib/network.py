"""The networks of an instance: a namespace holding one bridge a network and one TAP a host and network.

  mgmt  10.77.0.0/24  the agent; cut only when asked for by name
  log   10.77.1.0/24  between the hosts
  lan   10.77.2.0/24  guests and their clients

The namespace's own address on each is .254, a host's is its number.
"""

import ctypes
import fcntl
import os
import socket
import struct

from common import TestbedError, in_namespace, run

NETS = ("mgmt", "log", "lan")
DIRECTIONS = ("in", "out")
OUTSIDE = 254
TABLE = "netdev testbed_cut"
SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, _SSG, _STSO, _SGSO, _SGRO
OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)


def mac(host, net):
    return f"52:54:00:77:{NETS.index(net):02x}:{host:02x}"


def address(host, net):
    return f"10.77.{NETS.index(net)}.{host}"


def tap(host, net):
    """The outer interface that carries this host's NIC on this net."""
    return f"host{host}-{net}"


def bridge(net):
    return f"br-{net}"


def create(namespace, hosts):
    run(["ip", "netns", "add", namespace])
    lines = ["link set lo up"]
    for net in NETS:
        lines.append(
            f"link add name {bridge(net)} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        )
        lines.append(f"addr add {address(OUTSIDE, net)}/24 dev {bridge(net)}")
    for host in hosts:
        for net in NETS:
            lines.append(f"tuntap add name {tap(host, net)} mode tap")
            lines.append(f"link set {tap(host, net)} master {bridge(net)} up")
    for net in NETS:
        lines.append(f"link set {bridge(net)} up")
    for host in hosts:  # so that no ARP time-out stands between a start and its agent
        neighbour = f"{address(host, 'mgmt')} lladdr {mac(host, 'mgmt')}"
        lines.append(f"neigh replace {neighbour} dev {bridge('mgmt')} nud permanent")
    in_namespace(namespace, quieten)
    run(["ip", "-batch", "-"], namespace=namespace, text_in="\n".join(lines) + "\n")
    links = [bridge(net) for net in NETS] + [tap(host, net) for host in hosts for net in NETS]
    in_namespace(namespace, lambda: disable_offloads(links))


def quieten():
    """No IPv6 chatter on the nets, and no firewall of the machine's between ports of a bridge."""
    for path in (
        "net/ipv6/conf/all/disable_ipv6",
        "net/ipv6/conf/default/disable_ipv6",
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-arptables",
    ):
        path = "/proc/sys/" + path
        if os.path.exists(path):
            with open(path, "w", encoding="ascii") as handle:
                handle.write("1" if "ipv6" in path else "0")


def disable_offloads(links):
    """Frames are captured and delivered as they would be on a wire: whole and with their checksums."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for link in links:
            for command in OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
                request = struct.pack("16sP", link.encode(), ctypes.addressof(value))
                try:
                    fcntl.ioctl(control, SIOCETHTOOL, request)
                except OSError:
                    pass  # fixed to off on this kind of link


def destroy(namespace):
    if os.path.exists(f"/run/netns/{namespace}"):
        run(["ip", "netns", "delete", namespace])


def chain(host, net, direction):
    return f"host{host}_{net}_{direction}"


def cuts(namespace):
    """The chains of the cuts in force."""
    listing = run(["nft", "list", "table", *TABLE.split()], namespace=namespace, check=False)
    return [line.split()[1] for line in listing.splitlines() if line.strip().startswith("chain ")]


def cut(namespace, host, net, directions):
    """Drops every frame at the TAP: what the host sends (out) enters there, what it gets (in) leaves."""
    script = [f"add table {TABLE}"]
    for direction in directions:
        hook = "ingress" if direction == "out" else "egress"
        script.append(
            f"add chain {TABLE} {chain(host, net, direction)} "
            f"{{ type filter hook {hook} device \"{tap(host, net)}\" priority 0; policy drop; }}"
        )
    run(["nft", "-f", "-"], namespace=namespace, text_in="\n".join(script) + "\n")


def restore(namespace, host, net, directions):
    present = cuts(namespace)
    names = [chain(host, net, direction) for direction in directions]
    script = [f"delete chain {TABLE} {name}" for name in names if name in present]
    if script:
        run(["nft", "-f", "-"], namespace=namespace, text_in="\n".join(script) + "\n")


def nets_named(names, default):
    """The nets of --net options; `all` means those a drill may cut."""
    chosen = []
    for name in names or default:
        for net in ("log", "lan") if name == "all" else (name,):
            if net not in NETS:
                raise TestbedError(f"no net {net!r}: there are {', '.join(NETS)}")
            chosen.append(net)
    return chosen
