"""Runs the fault tests in two processes side by side: most of them wait most of the time, for leases and for restarts.

`python -m tests.faults` prints what each said when it has ended; its status is 0 when both passed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FIRST = ("test_kill_everywhere.py", "test_kill_random.py")
"""Half of the time. Every other file is in the second part."""


def main() -> int:
    begun = time.monotonic()
    files = sorted(file.name for file in HERE.glob("test_*.py"))
    parts = [[name for name in files if name in FIRST], [name for name in files if name not in FIRST]]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number, part in enumerate(parts):
            said = Path(folder) / f"part{number}"
            command = [sys.executable, "-m", "pytest", "-q", "--durations=5", "-p", "no:cacheprovider"]
            with said.open("wb") as out:
                paths = [str(HERE / name) for name in part]
                running.append((subprocess.Popen([*command, *paths], stdout=out, stderr=subprocess.STDOUT), said))
        try:
            status = max(process.wait() for process, _ in running)
        finally:
            for process, _ in running:
                process.terminate()
                process.wait()
        for _, said in running:
            print(said.read_text(errors="replace"))
    print(f"faults: status {status} in {time.monotonic() - begun:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
