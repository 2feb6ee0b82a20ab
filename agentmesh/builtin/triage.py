"""Deterministic steps of the triage workflow, around the model's choice.

`cut` reads a log and lists candidates: quotes (Q1, Q2 ...), places (P1 ...) and subjects (S1 ...), each list best first by
rules, and shows the lines that matter with those labels at their ends. The model answers with a cause and one label of each
kind. `resolve` turns labels into what people want to read. Plain functions of their arguments, without I/O: they run off the
event loop, as `python` steps.
"""

from __future__ import annotations

import re
from typing import Any

from agentmesh.builtin import log_hints, log_lines, log_places, log_subjects
from agentmesh.builtin.log_lines import Line
from agentmesh.builtin.log_places import Place

MOST = 6  #: candidates of each kind: one digit is one token
MOST_SHOWN = 16
WIDTH = 100
_SAYS = re.compile(
    r"(?:E\s+)?[\w.]+(?:Error|Exception|Expired|Timeout|Interrupt)\b|(?:\S+: )?(?:[Ff]atal )?(?:error|Error|ERROR)\b"
)
#: who takes a cause
AGENTS = {
    **dict.fromkeys(("assertion", "import", "syntax", "type", "lint"), "fix-code"),
    "dependency": "fix-dependency",
    **dict.fromkeys(("network", "timeout", "memory", "permission", "crash", "other"), "look-at-machine"),
}


def cut(log: str) -> dict[str, Any]:
    """The lines that matter, with labels, and what each label stands for.

    `text` is for the prompt; `causes` are those to choose from;
    `quotes`, `places` and `subjects` are labels for the `enum` of the answer, where P0 and S0 mean
    that there is none (Q0 only stands in a log without lines); `table` holds their meaning; `rules` is what rules alone would answer.
    """
    lines = log_lines.read(log)
    places = log_places.find(lines)
    hints = {at: hint for at, line in enumerate(lines) if (hint := log_hints.of_line(line.text))}
    hints = {at: _own(hint, at, lines, places) for at, hint in hints.items()}
    quoted = _quotes(lines, hints, places)
    placed = _places(places)
    matter = {*quoted, *hints}
    subjects = log_subjects.find(lines, [place for place, _ in placed], matter)[:MOST]

    labels: dict[int, list[str]] = {}
    table: dict[str, Any] = {}
    for number, at in enumerate(quoted, 1):
        labels.setdefault(at, []).append(f"Q{number}")
        table[f"Q{number}"] = log_lines.verbatim(lines[at])
    for number, (place, rows) in enumerate(placed, 1):
        for at in rows:
            labels.setdefault(at, []).append(f"P{number}")
        table[f"P{number}"] = {"file": place.file, "line": place.line}
    listed = []
    for number, subject in enumerate(subjects, 1):
        table[f"S{number}"] = subject.name
        listed.append(f"{subject.kind} {subject.name[:60]} S{number}")
    shown = _shown(lines, labels)
    rows_text = [_row(lines[at].text, hints.get(at) if at in quoted else None, labels.get(at, ())) for at in shown]
    text = "\n".join(rows_text + (["subjects:", *listed] if listed else []))
    first = next(iter(quoted), None)
    return {
        "text": text,
        "causes": _causes([hints[at] for at in quoted if at in hints]) if quoted else ["other"],
        "quotes": [f"Q{n}" for n in range(1, len(quoted) + 1)] or ["Q0"],
        "places": [f"P{n}" for n in range(1, len(placed) + 1)] + ["P0"],
        "subjects": [f"S{n}" for n in range(1, len(subjects) + 1)] + ["S0"],
        "table": table,
        "rules": {
            "cause": hints[first][0] if first is not None and first in hints else "other",
            "place": "P1" if placed else "P0",
            "subject": "S1" if subjects else "S0",
            "quote": "Q1" if quoted else "Q0",
        },
    }


