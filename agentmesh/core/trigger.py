"""Trigger: what starts a workflow, and what stands around its steps."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from agentmesh.core.checker import Checker, World
from agentmesh.core.document import Document, Path
from agentmesh.core.inference import STRING, closest
from agentmesh.core.mesh import Mesh
from agentmesh.core.schedule import FORMS, five_fields, instants
from agentmesh.core.schema import schema_faults, validator
from agentmesh.core.scope import ERROR, RUN_TYPES, closed
from agentmesh.core.secret import secret_names
from agentmesh.core.shape import Source
from agentmesh.core.workflow import A2aTrigger, Schedule, WebhookTrigger, Workflow, seconds

MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/([a-z0-9!#$&^_.+-]+|\*)", re.IGNORECASE)
"""RFC 6838 section 4.2; a pattern may end in `/*`."""
PATHS = frozenset({"nobody", "tasks", "v1", "message", "extendedagentcard", "rpc"})
"""What stands below an A2A address already, so that no agent of a mesh may be called so."""


def no_agent_name(name: str, mesh: Mesh) -> str | None:
    """Why an agent of a mesh cannot be called this; None when it can."""
    if name in PATHS:
        return f"an agent cannot be called {name!r}: its address would mean something else in A2A"
    if name == mesh.name:
        return f"{name!r} is the mesh itself: leave `agent` out, or take another name"
    if name in mesh.file.agents:
        return f"{name!r} is an agent elsewhere, in `agents` of agentmesh.yaml: take another name"
    return None


EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""A moment to try cron lines at; any will do."""


class TriggerChecker(Checker):
    """The head of a workflow file."""

    def __init__(self, world: World, source: Source[Workflow], webhooks: dict[str, Document]) -> None:
        """`webhooks`: paths that other files have taken; this one's are added."""
        super().__init__(world, source)
        self.webhooks = webhooks

    def check(self, workflow: Workflow) -> None:
        self.duration(("deadline",))
        if workflow.deadline == 0:
            self.fault(("deadline",), "a time of 0 is over before anything can be done")
        if workflow.on_failure is not None:
            self.on_failure(workflow, workflow.on_failure)
        if workflow.on.webhook is not None:
            self.webhook(("on", "webhook"), workflow.on.webhook)
        name = workflow.on.mcp.name if workflow.on.mcp is not None else None
        if name is not None and not (
            name.isascii() and name.replace(".", "").replace("-", "").replace("_", "").isalnum()
        ):
            self.fault(("on", "mcp", "name"), "a tool's name holds letters, digits, '_', '-' and '.'")
        if workflow.on.a2a is not None:
            self.a2a(("on", "a2a"), workflow, workflow.on.a2a)
        for i, schedule in enumerate(workflow.on.cron):
            self.schedule(("on", "cron", i), schedule, workflow)

    def a2a(self, path: Path, workflow: Workflow, trigger: A2aTrigger) -> None:
        if isinstance(trigger.reply, str):
            types = {"input": self.world.sound(workflow.input), "context": RUN_TYPES["context"]}
            self.expression((*path, "reply"), types, boolean=True)
        if trigger.agent is not None and (said := no_agent_name(trigger.agent, self.world.mesh)):
            self.fault((*path, "agent"), said)
        for name, modes in (("input_modes", trigger.input_modes), ("output_modes", trigger.output_modes)):
            if modes == ():
                self.fault((*path, name), "must not be empty: leave it out for text and JSON", key=True)
            for i, mode in enumerate(modes or ()):
                if not MEDIA_TYPE.fullmatch(mode):
                    self.fault((*path, name, i), f"{mode!r} is no media type such as text/plain or image/*")

    def on_failure(self, workflow: Workflow, name: str) -> None:
        workflows, path = self.world.mesh.workflows, ("on_failure",)
        if message := self.world.unknown("workflows", name, workflows):
            self.fault(path, message)
        if name in workflows:
            given = closed(
                {"run": STRING, "workflow": STRING, "error": {**ERROR, "type": "object"}, "input": workflow.input}
            )
            self.arguments(path, given, self.world.sound(workflows[name].input), f"workflow {name!r}")

    def webhook(self, path: Path, hook: WebhookTrigger) -> None:
        first = self.webhooks.setdefault(hook.path, self.document)
        if first is not self.document:
            self.fault((*path, "path"), f"the webhook {hook.path!r} stands in {first.file} already")
        if hook.token is None and hook.key is None and not self.damaged(path):
            self.fault(path, "a webhook needs `token` or `key`: without them anybody could start runs", key=True)
        for name in ("token", "key"):
            value = self.document.get((*path, name))
            if isinstance(value, str) and (not secret_names(value) or None in secret_names(value)):
                message = f'a {name} is a secret: write "${{{{ secrets.NAME }}}}"'
                self.fault((*path, name), message)
        if hook.key is None and not self.damaged((*path, "key")):
            if self.document.get((*path, "header")) is not None:
                self.fault((*path, "header"), "`header` belongs to `key`: it is where the signature stands", key=True)

    def schedule(self, path: Path, schedule: Schedule, workflow: Workflow) -> None:
        zone: ZoneInfo | None = None
        try:
            zone = ZoneInfo(schedule.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            hint = closest(schedule.timezone, available_timezones()) or "; write it as in Europe/Berlin"
            self.fault((*path, "timezone"), f"unknown time zone {schedule.timezone!r}{hint}")
        for name in ("catch_up_window", "jitter"):
            self.duration((*path, name))
        if message := line_fault(schedule.schedule):
            self.fault((*path, "schedule"), f"{schedule.schedule!r} is not a cron line: {message}")
        elif zone is not None:
            self.jitter((*path, "jitter"), schedule, zone)
        if not schema_faults(workflow.input):
            for wrong in list(validator(workflow.input).iter_errors(schedule.input))[:5]:
                text = f"does not fit the workflow's input: {wrong.message[:200]}"
                self.fault((*path, "input", *wrong.absolute_path), text)

    def jitter(self, path: Path, schedule: Schedule, zone: ZoneInfo) -> None:
        """A delay as long as the period would let one firing come after the next."""
        try:
            delay = timedelta(seconds=seconds(schedule.jitter))
        except (ValueError, OverflowError):
            return
        if not delay:
            return
        coming = list(islice(instants(schedule.schedule, zone, EPOCH), 50))
        shortest = min((later - earlier for earlier, later in pairwise(coming)), default=None)
        if not coming:
            return
        if shortest is not None and delay >= shortest:
            self.fault(path, f"must be less than the time between two firings, which is {_span(shortest)}")


def line_fault(line: str) -> str | None:
    """What is wrong with a cron line, in words that say what would be right."""
    fields = line.split()
    if line.strip().lower() == "@reboot":
        return "a server that starts again is not a time; there are five fields, or " + ", ".join(sorted(FORMS))
    if len(fields) == 6:
        return (
            f"it has six fields; seconds are not counted here: write {' '.join(fields[1:])!r}"
            " (minute hour day month weekday)"
        )
    try:
        five_fields(line)
        if next(instants(line, ZoneInfo("UTC"), EPOCH), None) is None:
            return "it never fires"
    except ValueError as error:
        hint = closest(line.strip().lower(), FORMS) if line.strip().startswith("@") else ""
        return str(error).removeprefix(f"{line.strip()!r}: ") + hint
    return None


def _span(span: timedelta) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if span.total_seconds() % size == 0:
            return f"{span.total_seconds() / size:g}{name}"
    return f"{span.total_seconds():g}s"
