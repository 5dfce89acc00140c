"""The commands that a person types."""

import argparse
import os
import re
import shutil
import signal
import sys
from pathlib import Path

from . import build, initramfs
from .host import Host, Options
from .places import HOSTS, ROOT, SCRIPTS, LabError, cache, cached, kernel, target_directory
from .session import LAB_FAILED, Command, Session

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = re.compile(r"(RUST|CARGO|GRANULE|PROPTEST)_\w+|TERM|CI|NO_COLOR")
# Where things are on this machine means nothing in the lab.
KEPT_BACK = {"CARGO_HOME", "CARGO_TARGET_DIR", "GRANULE_CACHE"}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="An emulated Arm host with KVM and MTE.",
        epilog="Exit status of exec: COMMAND's; 123 the lab's kernel panicked, 124 timeout, 125 the lab failed, "
        "126/127 COMMAND cannot be started, 128+N killed by signal N.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    execute = commands.add_parser("exec", help="run a command as root in the lab host, with granule on PATH")
    _host_options(execute)
    execute.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds, 0 for none (default: 900)")
    execute.add_argument("command", nargs="+", metavar="-- COMMAND…")
    execute.set_defaults(run=_exec)

    shell = commands.add_parser("shell", help="a shell in the lab host; exit ends it")
    _host_options(shell)
    shell.set_defaults(run=_shell)

    image = commands.add_parser("kernel", help="print the path of a cached guest kernel Image")
    image.add_argument("version", choices=HOSTS)
    image.set_defaults(run=_kernel)

    packed = commands.add_parser("initramfs", help="write a guest initramfs: busybox, a default /init, the given files")
    packed.add_argument("out", type=Path, metavar="OUT")
    packed.add_argument("files", nargs="*", metavar="FILE[:PATH]", help="PATH in the guest (default: /usr/bin/NAME)")
    packed.set_defaults(run=_initramfs)

    runner = commands.add_parser("cargo-runner", help="what cargo calls for an aarch64 binary")
    runner.add_argument("binary", type=Path)
    runner.add_argument("arguments", nargs=argparse.REMAINDER)
    runner.set_defaults(run=_cargo_runner)
    return parser


def _host_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", choices=HOSTS, default=HOSTS[0], help="the host's kernel (default: 6.12)")
    parser.add_argument("--no-mte", action="store_true", help="a machine without MTE")
    parser.add_argument("--icount", action="store_true", help="time counts instructions: slower, but repeatable")
    parser.add_argument("--cpus", type=int, default=2, metavar="N")
    parser.add_argument("--memory", default="4G", metavar="SIZE")
    parser.add_argument("--share", type=Path, action="append", metavar="DIR", help="mounted read-write at the same path, instead of the work tree")
    parser.add_argument("--no-build", action="store_true", help="take the granule binary as it is")
    parser.add_argument("--profile", default="release", help="cargo profile of granule (default: release)")


def _exec(options: argparse.Namespace) -> int:
    host = _host(options)
    return _run(host, options.command, options.timeout)


def _host(options: argparse.Namespace) -> Options:
    shares = {folder.resolve(): True for folder in options.share or [ROOT]}
    for folder in shares:
        if not folder.is_dir():
            raise LabError(f"{folder} is not a folder")
    shares.setdefault(cache(), False)
    return Options(
        version=options.host,
        mte=not options.no_mte,
        icount=options.icount,
        cpus=options.cpus,
        memory=options.memory,
        shares=shares,
        files={"/usr/local/bin/granule": build.granule(options.profile, fresh=not options.no_build)},
    )


def _run(host: Options, argv: list[str], timeout: float) -> int:
    command = Command(argv, _directory(host), _environment(host))
    with Host(host, build.agent()) as running:
        return Session(running, command, timeout or None).run()


def _directory(host: Options) -> str:
    """Where the command starts: here, if here is shared."""
    here = Path.cwd().resolve()
    shared = any(here.is_relative_to(folder) for folder in host.shares)
    return str(here) if shared else "/"


def _environment(host: Options) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name) and name not in KEPT_BACK}
    return passed | {
        "PATH": PATH,
        "HOME": "/root",
        "USER": "root",
        "GRANULE_LAB_HOST": host.version,
        "GRANULE_LAB_MTE": "1" if host.mte else "0",
        "GRANULE_KERNEL": str(kernel("6.12", "guest") / "Image"),
        "GRANULE_INITRAMFS": str(initramfs.guest([])),
    }


def _shell(options: argparse.Namespace) -> int:
    raise LabError("not yet")


def _kernel(options: argparse.Namespace) -> int:
    print(kernel(options.version, "guest") / "Image")
    return 0


def _initramfs(options: argparse.Namespace) -> int:
    files = []
    for given in options.files:
        name, _, path = given.partition(":")
        files.append((path or f"/usr/bin/{Path(name).name}", Path(name)))
    shutil.copyfile(initramfs.guest(files), options.out)
    return 0


def _cargo_runner(options: argparse.Namespace) -> int:
    binary = options.binary.resolve()
    shares = {ROOT: True, cache(): False}
    host = Options(shares=shares, files={str(binary): binary})
    return _run(host, [str(binary), *options.arguments], 1800)