def resolve(choice: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """What the chosen labels stand for, as the output of the workflow; a label that the table lacks means none."""
    place = table.get(str(choice.get("place"))) or {"file": None, "line": None}
    subject = table.get(str(choice.get("subject")))
    quote = table.get(str(choice.get("quote")))
    cause = str(choice["cause"])
    return {
        "cause": cause,
        "file": place["file"],
        "line": place["line"],
        "subject": subject,
        "summary": _summary(cause, place, subject, quote),
        "agent": AGENTS[cause],
        "quotes": [quote] if quote else [],
    }


def _summary(cause: str, place: dict[str, Any], subject: str | None, quote: str | None) -> str:
    # pytest begins a line of an error with "E   ".
    said = re.sub(r"^E\s+|\s+", " ", log_lines.clean(quote)).strip(" -") if quote else "the log shows no error"
    where = f" at {place['file']}:{place['line']}" if place["line"] else f" in {place['file']}" if place["file"] else ""
    who = f" ({subject})" if subject and subject not in said else ""
    return f"{cause}{where}{who}: {said}"[:240]


def _own(hint: tuple[str, int], at: int, lines: list[Line], places: list[Place]) -> tuple[str, int]:
    """Tells a module of the project from one to install, by the quotes around a header and by the folders the log shows."""
    if hint != ("dependency", 2):
        return hint
    text = lines[at].text
    if "fatal error" in text:
        shown = " ".join(line.text for line in lines[at + 1 : at + 3])
        return ("import" if re.search(r'#\s*include\s+"', shown) else "dependency", 3)
    if match := re.search(r"No module named '?([\w.]+)|error: package ([\w.]+) does not exist", text):
        name = match.group(1) or match.group(2)
        head = name.split(".")[0]
        if match.group(2):
            folder = "/".join(name.split(".")[:-1]) or head
            own = any(f"{folder}/" in place.file for place in places)
        else:
            own = any(
                re.search(rf"(?:^|/){re.escape(head)}(?:/|\.py$)", place.file) and log_places.project(place.file)
                for place in places
            )
        return ("import" if own else "dependency", 3)
    if match := re.search(r"Cannot find module '([^']+)'", text):
        return ("import" if match.group(1).startswith((".", "/")) else "dependency", 3)
    if match := re.search(r"unresolved import `([^`]+)`", text):
        return ("import" if match.group(1).startswith(("crate", "self", "super")) else "dependency", 3)
    return hint


def _causes(hints: list[tuple[str, int]]) -> list[str]:
    """The causes that the quotes speak for, and those that are easily taken for them; every cause where no word is known."""
    said = [cause for cause, strength in hints if strength]
    if not set(said) - {"other"}:
        return list(log_hints.CAUSES)
    near = {"import": ("dependency",), "dependency": ("import",), "type": ("syntax",), "syntax": ("type",)}
    found = [cause for name in said for cause in (name, *near.get(name, ()))]
    return list(dict.fromkeys([*found, "other"]))


def _quotes(lines: list[Line], hints: dict[int, tuple[str, int]], places: list[Place]) -> list[int]:
    """Lines that may show the cause, the likeliest first: strong words, early, and at the end of a stack or beside a place."""
    named = {place.at for place in places if place.score >= 60}
    scored: list[tuple[float, int]] = []
    seen: set[str] = set()
    count = 0
    for at, (_, strength) in hints.items():
        text = lines[at].text.strip()
        key = re.sub(r"\W+", " ", text)
        if key in seen:
            continue
        seen.add(key)
        score = strength * 10.0 - min(count, 40) * 0.25
        if at in named or at - 1 in named:
            score += 3
        if _SAYS.match(text):
            score += 5
        if re.match(r"(?:FAILED|FAIL|ERROR) ", text):
            score -= 4
        count += strength > 0
        scored.append((score, at))
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    if not scored and lines:
        return [len(lines) - 1]
    return [at for _, at in scored[:MOST]]


def _places(places: list[Place]) -> list[tuple[Place, list[int]]]:
    """Different places, the likeliest first, each with the lines that name it."""
    order: dict[tuple[str, int | None], tuple[float, Place, list[int]]] = {}
    events = 0
    for place in places:
        key = (place.file.removeprefix("./"), place.line)
        score = place.score - min(events, 60) * 0.4
        events += place.score >= 60
        kept = order.get(key)
        if kept is None:
            order[key] = (score, place, [place.at])
        else:
            kept[2].append(place.at)
            if score > kept[0]:
                order[key] = (score, place, kept[2])
    best = sorted(order.values(), key=lambda item: -item[0])
    ours = [item for item in best if item[0] > -60] or best[:2]
    return [(place, rows[:2]) for _, place, rows in ours[:MOST]]


def _shown(lines: list[Line], labels: dict[int, list[str]]) -> list[int]:
    wanted = set(labels)
    if lines:
        wanted |= {0, len(lines) - 1}
    for at in sorted(labels):
        if len(wanted) >= MOST_SHOWN:
            break
        if any(label in ("P1", "Q1") for label in labels[at]):
            wanted |= {other for other in (at - 1, at + 1) if 0 <= other < len(lines)}
    return sorted(wanted)


def _row(text: str, hint: tuple[str, int] | None, labels: list[str] | tuple[str, ...]) -> str:
    text = re.sub(r"\s{2,}", " ", text.strip())
    text = re.sub(r"([=_~^.*-])\1{4,}", r"\1\1\1", text)
    text = re.sub(r"<(?=\||/?s>)", "< ", text)  # a log must not speak in the model's own marks
    if len(text) > WIDTH:
        text = text[: WIDTH - 30] + " .. " + text[-26:]
    marks = " ".join(([hint[0]] if hint and hint[1] else []) + list(labels))
    return f"{text} |{marks}" if marks else text
