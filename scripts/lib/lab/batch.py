"""Many test binaries in one boot of the lab: cargo names them one after the other, then they run together.

    GRANULE_LAB_BATCH=FILE cargo test --target …   the cargo runner only notes each binary in FILE, one JSON object a line
    scripts/lab batch FILE                         runs them all; the status is 1 if any of them failed
"""

import json
import os
import shlex
from pathlib import Path

from . import passing


def note(file: Path, argv: list[str]) -> None:
    """Adds a binary, with the folder and the environment that cargo gives it."""
    entry = {"argv": argv, "cwd": os.getcwd(), "environment": passing.passed_on()}
    with file.open("a") as lines:
        lines.write(json.dumps(entry) + "\n")


def script(file: Path) -> str:
    """The shell script that runs what was noted."""
    lines = ["failed=0"]
    for entry in map(json.loads, file.read_text().splitlines()):
        settings = [f"{name}={value}" for name, value in entry["environment"].items()]
        command = shlex.join(["env", *settings, *entry["argv"]])
        lines.append(f"echo; echo running {shlex.quote(Path(entry['argv'][0]).name)}")
        lines.append(f"(cd {shlex.quote(entry['cwd'])} && {command}) || failed=1")
    return "\n".join([*lines, "exit $failed"])
