"""Runs on an emulated host with a performance counter: records guests and replays them, and looks from
outside whether both ended alike. Prints a JSON object a measurement."""

import argparse
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from random import Random

import guest_loads
import images
import outside

TINY_MIB = 16
DEBIAN_MIB = 512
HISTORY = 512
GUEST = ("10.77.2.100", 6379)
BOOT_SECONDS_MAX = 300


def say(text):
    print(time.strftime("%T"), text, file=sys.stderr, flush=True)


def start(args, *words):
    return subprocess.Popen(
        [args.ftd, *words, "--hold", "--json"],
        stdout=subprocess.PIPE,
        env=dict(os.environ, FTD_LOG="warn"),
        text=True,
    )


def finish(args, process, ram_mib):
    """Waits until ftd's guest has ended: (its report, (registers, RAM))."""
    seen = None
    if outside.wait_until_held(process, args.seconds_max):
        seen = outside.look(process.pid, ram_mib << 20)
        outside.go_on(process)
    out, _ = process.communicate(timeout=args.seconds_max)
    report = json.loads(out.splitlines()[-1]) if out.strip() else {"ok": False}
    return report, seen


def skid(args):
    return [] if args.skid is None else ["--skid", str(args.skid)]


def compare(recorded, first, replayed, second):
    """What both kinds of measurement report."""
    return {
        "same": bool(first and second and first == second and replayed.get("same_state")),
        "landings": recorded.get("landings"),
        "put_off": recorded.get("landings_put_off"),
        "snapshots": recorded.get("snapshots"),
        "exits": recorded.get("exits"),
        "later_rdtsc_closed": recorded.get("later_rdtsc_closed"),
        "log_bytes": recorded.get("log_bytes"),
        "log_entries": recorded.get("log_entries"),
        "record_seconds": recorded.get("seconds"),
        "replay_seconds": replayed.get("seconds"),
        "points": replayed.get("points"),
        "stops": replayed.get("stops"),
        "branches_left": replayed.get("branches_left"),
        "stops_per_branch_median": replayed.get("stops_per_branch_median"),
    }


def storm(args, folder):
    """A storm of interrupts into a tiny guest. Its interrupts fold where they landed into its RAM."""
    kernel = os.path.join(args.guests, "storm.elf")
    symbols = outside.symbols(kernel)
    log = os.path.join(folder, "log")
    kind = "" if args.kind is None else f" kind={args.kind}"
    words = ["--kernel", kernel, "--cmdline", f"ticks={args.ticks} period={args.period}{kind}"]
    words += ["--memory", str(TINY_MIB), "--clock", args.clock, "--console", "none", "--log", log]
    recorded, first = finish(args, start(args, "record", *words), TINY_MIB)
    replayed, second = finish(args, start(args, "replay", "--log", log, *skid(args)), TINY_MIB)
    elsewhere = args.ticks
    if first and second:
        ram, other = first[1], second[1]

        def history(image):
            return struct.unpack_from(f"<{HISTORY}Q", image, symbols["history"])

        elsewhere = sum(a != b for a, b in zip(history(ram), history(other), strict=True))
        (ticks,) = struct.unpack_from("<Q", ram, symbols["ticks"])
        assert ticks >= args.ticks, f"the guest counted {ticks} interrupts"
    result = compare(recorded, first, replayed, second)
    # One that landed elsewhere changes the checksum of all that follow.
    return {"storm": args.name, "interrupts": args.ticks, "landed_elsewhere": elsewhere} | result


def ask(path):
    """The status of a running ftd; None before it listens."""
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(path)
            control.sendall(b'{"ask":"status"}\n')
            return json.loads(control.makefile("r").readline())
    except (OSError, ValueError):
        return None


def over(args, folder):
    """A storm into a replicated guest, whose backup takes its counter for better than it is: points that it
    runs by are repaired by a new copy. Both copies are compared when the guest stands still at the end."""
    kernel = os.path.join(args.guests, "storm.elf")
    symbols = outside.symbols(kernel)
    path = {name: os.path.join(folder, name) for name in ("console", "primary", "backup", "shared")}
    os.mkdir(path["shared"])
    common = ["--memory", str(TINY_MIB), "--clock", args.clock, "--shared", path["shared"], "--detect-ms", "20000"]
    live = ["primary", "--kernel", kernel, "--cmdline", f"ticks={args.ticks} period={args.period} wait", *common]
    live += ["--listen", "127.0.0.1:7700", "--wait-backup", "--console", f"file:{path['console']}"]
    replica = ["backup", "--log-from", "127.0.0.1:7700", *common, "--console", "none", *skid(args)]
    quiet = dict(os.environ, FTD_LOG="error")
    primary = subprocess.Popen([args.ftd, *live, "--control", path["primary"]], env=quiet)
    backup = subprocess.Popen([args.ftd, *replica, "--control", path["backup"]], env=quiet)
    try:
        began, settled = time.monotonic(), 0
        while settled < 3:
            if time.monotonic() - began > args.seconds_max or primary.poll() is not None or backup.poll() is not None:
                raise TimeoutError("the storm did not end on both sides")
            time.sleep(1)
            said = open(path["console"], encoding="utf-8").read() if os.path.exists(path["console"]) else ""
            status, replica = ask(path["primary"]), ask(path["backup"])
            done = "storm: rounds=" in said and status and replica and status["protected"]
            settled = settled + 1 if done and replica["lag_epochs"] == 0 and status["lag_epochs"] == 0 else 0
        seen = []
        for process in (primary, backup):
            os.kill(process.pid, signal.SIGSTOP)
            seen.append(outside.look(process.pid, TINY_MIB << 20))
    finally:
        for process in (primary, backup):
            process.kill()
            process.wait()
    (first, ram), (second, other) = seen
    different = [hex(at) for at in range(0, len(ram), 8) if ram[at : at + 8] != other[at : at + 8]]
    histories = [struct.unpack_from(f"<{HISTORY}Q", ram, symbols["history"]) for _, ram in seen]
    return {
        "storm": args.name,
        "interrupts": status["landings"],
        "landings": status["landings"],
        "snapshots": status["snapshots"],
        "landed_elsewhere": sum(a != b for a, b in zip(*histories, strict=True)),
        "overshoots": replica["divergences"],
        "same": first == second and not different,
        "registers": [f"{number}: {a:#x} {b:#x}" for number, (a, b) in enumerate(zip(first, second)) if a != b],
        "different_ram": different[:20],
        "log_entries": status["log_entries"],
        "log_bytes": status["log_bytes"],
        "stops_per_branch_median": None,
    }


