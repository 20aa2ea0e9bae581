"""An instance: its hosts, their namespace, and the directory that says so."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time

import network
import provision
import session
from common import CHECKOUT, TestbedError, cache_dir, need_root, say
from host import Host

STATE = "/run/ftd-testbed"
READY_SECONDS = 180
HOSTS_MAX = 16


class Instance:
    def __init__(self, name):
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
            raise TestbedError(f"{name!r} cannot name an instance: letters, digits, - and _, at most 40")
        self.name = name
        self.namespace = f"ftd-testbed-{name}"
        self.directory = os.path.join(STATE, name)
        self.config_path = os.path.join(self.directory, "config.json")

    @contextlib.contextmanager
    def lock(self):
        """One change of the instance at a time. kill takes no lock: a power cut waits for nobody."""
        need_root()
        os.makedirs(STATE, exist_ok=True)
        path = f"{self.directory}.lock"
        while True:
            handle = open(path, "w", encoding="ascii")
            fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                    break
            handle.close()  # its last holder has taken the file away
        with handle:
            try:
                yield
            finally:
                if not self.exists():
                    os.unlink(path)

    def exists(self):
        return os.path.exists(self.config_path)

    def config(self):
        try:
            with open(self.config_path, encoding="utf-8") as handle:
                return json.load(handle)
        except FileNotFoundError:
            raise TestbedError(
                f"no instance {self.name!r} is up: `testbed up --name {self.name}`"
            ) from None

    def hosts(self):
        return [self.host(number) for number in range(1, self.config()["hosts"] + 1)]

    def host(self, number):
        return Host(number, self.directory, self.namespace)

    def host_named(self, name):
        known = {host.name: host for host in self.hosts()}
        if name not in known:
            raise TestbedError(f"no host {name!r}: there are {', '.join(known)}")
        return known[name]

    def up(self, options, with_parent=False):
        """Powers on the hosts and waits for their agents; on any failure nothing stays."""
        with self.lock():
            if self.exists():
                if any(host.pid() for host in self.hosts()):
                    raise TestbedError(f"instance {self.name!r} is already up: `testbed down` ends it")
                self.remove()  # left by a crash or an earlier boot
            machine = provision.ensure_all()
            os.makedirs(self.directory, exist_ok=True)
            try:
                with open(self.config_path, "w", encoding="utf-8") as handle:
                    json.dump(options, handle, indent=1)
                network.destroy(self.namespace)
                network.create(self.namespace, range(1, options["hosts"] + 1))
                self.power_on(self.hosts(), machine, options, with_parent)
            except BaseException:
                self.remove()
                raise

    def power_on(self, hosts, machine, options, with_parent=False):
        began = time.monotonic()
        running = [host.start(machine, options, with_parent) for host in hosts]
        waiting = list(hosts)
        while waiting:
            for process in running:
                process.poll()  # so that one that ended is not taken for a living one
            for host in [host for host in waiting if host.is_ready()]:
                waiting.remove(host)
                session.set_clock(host)
                say(f"{host.name} is ready after {time.monotonic() - began:.1f} s")
            if waiting and time.monotonic() - began > READY_SECONDS:
                late = waiting[0]
                raise TestbedError(f"{late.name} is not ready after {READY_SECONDS} s\n{late.evidence()}")
            time.sleep(0.02)

    def start(self, name):
        with self.lock():
            options = self.config()
            self.power_on([self.host_named(name)], provision.ensure_all(), options)

    def down(self):
        with self.lock():
            self.remove()

    def remove(self):
        """Powers off what runs and takes away namespace and directory; says nothing if nothing is there."""
        if self.exists():
            for host in self.hosts():
                host.kill()
        network.destroy(self.namespace)
        shutil.rmtree(self.directory, ignore_errors=True)

    def netem(self, host, net, **change):
        """Changes delay, jitter, loss or rate of what the host sends on a net; what is None stays."""
        table = {}
        if os.path.exists(host.netem_file):
            with open(host.netem_file, encoding="utf-8") as handle:
                table = json.load(handle)
        values = table.setdefault(net, {})
        values.update({key: value for key, value in change.items() if value is not None})
        words = []
        if values.get("delay_ms") or values.get("jitter_ms"):
            words += ["delay", f"{values.get('delay_ms', 0)}ms"]
            if values.get("jitter_ms"):
                words += [f"{values['jitter_ms']}ms"]
        if values.get("loss_percent"):
            words += ["loss", f"{values['loss_percent']}%"]
        if values.get("rate_mbit"):
            words += ["rate", f"{values['rate_mbit']}mbit"]
        device = f"{net}0"
        if words:
            session.capture(host, ["tc", "qdisc", "replace", "dev", device, "root", "netem", "limit",
                                   "100000", *words])
        else:
            table.pop(net)
            session.capture(host, ["sh", "-c", f"tc qdisc del dev {device} root 2>/dev/null || true"])
        with open(host.netem_file, "w", encoding="utf-8") as handle:
            json.dump(table, handle)

    def heal(self, host, nets, directions):
        for net in nets:
            network.restore(self.namespace, host.number, net, directions)
        if os.path.exists(host.netem_file) and host.pid():
            for net in nets:
                self.netem(host, net, delay_ms=0, jitter_ms=0, loss_percent=0, rate_mbit=0)

    def status(self):
        """Everything a script may want to know, as plain data."""
        options = self.config()
        cuts = network.cuts(self.namespace)
        hosts = []
        for host in self.hosts():
            netem = {}
            if os.path.exists(host.netem_file):
                with open(host.netem_file, encoding="utf-8") as handle:
                    netem = json.load(handle)
            pid = host.pid()
            hosts.append({
                "name": host.name,
                "power": "on" if pid else "off",
                "pid": pid,
                "console": host.console,
                "addresses": {net: network.address(host.number, net) for net in network.NETS},
                "taps": {net: network.tap(host.number, net) for net in network.NETS},
                "cuts": [cut.split("_", 1)[1] for cut in cuts if cut.startswith(host.name + "_")],
                "netem": netem,
            })
        return {
            "name": self.name,
            "namespace": self.namespace,
            "directory": self.directory,
            "bridges": {net: network.bridge(net) for net in network.NETS},
            "client_addresses": {
                net: network.address(network.OUTSIDE, net) for net in network.NETS
            },
            "options": options,
            "hosts": hosts,
        }


def all_names():
    try:
        return sorted(e.name for e in os.scandir(STATE) if e.is_dir())
    except FileNotFoundError:
        return []


def shares(extra):
    """Directories below /tmp and /run that a host keeps seeing: where the caller and its files are."""
    wanted = {os.path.realpath(path) for path in (os.getcwd(), CHECKOUT, cache_dir(""), *extra)}
    kept = []
    for path in sorted(wanted):
        if not path.startswith(("/tmp/", "/run/")) or any(path.startswith(k + "/") for k in kept):
            continue
        if re.search(r"[\s:\"]", path):
            raise TestbedError(f"{path}: a directory below /tmp or /run needs a name without spaces")
        kept.append(path)
    return kept
