"""ListTasks: order, pages, filters, and what is shown of each task."""

from __future__ import annotations

import pytest

from tests.a2a.calling import BINDINGS, call, sent
from tests.a2a.conftest import Serving, serving_mesh
from tests.a2a.test_waiting import asking_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio


@covers("A2A-1.0.1 3.1.4#order", "A2A-1.0.1 3.1.4#next-page-token")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_pages_hold_each_task_once_the_latest_first(on: Serving, binding: str) -> None:
    """By their last change; the token of the last page is there, and empty."""
    for index in range(5):
        on.engine.clock.now += 1.25  # type: ignore[attr-defined]
        await call(on, binding, "SendMessage", sent(str(index), contextId="ctx"))
    seen, token = [], ""
    for _ in range(3):
        page = (await call(on, binding, "ListTasks", {"contextId": "ctx", "pageSize": 2, "pageToken": token})).result
        assert set(page) == {"tasks", "nextPageToken", "pageSize", "totalSize"}
        assert (page["pageSize"], page["totalSize"]) == (2, 5)
        seen += page["tasks"]
        token = page["nextPageToken"]
    assert (token, len({task["id"] for task in seen})) == ("", 5)
    stamps = [task["status"]["timestamp"] for task in seen]
    assert stamps == sorted(stamps, reverse=True)
    assert len(set(stamps)) == 5


@covers("A2A-1.0.1 3.1.4#timestamp")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_moment_itself_is_included(on: Serving, binding: str) -> None:
    """A task is found by the timestamp that it shows, and not by a later one; any offset means the same moment."""
    for _ in range(3):
        on.engine.clock.now += 0.123456  # type: ignore[attr-defined]
        await call(on, binding, "SendMessage", sent(contextId="ctx"))
    tasks = (await call(on, binding, "ListTasks", {"contextId": "ctx"})).result["tasks"]
    for count, task in enumerate(tasks, 1):
        stamp = task["status"]["timestamp"]
        assert stamp.endswith("Z")
        for same in (stamp, stamp.replace("Z", "+00:00")):
            found = (await call(on, binding, "ListTasks", {"contextId": "ctx", "statusTimestampAfter": same})).result
            assert len(found["tasks"]) == count
    later = stamp_after(tasks[0]["status"]["timestamp"])
    assert not (await call(on, binding, "ListTasks", {"statusTimestampAfter": later})).result["tasks"]


def stamp_after(stamp: str) -> str:
    """A microsecond later."""
    whole, _, micros = stamp.rstrip("Z").partition(".")
    return f"{whole}.{int(micros) + 1:06d}Z"


@covers("A2A-1.0.1 3.1.4#artifacts")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_a_list_shows(binding: str) -> None:
    """A task that asks shows its question; artifacts are asked for, and are an empty list where there are none yet."""
    async with serving_mesh(asking_mesh()) as on:
        task = (await call(on, binding, "SendMessage", sent(metadata={"skill": "review"}))).result["task"]
        await call(on, binding, "SendMessage", sent(metadata={"skill": "quick"}))
        bare = (await call(on, binding, "ListTasks")).result["tasks"]
        assert all("artifacts" not in one and "history" not in one for one in bare)
        assert next(one for one in bare if one["id"] == task["id"])["status"] == task["status"]
        full = (await call(on, binding, "ListTasks", {"includeArtifacts": True, "historyLength": 1})).result["tasks"]
        by_id = {one["id"]: one for one in full}
        assert by_id[task["id"]]["artifacts"] == []
        assert all(len(one["history"]) == 1 for one in full)
        assert sorted(len(one["artifacts"]) for one in full) == [0, 1]
        for state, count in (
            ("INPUT_REQUIRED", 1),
            ("COMPLETED", 1),
            ("WORKING", 0),
            ("AUTH_REQUIRED", 0),
            ("UNSPECIFIED", 2),
        ):
            found = await call(on, binding, "ListTasks", {"status": f"TASK_STATE_{state}"})
            assert found.result["totalSize"] == count, state
