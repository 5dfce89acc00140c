"""Kernel modules of an unpacked Debian kernel package.

The package has no modules.dep (depmod runs when it is installed), so what a module needs and what it is called by are read from
the modules themselves.
"""

import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from .places import LabError


@dataclass
class Module:
    """One loadable module, uncompressed."""

    name: str
    data: bytes
    # Every module that must be loaded before it, the last one first, as modprobe wants it.
    needs: list[str]

    @property
    def aliases(self) -> list[str]:
        """The names by which the kernel asks for it: device numbers, file systems, protocols, device ids."""
        return _info(self.data, "alias")


class ModuleTree:
    """The modules of one kernel."""

    def __init__(self, kernel: Path) -> None:
        builtin = next(kernel.glob("**/lib/modules/*/modules.builtin"), None)
        if builtin is None:
            raise LabError(f"{kernel} holds no modules: run scripts/setup")
        self.release = builtin.parent.name
        self._builtin = {_name(line) for line in builtin.read_text().split()}
        self._files = {_name(file.name): file for file in builtin.parent.rglob("*.ko*")}
        self._read: dict[str, Module] = {}

    def has(self, name: str) -> bool:
        """Whether there is such a module to load; one that is built in is not."""
        return name in self._files

    def closure(self, wanted: tuple[str, ...]) -> list[Module]:
        """The wanted modules, as far as they are modules here, and all they need, each after what it needs."""
        for name in filter(self.has, wanted):
            self._add(name)
        return list(self._read.values())

    def _add(self, name: str) -> list[str]:
        """Reads a module and what it needs; gives their names in loading order."""
        if name in self._builtin:
            return []
        if name not in self._read:
            data = self._load(name)
            before: list[str] = []
            for dependency in filter(None, ",".join(_info(data, "depends")).split(",")):
                before += (one for one in self._add(_name(dependency)) if one not in before)
            self._read[name] = Module(name, data, before[::-1])
        return [*reversed(self._read[name].needs), name]

    def _load(self, name: str) -> bytes:
        if name not in self._files:
            raise LabError(f"kernel {self.release} has no module {name}")
        data = self._files[name].read_bytes()
        return lzma.decompress(data) if self._files[name].suffix == ".xz" else data


def _info(data: bytes, key: str) -> list[str]:
    """The values of one key in a module's .modinfo section, which is a row of NUL-terminated KEY=VALUE."""
    return [value.decode() for value in re.findall(rb"(?<=\0)" + key.encode() + rb"=([^\0]*)\0", data)]


def _name(file: str) -> str:
    return Path(file).name.split(".ko")[0].replace("-", "_")
