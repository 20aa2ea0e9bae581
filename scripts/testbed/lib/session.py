"""The client's end of the agent's protocol (agent.py tells it): `testbed exec` and `testbed shell`."""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import termios
import tty

import network
from common import TestbedError, in_namespace

PORT = 7077
CONNECT_SECONDS = 10


class Lost(TestbedError):
    """The host went away while a command ran on it."""


class Session:
    def __init__(self, host, request):
        self.host = host
        self.request = request
        pid = host.pid()
        if pid is None:
            raise TestbedError(f"{host.name} is off")
        self.power = os.pidfd_open(pid)
        self.buffer = bytearray()
        self.connection = in_namespace(host.namespace, self.connect)

    def connect(self):
        address = (network.address(self.host.number, "mgmt"), PORT)
        connection = socket.socket()
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(address)
        except OSError as error:
            raise TestbedError(f"{self.host.name} does not answer on its mgmt net: {error}") from error
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, kind, payload=b""):
        try:
            self.connection.sendall(kind + struct.pack(">I", len(payload)) + payload)
        except OSError:
            pass  # the reading side reports it

    def run(self, stdout=1, stderr=2):
        """Runs the command; returns the agent's last frame as a dict."""
        self.connection.sendall(json.dumps(self.request).encode() + b"\n")
        stdin = 0 if self.request.get("stdin") else None
        sinks = {b"o": stdout, b"e": stderr}
        with signals_to(self):
            while True:
                watched = [self.connection, self.power] + ([stdin] if stdin is not None else [])
                ready, _, _ = select.select(watched, [], [])
                if stdin in ready:
                    data = os.read(stdin, 65536)
                    self.send(b"i", data)
                    if not data:
                        stdin = None
                if self.connection in ready:
                    try:
                        data = self.connection.recv(262144)
                    except OSError:
                        data = b""
                    if not data:
                        raise Lost(f"{self.host.name}: its agent closed the connection")
                    self.buffer += data
                    for kind, payload in self.frames():
                        if kind == b"x":
                            return json.loads(payload)
                        write_all(sinks[kind], payload)
                elif self.power in ready:
                    raise Lost(f"{self.host.name} lost its power while the command ran")

    def frames(self):
        while len(self.buffer) >= 5:
            (length,) = struct.unpack_from(">I", self.buffer, 1)
            if len(self.buffer) < 5 + length:
                return
            frame = bytes(self.buffer[0:1]), bytes(self.buffer[5 : 5 + length])
            del self.buffer[: 5 + length]
            yield frame

    def close(self):
        self.connection.close()
        os.close(self.power)


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def signals_to(session):
    """Hands INT, TERM, HUP and QUIT on to the command, whose end then ends this program."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    previous = {}
    for number in numbers:
        forward = lambda number, _frame: session.send(b"s", str(number).encode())
        previous[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raw_terminal():
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def execute(host, argv, env=None, cwd=None, stdin=False, terminal=False, detach=False, output=None,
            stdout=1, stderr=2):
    """Runs argv on the host, bytes flowing to the descriptors; returns (status, last frame)."""
    request = {
        "argv": list(argv),
        "env": dict(env or {}),
        "cwd": cwd or os.getcwd(),
        "cwd_required": cwd is not None,
        "stdin": stdin or terminal,
        "detach": detach,
        "output": output,
    }
    with contextlib.ExitStack() as stack:
        if terminal and os.isatty(0):
            size = os.get_terminal_size(0)
            request.update(terminal=True, size=[size.lines, size.columns])
            request["env"].setdefault("TERM", os.environ.get("TERM", "dumb"))
            stack.enter_context(raw_terminal())
        session = Session(host, request)
        stack.callback(session.close)
        answer = session.run(stdout, stderr)
    if "error" in answer:
        raise TestbedError(f"{host.name}: {answer['error']}")
    return answer["status"], answer


def capture(host, argv):
    """Runs a short command on the host; its output, or an error that quotes it."""
    read_end, write_end = os.pipe()
    try:
        status, _ = execute(host, argv, cwd="/", stdout=write_end, stderr=write_end)
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb") as handle:
        text = handle.read().decode(errors="replace")
    if status != 0:
        raise TestbedError(f"{host.name}: {' '.join(argv)}: {text.strip()}")
    return text
