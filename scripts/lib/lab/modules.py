"""Kernel modules of an unpacked Debian kernel package, in the order in which they can be loaded.

The package has no modules.dep (depmod runs when it is installed), so dependencies are read from the modules themselves.
"""

import lzma
import re
from functools import cache
from pathlib import Path

from .places import LabError


class ModuleTree:
    """The modules of one kernel."""

    def __init__(self, kernel: Path) -> None:
        builtin = next(iter(sorted(kernel.glob("**/lib/modules/*/modules.builtin"))), None)
        if builtin is None:
            raise LabError(f"{kernel} holds no modules: run scripts/setup")
        self._builtin = {_name(line) for line in builtin.read_text().split()}
        files = (file for file in builtin.parent.rglob("*.ko*"))
        self._files = {_name(file.name): file for file in files}

    def closure(self, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """(name, uncompressed bytes) of the wanted modules and all they need, each after what it needs."""
        ordered: dict[str, bytes] = {}
        for name in wanted:
            self._add(name, ordered)
        return list(ordered.items())

    def _add(self, name: str, ordered: dict[str, bytes]) -> None:
        if name in ordered or name in self._builtin:
            return
        if name not in self._files:
            raise LabError(f"this kernel has no module {name}")
        data = _read(self._files[name])
        for dependency in _dependencies(data):
            self._add(dependency, ordered)
        ordered[name] = data


@cache
def _read(file: Path) -> bytes:
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data


def _dependencies(data: bytes) -> list[str]:
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    return [_name(name) for name in match[1].decode().split(",") if name] if match else []


def _name(file: str) -> str:
    return Path(file).name.split(".ko")[0].replace("-", "_")
