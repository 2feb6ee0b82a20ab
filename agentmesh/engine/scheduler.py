"""Scheduler: starts workflows when their `cron` entries fall due, once for each instant."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskStatus


class Scheduler:
    """Reads `on.cron` of the mesh's workflows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The loop; ends only by cancellation."""
        raise NotImplementedError

    def status(self) -> list[dict[str, Any]]:
        """For each entry: workflow, index, schedule, timezone, overlap, catch_up, next and last instant (ISO), last run's id."""
        raise NotImplementedError
