"""What the emulated host and a first guest boot into: busybox, an /init, modules, static programs."""

import contextlib
import hashlib
import os
import time
from pathlib import Path

from . import cpio
from .modules import ModuleTree
from .places import SCRIPTS, LabError, cache, cached, kernel

# Loaded by /init, before the command's streams and folders exist: PCI transport, streams, shared folders.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")
# What a host of virtual machines has besides. The kernel has modprobe load each at its first use, because in emulation loading
# takes a while.
HOST_MODULES = ("tun", "vhost_net", "vhost_vsock", "vsock_loopback", "loop", "ext4", "overlay", "virtio_blk", "virtio_net")
# What a guest's kernel needs for the devices that a monitor gives it; its /init loads those that it finds.
GUEST_MODULES = (
    ("virtio_pci", "virtio_console", "virtio_rng", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_mem", "virtio_pmem")
    + ("vmw_vsock_virtio_transport", "virtiofs", "nd_pmem", "ext4", "overlay")
)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\ntty:x:5:\nkvm:x:104:root\nnogroup:x:65534:\n"


def host(version: str, agent: Path) -> Path:
    """The lab host's initramfs, built once for each content."""
    tree = kernel(version, "host")
    inputs = [SCRIPTS / "lib" / "host-init.sh", agent, busybox(), tree / "package"]

    def build() -> bytes:
        archive = _base()
        archive.file("/init", (SCRIPTS / "lib" / "host-init.sh").read_bytes(), 0o755)
        archive.copy("/lab/agent", agent)
        archive.file("/etc/passwd", PASSWD.encode())
        archive.file("/etc/group", GROUP.encode())
        archive.file("/etc/hosts", b"127.0.0.1 localhost\n")
        modules = ModuleTree(tree)
        _modules(archive, modules, BOOT_MODULES + HOST_MODULES)
        archive.file("/lab/modules", " ".join(filter(modules.has, BOOT_MODULES)).encode())
        return archive.finish()

    return _built(f"host-{version}", inputs, build)


def guest(version: str = "6.12", extra: tuple[tuple[str, Path], ...] = ()) -> Path:
    """A first guest's initramfs: the default /init, its kernel's virtio modules, the given (path in the guest, file) pairs."""
    tree = kernel(version, "guest")
    init = SCRIPTS / "lib" / "guest-init.sh"
    inputs = [init, busybox(), tree / "package", *(file for _, file in extra)]

    def build() -> bytes:
        archive = _base()
        for path, file in extra:
            archive.copy(path, file)
        archive.file("/init", init.read_bytes(), 0o755)
        _modules(archive, ModuleTree(tree), GUEST_MODULES)
        return archive.finish()

    return _built("guest", inputs, build, names=[path for path, _ in extra])


def overlay(files: dict[str, Path], texts: dict[str, str]) -> bytes:
    """A second archive for one run, unpacked over the first."""
    archive = cpio.Archive()
    for path, file in files.items():
        archive.copy(path, file)
    for path, text in texts.items():
        archive.file(path, text.encode())
    return archive.finish()


def busybox() -> Path:
    """The static arm64 busybox."""
    for place in ("bin/busybox", "usr/bin/busybox"):
        if (cached("busybox") / place).exists():
            return cached("busybox") / place
    raise LabError("the cached busybox package holds no busybox: run scripts/setup")


def _base() -> cpio.Archive:
    archive = cpio.Archive()
    for folder in ("dev", "etc", "proc", "root", "run", "sys", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "var"):
        archive.directory(f"/{folder}")
    archive.directory("/tmp", 0o1777)
    archive.device("/dev/console", 5, 1, 0o600)
    archive.device("/dev/null", 1, 3, 0o666)
    archive.copy("/bin/busybox", busybox())
    archive.symlink("/bin/sh", "busybox")
    return archive


def _modules(archive: cpio.Archive, tree: ModuleTree, wanted: tuple[str, ...]) -> None:
    """The modules, and modprobe's two tables of them."""
    folder = f"/lib/modules/{tree.release}"
    modules = tree.closure(wanted)
    for module in modules:
        archive.file(f"{folder}/{module.name}.ko", module.data)
    dependencies = (f"{module.name}.ko: {' '.join(f'{name}.ko' for name in module.needs)}\n" for module in modules)
    archive.file(f"{folder}/modules.dep", "".join(dependencies).encode())
    aliases = (f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases)
    archive.file(f"{folder}/modules.alias", "".join(aliases).encode())


def _built(name: str, inputs: list[Path], build, names: list[str] = ()) -> Path:
    key = hashlib.sha256(repr(names).encode())
    builders = sorted(Path(__file__).parent.glob("*.py"))
    for file in (*inputs, *builders):
        key.update(hashlib.sha256(file.read_bytes()).digest())
    path = cache() / "initramfs" / f"{name}-{key.hexdigest()[:16]}.cpio"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(build())
        fresh.rename(path)
        _forget_old(path.parent)
    return path


def _forget_old(folder: Path) -> None:
    """Removes what was built a week ago: whoever still used it has long finished."""
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < time.time() - 7 * 24 * 3600:
                file.unlink()
