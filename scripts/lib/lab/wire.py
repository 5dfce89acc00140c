"""The frames exchanged with the agent in the lab; scripts/agent/src/frame.rs is the authority and draws them."""

import struct

HEADER = struct.Struct("<cI")
STATUS = struct.Struct("<i")
CHUNK = 64 << 10

START, STDIN, INSPECT = b"S", b"I", b"P"
HELLO, STDOUT, STDERR, REPORT, FAILED, EXIT = b"H", b"O", b"E", b"R", b"F", b"X"


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def start(cwd: str, command: list[str], environment: dict[str, str]) -> bytes:
    """The frame that starts a command."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    strings = [cwd, command[0], str(len(command) - 1), *command[1:], *settings]
    return frame(START, b"".join(string.encode(errors="surrogateescape") + b"\0" for string in strings))


class Reader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def frames(self):
        """The frames (kind, payload) that are complete by now."""
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield kind, payload
