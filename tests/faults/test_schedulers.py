"""Two schedulers on one PostgreSQL, and ten thousand cron entries that are due in the same minute."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served, until
from tests.faults.upstream import Upstream

ENTRIES = 10_000
FILES = 20
pytestmark = pytest.mark.timeout(600)


def _crowd() -> dict[str, str]:
    """Workflows with ten thousand entries between them, each for every minute."""
    entry = '    - {{schedule: "* * * * *", overlap: allow}}\n'
    return {
        f"crowd{number}": f"name: crowd{number}\non:\n  cron:\n{entry * (ENTRIES // FILES)}steps:\n  - {{{{id: x, set: {{{{a: 1}}}}}}}}\n"
        for number in range(FILES)
    }


def _keys(server: Served, workflow: str, *, most: int = 10_000) -> list[str]:
    found: list[str] = []
    cursor = ""
    while len(found) < most:
        page = server.get(f"/v1/runs?workflow={workflow}&limit=200{cursor}")
        found += [run["key"] for run in page["runs"]]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
    return found


def _minute(key: str) -> str:
    """Of a key `cron:WORKFLOW:ENTRY:INSTANT`."""
    return key.split(":", 3)[3]


def test_two_schedulers(tmp_path: Path, upstream: Upstream, postgres_url: str) -> None:
    """Two servers that are due at the same moment start one run for each instant between them."""
    ticking = (
        "name: ticking\non:\n  cron:\n"
        + '    - {{schedule: "* * * * *"}}\n' * 50
        + "steps:\n  - {{id: x, set: {{a: 1}}}}\n"
    )
    folders = [write_mesh(tmp_path / name, upstream.url, store=postgres_url, ticking=ticking) for name in ("a", "b")]
    with Served(folders[0]) as one, Served(folders[1]) as other:
        one.start()
        other.start()
        until(lambda: True if len(_keys(one, "ticking")) >= 50 else None, 90, "nothing was started within a minute")
        time.sleep(3)  # whoever came second has had its turn
        keys = _keys(other, "ticking")
        assert len(keys) == len(set(keys))
        minutes = Counter(_minute(key) for key in keys)
        assert set(minutes.values()) <= {50}, minutes
        for run in one.get("/v1/runs?workflow=ticking&limit=100")["runs"]:
            assert one.ended(run["id"])["state"] == "completed"


def test_ten_thousand_entries_on_one_minute(tmp_path: Path, upstream: Upstream) -> None:
    """All are started once, within the minute, and end; other calls are answered meanwhile."""
    folder = write_mesh(tmp_path / "mesh", upstream.url, **_crowd())
    slowest = 0.0
    over = threading.Event()
    with Served(folder).start() as server:

        def ask() -> None:
            nonlocal slowest
            with httpx.Client(base_url=server.http.base_url, timeout=60, trust_env=False) as client:
                while not over.wait(0.05):
                    begun = time.monotonic()
                    client.get("/healthz").raise_for_status()
                    slowest = max(slowest, time.monotonic() - begun)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            until(lambda: True if _total(server, "crowd0") else None, 90, "nothing was started within a minute")
            begun = time.monotonic()

            def all_started() -> bool | None:
                return True if sum(_total(server, f"crowd{n}") for n in range(FILES)) >= ENTRIES else None

            until(all_started, 60, lambda: f"{sum(_total(server, f'crowd{n}') for n in range(FILES))} were started")
            took = time.monotonic() - begun
        finally:
            over.set()
            asking.join(60)
        for number in (0, FILES - 1):
            keys = _keys(server, f"crowd{number}")
            assert len(keys) == len(set(keys))
            first = min(_minute(key) for key in keys)
            assert sum(_minute(key) == first for key in keys) == ENTRIES // FILES
        print(f"{ENTRIES} entries were started in {took:.1f} s; the slowest other call took {slowest:.2f} s")
        assert slowest < 1.0


def _total(server: Served, workflow: str) -> int:
    found: int = server.get(f"/v1/runs?workflow={workflow}&limit=1")["total"]
    return found
