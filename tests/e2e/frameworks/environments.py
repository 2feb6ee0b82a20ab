"""Environments: each framework in a virtual environment of its own, made once, with the very packages of its lock file beside this.

They are kept under $XDG_CACHE_HOME/agentmesh-frameworks (or ~/.cache), by a hash of the lock file and of this Python.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
FRAMEWORKS = ("pydantic_ai", "google_adk")
INSTALL = 540.0
"""Most seconds that pip may take for one."""


class CannotInstall(Exception):
    """A framework cannot be installed here."""


def python(name: str) -> Path:
    """The Python of a framework's environment. CannotInstall, in plain words, where pip cannot have the packages."""
    lock = HERE / f"{name}.txt"
    digest = hashlib.sha256(sys.version.encode() + lock.read_bytes()).hexdigest()[:12]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "agentmesh-frameworks" / f"{name}-{digest}"
    found, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return found
    begun = time.monotonic()
    try:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [found, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "-r", lock],
            check=True, timeout=INSTALL, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        last = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "no reason given")
        raise CannotInstall(f"{name} could not be installed; its packages have to be fetched once: {last}") from None
    done.touch()
    print(f"{name}: installed into {folder} in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    try:
        for framework in FRAMEWORKS:
            print(f"{framework}: {python(framework)}")
    except CannotInstall as error:
        raise SystemExit(f"frameworks: {error}") from None
