"""Runs one command in an emulated host and relays its streams.

    booting ──Hello──► running ──Exit──────► COMMAND's status
       │                  ├─────Failed────► 126 or 127
       │ 120 s            ├─────timeout───► 124, with a report of what every process does
       ▼                  └─────port gone─► 123 after a panic, 125 otherwise
      125
"""

import os
import selectors
import sys
import time
from dataclasses import dataclass

from . import wire
from .host import Host

# Exit codes of the lab's own, beside the command's; 124 is what timeout(1) gives.
PANIC, TIMEOUT, LAB_FAILED = 123, 124, 125
REPORT_SECONDS = 10
# A boot takes 4 s on an idle machine of two cores; this is for a very busy one.
BOOT_SECONDS = 120


@dataclass
class Command:
    """What to run."""

    argv: list[str]
    cwd: str
    environment: dict[str, str]


class Session:
    """The relay between the agent's port and our own streams. `run` gives the exit status."""

    def __init__(self, host: Host, command: Command, timeout: float | None) -> None:
        self._host = host
        self._command = command
        self._deadline: float | None = time.monotonic() + BOOT_SECONDS
        self._timeout = timeout
        self._reader = wire.Reader()
        self._selector = selectors.DefaultSelector()
        self._status: int | None = None
        self._started = False
        self._reported = False

    def run(self) -> int:
        self._selector.register(self._host.port, selectors.EVENT_READ, self._from_lab)
        while self._status is None:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._time_out()
                break
            for key, _ in self._selector.select(left):
                key.data()
        return self._status

    def _from_lab(self) -> None:
        try:
            data = self._host.port.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._host_died()
            return
        self._reader.feed(data)
        for kind, payload in self._reader.frames():
            self._take(kind, payload)

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == wire.HELLO:
            self._send(wire.start(self._command.cwd, self._command.argv, self._command.environment))
            self._started = True
            self._deadline = time.monotonic() + self._timeout if self._timeout else None
            self._watch_stdin()
        elif kind == wire.STDOUT:
            _write(1, payload)
        elif kind == wire.STDERR:
            _write(2, payload)
        elif kind == wire.REPORT:
            _say("what every process in the lab is doing:\n" + payload.decode(errors="replace").rstrip())
            self._reported = True
        elif kind == wire.FAILED:
            _say("cannot start " + payload[wire.STATUS.size :].decode(errors="replace"))
            self._status = wire.STATUS.unpack_from(payload)[0]
        elif kind == wire.EXIT:
            self._status = wire.STATUS.unpack(payload)[0]

    def _watch_stdin(self) -> None:
        try:
            self._selector.register(0, selectors.EVENT_READ, self._from_stdin)
        except (OSError, ValueError):
            # A closed stdin, or one that cannot be polled (a file, /dev/null): all of it at once.
            self._from_stdin(whole=True)

    def _from_stdin(self, whole: bool = False) -> None:
        while True:
            try:
                data = os.read(0, wire.CHUNK)
            except OSError:
                data = b""
            self._send(wire.frame(wire.STDIN, data))
            if not data or not whole:
                break
        if not data and not whole:
            self._selector.unregister(0)

    def _send(self, data: bytes) -> None:
        try:
            self._host.port.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The end of the stream says it too.

    def _host_died(self) -> None:
        if self._host.panicked():
            _say("the lab's kernel panicked; its last words:\n" + self._host.console_tail())
            self._status = PANIC
        else:
            _say("the emulator ended before the command did; the console's last words:\n" + self._host.console_tail())
            self._status = LAB_FAILED

    def _time_out(self) -> None:
        if not self._started:
            _say(f"the lab did not come up in {BOOT_SECONDS} s; the console's last words:\n{self._host.console_tail()}")
            self._status = LAB_FAILED
            return
        _say(f"after {self._timeout:g} s still running: {' '.join(self._command.argv)}")
        self._inspect()
        _say("the console's last words:\n" + self._host.console_tail(15))
        self._status = TIMEOUT

    def _inspect(self) -> None:
        self._send(wire.frame(wire.INSPECT))
        end = time.monotonic() + REPORT_SECONDS
        while not self._reported and self._status is None and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data()
        if not self._reported and self._status is None:
            _say("the lab itself does not answer either: its kernel hangs")


def _write(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def _say(text: str) -> None:
    sys.stderr.write("".join(f"lab: {line}\n" for line in text.splitlines()))
    sys.stderr.flush()
