"""A case: a program with one known fault, and the command whose real output becomes a log.

The character § in a file stands before the line at fault and is removed when the file is written, so that the truth
(file and line) is known by construction and never read from the log.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MARK = "§"


@dataclass(frozen=True)
class Case:
    """One failing program."""

    template: str  #: the fault and how it is run, such as "py/mul-none/pytest"; a template is in one split only
    tool: str
    files: dict[str, str]
    command: str  #: for bash, in the folder of the program
    cause: str
    keys: tuple[str, ...]  #: a line of the log that holds one of these shows the cause
    subjects: tuple[str, ...] = ()  #: the failing test or symbol, best first; empty: the truth has none
    file: str | None = ""  #: the file at fault; "": the one that holds the mark
    line: int | None = 0  #: 0: the line of the mark
    nobody: bool = False  #: run as a user without rights
    modes: dict[str, int] = field(default_factory=dict)  #: permissions of files


def place(case: Case) -> tuple[str | None, int | None]:
    """The file and line of the mark."""
    if case.file != "":
        return case.file, case.line or None
    for path, text in case.files.items():
        for number, line in enumerate(text.split("\n"), 1):
            if MARK in line:
                return path, number
    return None, None


TRAIN = {
    "noun": """parcel order invoice ticket basket user account payment shelf route driver sensor reading report letter
        channel booking room price customer stock item cart coupon tax region vehicle depot label weight folder album
        track playlist score player fixture season team review comment article author page chapter widget canvas pixel
        color brush layer ticketbox session cookie header packet frame buffer backlog worker job batch metric alert rule
        policy grant tenant cluster node volume image registry bundle manifest""",
    "verb": """compute load parse fetch build render merge split total apply check update convert collect encode decode
        resolve assign close open send read write sort filter group find pick format scale count""",
    "adj": """daily total raw last first open cheap late active valid default local remote cached empty full next
        stale dirty pending""",
    "pkg": """app shop billing core service acme store ledger fleet press gallery arena sketch gate runner watch keeper
        harbor atlas""",
}
HELD = {
    "noun": """recipe meal kitchen harvest tree orchard beehive colony voyage ship cargo harbour pilot flight runway
        patient ward dose clinic student course exam grade lesson tariff meter turbine grid kiln vase glaze loom yarn
        pattern choir song stanza poem lens aperture shutter planet orbit comet spectrum""",
    "verb": """plan brew measure graft steer weigh enrol mark bake spin tune expose predict rank blend archive
        dispatch reconcile summarize tally""",
    "adj": """weekly warm early spare heavy narrow bright quiet foreign annual brittle nested""",
    "pkg": """pantry meadow navy lyceum foundry concert observatory mill almanac infirmary quarry""",
}


class Words:
    """Draws names for programs, from one of two vocabularies that share no word."""

    def __init__(self, rng: random.Random, held: bool) -> None:
        self.rng = rng
        self._pools = {key: text.split() for key, text in (HELD if held else TRAIN).items()}
        self._used: set[str] = set()

    def one(self, kind: str) -> str:
        """A word not drawn before from this object, if one is left."""
        pool = [word for word in self._pools[kind] if word not in self._used] or self._pools[kind]
        word = self.rng.choice(pool)
        self._used.add(word)
        return word

    def noun(self) -> str:
        return self.one("noun")

    def func(self) -> str:
        shape = self.rng.random()
        if shape < 0.6:
            return f"{self.one('verb')}_{self.one('noun')}"
        if shape < 0.8:
            return f"{self.one('verb')}_{self.one('adj')}_{self.one('noun')}"
        return self.one("verb")

    def camel(self) -> str:
        first, *rest = self.func().split("_")
        return first + "".join(part.title() for part in rest)

    def cls(self) -> str:
        return self.one("noun").title() + self.rng.choice(["", "", "Service", "Book", "Store", "Loader", "View"])

    def pkg(self) -> str:
        return self.one("pkg")


def pad(rng: random.Random, comment: str, most: int = 14) -> str:
    """Lines without effect, so that the line at fault is not always the same."""
    texts = ["TODO: simplify", "see the handbook", "keep in step with the schema", "kept for old callers", "generated"]
    out = []
    for _ in range(rng.randint(0, most)):
        out.append(f"{comment} {rng.choice(texts)}" if rng.random() < 0.4 else "")
    return "\n".join(out) + ("\n" if out else "")
