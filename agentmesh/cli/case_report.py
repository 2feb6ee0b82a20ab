"""What `agentmesh test` shows: cases, how often validators pass, which of them notice faults; and JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentmesh.cli.options import WrongUsage
from agentmesh.cli.output import duration

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.engine.casebook import Played
    from agentmesh.engine.mutants import Subject
    from agentmesh.engine.resample import Rate, Sampled


def show_case(console: Console, played: Played) -> None:
    mark = "[green]✓[/]" if played.passed else "[yellow]![/]" if played.stale else "[red]✗[/]"
    console.print(f"  {mark} ", end="")
    console.print(f"{played.case.name}  {duration(played.seconds)}", markup=False)
    for line in played.failures:
        console.print(f"      {line}", markup=False)
    if played.stale:
        said = "nothing is recorded for it" if played.unrecorded else "the recording is stale"
        asked = "; ".join(played.stale[:3])
        console.print(f"      {said}: run with --record ({asked} is asked now)", markup=False)
    elif played.unused and played.passed:
        console.print(f"      recorded and not asked any more: {'; '.join(played.unused[:3])}", markup=False)


def show_sampled(console: Console, sampled: Sampled) -> None:
    from rich.table import Table as Grid

    grid = Grid("step", "validator", "passes", "95 %", "of", box=None, pad_edge=False, title_justify="left")
    for (path, name), rate in sampled.validators.items():
        low, high = rate.to_json()["interval"]
        share = f"{rate.passed / rate.of:.1%}" if rate.of else "-"
        unchecked = f", {rate.unchecked} could not be checked" if rate.unchecked else ""
        grid.add_row(path, name, share, f"{low:.1%} to {high:.1%}", f"{rate.of}{unchecked}")
    if grid.row_count:
        console.print()
        console.print(grid)
    told = sampled.to_json()
    tokens, seconds = told["tokens"], told["seconds"]
    if tokens["runs"]:
        console.print(
            f"\n{tokens['runs']} runs: {tokens['mean']:g} tokens each (p95 {tokens['p95']:g}), "
            f"{seconds['mean']:.2f} s in models and tools (p95 {seconds['p95']:.2f} s)"
        )


def show_mutants(console: Console, subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        told = subject.to_json()
        console.print(
            f"\n  {subject.path}: {told['noticed']} of {told['tried']} faults in {subject.outputs} outputs were noticed",
            markup=False,
        )
        for guard in subject.guards.values():
            if not guard.runs:
                console.print(f"    -  {guard.name}: asks somebody, not run here", style="dim", markup=False)
                continue
            style = "red" if guard.tried and not guard.caught else None
            note_ = "  <- catches nothing" if style else ""
            console.print(f"    {guard.caught:>4} of {guard.tried}  {guard.name}{note_}", style=style, markup=False)
        if not any(guard.runs for guard in subject.guards.values()):
            console.print("    no validator guards this output", style="red", markup=False)
        elif subject.unguarded:
            parts = ", ".join(subject.unguarded)
            console.print(f"    no validator guards {parts}", style="yellow", markup=False)
        for missed in subject.missed[:5]:
            console.print(
                f"      not noticed: {missed['path']} {missed['kind']}: {missed['value']}",
                style="dim",
                markup=False,
            )


def share(rate: Rate) -> str:
    low, high = rate.to_json()["interval"]
    return f"{rate.passed} of {rate.of} ({low:.0%} to {high:.0%})"


def write_junit(file: Path, played: Sequence[tuple[str, Played]]) -> None:
    """The results as most CI systems read them: a stale recording is an error, a case that does not hold a failure."""
    from xml.sax.saxutils import escape, quoteattr

    suites: dict[str, list[Played]] = {}
    for workflow, one in played:
        suites.setdefault(workflow, []).append(one)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>"]
    for workflow, results in suites.items():
        failed, stale = sum(bool(r.failures) for r in results), sum(bool(r.stale) and not r.failures for r in results)
        lines.append(
            f'  <testsuite name={quoteattr(workflow)} tests="{len(results)}" failures="{failed}" errors="{stale}" '
            f'time="{sum(r.seconds for r in results):.3f}">'
        )
        for one in results:
            head = f'    <testcase classname={quoteattr(workflow)} name={quoteattr(one.case.name)} time="{one.seconds:.3f}"'
            if one.passed:
                lines.append(head + "/>")
                continue
            kind, said = ("failure", one.failures) if one.failures else ("error", one.stale)
            first = said[0] if kind == "failure" else "the recording is stale: run with --record"
            lines += [
                head + ">",
                f"      <{kind} message={quoteattr(_printable(first))}>{escape(_printable(chr(10).join(said)))}</{kind}>",
            ]
            lines.append("    </testcase>")
        lines.append("  </testsuite>")
    lines.append("</testsuites>")
    try:
        file.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise WrongUsage(f"cannot write {file}: {(error.strerror or str(error)).lower()}") from None


def _printable(text: str) -> str:
    """Without the control characters that XML 1.0 does not have."""
    return "".join(c if c in "\n\t" or c >= " " else "\ufffd" for c in text)
