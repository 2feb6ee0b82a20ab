"""`/metrics`: what the meter has counted, as Prometheus reads it (text format 0.0.4, or OpenMetrics 1.0 for those who ask for it).

Names are OpenTelemetry's, written as its Prometheus exporters write them: dots become underscores, the unit is appended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import accumulate

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentmesh.core.policy import Action
from agentmesh.engine import Engine
from agentmesh.engine.guard import Guard
from agentmesh.engine.meter import SECONDS, Timings

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
METRICS = "resource:mesh://metrics"
"""What policies name it by."""
_BOUNDS = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]


def metrics_routes(engine: Callable[[], Engine | None], *, started: float | None = None) -> list[Route]:
    """`engine`: None while it is being put together. `started`: when the process began, Unix time; None: now."""
    began = time.time() if started is None else started

    async def metrics(request: Request) -> Response:
        wanted = "application/openmetrics-text" in request.headers.get("accept", "")
        built = engine()
        if built is not None:  # it names tools, which a policy may keep from whoever asks
            Guard(built.mesh).authorize(request.state.principal, Action("admin.read", METRICS))
        families = () if built is None else built.meter.families()
        lines = [line for family in families for line in family_lines(family)]
        lines += process_lines(began, open_metrics=wanted)
        if wanted:
            lines.append("# EOF")
        return Response("\n".join(lines) + "\n", headers={"content-type": OPEN_METRICS if wanted else TEXT})

    return [Route("/metrics", metrics)]


def family_lines(family: Timings) -> Iterator[str]:
    """A histogram: its description, then buckets, count and sum of each label set."""
    name = f"{plain(family.name)}_seconds"
    yield f"# HELP {name} {family.says}"
    yield f"# TYPE {name} histogram"
    labels = [plain(label) for label in family.labels]
    for values, total, counts in family.series():
        # OpenTelemetry leaves out an attribute that does not apply; an empty label means the same in Prometheus.
        shown = ",".join(f'{label}="{escape(value)}"' for label, value in zip(labels, values, strict=True) if value)
        comma = "," if shown else ""
        for bound, count in zip(_BOUNDS, accumulate(counts), strict=True):
            yield f'{name}_bucket{{{shown}{comma}le="{bound}"}} {count}'
        yield f"{name}_count{{{shown}}} {sum(counts)}"
        yield f"{name}_sum{{{shown}}} {total:.9g}"


def process_lines(started: float, *, open_metrics: bool) -> Iterator[str]:
    """What Prometheus' own clients tell of a process, under their names."""
    times = os.times()
    counter = "process_cpu_seconds" if open_metrics else "process_cpu_seconds_total"
    yield f"# HELP {counter} Processor time of this process."
    yield f"# TYPE {counter} counter"
    yield f"process_cpu_seconds_total {times.user + times.system:.3f}"
    if (resident := resident_bytes()) is not None:
        yield "# HELP process_resident_memory_bytes Resident memory of this process."
        yield "# TYPE process_resident_memory_bytes gauge"
        yield f"process_resident_memory_bytes {resident}"
    yield "# HELP process_start_time_seconds When this process began, in seconds since 1970."
    yield "# TYPE process_start_time_seconds gauge"
    yield f"process_start_time_seconds {started:.3f}"


def resident_bytes() -> int | None:
    """Resident memory of this process; None where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - the kernel answers at once
            pages = int(statm.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def plain(name: str) -> str:
    return name.replace(".", "_")


def escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
