"""The commands that a person types."""

import argparse
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

from . import batch, build, initramfs, inplace, passing
from .host import Host, Options
from .places import HOSTS, ROOT, LabError, cache, kernel, target_directory
from .session import LAB_FAILED, Command, Session

# Test binaries that need another host than the usual one.
RUNNER_OPTIONS = {
    "host_without_shared_tags": ["--host", "6.1"],
    "host_without_mte": ["--no-mte"],
    # Its deadlines are in time that counts instructions.
    "runtimes": ["--icount"],
}


def main(arguments: list[str]) -> int:
    _open_standard_streams()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _open_standard_streams() -> None:
    """Started with one of them closed, the next file opened would take its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


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
    packed.add_argument("--kernel", choices=HOSTS, default=HOSTS[0], help="the guest kernel whose modules it holds")
    packed.add_argument("out", type=Path, metavar="OUT")
    packed.add_argument("files", nargs="*", metavar="FILE[:PATH]", help="PATH in the guest (default: /usr/bin/NAME)")
    packed.set_defaults(run=_initramfs)

    runner = commands.add_parser("cargo-runner", help="what cargo calls for an aarch64 binary")
    runner.add_argument("binary", type=Path)
    runner.add_argument("arguments", nargs=argparse.REMAINDER)
    runner.set_defaults(run=_cargo_runner)

    many = commands.add_parser("batch", help="run what the cargo runner noted in GRANULE_LAB_BATCH, all in one boot")
    many.add_argument("file", type=Path)
    many.set_defaults(run=_batch)
    return parser


def _host_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", choices=HOSTS, help="the host's kernel (default: 6.12)")
    parser.add_argument("--no-mte", action="store_true", help="a machine without MTE")
    parser.add_argument("--icount", action="store_true", help="time counts instructions: slower, but repeatable")
    parser.add_argument("--cpus", type=int, default=2, metavar="N")
    parser.add_argument("--memory", default="4G", metavar="SIZE")
    parser.add_argument("--share", type=Path, action="append", metavar="DIR", help="mounted read-write at the same path, instead of the work tree")
    parser.add_argument("--no-build", action="store_true", help="take the granule binary as it is")
    parser.add_argument("--with", dest="programs", action="append", default=[], metavar="NAME", help="a program of the tests crate, on PATH too")
    parser.add_argument("--profile", default="release", help="cargo profile of all these (default: release)")


def _exec(options: argparse.Namespace) -> int:
    if inplace.possible(options):
        return inplace.run(options.command, _programs(options)["granule"])
    return _run(_host(options), options.command, options.timeout)


def _shell(options: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise LabError("shell needs a terminal; use exec for a command")
    if inplace.possible(options):
        shell = os.environ.get("SHELL", "/bin/sh")
        return inplace.run([shell], _programs(options)["granule"])
    host = _host(options)
    columns, lines = shutil.get_terminal_size()
    script = passing.shell_script(passing.environment(host), passing.directory(host), lines, columns)
    with passing.terminal_kept(), Host(host, build.agent(), shell=script) as running:
        running.wait()
        if running.panicked():
            print(running.console_tail(), file=sys.stderr)
    return 0


def _kernel(options: argparse.Namespace) -> int:
    print(kernel(options.version, "guest") / "Image")
    return 0


def _initramfs(options: argparse.Namespace) -> int:
    files = []
    for given in options.files:
        name, _, path = given.partition(":")
        if not Path(name).is_file():
            raise LabError(f"{name} is not a file")
        files.append((path or f"/usr/bin/{Path(name).name}", Path(name)))
    shutil.copyfile(initramfs.guest(options.kernel, tuple(files)), options.out)
    return 0


def _cargo_runner(options: argparse.Namespace) -> int:
    """Runs a test binary in the host that it is for; GRANULE_LAB_OPTIONS adds options of exec."""
    binary = options.binary.resolve()
    if file := os.environ.get("GRANULE_LAB_BATCH"):
        batch.note(Path(file), [str(binary), *options.arguments])
        return 0
    wanted = RUNNER_OPTIONS.get(binary.name.rsplit("-", 1)[0], [])
    wanted = [*wanted, *shlex.split(os.environ.get("GRANULE_LAB_OPTIONS", ""))]
    parsed = _parser().parse_args(["exec", "--timeout", "4000", *wanted, "--", str(binary), *options.arguments])
    end_to_end = os.environ.get("CARGO_PKG_NAME") == "granule-tests"
    parsed.no_build = parsed.no_build or not end_to_end
    if inplace.possible(parsed):
        return inplace.run(parsed.command, build.granule(parsed.profile, fresh=True) if end_to_end else None)
    host = _with_target(_host(parsed, needs_granule=end_to_end))
    if parsed.icount:
        # While the host waits for a shared folder, which takes real time, this clock leaps: no page of a program may come from one.
        host.files[f"/usr/local/bin/{binary.name}"] = binary
        parsed.command[0] = f"/usr/local/bin/{binary.name}"
    return _run(host, parsed.command, parsed.timeout)


def _batch(options: argparse.Namespace) -> int:
    parsed = _parser().parse_args(["exec", "--timeout", "1800", "--no-build", "--", "sh", "-c", batch.script(options.file)])
    if inplace.possible(parsed):
        return inplace.run(parsed.command, None)
    return _run(_with_target(_host(parsed, needs_granule=False)), parsed.command, parsed.timeout)


def _with_target(host: Options) -> Options:
    """Shares cargo's target directory too: test binaries are in it, and write there."""
    target = target_directory()
    if target.is_dir() and not any(target.is_relative_to(folder) for folder in host.shares):
        host.shares[target] = True
    return host


def _host(options: argparse.Namespace, needs_granule: bool = True) -> Options:
    shares = {folder.resolve(): True for folder in options.share or [ROOT]}
    for folder in shares:
        if not folder.is_dir():
            raise LabError(f"{folder} is not a folder")
    shares.setdefault(cache(), False)
    files = {}
    if needs_granule:
        files = {f"/usr/local/bin/{name}": file for name, file in _programs(options).items()}
    return Options(
        version=options.host or HOSTS[0],
        mte=not options.no_mte,
        icount=options.icount,
        cpus=options.cpus,
        memory=options.memory,
        shares=shares,
        files=files,
    )


def _programs(options: argparse.Namespace) -> dict[str, Path]:
    """What is on PATH in the host; all in one folder here too."""
    fresh = not options.no_build
    programs = {"granule": build.granule(options.profile, fresh)}
    return programs | {name: build.test_program(name, options.profile, fresh) for name in options.programs}


def _run(host: Options, argv: list[str], timeout: float) -> int:
    command = Command(argv, passing.directory(host), passing.environment(host))
    with Host(host, build.agent()) as running:
        return Session(running, command, timeout or None).run()
