"""Runs on an emulated host with a performance counter: records guests and replays them, and looks from
outside whether both ended alike."""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import outside

RAM_MIB = 16
HISTORY = 512


def say(text):
    print(text, file=sys.stderr, flush=True)


def held_run(args, words, seconds):
    """Runs ftd to where its guest has ended; (its report, (hash, registers, RAM))."""
    process = subprocess.Popen([args.ftd, *words, "--hold", "--json"], stdout=subprocess.PIPE, text=True)
    seen = None
    if outside.wait_until_held(process, seconds):
        seen = outside.look(process.pid, RAM_MIB << 20)
        outside.go_on(process)
    out, _ = process.communicate(timeout=600)
    report = json.loads(out.splitlines()[-1]) if out.strip() else {"ok": False}
    return report, seen


def word(ram, symbols, name, index=0):
    return struct.unpack_from("<Q", ram, symbols[name] + 8 * index)[0]


def storm(args, folder, name, ticks, period, kind=None, more=()):
    """One storm of interrupts, recorded and replayed."""
    kernel = os.path.join(args.guests, "storm.elf")
    symbols = outside.symbols(kernel)
    log = os.path.join(folder, "log")
    options = f"ticks={ticks} period={period}" + ("" if kind is None else f" kind={kind}")
    guest = ["--kernel", kernel, "--cmdline", options, "--memory", str(RAM_MIB), "--clock", args.clock]
    recorded, first = held_run(
        args, ["record", *guest, "--console", "none", "--log", log], args.seconds_max
    )
    skid = [] if args.skid is None else ["--skid", str(args.skid)]
    replayed, second = held_run(args, ["replay", "--log", log, *skid, *more], args.seconds_max)
    result = {
        "storm": name,
        "interrupts": ticks,
        "landings": recorded.get("landings"),
        "put_off": recorded.get("landings_put_off"),
        "exits": recorded.get("exits"),
        "snapshots": recorded.get("snapshots"),
        "log_bytes": recorded.get("log_bytes"),
        "log_entries": recorded.get("log_entries"),
        "record_seconds": recorded.get("seconds"),
        "replay_seconds": replayed.get("seconds"),
        "points": replayed.get("points"),
        "stops": replayed.get("stops"),
        "branches_left": replayed.get("branches_left"),
        "stops_per_branch_median": replayed.get("stops_per_branch_median"),
        "same": False,
        "elsewhere": None,
    }
    if first and second:
        result["ticks_seen"] = [word(ram, symbols, "ticks") for _, _, ram in (first, second)]
        histories = [
            [word(ram, symbols, "history", i) for i in range(HISTORY)] for _, _, ram in (first, second)
        ]
        result["elsewhere"] = sum(a != b for a, b in zip(*histories, strict=True))
        result["same"] = first[:2] == second[:2] and replayed.get("same_state") is True
    os.remove(log)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--guests", required=True)
    parser.add_argument("--clock", default="pmu")
    parser.add_argument("--skid", type=int)
    parser.add_argument("--ticks", type=int, default=1000)
    parser.add_argument("--period", type=int, default=200_000)
    parser.add_argument("--kind", type=int)
    parser.add_argument("--seconds-max", type=int, default=600)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = storm(args, folder, "storm", args.ticks, args.period, args.kind)
    print(json.dumps(result))
    sys.exit(0 if result["same"] else 1)


main()
