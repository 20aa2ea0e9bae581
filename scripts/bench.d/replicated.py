"""What replication costs a Debian guest, and how far its backup lags: the same load in the same VMM without
and with a backup, on emulated hosts with a performance counter. Prints a JSON object a run.

The guest measures its loads with its own clock, which is the host's; how far the backup is behind what it has
received, it tells itself (`ftd status`), every half second of its host's time.

A guest waits for a backup that is too far behind. How fast two emulated hosts go beside each other is chance,
though: each has a virtual clock of its own. So the ratios are measured without waiting (an hour's lag is allowed),
and the lag with it, in a second run, which says what the waiting cost there."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import images
import lag

RAM_MIB = 512
SHARED_BYTES = 64 << 20
SECONDS_MAX = 3000
# So that each lasts more than a minute of the hosts' time.
LONG = 12
IDLE_LONG = 5
CONTROL = "/run/ftd-bench"
CMDLINE = "root=/dev/vda1 rw quiet console=ttyS0 cryptomgr.notests randomize_kstack_offset=off panic=-1 init=/load.sh"
# Runs as the guest's first process.
LOAD = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() {{ echo "load: $*" > /dev/console; }}
say compute
a=$(date +%s%N)
perl -e 'my $x = 0; $x = ($x + $_ * 7) % 1000003 for 1..{compute}; print "$x\\n"' > /dev/null
b=$(date +%s%N)
say compute took $((b - a))
say fork
a=$(date +%s%N)
i=0
while [ $i -lt {fork} ]; do
    /bin/true
    cat /etc/passwd /etc/group > /var/tmp/load.$((i % 20))
    ls -l /etc > /dev/null
    i=$((i + 1))
done
b=$(date +%s%N)
say fork took $((b - a))
say idle
sleep {idle}
say done
echo o > /proc/sysrq-trigger
sleep 100
"""
# Runs on a host: samples of the daemon's status, each with the load that runs.
SAMPLER = """
import json, re, socket, sys, time
control, console, out = sys.argv[1:]
asked = socket.socket(socket.AF_UNIX)
while True:
    try:
        asked.connect(control)
        break
    except OSError:
        time.sleep(0.2)
answers = asked.makefile("r")
with open(out, "w", buffering=1) as samples:
    while True:
        try:
            asked.sendall(b'{"ask":"status"}\\n')
            line = answers.readline()
        except OSError:
            break
        if not line:
            break
        sample = json.loads(line)
        try:
            said = re.findall(r"load: (\\w+)\\s*$", open(console, errors="replace").read(), re.M)
        except OSError:
            said = []
        sample["load"] = said[-1] if said else "boot"
        sample["at"] = time.monotonic()
        samples.write(json.dumps(sample) + "\\n")
        time.sleep(0.5)
"""


def say(text):
    print(time.strftime("%T"), text, file=sys.stderr, flush=True)


class Hosts:
    """Two emulated hosts, for as long as the block runs."""

    def __init__(self, args, folder):
        self.command = [args.testbed, "--name", f"replicated-{os.getpid()}"]
        disks = [os.path.join(folder, name) for name in ("guest.img", "other.img", "shared.img")]
        shares = [folder, os.path.dirname(args.ftd)]
        self.up = ["up", "--hosts", "2", "--pmu", "--memory", "2048"]
        self.up += [word for disk in disks for word in ("--disk", disk)]
        self.up += [word for share in shares for word in ("--share", share)]

    def __enter__(self):
        subprocess.run(self.command + self.up, check=True, stdout=sys.stderr)
        return self

    def __exit__(self, *_):
        subprocess.run([*self.command, "down"], check=False, stdout=sys.stderr)

    def on(self, host, *words, **more):
        return subprocess.Popen([*self.command, "exec", host, "--", *words], **more)


