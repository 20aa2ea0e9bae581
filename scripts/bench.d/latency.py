"""What the output rule adds to an answer's latency: a tiny guest that echoes datagrams, on this machine's own KVM, alone
and with a backup, in a network namespace of its own. Runs itself again in there."""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

GUEST = ("10.77.2.100", 7)
HERE = "10.77.2.1"
LOG = "127.0.0.1:7700"
SECONDS_MAX = 60
INSIDE = "FTD_BENCH_NAMESPACE"
SET_UP = (
    "ip link set lo up && ip link add br0 address 02:00:00:00:00:01 type bridge && "
    f"ip addr add {HERE}/24 dev br0 && ip link set br0 up"
)
SHARES = (1, 10, 25, 50, 75, 90, 99)


def say(text):
    print(text, file=sys.stderr, flush=True)


def ask(count, connection):
    """Microseconds of `count` questions, one after the other."""
    took = []
    for number in range(count):
        question = b"question %08d" % number
        began = time.perf_counter_ns()
        connection.send(question)
        while connection.recv(2048) != question:
            pass  # Of one that was asked again.
        took.append((time.perf_counter_ns() - began) / 1000)
    return took


def answered(connection, processes):
    """Waits until the guest answers."""
    connection.settimeout(0.2)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS_MAX:
        for process in processes:
            if process.poll() is not None:
                sys.exit(f"ftd ended with status {process.returncode}")
        try:
            connection.send(b"hello")
            connection.recv(2048)
            break
        except (TimeoutError, OSError):
            time.sleep(0.05)
    else:
        sys.exit("the guest does not answer")
    time.sleep(0.5)
    connection.setblocking(False)
    try:
        while True:
            connection.recv(2048)
    except BlockingIOError:
        connection.settimeout(10)


def ask_guest(commands, count):
    """Asks the guest that these commands run, once all of them are up."""
    quiet = dict(os.environ, FTD_LOG="error")
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL))
            time.sleep(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.connect(GUEST)
            answered(connection, processes)
            ask(count // 10, connection)
            return ask(count, connection)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def round_trips(count):
    """The same between two threads of two processes over loopback TCP: what a logging channel here takes at least."""
    code = (
        "import socket, sys\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
        "while True:\n"
        "    data = s.recv(2048)\n"
        "    if not data: break\n"
        "    s.sendall(data)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        echo = subprocess.Popen([sys.executable, "-c", code, str(server.getsockname()[1])])
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask(count // 10, connection)
            took = ask(count, connection)
        echo.wait()
    return took


def inside(args):
    assert os.environ.get(INSIDE), "not in a namespace of its own"
    subprocess.run(["sh", "-c", SET_UP], check=True)
    guest = ["--kernel", os.path.join(args.guests, "net.elf"), "--memory", "16", "--console", "none", "--bridge", "br0"]
    took = {"alone": [], "protected": [], "round_trip": []}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as shared:
            pair = ["--memory", "16", "--console", "none", "--bridge", "br0", "--shared", shared]
            primary = [args.ftd, "primary", *guest, "--shared", shared, "--listen", LOG, "--wait-backup"]
            took["alone"] += ask_guest([[args.ftd, "run", *guest]], args.count)
            took["protected"] += ask_guest([primary, [args.ftd, "backup", "--log-from", LOG, *pair]], args.count)
        took["round_trip"] += round_trips(args.count)
        say(f"round {number + 1}: {({name: round(statistics.median(t[-args.count:]), 1) for name, t in took.items()})} µs")
    shares = {
        name: {f"p{share}": sorted(values)[len(values) * share // 100] for share in SHARES}
        for name, values in took.items()
    }
    added = shares["protected"]["p50"] - shares["alone"]["p50"]
    print(
        json.dumps(
            {
                "questions": len(took["protected"]),
                "microseconds": shares,
                "added_us_median": added,
                "added_beyond_round_trip_us_median": added - shares["round_trip"]["p50"],
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ftd", required=True)
    parser.add_argument("--guests", required=True)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if os.environ.get(INSIDE):
        return inside(args)
    again = ["unshare", "--net", "--map-root-user", "--", sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    done = subprocess.run(again, env=dict(os.environ, **{INSIDE: "1"}), stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    if args.json:
        print(json.dumps(report))
        return None
    print(f"{'µs':>12} " + " ".join(f"{f'p{share}':>8}" for share in SHARES))
    for name, shares in report["microseconds"].items():
        print(f"{name:>12} " + " ".join(f"{value:8.1f}" for value in shares.values()))
    print(f"added in the median: {report['added_us_median']:.1f} µs, of it beyond one round trip ", end="")
    print(f"{report['added_beyond_round_trip_us_median']:.1f} µs")
    return None


main()
