"""Writes the "newc" cpio archives that Linux unpacks as an initramfs: no root needed, same input same bytes."""

import stat
from pathlib import Path, PurePosixPath

TRAILER = "TRAILER!!!"


class Archive:
    """An archive under construction. Parent directories appear by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()
        self._inode = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(path, stat.S_IFREG | mode, data)

    def copy(self, path: str, source: Path) -> None:
        self.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def symlink(self, path: str, target: str) -> None:
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int) -> None:
        self._entry(path, stat.S_IFCHR | mode, b"", (major, minor))

    def finish(self) -> bytes:
        """The whole archive; more of them may follow it in one initrd."""
        self._append(TRAILER, 0, b"", (0, 0))
        data = b"".join(self._parts)
        return data + bytes(-len(data) % 512)

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = str(PurePosixPath(path)).lstrip("/")
        parent = str(PurePosixPath(name).parent)
        if parent not in (".", ""):
            if parent not in self._names:
                self.directory(parent)
        if name in self._names:
            return
        self._names.add(name)
        self._append(name, mode, data, device)

    def _append(self, name: str, mode: int, data: bytes, device: tuple[int, int]) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # inode mode uid gid links mtime size, device of the file (major, minor), device it is, name length, checksum
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._parts += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]
