"""The agent of an emulated host: runs commands for `testbed exec`.

One TCP connection is one command. The first line is a JSON request; after it both ways carry frames:
one byte of type, four bytes of length (big endian), the payload.

  client to agent   i  input of the command (empty: end of input)
                    s  signal number, decimal, for the command's process group
  agent to client   o  output, e  error output
                    x  JSON, last frame: {"status": 0..255} or {"error": "..."}

A connection that breaks ends its command (TERM, then KILL to its process group), so that nothing
outlives the person who asked for it; `detach` is how a command is left running on purpose.
"""

import json
import os
import select
import signal
import socket
import struct
import sys

PORT = 7077
GRACE_SECONDS = 2.0
PENDING_MAX_BYTES = 1 << 20
DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


def send_frame(connection, kind, payload=b""):
    connection.sendall(kind + struct.pack(">I", len(payload)) + payload)


def parse_frames(buffer):
    """Takes the whole frames off the front of the bytearray: a list of (type, payload)."""
    frames = []
    while len(buffer) >= 5:
        (length,) = struct.unpack_from(">I", buffer, 1)
        if len(buffer) < 5 + length:
            break
        frames.append((bytes(buffer[0:1]), bytes(buffer[5 : 5 + length])))
        del buffer[: 5 + length]
    return frames


def enter_command(request, stdin, stdout, stderr, terminal):
    """In the forked child: becomes the command. Does not return."""
    try:
        os.setsid()
        for target, source in ((0, stdin), (1, stdout), (2, stderr)):
            os.dup2(source, target)
        if terminal:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            size = request.get("size")
            if size:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))
        os.closerange(3, 256)
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        cwd = request.get("cwd") or "/"
        try:
            os.chdir(cwd)
        except OSError as error:
            if request.get("cwd_required"):
                os.write(2, f"testbed: cannot enter {cwd}: {error.strerror}\n".encode())
                os._exit(125)
            os.chdir("/")
        env = dict(DEFAULT_ENV)
        env.update(request.get("env") or {})
        argv = request["argv"]
        try:
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(2, f"testbed: cannot run {argv[0]}: {error.strerror}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    finally:
        os._exit(125)


def exit_status(wait_status):
    if os.WIFSIGNALED(wait_status):
        return 128 + os.WTERMSIG(wait_status)
    return os.WEXITSTATUS(wait_status)


def signal_group(pid, number):
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        try:
            os.kill(pid, number)  # before its setsid there is no group yet
        except ProcessLookupError:
            pass


def end_command(pid):
    signal_group(pid, signal.SIGTERM)
    pidfd = os.pidfd_open(pid)
    select.select([pidfd], [], [], GRACE_SECONDS)
    signal_group(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run_detached(connection, request):
    """Starts the command with its output in a file, answers with its pid and lets it run."""
    output = request.get("output") or "/dev/null"
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    pid = os.fork()
    if pid == 0:
        enter_command(request, null, out, out, False)
    send_frame(connection, b"x", json.dumps({"status": 0, "pid": pid}).encode())


class Session:
    """A command in the foreground and the connection its client listens on."""

    def __init__(self, connection, request, early):
        self.connection = connection
        self.buffer = early
        terminal = bool(request.get("terminal"))
        if terminal:
            master, slave = os.openpty()
            child = (slave, slave, slave)
            self.outputs = {master: b"o"}
            self.stdin = master if request.get("stdin") else None
        else:
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            self.outputs = {out_read: b"o", err_read: b"e"}
            if request.get("stdin"):
                in_read, self.stdin = os.pipe()
            else:
                in_read, self.stdin = os.open("/dev/null", os.O_RDONLY), None
            child = (in_read, out_write, err_write)
        self.terminal = terminal
        self.pid = os.fork()
        if self.pid == 0:
            enter_command(request, *child, terminal)
        for descriptor in set(child):
            os.close(descriptor)
        self.pidfd = os.pidfd_open(self.pid)
        self.pending = bytearray()  # input the command has not taken yet
        self.input_ended = False
        if self.stdin is not None:
            os.set_blocking(self.stdin, False)

    def run(self):
        """Carries bytes until the command ends. Output of what it left behind is not waited for."""
        while True:
            for kind, payload in parse_frames(self.buffer):
                self.handle(kind, payload)
            self.feed()
            readable = [self.pidfd, *self.outputs]
            if len(self.pending) < PENDING_MAX_BYTES:
                readable.append(self.connection)
            writable = [self.stdin] if self.pending else []
            ready, _, _ = select.select(readable, writable, [])
            if self.connection in ready:
                data = self.connection.recv(65536)
                if not data:
                    return end_command(self.pid)
                self.buffer += data
            for descriptor in [d for d in self.outputs if d in ready]:
                self.forward(descriptor)
            if self.pidfd in ready:
                break
        while self.outputs:
            ready, _, _ = select.select(list(self.outputs), [], [], 0)
            if not ready:
                break
            for descriptor in ready:
                self.forward(descriptor)
        _, status = os.waitpid(self.pid, 0)
        send_frame(self.connection, b"x", json.dumps({"status": exit_status(status)}).encode())

    def handle(self, kind, payload):
        if kind == b"i" and self.stdin is not None:
            self.pending += payload
            self.input_ended = not payload
        elif kind == b"s":
            signal_group(self.pid, int(payload))

    def feed(self):
        """Writes what the command's input takes now; never waits, for its output must flow too."""
        if self.stdin is None:
            return
        try:
            while self.pending:
                del self.pending[: os.write(self.stdin, self.pending)]
        except BlockingIOError:
            return
        except OSError:  # the command has closed its input
            self.pending.clear()
            self.input_ended = True
        if self.input_ended and not self.terminal:
            os.close(self.stdin)
            self.stdin = None

    def forward(self, descriptor):
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # a terminal whose last user has gone
            data = b""
        if data:
            send_frame(self.connection, self.outputs[descriptor], data)
        else:
            del self.outputs[descriptor]


def serve(connection):
    """In a process of its own: one request from its first byte to its exit status."""
    buffer = bytearray()
    while b"\n" not in buffer:
        data = connection.recv(65536)
        if not data:
            return
        buffer += data
    line, _, rest = bytes(buffer).partition(b"\n")
    try:
        request = json.loads(line)
        if request.get("detach"):
            run_detached(connection, request)
            return
        session = Session(connection, request, bytearray(rest))
    except (OSError, ValueError, KeyError) as error:
        send_frame(connection, b"x", json.dumps({"error": str(error)}).encode())
        return
    try:
        session.run()
    except OSError:
        end_command(session.pid)


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[1], PORT))
    listener.listen(64)
    print("testbed: the agent is ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # sessions reap themselves
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(connection)
            finally:
                os._exit(0)
        connection.close()


main()
