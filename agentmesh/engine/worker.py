"""Worker: claims runs, executes them, records what happens, and says that it is alive."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskStatus


class Worker:
    """Executes runs of this process. Also carries the store's changes to watchers, so it must run for watch() to hear them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The loop. Returns after `stop`; when cancelled, gives its runs back to the store first."""
        raise NotImplementedError

    def stop(self) -> None:
        """Claims nothing more, gives steps in flight a moment, then lets `run` return. May be called twice, or before `run`."""
        raise NotImplementedError
