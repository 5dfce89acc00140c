"""What a command in the lab inherits from here: environment, folder, terminal."""

import contextlib
import os
import re
import shlex
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from . import initramfs
from .host import Options
from .places import cached, kernel

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = re.compile(r"(RUST|CARGO|GRANULE|PROPTEST)_\w+|TERM|CI|NO_COLOR")
# Where things are on this machine means nothing in the lab.
KEPT_BACK = {"CARGO_HOME", "GRANULE_CACHE", "GRANULE_LAB_OPTIONS", "GRANULE_LAB_BATCH"}


def environment(host: Options) -> dict[str, str]:
    """The command's environment: ours as far as it concerns cargo, Rust and granule, and what the lab offers."""
    return passed_on() | {"PATH": PATH, "HOME": "/root", "USER": "root"} | offer(host.version, host.mte)


def passed_on() -> dict[str, str]:
    """The part of our environment that a command gets."""
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name) and name not in KEPT_BACK}


def offer(version: str, mte: bool) -> dict[str, str]:
    """What tests and demonstrations find in their environment."""
    return {
        "GRANULE_LAB_HOST": version,
        "GRANULE_LAB_MTE": "1" if mte else "0",
        "GRANULE_KERNEL": str(kernel("6.12", "guest") / "Image"),
        "GRANULE_INITRAMFS": str(initramfs.guest()),
        "GRANULE_BUSYBOX": str(initramfs.busybox()),
        "GRANULE_SELFTESTS": str(cached("selftests", "mte")),
        "GRANULE_VIRTIOFSD": str(cached("virtiofsd")),
        "GRANULE_DEBIAN": str(cached("debian")),
    }


def directory(host: Options) -> str:
    """Where the command starts: here, if here is shared."""
    here = Path.cwd().resolve()
    return str(here) if any(here.is_relative_to(folder) for folder in host.shares) else "/"


def shell_script(variables: dict[str, str], folder: str, lines: int, columns: int) -> str:
    """What /init sources in place of running the agent: a login shell on the virtio console."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"""{exports}
cd {shlex.quote(folder)}
setsid -c sh -c 'stty rows {lines} cols {columns}; exec sh -i' </dev/hvc0 >/dev/hvc0 2>&1
"""


@contextlib.contextmanager
def terminal_kept() -> Iterator[None]:
    """The emulator makes the terminal raw and, when killed, leaves it so."""
    state = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, state)
