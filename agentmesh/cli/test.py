"""`test`: golden cases of the workflows, against recordings; `--live` and `--mutate` ask how good models and validators are."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.case_report import share, show_case, show_mutants, show_sampled, write_junit
from agentmesh.cli.options import FAILED, WRONG, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import note, print_json
from agentmesh.errors import MeshError, ProjectError

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.adapters.case_files import Cases
    from agentmesh.core.mesh import Mesh as MeshFiles
    from agentmesh.engine.casebook import Played, Table
    from agentmesh.engine.mutants import Subject
    from agentmesh.engine.resample import Sampled

READY = 900.0
"""Seconds that deployed models get to become ready."""
POLL = 1.0
_SECRET = re.compile(r"secrets\.([A-Za-z_][A-Za-z0-9_]*)")


def run_cases(
    workflows: Annotated[list[str] | None, typer.Argument(metavar="[WORKFLOW]...", help="Only these.")] = None,
    case: Annotated[list[str] | None, typer.Option("--case", metavar="NAME", help="Only cases of this name.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Ask the live models and all else, and keep the answers.")
    ] = False,
    live: Annotated[
        int, typer.Option("--live", metavar="N", min=0, help="Run each case N times on the live models instead.")
    ] = 0,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Put faults into recorded outputs; say which validators notice.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there, for CI.")
    ] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Run the golden cases of the workflows on what was recorded; no server, no model."""
    import anyio

    if record and live:
        raise WrongUsage("--record keeps answers, --live does not; give one of them")
    folder = mesh_folder(mesh)
    found, files = _read(folder, as_json=as_json)
    chosen = _chosen(found, workflows, case)
    console = _console(quiet=as_json)
    session = _Session(folder, files, console, record=record, live=live, mutate=mutate)
    anyio.run(session.run, chosen)
    if junit is not None:
        write_junit(junit, session.played)
    if as_json:
        print_json(session.to_json())
    else:
        session.summarize()
    if any(one.failures for _, one in session.played):
        raise typer.Exit(FAILED)
    if any(one.stale for _, one in session.played):
        raise typer.Exit(WRONG)


def _read(folder: Path, *, as_json: bool) -> tuple[list[Cases], MeshFiles]:
    """The cases and the mesh. Secrets that are not set are stood in for: recordings need none."""
    from agentmesh.adapters.case_files import read_cases
    from agentmesh.adapters.files import load_mesh
    from agentmesh.settings import Secrets, read_settings

    texts = [path.read_text(errors="replace") for path in (folder / "agentmesh.yaml", *folder.glob("*/*.yaml"))]
    names = {name for text in texts for name in _SECRET.findall(text)}
    given = read_settings(folder).secrets.values
    try:
        mesh = load_mesh(folder, Secrets({**dict.fromkeys(names, "recorded"), **given}))
        return read_cases(folder, mesh.workflows), mesh
    except ProjectError as error:
        if as_json:
            print_json(
                {
                    "faults": [
                        {"file": f.file, "line": f.line, "column": f.column, "message": f.message} for f in error.faults
                    ]
                }
            )
        else:
            for fault in error.faults:
                print(fault)
            note(f"{len(error.faults)} fault{'s' if len(error.faults) != 1 else ''}")
        raise typer.Exit(WRONG) from None


def _chosen(found: Sequence[Cases], workflows: Sequence[str] | None, names: Sequence[str] | None) -> list[Cases]:
    from dataclasses import replace

    there = sorted({one.workflow for one in found})
    for name in workflows or ():
        if name not in there:
            raise WrongUsage(f"there are no cases for workflow {name!r}; there are for {', '.join(there) or 'none'}")
    chosen = [one for one in found if not workflows or one.workflow in workflows]
    if names:
        chosen = [replace(one, cases=[c for c in one.cases if c.name in names]) for one in chosen]
        chosen = [one for one in chosen if one.cases]
    if not chosen:
        raise WrongUsage(
            f"no case is named {', '.join(map(repr, names))}"
            if names
            else "there are no cases; write workflows/NAME.cases.yaml"
        )
    return chosen


