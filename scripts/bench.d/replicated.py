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

RAM_MIB = 512
SHARED_BYTES = 64 << 20
SECONDS_MAX = 3000
CONTROL = "/run/ftd-bench"
CMDLINE = "root=/dev/vda1 rw quiet console=ttyS0 cryptomgr.notests randomize_kstack_offset=off init=/load.sh"
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
    print(text, file=sys.stderr, flush=True)


class Hosts:
    """Two emulated hosts, for as long as the block runs."""

    def __init__(self, args, folder):
        self.command = [args.testbed, "--name", f"replicated-{os.getpid()}"]
        disks = [os.path.join(folder, name) for name in ("guest.img", "shared.img")]
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


def prepare(args, folder):
    """The disks: the guest's, with the load on it, and the arbiter's."""
    image, shared, script = (os.path.join(folder, n) for n in ("guest.img", "shared.img", "load.sh"))
    subprocess.run(["cp", "--sparse=always", args.image, image], check=True)
    os.chmod(image, 0o600)
    with open(script, "w", encoding="utf-8") as file:
        file.write(LOAD.format(compute=args.compute, fork=args.fork, idle=args.idle))
    os.chmod(script, 0o755)
    dump = subprocess.run(["sfdisk", "--json", image], capture_output=True, text=True, check=True)
    start = json.loads(dump.stdout)["partitiontable"]["partitions"][0]["start"] * 512
    write = ["debugfs", "-w", "-R", f"write {script} load.sh", f"{image}?offset={start}"]
    subprocess.run(write, check=True, capture_output=True)
    with open(shared, "wb") as file:
        file.truncate(SHARED_BYTES)
    subprocess.run([args.ftd, "format-shared", "--force", shared], check=True, stdout=sys.stderr)


def daemon(args, folder, replicated):
    """Command lines: of the one that runs the guest, and of its backup."""
    console = os.path.join(folder, "console")
    guest = ["--image", "/dev/vda", "--memory", str(RAM_MIB), "--bridge", "br0"]
    boot = ["--cmdline", CMDLINE, "--console", f"file:{console}"]
    if not replicated:
        return [args.ftd, "run", *guest, *boot, "--control", CONTROL], None
    pair = ["--shared", "/dev/vdb", "--clock", args.clock, "--detect-ms", "10000"]
    pair += ["--control", CONTROL, *args.option]
    return (
        [args.ftd, "primary", *guest, *boot, *pair, "--listen", "10.77.1.1:7700", "--slot", "0", "--wait-backup"],
        [args.ftd, "backup", *guest, *pair, "--log-from", "10.77.1.1:7700", "--slot", "1", "--console", "none"],
    )


def run(args, replicated):
    """One boot with all loads: (nanoseconds of each, samples of each side's status)."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        prepare(args, folder)
        live, backup = daemon(args, folder, replicated)
        samples = {side: os.path.join(folder, f"{side}.samples") for side in ("live", "backup")}
        console = os.path.join(folder, "console")
        with Hosts(args, folder) as hosts:
            sampling = [sys.executable, "-c", SAMPLER, CONTROL, console]
            logs = [open(os.path.join(folder, name), "w+", encoding="utf-8") for name in ("live", "backup")]
            processes = [hosts.on("host1", *live, stderr=logs[0], stdout=subprocess.DEVNULL)]
            if backup:
                processes.append(hosts.on("host2", *backup, stderr=logs[1], stdout=subprocess.DEVNULL))
                processes.append(hosts.on("host2", *sampling, samples["backup"]))
            processes.append(hosts.on("host1", *sampling, samples["live"]))
            began = time.monotonic()
            while processes[0].poll() is None and time.monotonic() - began < SECONDS_MAX:
                time.sleep(1)
            for process in processes[1:] + processes[:1]:
                process.terminate()
        if os.path.exists(console):
            with open(console, encoding="utf-8", errors="replace") as file:
                said = file.read()
        else:
            said = ""
        for log in logs:
            log.seek(0)
            for line in log:
                if "DIVERGENCE" in line:
                    say(line.strip())
        took = {name: int(ns) for name, ns in re.findall(r"load: (\w+) took (\d+)", said)}
        if set(took) != {"compute", "fork"} or "load: done" not in said:
            for log in logs:
                log.seek(0)
                say(log.read()[-2000:])
            sys.exit(f"the guest did not end its loads: {said[-500:]!r}")
        seen = {}
        for side, path in samples.items():
            lines = open(path, encoding="utf-8").readlines() if os.path.exists(path) else []
            seen[side] = [json.loads(line) for line in lines if line.endswith("\n")]
        return took, seen


def slope(points):
    """Least squares: by how much y grows for each x."""
    if len(points) < 3:
        return 0.0
    xs, ys = zip(*points)
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def bytes_per_entry(samples):
    """Of the log between the first sample and the last."""
    if len(samples) < 2:
        return None
    entries = samples[-1]["log_entries"] - samples[0]["log_entries"]
    return (samples[-1]["log_bytes"] - samples[0]["log_bytes"]) / entries if entries else None


def lag(samples, load):
    """How far the backup was behind while `load` ran."""
    points = [(s["at"], s["lag_ms"]) for s in samples if s["load"] == load and s.get("lag_ms") is not None]
    if not points:
        return None
    values = sorted(value for _, value in points)
    return {
        "median_ms": statistics.median(values),
        "p99_ms": values[min(len(values) - 1, int(len(values) * 0.99))],
        # A tenth of what it would be if the backup stood still.
        "grows": slope(points) > 100,
        "slope_ms_per_s": slope(points),
        "seconds": points[-1][0] - points[0][0],
        "samples": len(points),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testbed", required=True)
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--clock", action="append", default=None)
    parser.add_argument("--option", action="append", default=[], help="for primary and backup, with its value after =")
    parser.add_argument("--compute", type=int, default=3_000_000)
    parser.add_argument("--fork", type=int, default=300)
    parser.add_argument("--idle", type=int, default=20)
    args = parser.parse_args()
    clocks = args.clock or ["pmu"]
    alone, _ = run(args, False)
    say(f"without a backup: {({name: round(ns / 1e9, 3) for name, ns in alone.items()})} s")
    options = args.option
    for clock in clocks:
        args.clock = clock
        args.option = [*options, "--lag-ms=60000"]
        took, samples = run(args, True)
        args.option = options
        paced, samples_paced = run(args, True)
        live, backup = samples["live"], samples_paced["backup"]
        idle = [s["log_mbit_s"] for s in live if s["load"] == "idle" and s.get("log_mbit_s") is not None]
        last = live[-1] if live else {}
        result = {
            "replicated": clock,
            "ratio": {name: alone[name] / took[name] for name in took},
            "ratio_paced": {name: alone[name] / paced[name] for name in paced},
            "seconds": {name: took[name] / 1e9 for name in took},
            "lag": {load: lag(backup, load) for load in ("compute", "fork", "idle")},
            # The window of the rate is five seconds: the first samples still hold the load before.
            "idle_log_mbit_s": statistics.median(idle[len(idle) // 2 :]) if idle else None,
            "idle_bytes_per_entry": bytes_per_entry([s for s in live if s["load"] == "idle"]),
            "snapshots": last.get("snapshots"),
            "landings": last.get("landings"),
            "divergences": sum(side["live"][-1].get("divergences") or 0 for side in (samples, samples_paced)),
        }
        say(f"{clock}: {result['ratio']}")
        print(json.dumps(result), flush=True)


main()
