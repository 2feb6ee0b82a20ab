"""Following a run: its steps as they go, on a terminal as a live table, elsewhere as plain lines; all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from agentmesh.cli.client import Client, Event, Unreachable, find, segment
from agentmesh.cli.output import duration, first_line, note

AWAY = 60.0
"""Seconds to look for a server that went away while a run was followed."""
ASKING = ("approval", "input")
"""What a step waits `for` when it asks a person."""
TERMINAL = ("completed", "failed", "canceled", "rejected")
"""`RunState.terminal`, spelled out: importing core costs a fifth of a second."""
MARKS = {"completed": "✓", "failed": "✗", "skipped": "-", "canceled": "-", "waiting": "…"}


@dataclass(slots=True)
class Line:
    """One step as it is shown."""

    path: str
    verb: str = ""
    state: str = "pending"
    attempt: int = 0
    note: str = ""
    begun: float = 0.0
    ended: float = 0.0
    asks: bool = False
    """It waits for a person now."""


@dataclass(slots=True)
class Steps:
    """The steps of a run, folded from the entries of its journal. `took` says what happened in plain words."""

    lines: dict[str, Line] = field(default_factory=dict)
    notice: str = ""
    state: str = "submitted"
    seq: int = 0
    run_id: str = ""
    """For the command that answers a question."""

    def take(self, event: Event) -> str:
        """Folds one event in; a sentence about it, empty when there is nothing to say."""
        data = event.data if isinstance(event.data, Mapping) else {}
        if event.name == "notice":
            self.notice = str(data.get("message", ""))
            return self.notice
        if event.name == "run":
            self.state = str(data.get("run", data).get("state", self.state))
            return ""
        entry: Mapping[str, Any] = data.get("entry") or data
        self.seq = max(self.seq, int(entry.get("seq") or 0))
        self.notice = ""
        kind, path = str(entry.get("kind", "")), str(entry.get("path") or "")
        payload: Mapping[str, Any] = entry.get("payload") or {}
        if not path:
            return self._run(kind, payload)
        line = self.lines.setdefault(path, Line(path))
        line.attempt = max(line.attempt, int(entry.get("attempt") or 0))
        said = _step(line, kind, payload, float(entry.get("at") or 0))
        if line.asks:
            line.note += f"  (agentmesh runs answer {self.run_id})"
            said += f"; answer with: agentmesh runs answer {self.run_id}"
        return f"{path}: {said}" if said else ""

    def _run(self, kind: str, payload: Mapping[str, Any]) -> str:
        state = kind.removeprefix("run.")
        if state in ("submitted", "working", *TERMINAL):
            # A run that waited was given up on purpose, and goes on because something came.
            waited = any(line.state == "waiting" for line in self.lines.values())
            again = state == "working" and self.state == "working" and not waited
            self.state = state
            return "the run goes on after its worker went away" if again else ""
        by = payload.get("by", "somebody")
        match state:
            case "cancel_requested":
                return f"cancel asked for by {by}"
            case "signaled":
                return f"signal {payload.get('name')} by {by}"
            case "answered":
                return f"{by} answers {payload.get('question')} with {'yes' if payload.get('yes') else 'no'}"
            case "undoing":
                return "what was done is being undone"
            case "input_required":
                self.state = state
        return ""


def _step(line: Line, kind: str, payload: Mapping[str, Any], at: float) -> str:
    """What one entry of a step's journal changes, and a sentence about it."""
    line.asks = False
    match kind.removeprefix("step."):
        case "started":
            line.verb, line.state, line.note = str(payload.get("verb") or line.verb), "running", ""
            line.begun, why = line.begun or at, str(payload.get("why") or "first")
            return f"{line.verb} begins" if why == "first" else f"attempt {line.attempt} ({why})"
        case "waiting":
            line.verb, line.state, line.note = str(payload.get("verb") or line.verb), "waiting", waits_for(payload)
            line.begun, line.asks = line.begun or at, payload.get("for") in ASKING
            return line.note
        case "child":
            whom = payload.get("skill") or payload.get("workflow") or ""
            line.note = f"run {payload.get('run')}" + (f" of {whom}" if whom else "")
            return f"started {line.note}"
        case "attempt":
            failed = [v for v in payload.get("verdicts") or () if v.get("outcome") not in {None, "pass"}]
            reasons = "; ".join(str(v.get("message") or v.get("validator")) for v in failed)
            reasons = reasons or str((payload.get("error") or {}).get("message", ""))
            line.note = first_line(reasons)
            return f"attempt {line.attempt} did not pass: {line.note}" if reasons else ""
        case "completed":
            line.verb, line.state, line.ended = str(payload.get("verb") or line.verb), "completed", at
            line.note = line.note if line.note.startswith("run ") else ""
            return f"completed in {duration(max(0.0, at - line.begun))}" if line.begun else "completed"
        case "failed":
            line.state, line.ended = "failed", at
            line.note = first_line(str((payload.get("error") or {}).get("message", "")))
            return f"failed: {line.note}"
        case "skipped":
            line.state, line.note, line.ended = "skipped", str(payload.get("reason") or ""), at
            return "skipped" + (f": {line.note}" if line.note else "")
    return ""