def prepare(args, folder, scale):
    """Disks in `folder`: guests' with the loads on them, and the arbiter's."""
    text = LOAD.format(compute=args.compute * scale, fork=args.fork * scale, idle=args.idle * min(scale, IDLE_LONG))
    for name in ("guest.img", "other.img"):
        image = os.path.join(folder, name)
        images.copy(args.image, image)
        images.put(image, text, "load.sh", 0o755)
    shared = os.path.join(folder, "shared.img")
    with open(shared, "wb") as file:
        file.truncate(SHARED_BYTES)
    subprocess.run([args.ftd, "format-shared", "--force", shared], check=True, stdout=sys.stderr)


def qemu(args, folder, disk, console):
    kernel, initrd, _ = images.boot_files(args.image, folder)
    machine = ["/usr/bin/qemu-system-x86_64", "-accel", "kvm", "-cpu", "kvm64", "-m", str(RAM_MIB), "-smp", "1"]
    machine += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    machine += ["-kernel", kernel, "-initrd", initrd, "-append", CMDLINE]
    return [*machine, "-drive", f"file={disk},format=raw,if=virtio,cache=none"]


def guest(disk, console):
    words = ["--image", disk, "--memory", str(RAM_MIB), "--bridge", "br0", "--control", CONTROL]
    return words + ["--console", console] + (["--cmdline", CMDLINE] if console != "none" else [])


def loads_of(console):
    """Nanoseconds of each load, once the guest has ended all; else None."""
    if not os.path.exists(console):
        return None
    with open(console, encoding="utf-8", errors="replace") as file:
        said = file.read()
    took = {name: int(ns) for name, ns in re.findall(r"load: (\w+) took (\d+)", said)}
    return took if set(took) == {"compute", "fork"} and "load: done" in said else None


def finish(processes, guests, logs):
    """Waits until the guests have powered off; ends the rest, and passes on what must not go unseen."""
    began = time.monotonic()
    while any(p.poll() is None for p in processes[:guests]) and time.monotonic() - began < SECONDS_MAX:
        time.sleep(1)
    for process in processes[guests:] + processes[:guests]:
        process.terminate()
    for log in logs:
        log.seek(0)
        for line in log:
            if "DIVERGENCE" in line:
                say(line.strip())


def alone(args, hosts, host, console, log):
    """Starts the loads in ftd without a backup."""
    command = [args.ftd, "run", *guest("/dev/vdb", f"file:{console}")]
    return hosts.on(host, *command, stdout=subprocess.DEVNULL, stderr=log)


def took_alone(console, log):
    """Nanoseconds of each load in the guest that ran by itself."""
    took = loads_of(console)
    if not took:
        log.seek(0)
        sys.exit(f"a guest did not end its loads\n{log.read()[-2000:]}")
    return took


