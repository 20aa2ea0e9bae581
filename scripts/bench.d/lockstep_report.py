"""Sums up what lockstep.py measured: JSON lines in, the report out."""

import json
import statistics
import sys

measured = [json.loads(line) for line in sys.stdin if line.strip()]
storms = [m for m in measured if "storm" in m]
boots = [m for m in measured if "boot" in m]
entries = sum(m["log_entries"] or 0 for m in storms)
medians = [m["stops_per_branch_median"] for m in measured if m["stops_per_branch_median"]]
report = {
    "ok": bool(measured) and all(m["same"] for m in measured),
    "async_interrupts": sum(m["landings"] or 0 for m in measured),
    "landed_elsewhere": sum(m["landed_elsewhere"] for m in storms),
    "boots_replayed": len(boots),
    "boots_identical": sum(m["same"] for m in boots),
    "stops_per_branch_median": statistics.median(medians) if medians else None,
    "replay_over_record_time": [
        round(m["replay_seconds"] / m["record_seconds"], 3)
        for m in boots
        if m["replay_seconds"] and m["record_seconds"]
    ],
    "clock": "pmu",
    "measured": measured,
}
if "--json" in sys.argv[1:]:
    print(json.dumps(report))
else:
    for name, value in report.items():
        if name != "measured":
            print(f"{name:>24}  {value}")
sys.exit(0 if report["ok"] else 1)
