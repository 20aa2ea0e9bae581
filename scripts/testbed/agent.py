"""The agent of an emulated host: runs commands for `testbed exec`.

One TCP connection is one command. Both ways carry frames: one byte of type, four bytes of length (big
endian), the payload.

  client to agent   a  one argument of the command   v  K=V, one variable of its environment
                    c  its directory                 C  its directory, and an error if it is not there
                    I  it gets input                 T  "rows columns": it gets a terminal
                    D  it is left running, with its output appended to the file named here
                    g  go: the request is complete
                    n  answered with an n            t  nanoseconds since 1970: sets the host's clock
                    i  input (empty: its end)        s  signal number for the command's process group
  agent to client   o  output   e  error output   p  the pid of a command left running
                    x  exit status, the last frame   E  what went wrong instead, the last frame

A connection that breaks ends its command (TERM, then KILL to its process group), so that nothing
outlives the person who asked for it; D is how a command is left running on purpose.

A host's start waits for this program on an emulated CPU. Hence C modules (_signal, _socket) in the
place of their Python wrappers, whose import of enum and re costs half a second there.
"""

import os
import select
import sys
import time

import _signal as signal
import _socket as socket

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
    connection.sendall(kind + len(payload).to_bytes(4, "big") + payload)


def next_frame(buffer):
    """Takes the first whole frame off the bytearray: (type, payload), or None."""
    if len(buffer) < 5:
        return None
    end = 5 + int.from_bytes(buffer[1:5], "big")
    if len(buffer) < end:
        return None
    frame = bytes(buffer[0:1]), bytes(buffer[5:end])
    del buffer[:end]
    return frame


class Request:
    def __init__(self):
        self.argv = []
        self.env = dict(DEFAULT_ENV)
        self.cwd = "/"
        self.cwd_required = False
        self.stdin = False
        self.terminal = None
        self.detached_output = None

    def take(self, kind, payload):
        """One frame of the request; returns whether it was the last."""
        text = payload.decode("utf-8", "surrogateescape")
        if kind == b"a":
            self.argv.append(text)
        elif kind == b"v":
            key, _, value = text.partition("=")
            self.env[key] = value
        elif kind in (b"c", b"C"):
            self.cwd, self.cwd_required = text, kind == b"C"
        elif kind == b"I":
            self.stdin = True
        elif kind == b"T":
            self.terminal = [int(word) for word in text.split()]
        elif kind == b"D":
            self.detached_output = text
        return kind == b"g"


def enter_command(request, stdin, stdout, stderr):
    """In the forked child: becomes the command. Does not return."""
    try:
        os.setsid()
        for target, source in ((0, stdin), (1, stdout), (2, stderr)):
            os.dup2(source, target)
        if request.terminal:
            import fcntl
            import struct
            import termios

            rows, columns = request.terminal
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.closerange(3, 256)
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.chdir(request.cwd)
        except OSError as error:
            if request.cwd_required:
                os.write(2, f"testbed: cannot enter {request.cwd}: {error.strerror}\n".encode())
                os._exit(125)
            os.chdir("/")
        try:
            os.execvpe(request.argv[0], request.argv, request.env)
        except OSError as error:
            os.write(2, f"testbed: cannot run {request.argv[0]}: {error.strerror}\n".encode())
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
    null = os.open("/dev/null", os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    out = os.open(request.detached_output, flags, 0o644)
    pid = os.fork()
    if pid == 0:
        enter_command(request, null, out, out)
    send_frame(connection, b"p", b"%d" % pid)
    send_frame(connection, b"x", b"0")


class Session:
    """A command in the foreground and the connection its client listens on."""

    def __init__(self, connection, request, buffer):
        self.connection = connection
        self.buffer = buffer
        self.terminal = bool(request.terminal)
        if self.terminal:
            master, slave = os.openpty()
            child = (slave, slave, slave)
            self.outputs = {master: b"o"}
            self.stdin = master
        else:
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            self.outputs = {out_read: b"o", err_read: b"e"}
            if request.stdin:
                in_read, self.stdin = os.pipe()
            else:
                in_read, self.stdin = os.open("/dev/null", os.O_RDONLY), None
            child = (in_read, out_write, err_write)
        self.pid = os.fork()
        if self.pid == 0:
            enter_command(request, *child)
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
            while frame := next_frame(self.buffer):
                self.handle(*frame)
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
        send_frame(self.connection, b"x", b"%d" % exit_status(status))

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
    request = Request()
    buffer = bytearray()
    while True:
        frame = next_frame(buffer)
        if frame is None:
            data = connection.recv(65536)
            if not data:
                return
            buffer += data
        elif frame[0] == b"n":
            send_frame(connection, b"n")
        elif frame[0] == b"t":
            time.clock_settime_ns(time.CLOCK_REALTIME, int(frame[1]))
            send_frame(connection, b"n")
        elif request.take(*frame):
            break
    try:
        if request.detached_output:
            run_detached(connection, request)
            return
        session = Session(connection, request, buffer)
    except OSError as error:
        send_frame(connection, b"E", str(error).encode())
        return
    try:
        session.run()
    except OSError:
        end_command(session.pid)


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Who sends to this address over the guest's bridge is not answered.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"mgmt0\0")
    listener.bind((sys.argv[1], PORT))
    listener.listen(64)
    print("testbed: the agent is ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # sessions need no reaping
    while True:
        descriptor, _ = listener._accept()
        connection = socket.socket(fileno=descriptor)
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
