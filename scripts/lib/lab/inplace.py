"""On an Arm machine that has KVM nothing is emulated: the command runs right here."""

import argparse
import os
import platform
import shutil
import subprocess
from pathlib import Path

from .passing import offer


def possible(options: argparse.Namespace) -> bool:
    """Whether this machine is the host that is asked for. One that differs from it on purpose is emulated even here."""
    special = options.host or options.no_mte or options.icount
    return platform.machine() == "aarch64" and Path("/dev/kvm").exists() and not special


def run(argv: list[str], granule: Path | None) -> int:
    """Runs the command as root, with sudo if that asks no question, and else as who we are. Gives its status as a shell does."""
    mte = " mte " in f" {_features()} "
    path = os.environ.get("PATH", os.defpath)
    variables = offer(platform.release(), mte)
    variables["PATH"] = f"{granule.parent}:{path}" if granule else path
    if os.geteuid() != 0 and _sudo_works():
        # sudo drops the environment, so it is given what matters by name.
        argv = ["sudo", "-n", "env", *(f"{name}={value}" for name, value in variables.items()), *argv]
    try:
        status = subprocess.run(argv, env=os.environ | variables, check=False).returncode
    except FileNotFoundError:
        return 127
    except OSError:
        return 126
    return status if status >= 0 else 128 - status


def _features() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1] for line in lines if line.startswith("Features")), "")


def _sudo_works() -> bool:
    return shutil.which("sudo") is not None and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
