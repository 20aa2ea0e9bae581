"""Drills in steps, on emulated hosts: what several-drill and service-drill have in common."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTBED = ROOT / "scripts/testbed/testbed"
# The hosts are emulated, and the machine may be busy.
PATIENCE_S = 600


class Failed(Exception):
    """A step did not come out as it should."""


def sh(*command, check=True, **how):
    """What a command prints."""
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, **how)
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def wait_for(what, ready, patience=PATIENCE_S):
    """Until it is so; gives after how many milliseconds."""
    begun = time.monotonic()
    while not ready():
        if time.monotonic() > begun + patience:
            raise Failed(f"{what}: not within {patience} s")
        time.sleep(0.2)
    return round((time.monotonic() - begun) * 1000)


def check(facts, ok):
    """The facts, if they are as they should be."""
    if not ok:
        raise Failed(json.dumps(facts))
    return facts


class Steps:
    """Emulated hosts, and the steps that were taken on them. A drill has run() and tell() besides."""

    def __init__(self, name):
        self.name, self.steps = name, []

    def testbed(self, *words, **how):
        """The testbed's command."""
        return sh(TESTBED, "--name", self.name, *words, **how)

    def step(self, name, what):
        """Takes a step, notes what came of it and gives that."""
        begun = time.monotonic()
        facts = what() or {}
        took = round(time.monotonic() - begun, 1)
        self.steps.append({"step": name, "ok": True, "took_s": took, **facts})
        shown = ", ".join(f"{key} {value}" for key, value in facts.items())
        print(f"ok    {name} ({took} s){': ' if shown else ''}{shown}", file=sys.stderr, flush=True)
        return facts


def options(about, name):
    """The command line of a drill."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--name", default=f"{name}-{os.getpid()}", help="name of the testbed's instance")
    parser.add_argument("--ftd", type=pathlib.Path, help="the program (default: built)")
    parser.add_argument("--journals", action="store_true", help="print what the daemons said at the end")
    return parser


def conduct(drill, parser):
    """All of it: exits with 1 if a step fails. `drill` is a kind of Steps."""
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ftd-drill-") as scratch:
        under_way = drill(args, pathlib.Path(scratch))
        failure = None
        try:
            under_way.run()
        except Failed as why:
            failure = str(why)
            print(f"FAILED {failure}", file=sys.stderr)
        finally:
            if failure or args.journals:
                under_way.tell()
            under_way.testbed("down", check=False)
    if args.json:
        print(json.dumps({"ok": failure is None, "steps": under_way.steps, "failure": failure}))
    else:
        print(f"{len(under_way.steps)} steps passed, {int(failure is not None)} failed")
    sys.exit(failure is not None)
