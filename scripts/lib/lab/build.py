"""The aarch64 programs that the lab needs, built by cargo."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .places import ROOT, SCRIPTS, TARGET, LabError, cache, target_directory


def environment() -> dict[str, str]:
    """Ours, plus the toolchain settings that scripts/setup recorded for this machine."""
    recorded = cache() / "rust-env"
    lines = recorded.read_text().splitlines() if recorded.exists() else []
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    # Where rustup puts cargo, which a shell that was open before does not know.
    path = f"{os.environ.get('PATH', os.defpath)}:{Path.home() / '.cargo' / 'bin'}"
    return settings | os.environ | {"PATH": path}


def granule(profile: str = "release", fresh: bool = True) -> Path:
    """The granule binary, built now unless `fresh` is false."""
    return _program("granule", "granule-vmm", profile, fresh)


def test_program(name: str, profile: str = "release", fresh: bool = True) -> Path:
    """A program of the tests crate, built now unless `fresh` is false."""
    return _program(name, "granule-tests", profile, fresh)


def _program(name: str, package: str, profile: str, fresh: bool) -> Path:
    binary = target_directory() / TARGET / ("debug" if profile == "dev" else profile) / name
    if fresh:
        if not binary.exists():
            print(f"lab: building {name} for {TARGET}", file=sys.stderr)
        _cargo("build", "--package", package, "--bin", name, "--profile", profile, "--target", TARGET)
    if not binary.exists():
        raise LabError(f"{binary} is missing, and --no-build was given")
    return binary


def agent() -> Path:
    """The agent; kept in the cache under its source's hash, so that it does not depend on the state of the work tree."""
    key = hashlib.sha256()
    for file in sorted((SCRIPTS / "agent").rglob("*")):
        if file.is_file():
            key.update(file.read_bytes())
    kept = cache() / "agent" / key.hexdigest()[:16]
    if not kept.exists():
        target = cache() / "agent" / "target"
        print("lab: building the lab's agent", file=sys.stderr)
        arguments = ["build", "--package", "granule-lab-agent", "--profile", "release", "--target", TARGET]
        _cargo(*arguments, "--target-dir", str(target))
        fresh = kept.with_suffix(f".{os.getpid()}")
        shutil.copy2(target / TARGET / "release" / "granule-lab-agent", fresh)
        fresh.rename(kept)
    return kept


def _cargo(*arguments: str) -> None:
    command = ["cargo", arguments[0], "--quiet", "--locked", *arguments[1:]]
    try:
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=sys.stderr)
    except FileNotFoundError as error:
        raise LabError("cargo is not on PATH: run scripts/setup") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)} failed") from error
