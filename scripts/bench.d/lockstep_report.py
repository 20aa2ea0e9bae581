"""Sums up what lockstep.py and replicated.py measured: JSON lines in, the report out."""

import argparse
import json
import statistics
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--boots", type=int, required=True)
parser.add_argument("--clocks", type=int, required=True)
parser.add_argument("--memtests", type=int, required=True)
parser.add_argument("--jvms", type=int, required=True)
parser.add_argument("--json", action="store_true")
args = parser.parse_args()
measured = [json.loads(line) for line in sys.stdin if line.strip()]
storms = [m for m in measured if "storm" in m]
memtests = [m for m in measured if "memtest" in m]
boots = [m for m in measured if m.get("load") == "compile"]
jvms = [m for m in measured if m.get("load") == "jvm"]
replicated = {m["replicated"]: m for m in measured if "replicated" in m}
medians = [m["stops_per_branch_median"] for m in storms + boots if m["stops_per_branch_median"]]


def figures(clock):
    """What a replicated guest costs under `clock`."""
    found = replicated.get(clock)
    if not found:
        return {}
    lags = [lag for lag in found["lag"].values() if lag]
    return {
        "ft_ratio_compute": found["ratio"]["compute"],
        "ft_ratio_fork": found["ratio"]["fork"],
        # The same loads under QEMU on the same host, whose KVM is the same: its time, by that of the replicated guest.
        "qemu_ratio_compute": found["ratio_qemu"]["compute"],
        "qemu_ratio_fork": found["ratio_qemu"]["fork"],
        # Of two emulated hosts, which go at different speeds; the guest then waits for its backup.
        "ft_ratio_compute_paced": found["ratio_paced"]["compute"],
        "ft_ratio_fork_paced": found["ratio_paced"]["fork"],
        "idle_log_mbit_s": found["idle_log_mbit_s"],
        "bytes_per_entry": found["idle_bytes_per_entry"],
        "lag_ms_median": statistics.median(lag["median_ms"] for lag in lags) if lags else None,
        "lag_ms_p99": max(lag["p99_ms"] for lag in lags) if lags else None,
        # Over how long, in the hosts' time: the shortest of the loads.
        "lag_seconds": min(lag["seconds"] for lag in lags) if lags else None,
        "lag_grows": any(lag["grows"] for lag in lags) if lags else None,
        "snapshots": found["snapshots"],
        "divergences": found["divergences"],
    }


over = [m for m in storms if "overshoots" in m]
report = {
    # Five storms, and what was asked for; what broke off isn't there.
    "ok": (len(storms), len(boots), len(jvms), len(memtests), len(replicated))
    == (5, args.boots, args.jvms, args.memtests, args.clocks)
    and all(m["same"] for m in storms + boots + jvms + memtests)
    and all(m["later_rdtsc_closed"] and "tsc: ok" in m["said"] for m in boots)
    and all(m["divergences"] == 0 for m in replicated.values()),
    "async_interrupts": sum(m["landings"] or 0 for m in storms + boots + jvms + memtests),
    "landed_elsewhere": sum(m["landed_elsewhere"] for m in storms),
    "over_skid_interrupts": sum(m["interrupts"] for m in over),
    "overshoots_repaired": sum(m["overshoots"] for m in over),
    "boots_replayed": len(boots),
    "boots_identical": sum(m["same"] for m in boots),
    # In kernel modules, as they were loaded; the least of all boots.
    "module_rdtsc_closed": min((m["later_rdtsc_closed"] or 0 for m in boots), default=0),
    # RDTSC and RDTSCP in a loop in user space.
    "user_rdtsc_ok": all("tsc: ok" in m["said"] for m in boots),
    "memtest_identical": all(m["same"] for m in memtests) if memtests else None,
    "jvm_identical": all(m["same"] for m in jvms) if jvms else None,
    "jvm_landings": sum(m["landings"] or 0 for m in jvms),
    "memtest_landings": sum(m["landings"] or 0 for m in memtests),
    "stops_per_branch_median": statistics.median(medians) if medians else None,
    "replay_over_record_time": [
        round(m["replay_seconds"] / m["record_seconds"], 3)
        for m in boots
        if m["replay_seconds"] and m["record_seconds"]
    ],
    **figures("pmu"),
    "clock": "pmu",
    "exit_clock": figures("exit"),
    "measured": measured,
}
if args.json:
    print(json.dumps(report))
else:
    for name, value in report.items():
        if name != "measured":
            print(f"{name:>24}  {value}")
sys.exit(0 if report["ok"] else 1)
