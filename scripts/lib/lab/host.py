"""One emulated Arm host, as a QEMU process.

Three ways out of it: the lab port (one end of a socket pair), the console (only the kernel and PID 1 write there), and the
shared folders (9p, which needs no daemon and works the same with every QEMU). Its initrd and its console are files in memory,
handed over by their descriptors: however it ends, nothing is left behind.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import initramfs
from .places import LabError, kernel

EMULATOR = "qemu-system-aarch64"
PR_SET_PDEATHSIG = 1

# Self-tests of ciphers, the key ring of module signers and two tables for BPF take two thirds of the boot in emulation, and
# nothing in the lab uses them.
QUICKER_BOOT = (
    "cryptomgr.notests rcupdate.rcu_expedited=1 "
    "initcall_blacklist=jent_mod_init,load_system_certificate_list,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init"
)


@dataclass
class Options:
    """What kind of host is wanted."""

    version: str = "6.12"
    mte: bool = True
    icount: bool = False
    cpus: int = 2
    memory: str = "4G"
    # Folder → may the lab write there?
    shares: dict[Path, bool] = field(default_factory=dict)
    # Path in the lab → file to copy there.
    files: dict[str, Path] = field(default_factory=dict)


class Host:
    """A running emulated host; leaving the context ends it."""

    def __init__(self, options: Options, agent: Path, shell: str | None = None) -> None:
        self._initrd = os.memfd_create("initrd")
        self._console = os.memfd_create("console")
        self.port, inner = socket.socketpair()
        try:
            with inner:
                self._process = self._launch(options, agent, inner, shell)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def wait(self) -> int:
        return self._process.wait()

    def console_tail(self, lines: int = 40) -> str:
        """The last that the kernel said."""
        text = self._said().decode(errors="replace")
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])

    def panicked(self) -> bool:
        return b"Kernel panic - not syncing" in self._said()

    def _said(self) -> bytes:
        return os.pread(self._console, os.fstat(self._console).st_size, 0)

    def _close(self) -> None:
        self.port.close()
        os.close(self._initrd)
        os.close(self._console)

    def _launch(self, options: Options, agent: Path, inner: socket.socket, shell: str | None) -> subprocess.Popen:
        _check_emulator()
        files = [self._initrd, self._console]
        texts = {"/lab/shares": _share_table(options.shares)}
        if shell is not None:
            texts["/lab/shell"] = shell
        with open(self._initrd, "wb", closefd=False) as file:
            file.write(initramfs.host(options.version, agent).read_bytes())
            file.write(initramfs.overlay(options.files, texts))
        command = [EMULATOR, *_machine(options), "-initrd", f"/dev/fd/{self._initrd}", *_shares(options.shares)]
        append = f"console=ttyAMA0 panic=-1 loglevel=5 {QUICKER_BOOT}{' lab.shell' if shell is not None else ''}"
        command += ["-append", append, "-device", "virtio-serial-pci", "-serial", f"file:/dev/fd/{self._console}"]
        if shell is not None:
            command += ["-chardev", "stdio,id=lab,signal=off", "-device", "virtconsole,chardev=lab"]
            return subprocess.Popen(command, pass_fds=files, preexec_fn=_die_with_parent)
        command += ["-chardev", f"socket,id=lab,fd={inner.fileno()}", "-device", "virtserialport,chardev=lab,name=lab"]
        null = subprocess.DEVNULL
        # In a session of its own: a terminal's Ctrl-C is for the lab, which then ends the emulator.
        return subprocess.Popen(
            command, stdin=null, stdout=null, pass_fds=[*files, inner.fileno()], start_new_session=True, preexec_fn=_die_with_parent
        )


def _check_emulator() -> None:
    """Refuses QEMU 7: it gives all granules of a page one tag (fixed in 8.0), which would void every claim about tags."""
    if not shutil.which(EMULATOR):
        raise LabError(f"{EMULATOR} is not installed: run scripts/setup")
    version = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    if version.startswith("7."):
        raise LabError(f"{EMULATOR} is version {version}, which loses tags; 8.0 or later is needed: run scripts/setup")


def _machine(options: Options) -> list[str]:
    mte = "on" if options.mte else "off"
    command = ["-M", f"virt,virtualization=on,mte={mte},gic-version=3", "-cpu", "max,pauth-impdef=on"]
    command += ["-smp", str(options.cpus), "-m", options.memory, "-kernel", str(kernel(options.version, "host") / "Image")]
    command += ["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-nodefaults", "-no-user-config"]
    accelerator = "tcg,thread=single" if options.icount else "tcg,thread=multi"
    command += ["-accel", accelerator]
    if options.icount:
        command += ["-icount", "shift=1,sleep=off,align=off"]
    return command


def _shares(shares: dict[Path, bool]) -> list[str]:
    command = []
    for number, (folder, writable) in enumerate(shares.items()):
        tag, path = f"share{number}", str(folder).replace(",", ",,")
        readonly = "" if writable else ",readonly=on"
        command += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{readonly}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


def _share_table(shares: dict[Path, bool]) -> str:
    entries = enumerate(shares.items())
    return "".join(f"share{number} {'rw' if writable else 'ro'} {folder}\n" for number, (folder, writable) in entries)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