def waits_for(payload: Mapping[str, Any]) -> str:
    """What a step waits for, from its `step.waiting` entry."""
    until = payload.get("until")
    end = f", until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC" if until else ""
    match payload.get("for"):
        case "timer":
            return f"waits{end}"
        case "signal":
            return f"waits for the signal {payload.get('name')}{end}"
    return f"asks: {first_line(str(payload.get('ask') or ''), 80)}{end}"


class View(Protocol):
    """Where the steps are shown."""

    def show(self, said: str) -> None:
        """Something changed; `said` is the sentence about it, or empty."""
        ...


class Quiet:
    """Shows nothing."""

    def show(self, said: str) -> None:
        """Nothing."""


class Plain:
    """One line on stderr for each thing that happens."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, said: str) -> None:
        if said and said != self._last:
            print(f"  {said}", file=sys.stderr, flush=True)
            self._last = said


@contextmanager
def view(steps: Steps, *, quiet: bool = False) -> Iterator[View]:
    """A live table when stderr is a terminal, plain lines otherwise."""
    if quiet:
        yield Quiet()
    elif not sys.stderr.isatty():
        yield Plain()
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(Table(steps), console=Console(stderr=True), refresh_per_second=8) as live:
            yield Terminal(live.refresh)


@dataclass(slots=True)
class Terminal:
    """Redraws at once; in between the table redraws itself, for its clocks."""

    redraw: Callable[[], None]

    def show(self, said: str) -> None:
        self.redraw()


@dataclass(slots=True)
class Table:
    """The steps as rich draws them."""

    steps: Steps

    def __rich__(self) -> Any:
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2))
        colours = {"completed": "green", "failed": "red", "running": "cyan", "skipped": "dim", "waiting": "yellow"}
        now = time.time()
        for line in self.steps.lines.values():
            mark = MARKS.get(line.state) or "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now * 8) % 10]
            took = duration(max(0.0, (line.ended or now) - line.begun)) if line.begun else ""
            note = f"attempt {line.attempt}  {line.note}" if line.attempt > 1 else line.note
            indent = "  " * line.path.count("/")
            grid.add_row(
                Text(mark, colours.get(line.state, "")),
                indent + line.path,
                Text(line.verb, "dim"),
                took,
                Text(note, "yellow" if line.asks else "dim"),
            )
        if self.steps.notice:
            grid.add_row(Text("…", "yellow"), Text(self.steps.notice, "yellow"), "", "", "")
        return grid


def follow(folder: Path, client: Client, run_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Shows a run until it ends, over restarts of the server too; the run as it ended.

    Unreachable when the server went away and did not come back; KeyboardInterrupt passes, and the run goes on.
    """
    steps = Steps(run_id=run_id)
    path = f"/v1/runs/{segment(run_id)}"
    with view(steps, quiet=quiet) as shown:
        while True:
            try:
                for event in client.events(path + "/events", after=steps.seq):
                    shown.show(steps.take(event))
                run: dict[str, Any] = client.get(path)
                if run["state"] in TERMINAL:
                    return run
            except Unreachable as e:
                lost = e
            else:
                lost = Unreachable("the stream of events ended before the run")
            client = _again(folder, run_id, lost)


def _again(folder: Path, run_id: str, lost: Unreachable) -> Client:
    """The server, once it is back."""
    until = time.monotonic() + AWAY
    told = False
    while time.monotonic() < until:
        if client := find(folder):
            return client
        if not told:
            note(f"{lost.message}; waiting for the server to come back")
            told = True
        time.sleep(0.25)
    raise Unreachable(f"{lost.message}; run {run_id} goes on when `agentmesh serve` runs again")
