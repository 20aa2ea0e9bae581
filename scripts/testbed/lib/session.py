"""The client's end of the agent's protocol (agent.py tells it): `testbed exec` and `testbed shell`."""

import contextlib
import os
import select
import signal
import socket
import termios
import time
import tty

import network
from common import TestbedError, in_namespace

PORT = 7077
CONNECT_SECONDS = 10
UNSENT_MAX_BYTES = 1 << 20


class Lost(TestbedError):
    """The host went away while a command ran on it."""


class Session:
    def __init__(self, host):
        self.host = host
        pid = host.pid()
        if pid is None:
            raise TestbedError(f"{host.name} is off")
        self.power = os.pidfd_open(pid)
        self.buffer = bytearray()
        self.unsent = bytearray()
        self.wake, self.wake_write = os.pipe()  # a signal's frame has been queued
        os.set_blocking(self.wake_write, False)
        self.connection = in_namespace(host.namespace, self.connect)

    def connect(self):
        address = (network.address(self.host.number, "mgmt"), PORT)
        connection = socket.socket()
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(address)
        except OSError as error:
            raise TestbedError(f"{self.host.name} does not answer on its mgmt net: {error}") from error
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, kind, payload=b""):
        """Queues a frame; run() sends it when the agent takes it, and reads meanwhile."""
        self.unsent += kind + len(payload).to_bytes(4, "big") + payload

    def run(self, request, stdin, stdout, stderr):
        """Runs the command of the request frames; returns its status and, if it was left running, its pid."""
        for kind, text in [*request, (b"g", "")]:
            self.send(kind, text.encode("utf-8", "surrogateescape"))
        pid = None
        sinks = {b"o": stdout, b"e": stderr}
        with signals_to(self):
            while True:
                watched = [self.connection, self.power, self.wake]
                if stdin is not None and len(self.unsent) < UNSENT_MAX_BYTES:
                    watched.append(stdin)
                writable = [self.connection] if self.unsent else []
                ready, can_send, _ = select.select(watched, writable, [])
                if self.wake in ready:
                    os.read(self.wake, 64)
                if stdin in ready:
                    data = os.read(stdin, 65536)
                    self.send(b"i", data)
                    if not data:
                        stdin = None
                if self.connection in ready:
                    for kind, payload in self.receive():
                        if kind == b"x":
                            return int(payload), pid
                        if kind == b"E":
                            raise TestbedError(f"{self.host.name}: {payload.decode(errors='replace')}")
                        if kind == b"p":
                            pid = int(payload)
                        else:
                            write_all(sinks[kind], payload)
                elif self.power in ready:
                    raise Lost(f"{self.host.name} lost its power while the command ran")
                if can_send:
                    self.flush()

    def flush(self):
        try:
            del self.unsent[: self.connection.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()  # the reading side reports it

    def receive(self):
        try:
            data = self.connection.recv(262144)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise Lost(f"{self.host.name}: its agent closed the connection")
        self.buffer += data
        return list(self.frames())

    def frames(self):
        while len(self.buffer) >= 5:
            end = 5 + int.from_bytes(self.buffer[1:5], "big")
            if len(self.buffer) < end:
                return
            frame = bytes(self.buffer[0:1]), bytes(self.buffer[5:end])
            del self.buffer[:end]
            yield frame

    def close(self):
        self.connection.close()
        for descriptor in (self.power, self.wake, self.wake_write):
            os.close(descriptor)


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def signals_to(session):
    """Hands INT, TERM, HUP and QUIT on to the command, whose end then ends this program."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    previous = {}

    def forward(number, _frame):
        session.send(b"s", str(number).encode())
        os.write(session.wake_write, b"!")

    for number in numbers:
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


def execute(host, argv, env=None, cwd=None, stdin=None, terminal=False, output=None, stdout=1, stderr=2):
    """Runs argv on the host; returns its status and None.

    Its output flows to the descriptors stdout and stderr, its input comes from stdin if that is given.
    With `output`, a file on the host, it is left running instead and the second value is its pid.
    """
    request = [(b"a", word) for word in argv]
    request += [(b"v", f"{key}={value}") for key, value in (env or {}).items()]
    request.append((b"c", os.getcwd()) if cwd is None else (b"C", cwd))
    with contextlib.ExitStack() as stack:
        if terminal and os.isatty(0):
            size = os.get_terminal_size(0)
            request.append((b"T", f"{size.lines} {size.columns}"))
            request.append((b"v", f"TERM={os.environ.get('TERM', 'dumb')}"))
            stack.enter_context(raw_terminal())
        if stdin is not None:
            request.append((b"I", ""))
        if output is not None:
            request.append((b"D", output))
        session = Session(host)
        stack.callback(session.close)
        return session.run(request, stdin, stdout, stderr)


def set_clock(host):
    """Sets the host's clock to this machine's, to within half a round trip (its RTC counts seconds)."""
    session = Session(host)
    connection = session.connection
    connection.settimeout(CONNECT_SECONDS)

    def exchange(kind, text):
        session.send(kind, text.encode())
        began = time.time_ns()
        connection.sendall(session.unsent)
        session.unsent.clear()
        if not connection.recv(64):
            raise Lost(f"{host.name}: its agent closed the connection")
        return time.time_ns() - began

    try:
        round_trip = min(exchange(b"n", "") for _ in range(4))
        exchange(b"t", str(time.time_ns() + round_trip // 2))
    except OSError as error:
        raise TestbedError(f"{host.name}: its agent does not answer: {error}") from error
    finally:
        session.close()


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
