"""What samples of a running daemon's status say about its log and its backup's lag."""

import statistics


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


def of(samples, load):
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
