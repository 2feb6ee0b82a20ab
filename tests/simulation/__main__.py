"""Plays schedules from random seeds for so many seconds, or one seed again."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.schedule import Report, simulate


def tell(report: Report, *, whole: bool) -> None:
    """What went wrong, and how to see it again."""
    print(f"seed {report.seed} broke a promise:")
    for fault in report.faults[:20]:
        print(f"  {fault}")
    print(f"again: python -m tests.simulation --seed {report.seed}")
    if whole:
        for program in report.programs:
            print(f"  {program.document()}")
        print("\n".join(report.trace[-400:]))


def play(seconds: float, first: int, verbs: frozenset[str] | None = None) -> tuple[int, Counter[str], list[Report]]:
    """How many schedules, what happened in them, and those that broke a promise (at most ten)."""
    played, kinds, broken = 0, Counter[str](), []
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(broken) < 10:
        report = simulate(first + played, verbs=verbs)
        played += 1
        kinds.update(report.kinds)
        kinds["runs"] += report.runs
        if report.faults:
            broken.append(report)
    return played, kinds, broken


def play_at_once(
    jobs: int, seconds: float, first: int, verbs: frozenset[str] | None
) -> tuple[int, Counter[str], list[Report]]:
    """`play` in so many processes, each with seeds of its own."""
    if jobs == 1:
        return play(seconds, first, verbs)
    starts = [first + number * 10_000_000 for number in range(jobs)]
    played, kinds, broken = 0, Counter[str](), []
    with ProcessPoolExecutor(jobs) as pool:
        for count, found, faulty in pool.map(play, [seconds] * jobs, starts, [verbs] * jobs):
            played += count
            kinds.update(found)
            broken += faulty
    return played, kinds, broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="play this one, and tell all of it")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--from", type=int, dest="first", help="the first seed; drawn otherwise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that play")
    parser.add_argument("--verbs", help="only these, with commas between")
    given = parser.parse_args()
    verbs = frozenset(given.verbs.split(",")) if given.verbs else None
    if given.seed is not None:
        report = simulate(given.seed, verbs=verbs)
        print(
            f"seed {report.seed}: {report.runs} runs, {report.turns} turns, {dict(report.kinds)}, digest {report.digest}"
        )
        if report.faults:
            tell(report, whole=True)
        return bool(report.faults)
    first = given.first if given.first is not None else random.SystemRandom().randrange(1 << 31)
    begun = time.monotonic()
    played, kinds, broken = play_at_once(given.jobs, given.seconds, first, verbs)
    rate = played / (time.monotonic() - begun) * 60
    for report in broken:
        tell(report, whole=False)
    print(f"simulation: {played} schedules from seed {first}, {rate:.0f} a minute, {dict(sorted(kinds.items()))}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
