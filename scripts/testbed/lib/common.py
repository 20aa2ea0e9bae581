"""What every part of the testbed shares: errors, messages, places and running programs."""

import ctypes
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
STARTED = time.monotonic()
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


class TestbedError(Exception):
    """Something the person at the keyboard should read; ends the command with status 125."""


def say(message):
    """A line of progress on standard error."""
    print(f"testbed [{time.monotonic() - STARTED:6.2f}s] {message}", file=sys.stderr, flush=True)


def cache_dir(*parts):
    """A path in the cache outside the checkout; its directory is made."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    base = os.environ.get("FTD_CACHE") or os.path.join(home, "ftd")
    path = os.path.join(os.path.abspath(base), "testbed", *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def need_root():
    if os.geteuid() != 0:
        raise TestbedError("needs root (network namespaces, TAPs and the machine's root over 9p): use sudo")


def enter_namespace(name):
    """Moves the calling thread to the network namespace `name`."""
    try:
        with open(f"/run/netns/{name}", "rb") as handle:
            if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
    except OSError as error:
        raise TestbedError(f"cannot enter the network namespace {name}: {error.strerror}") from error


def in_namespace(name, action):
    """Returns action() called inside the namespace; the caller stays where it was."""
    with open("/proc/thread-self/ns/net", "rb") as home:
        enter_namespace(name)
        try:
            return action()
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def die_with_parent(number):
    """For a child before its exec: get signal `number` when the parent dies."""
    libc.prctl(PR_SET_PDEATHSIG, number)


def run(argv, namespace=None, text_in=None, check=True):
    """Runs a program quietly; its output is returned, and is the message if it fails."""
    enter = (lambda: enter_namespace(namespace)) if namespace else None
    try:
        done = subprocess.run(
            argv, input=text_in, capture_output=True, text=True, preexec_fn=enter, check=False
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{argv[0]} is missing: run `testbed setup`") from error
    if check and done.returncode != 0:
        raise TestbedError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def tail(path, lines):
    """The last lines of a file as text, for error messages."""
    try:
        with open(path, "rb") as handle:
            return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