def requests(count):
    """Waits for the guest's Redis, then writes and reads."""
    began = time.monotonic()
    while time.monotonic() - began < BOOT_SECONDS_MAX:
        try:
            with socket.create_connection(GUEST, 1) as redis:
                redis.settimeout(30)
                redis.sendall(b"PING\r\n")
                if b"PONG" not in redis.recv(64):
                    continue
                answered = time.monotonic() - began
                for number in range(count):
                    key = b"k%d" % (number % 100)
                    redis.sendall(b"SET %s %d\r\n" % (key, number) if number % 5 == 0 else b"GET %s\r\n" % key)
                    redis.recv(4096)
                return answered
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the guest's Redis does not answer")


def wait_for(console, text, process):
    """Waits until the guest has said `text`: the line."""
    began = time.monotonic()
    while time.monotonic() - began < BOOT_SECONDS_MAX and process.poll() is None:
        with open(console, encoding="utf-8", errors="replace") as said:
            found = [line.strip() for line in said if text in line]
        if found:
            return found[0]
        time.sleep(0.5)
    raise TimeoutError(f"the guest does not say {text!r}")


def boot(args, folder):
    """A Debian guest, from power-on through requests to its Redis beside a load of its own."""
    disk, log = os.path.join(folder, "disk.raw"), os.path.join(folder, "log")
    console = os.path.join(folder, "console")
    images.copy(args.image, disk)
    guest_loads.install(disk, args.load, args.count, args.guests)
    words = ["--image", disk, "--memory", str(DEBIAN_MIB), "--bridge", "br0", "--clock", args.clock]
    process = start(args, "record", *words, "--console", f"file:{console}", "--log", log)
    try:
        answered = requests(args.requests)
        ended = wait_for(console, guest_loads.DONE, process)
        process.send_signal(signal.SIGTERM)
        recorded, first = finish(args, process, DEBIAN_MIB)
    finally:
        process.kill()
    os.remove(disk)
    replayed, second = finish(args, start(args, "replay", "--log", log, *skid(args)), DEBIAN_MIB)
    result = compare(recorded, first, replayed, second)
    about = {"boot": args.name, "load": args.load, "requests": args.requests, "answer_seconds": answered, "said": ended}
    return about | result


def memtest(args, folder):
    """memtest86+, which nobody here wrote: it polls, and is typed at at random moments. Its log is replayed."""
    log, console = os.path.join(folder, "log"), os.path.join(folder, "console")
    words = ["--kernel", args.image, "--cmdline", "console=ttyS0,115200 nosmp", "--memory", str(TINY_MIB)]
    words += ["--clock", args.clock, "--console", f"unix:{console}", "--log", log, "--stop-after", str(args.seconds)]
    # It has no user space, to which the time-stamp counter could be open.
    process = start(args, "record", *words, "--accept-open-tsc")
    said, typed, random = b"", 0, Random(1)
    try:
        while not os.path.exists(console) and process.poll() is None:
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as terminal:
            terminal.connect(console)
            terminal.settimeout(0.01)
            # It has stopped itself once the guest stands still.
            while process.poll() is None and outside.state_of(process.pid) != "T":
                try:
                    said += terminal.recv(65536)
                except TimeoutError:
                    if random.random() < 0.2:
                        terminal.send(b" ")  # Scroll lock.
                        typed += 1
        recorded, first = finish(args, process, TINY_MIB)
    finally:
        process.kill()
    replayed, second = finish(args, start(args, "replay", "--log", log, *skid(args)), TINY_MIB)
    tests = sorted(set(re.findall(rb"#\d+ +\[[^\]]*\]", said)))
    result = compare(recorded, first, replayed, second)
    return {"memtest": args.name, "typed": typed, "tests": [test.decode() for test in tests]} | result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("storm", "over", "boot", "memtest"))
    parser.add_argument("--name", default="")
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--guests")
    parser.add_argument("--image")
    parser.add_argument("--clock", default="pmu")
    parser.add_argument("--skid", type=int)
    parser.add_argument("--ticks", type=int, default=1000)
    parser.add_argument("--period", type=int, default=200_000)
    parser.add_argument("--kind", type=int, help="only this kind of work, see storm.s")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--load", choices=sorted(guest_loads.LOADS), default="compile")
    parser.add_argument("--count", type=int, default=20, help="how big the load is")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds-max", type=int, default=3600)
    args = parser.parse_args()
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            result = {"storm": storm, "over": over, "boot": boot, "memtest": memtest}[args.what](args, folder)
        say(f"{args.what} {args.name} {number + 1}/{args.rounds}: same {result['same']}")
        print(json.dumps(result), flush=True)


main()