def singles(args):
    """The loads in QEMU and in ftd without a backup, beside each other: each host has a clock that follows its own
    instructions only. Nanoseconds of each load by who ran it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        prepare(args, folder, 1)
        console = {name: os.path.join(folder, name) for name in ("qemu", "alone")}
        with Hosts(args, folder) as hosts, open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
            words = qemu(args, folder, "/dev/vda", console["qemu"])
            running = [hosts.on("host1", *words, stdout=subprocess.DEVNULL, stderr=log)]
            running.append(alone(args, hosts, "host2", console["alone"], log))
            finish(running, 2, [log])
            took = {"qemu": loads_of(console["qemu"]), "alone": took_alone(console["alone"], log)}
            if not took["qemu"]:
                say(f"the guest in QEMU did not end its loads: {open(console['qemu'], errors='replace').read()[-500:]!r}")
        return took


def replicated(args, clock, options, scale=1, single=None):
    """One boot with all loads: (nanoseconds of each load, samples of each side's status). An empty `single` is filled
    before, on the same host."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        prepare(args, folder, scale)
        paths = {name: os.path.join(folder, name) for name in ("console", "live", "backup", "log1", "log2")}
        pair = ["--shared", "/dev/vdc", "--clock", clock, "--detect-ms", "10000", "--insecure-channel", *options]
        primary = [args.ftd, "primary", *guest("/dev/vda", f"file:{paths['console']}"), *pair]
        primary += ["--listen", "10.77.1.1:7700", "--slot", "0", "--wait-backup"]
        backup = [args.ftd, "backup", *guest("/dev/vda", "none"), *pair]
        backup += ["--log-from", "10.77.1.1:7700", "--slot", "1"]
        with Hosts(args, folder) as hosts:
            if single == {}:
                console = os.path.join(folder, "alone")
                with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
                    finish([alone(args, hosts, "host1", console, log)], 1, [log])
                    single.update(qemu=None, alone=took_alone(console, log))
            sampling = [sys.executable, "-c", SAMPLER, CONTROL, paths["console"]]
            logs = [open(paths[name], "w+", encoding="utf-8") for name in ("log1", "log2")]
            running = [
                hosts.on("host1", *primary, stderr=logs[0], stdout=subprocess.DEVNULL),
                hosts.on("host2", *backup, stderr=logs[1], stdout=subprocess.DEVNULL),
                hosts.on("host1", *sampling, paths["live"]),
                hosts.on("host2", *sampling, paths["backup"]),
            ]
            finish(running, 1, logs)
        took = loads_of(paths["console"])
        if not took:
            said = [open(paths[name], encoding="utf-8").read()[-2000:] for name in ("log1", "log2")]
            sys.exit(f"the guest did not end its loads\n{said[0]}\n{said[1]}")
        seen = {}
        for side in ("live", "backup"):
            lines = open(paths[side], encoding="utf-8").readlines() if os.path.exists(paths[side]) else []
            seen[side] = [json.loads(line) for line in lines if line.endswith("\n")]
        return took, seen


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--clock", action="append", default=None)
    parser.add_argument("--long", help=f"the clock whose lag is measured under loads {LONG} times as long")
    parser.add_argument("--unpaced", action="append", default=[], help="a clock without a run in which the guest waits")
    parser.add_argument("--without-qemu", action="store_true", help="don't run the loads in QEMU")
    parser.add_argument("--option", action="append", default=[], help="for primary and backup, with its value after =")
    parser.add_argument("--compute", type=int, default=3_000_000)
    parser.add_argument("--fork", type=int, default=300)
    parser.add_argument("--idle", type=int, default=20)
    args = parser.parse_args()
    single = {} if args.without_qemu else singles(args)
    for how, took in single.items():
        say(f"{how}: {took and ({name: round(ns / 1e9, 3) for name, ns in took.items()})} s")
    for clock in args.clock or ["pmu"]:
        took, samples = replicated(args, clock, [*args.option, "--lag-ms=60000"], single=single)
        by_itself = single["alone"]
        scale = LONG if clock == args.long else 1
        paced, samples_paced = took, samples
        if clock not in args.unpaced:
            paced, samples_paced = replicated(args, clock, args.option, scale)
        live, backup = samples["live"], samples_paced["backup"]
        idle = [s["log_mbit_s"] for s in live if s["load"] == "idle" and s.get("log_mbit_s") is not None]
        last = live[-1] if live else {}
        result = {
            "replicated": clock,
            "ratio": {name: by_itself[name] / took[name] for name in took},
            "ratio_qemu": {name: single["qemu"] and single["qemu"][name] / took[name] for name in took},
            "ratio_paced": {name: None if clock in args.unpaced else by_itself[name] * scale / paced[name] for name in paced},
            "seconds": {name: took[name] / 1e9 for name in took},
            "lag": {load: lag.of(backup, load) for load in ("compute", "fork", "idle")},
            # The window of the rate is five seconds: the first samples still hold the load before.
            "idle_log_mbit_s": statistics.median(idle[len(idle) // 2 :]) if idle else None,
            "idle_bytes_per_entry": lag.bytes_per_entry([s for s in live if s["load"] == "idle"]),
            "snapshots": last.get("snapshots"),
            "landings": last.get("landings"),
            "divergences": sum(side["live"][-1].get("divergences") or 0 for side in (samples, samples_paced)),
        }
        say(f"{clock}: {result['ratio']}")
        print(json.dumps(result), flush=True)


main()
