"""Runs on the emulated host: starts guests, asks their Redis, and measures."""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import images

GUEST = ("10.77.2.100", 6379)
MAC = "52:54:00:66:74:64"
RAM_MIB = 512
BOOT_SECONDS_MAX = 300


def say(text):
    print(text, file=sys.stderr, flush=True)


def fresh(image, folder):
    path = os.path.join(folder, "disk.raw")
    images.copy(image, path)
    return path


def first_answer(process):
    """Seconds until the guest's Redis answers PING."""
    began = time.monotonic()
    while time.monotonic() - began < BOOT_SECONDS_MAX:
        if process.poll() is not None:
            sys.exit(f"the VMM ended with status {process.returncode}")
        try:
            with socket.create_connection(GUEST, 1) as redis:
                redis.sendall(b"PING\r\n")
                if b"PONG" in redis.recv(64):
                    return time.monotonic() - began
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit(f"no answer from the guest in {BOOT_SECONDS_MAX} s")


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)


def own_memory_mib(pid):
    """Resident memory but for the mapping that holds guest RAM (the largest one)."""
    sizes = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            sizes.append([high - low, 0])
        elif line.startswith("Rss:"):
            sizes[-1][1] = int(line.split()[1])
    ram = max(sizes)
    return (sum(rss for _, rss in sizes) - ram[1]) / 1024


def ftd(args, folder, *command):
    return subprocess.Popen(
        [args.ftd, *command, "--image", fresh(args.image, folder), "--memory", str(RAM_MIB)]
        + ["--bridge", "br0", "--console", "none", "--mac", MAC],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def qemu(args, folder, kernel, initrd, options):
    tap = ["ip", "tuntap", "add", "benchtap", "mode", "tap"]
    if not os.path.exists("/sys/class/net/benchtap"):
        subprocess.run(tap, check=True)
        subprocess.run(["ip", "link", "set", "benchtap", "master", "br0", "up"], check=True)
    return subprocess.Popen(
        ["/usr/bin/qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-m", str(RAM_MIB), "-smp", "1"]
        + ["-nodefaults", "-display", "none", "-serial", "null", "-kernel", kernel, "-initrd", initrd]
        + ["-append", options, "-drive", f"file={fresh(args.image, folder)},format=raw,if=virtio"]
        + ["-netdev", "tap,id=n,ifname=benchtap,script=no,downscript=no"]
        + ["-device", f"virtio-net-pci,netdev=n,mac={MAC},romfile="],
    )  # fmt: skip


def boot(args, folder):
    files = images.boot_files(args.image, folder)
    seconds = {"ftd": [], "qemu": []}
    memory = []
    for number in range(args.rounds):
        for name in seconds:
            process = ftd(args, folder, "run") if name == "ftd" else qemu(args, folder, *files)
            took = first_answer(process)
            if name == "ftd":
                memory.append(own_memory_mib(process.pid))
            end(process)
            seconds[name].append(took)
            say(f"round {number + 1}: {name} {took:.2f} s")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ftd_seconds": seconds["ftd"],
        "qemu_seconds": seconds["qemu"],
        "ratio": medians["ftd"] / medians["qemu"],
        "own_memory_mib": max(memory),
    }


def idle(args, folder):
    log = os.path.join(folder, "log")
    process = ftd(args, folder, "record", "--log", log)
    say(f"Redis answers after {first_answer(process):.1f} s; settling")
    time.sleep(20)
    before = os.path.getsize(log)
    time.sleep(args.seconds)
    grown = os.path.getsize(log) - before
    memory = own_memory_mib(process.pid)
    end(process)
    return {"log_mbit_s": grown * 8 / args.seconds / 1e6, "seconds": args.seconds, "own_memory_mib": memory}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("what", choices=("boot", "idle"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = (boot if args.what == "boot" else idle)(args, folder)
    if args.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:>16}  {value if isinstance(value, list | int) else format(value, '.3f')}")


main()
