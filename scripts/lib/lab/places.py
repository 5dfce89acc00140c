"""Where the lab's things are kept: the work tree, and a cache outside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
TARGET = "aarch64-unknown-linux-gnu"
HOSTS = ("6.12", "6.1")


class LabError(Exception):
    """The lab itself cannot do its work; the message says what to do about it."""


def cache() -> Path:
    """The folder of kernels and other downloads."""
    if given := os.environ.get("GRANULE_CACHE"):
        return Path(given).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "granule"


def cached(*parts: str) -> Path:
    """A file or folder that scripts/setup put into the cache."""
    path = cache().joinpath(*parts)
    if not path.exists():
        raise LabError(f"{path} is missing: run scripts/setup")
    return path


def kernel(version: str, flavour: str) -> Path:
    """The unpacked kernel package: flavour "host" has 9p modules, "guest" is the small cloud kernel."""
    return cached("kernels", version if flavour == "host" else f"{version}-cloud")


def target_directory() -> Path:
    """Cargo's target directory, as cargo itself would choose it."""
    return (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