class _Session:
    """One call of the command."""

    def __init__(
        self, folder: Path, mesh: MeshFiles, console: Console, *, record: bool, live: int, mutate: bool
    ) -> None:
        self.folder = folder
        self.mesh = mesh
        self.console = console
        self.record = record
        self.live = live
        self.mutate = mutate
        self.played: list[tuple[str, Played]] = []
        self.sampled: dict[str, Sampled] = {}
        self.subjects: dict[str, list[Subject]] = {}

    async def run(self, chosen: Sequence[Cases]) -> None:
        from agentmesh.engine.casebook import World

        async with AsyncExitStack() as stack:
            world = World()
            if self.record or self.live:
                world = await stack.enter_async_context(self._world())
            for one in chosen:
                await self._file(one, world)

    async def _file(self, one: Cases, world: Any) -> None:
        from agentmesh.adapters.memory import MemoryStore
        from agentmesh.engine.casebook import Table

        table = Table(self.mesh, lambda clock: MemoryStore(clock=clock), world, secrets=_secrets(self.folder))
        self.console.print(f"[bold]{one.workflow}[/]  workflows/{one.file.name}")
        if self.live:
            await self._sample(one, table)
            return
        made: dict[str, Sequence[Mapping[str, Any]]] = {}
        results: list[Played] = []
        for case in one.cases:
            played, calls = await self._play(one, case, table)
            if self.record:
                made[case.name] = calls
            results.append(played)
            self.played.append((one.workflow, played))
            show_case(self.console, played)
        if self.record:
            one.write(made)
            self.console.print(f"  recorded in workflows/{one.recordings.name}")
        if self.mutate:
            from agentmesh.engine.mutants import mutate

            self.subjects[one.workflow] = await mutate(results)
            show_mutants(self.console, self.subjects[one.workflow])

    async def _play(self, one: Cases, case: Any, table: Table) -> tuple[Played, list[Mapping[str, Any]]]:
        from agentmesh.engine.recording import Deck

        deck = Deck(one.calls.get(case.name), record=self.record)
        return await table.play(one.workflow, case, one.input_of(case), deck), deck.made

    async def _sample(self, one: Cases, table: Table) -> None:
        from agentmesh.engine.recording import Deck
        from agentmesh.engine.resample import Sampled

        sampled = self.sampled[one.workflow] = Sampled()
        for case in one.cases:
            for _ in range(self.live):
                sampled.add(
                    await table.play(one.workflow, case, one.input_of(case), Deck(one.calls.get(case.name)), live=True)
                )
            rate = sampled.cases[case.name]
            self.console.print(f"  {share(rate)}  ", end="")
            self.console.print(case.name, markup=False)
        show_sampled(self.console, sampled)

    @asynccontextmanager
    async def _world(self) -> AsyncIterator[Any]:
        """What lies outside, as a server of this mesh would reach it."""
        from agentmesh.adapters.http_outside import OutsideHttp
        from agentmesh.adapters.openai_http import OpenAiHttp
        from agentmesh.adapters.sql.databases import SqlDatabases
        from agentmesh.engine.casebook import World

        async with (
            OpenAiHttp(self._models()) as models,
            OutsideHttp() as http,
            SqlDatabases(self.mesh.file.databases, self.folder) as databases,
        ):
            yield World(models, http, databases)

    def _models(self) -> dict[str, Any]:
        """Every model of the mesh by an address: a deployed one's is that of its server, which is started when none runs."""
        models = dict(self.mesh.file.models)
        waiting = {name for name, model in models.items() if model.deploy is not None}
        if not waiting:
            return models
        from agentmesh.cli.background import connect
        from agentmesh.core.model import Model

        client = connect(self.folder, start=True)
        until, said = time.monotonic() + READY, ""
        while waiting:
            for status in client.get("/v1/models")["models"]:
                name = status["name"]
                if name not in waiting:
                    continue
                if status["state"] == "failed":
                    raise MeshError(f"model {name} cannot be asked: {status['message']}")
                if status["state"] == "ready" and status["urls"]:
                    models[name] = Model(url=status["urls"][0], model=name, concurrency=models[name].concurrency)
                    waiting.discard(name)
                elif f"{name}: {status['message']}" != said:
                    said = f"{name}: {status['message']}"
                    note(said)
            if waiting and time.monotonic() > until:
                raise MeshError(
                    f"model {', '.join(sorted(waiting))} is not ready after {READY:.0f} s; see `agentmesh models status`"
                )
            if waiting:
                time.sleep(POLL)
        return models

    def summarize(self) -> None:
        if self.live:
            return
        failed = sum(bool(one.failures) for _, one in self.played)
        stale = sum(bool(one.stale) and not one.failures for _, one in self.played)
        passed = len(self.played) - failed - stale
        parts = [f"{passed} passed"] + ([f"{failed} failed"] if failed else []) + ([f"{stale} stale"] if stale else [])
        self.console.print(f"\n{len(self.played)} case{'' if len(self.played) == 1 else 's'}: {', '.join(parts)}")

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "cases": [
                {
                    "workflow": workflow, "case": one.case.name, "passed": one.passed,
                    "state": one.run.state.value if one.run else None, "failures": list(one.failures),
                    "stale": list(one.stale), "unused": list(one.unused), "seconds": round(one.seconds, 3),
                }
                for workflow, one in self.played
            ]
        }  # fmt: skip
        if self.live:
            found["live"] = {name: sampled.to_json() for name, sampled in self.sampled.items()}
        if self.mutate:
            found["mutants"] = {name: [s.to_json() for s in subjects] for name, subjects in self.subjects.items()}
        return found


def _secrets(folder: Path) -> Mapping[str, str]:
    from agentmesh.settings import read_settings

    return read_settings(folder).secrets.values


def _console(*, quiet: bool) -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, quiet=quiet)
