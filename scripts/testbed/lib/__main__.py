"""The command line of the testbed."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import instance as instances
import network
import provision
import session
from common import TestbedError, die_with_parent, enter_namespace, need_root, say

FAILED = 125  # the testbed itself failed; anything else is the command's own status


def parser():
    top = argparse.ArgumentParser(prog="testbed", description="Emulated hosts with upstream KVM.")
    top.add_argument("--name", help="which instance (default: $FTD_TESTBED, or default)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, host=False, trailing=None):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if host:
            sub.add_argument("host", metavar="HOST", help="host1, host2, ...")
        if trailing:
            sub.add_argument("argv", nargs="*", metavar="-- CMD", help="what to run, with its arguments")
            sub.set_defaults(needs_argv=trailing == "+")
        return sub

    def machine_options(sub):
        sub.add_argument("--hosts", type=int, default=1, metavar="N")
        sub.add_argument("--cpus", type=int, default=1, metavar="N")
        sub.add_argument("--memory", type=int, default=3072, metavar="MiB")
        sub.add_argument("--disk", action="append", default=[], metavar="FILE",
                         help="raw file every host has as /dev/vda, vdb, ... (repeatable)")
        sub.add_argument("--share", action="append", default=[], metavar="DIR",
                         help="directory below /tmp or /run to keep visible in hosts (repeatable)")
        sub.add_argument("--pmu", action="store_true",
                         help="emulate a performance counter: virtual time, one CPU")
        sub.add_argument("--root-cache", choices=("mmap", "loose", "none"), default="mmap",
                         help="9p cache of the root: loose is faster and misses later outside changes")

    command("setup", "fetch and build all that hosts are made of")
    command("build-qemu", "build the patched QEMU, or say where it is")
    sub = command("up", "power on hosts and wait until they run commands")
    machine_options(sub)
    sub.add_argument("--json", action="store_true")
    sub = command("run", "up, run CMD, down; returns the status of CMD", trailing="+")
    machine_options(sub)
    sub.add_argument("--client", action="store_true", help="run CMD in the namespace, not on host1")
    sub.add_argument("--env", action="append", default=[], metavar="K=V")
    sub.add_argument("--limit", type=int, metavar="S", help="fail with the hosts' consoles after S seconds")
    sub = command("exec", "run CMD on a host; returns its status", host=True, trailing="+")
    sub.add_argument("--env", action="append", default=[], metavar="K=V")
    sub.add_argument("--cwd", help="directory (default: the caller's, or /)")
    sub.add_argument("-i", "--stdin", action="store_true", help="give CMD this program's input")
    sub.add_argument("-d", "--detach", action="store_true", help="leave CMD running; prints its pid")
    sub.add_argument("--output", metavar="FILE", help="with --detach: CMD's output, a file on the host")
    command("shell", "an interactive shell on a host", host=True, trailing="*")
    command("client", "run CMD in the namespace, where a guest's clients are", trailing="+")
    sub = command("kill", "cut the power of a host at once", host=True)
    sub.add_argument("--json", action="store_true", help="print when, in seconds since 1970")
    command("start", "power a host on again and wait for it", host=True)
    command("freeze", "stop a host's CPUs without its knowledge", host=True)
    command("thaw", "let a frozen host go on", host=True)
    for name, text in (("cut", "drop what a host sends or gets"), ("restore", "undo cut and netem")):
        sub = command(name, text, host=True)
        sub.add_argument("--net", action="append", metavar="log|lan|mgmt|all",
                         help="default: log for cut, every net for restore")
        sub.add_argument("--direction", choices=("in", "out", "both"), default="both")
        sub.add_argument("--json", action="store_true", help="print when, in seconds since 1970")
    for name, unit in (("delay", "MS"), ("loss", "PERCENT"), ("rate", "MBIT")):
        sub = command(name, f"{name} of what a host sends (0: none)", host=True)
        sub.add_argument("value", type=float, metavar=unit)
        sub.add_argument("--net", action="append", metavar="log|lan|mgmt")
        if name == "delay":
            sub.add_argument("--jitter", type=float, metavar="MS")
    sub = command("status", "what is up")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--all", action="store_true", help="names of all instances")
    command("logs", "the console of a host", host=True)
    command("down", "power off the hosts and remove every trace")
    return top


def parse(words):
    """What follows the first -- is the command to run, untouched, whatever it contains."""
    split = words.index("--") if "--" in words else len(words)
    top = parser()
    args = top.parse_args(words[:split])
    if hasattr(args, "argv"):
        args.argv += words[split + 1 :]
        if args.needs_argv and not args.argv:
            top.error(f"{args.command}: no command to run after --")
    elif words[split + 1 :]:
        top.error(f"{args.command} runs no command")
    return args


def machine_options(args):
    if not 1 <= args.hosts <= instances.HOSTS_MAX:
        raise TestbedError(f"--hosts: 1 to {instances.HOSTS_MAX}")
    if args.pmu and args.cpus != 1:
        raise TestbedError("--pmu: one CPU only, the instruction clock stalls with more")
    disks = []
    for disk in args.disk:
        if not os.path.exists(disk):
            raise TestbedError(f"--disk {disk}: no such file")
        disks.append(os.path.realpath(disk))
    return {
        "hosts": args.hosts,
        "cpus": args.cpus,
        "memory_mib": args.memory,
        "disks": disks,
        "pmu": args.pmu,
        "shares": instances.shares(args.share),
        "root_cache": args.root_cache,
    }


def environment(pairs):
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise TestbedError(f"--env {pair}: must be K=V")
        result[key] = value
    return result


def client(namespace, name, argv, extra=None):
    """Runs argv in the namespace as a child and returns its status; signals pass through to it."""
    env = dict(os.environ, FTD_TESTBED=name, **(extra or {}))

    def prepare():
        enter_namespace(namespace)
        die_with_parent(signal.SIGTERM)

    try:
        child = subprocess.Popen(argv, env=env, preexec_fn=prepare)
    except OSError as error:
        raise TestbedError(f"cannot run {argv[0]}: {error.strerror}") from error
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        previous[number] = signal.signal(number, lambda number, _: child.send_signal(number))
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def run_once(args):
    """up, CMD, down: whatever ends this, nothing stays behind."""
    options = machine_options(args)
    chosen = instances.Instance(args.name or f"run-{os.getpid()}")

    def interrupted(number, _frame):
        raise KeyboardInterrupt(number)

    def too_late(*_):
        evidence = "\n".join(
            f"{host.name} takes {host.load():.0%} of a CPU\n{host.evidence()}" for host in chosen.hosts()
        )
        raise TestbedError(f"{args.argv[0]} has not ended within {args.limit} s\n{evidence}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    chosen.up(options, with_parent=True)
    try:
        if args.limit:
            signal.signal(signal.SIGALRM, too_late)
            signal.alarm(args.limit)
        if args.client:
            return client(chosen.namespace, chosen.name, args.argv, environment(args.env))
        status, _ = session.execute(chosen.host(1), args.argv, environment(args.env))
        return status
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        chosen.down()


def print_status(chosen, as_json):
    state = chosen.status()
    if as_json:
        print(json.dumps(state))
        return
    options = state["options"]
    print(f"{state['name']}: namespace {state['namespace']}, {options['cpus']} CPU and "
          f"{options['memory_mib']} MiB a host{', pmu' if options['pmu'] else ''}, state in {state['directory']}")
    for host in state["hosts"]:
        notes = [f"cut {cut}" for cut in host["cuts"]]
        notes += [f"netem {net} {values}" for net, values in host["netem"].items()]
        print(f"  {host['name']} {host['power']:3} pid {host['pid'] or '-':>7}  "
              f"log {host['addresses']['log']}  lan {host['addresses']['lan']}  {'; '.join(notes)}")


def dispatch(args):
    if args.command == "setup":
        qemu, kernel, initramfs = provision.ensure_all()
        say(f"ready: {qemu}, {kernel}, {initramfs}")
        return 0
    if args.command == "build-qemu":
        print(provision.ensure_qemu())
        return 0
    if args.command == "status" and args.all:
        names = instances.all_names()
        print(json.dumps(names) if args.json else "\n".join(names))
        return 0
    need_root()
    if args.command == "run":
        return run_once(args)
    chosen = instances.Instance(args.name or os.environ.get("FTD_TESTBED") or "default")
    if args.command == "up":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        chosen.up(machine_options(args))
        if args.json:
            print_status(chosen, True)
        return 0
    if args.command == "down":
        chosen.down()
        return 0
    if args.command == "status":
        print_status(chosen, args.json)
        return 0
    if args.command == "client":
        chosen.config()
        return client(chosen.namespace, chosen.name, args.argv)
    return on_host(args, chosen, chosen.host_named(args.host))


def print_time(args, at):
    if args.json:
        print(json.dumps({"host": args.host, "command": args.command, "at_unix_s": at}))


def on_host(args, chosen, host):
    if args.command == "exec":
        output = (args.output or "/dev/null") if args.detach else None
        stdin = 0 if args.stdin else None
        status, pid = session.execute(
            host, args.argv, environment(args.env), args.cwd, stdin, output=output
        )
        if pid is not None:
            print(pid)
        return status
    if args.command == "shell":
        return session.execute(host, args.argv or ["bash"], stdin=0, terminal=True)[0]
    if args.command == "kill":
        at = time.time()
        if not host.kill():
            raise TestbedError(f"{host.name} is already off")
        print_time(args, at)
    elif args.command == "start":
        chosen.start(host.name)
    elif args.command in ("freeze", "thaw"):
        host.signal(signal.SIGSTOP if args.command == "freeze" else signal.SIGCONT)
    elif args.command in ("cut", "restore"):
        directions = network.DIRECTIONS if args.direction == "both" else (args.direction,)
        with chosen.lock():
            at = time.time()
            if args.command == "cut":
                for net in network.nets_named(args.net, ["log"]):
                    network.cut(chosen.namespace, host.number, net, directions)
            else:
                chosen.heal(host, network.nets_named(args.net, network.NETS), directions)
        print_time(args, at)
    elif args.command in ("delay", "loss", "rate"):
        key = {"delay": "delay_ms", "loss": "loss_percent", "rate": "rate_mbit"}[args.command]
        change = {key: args.value}
        if args.command == "delay":
            change["jitter_ms"] = args.jitter
        with chosen.lock():
            for net in network.nets_named(args.net, ["log"]):
                chosen.netem(host, net, **change)
    elif args.command == "logs":
        with open(host.console, "rb") as handle:
            sys.stdout.buffer.write(handle.read())
    return 0


def main():
    try:
        status = dispatch(parse(sys.argv[1:]))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt as stop:
        status = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    sys.exit(status)


main()
