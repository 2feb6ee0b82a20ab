"""Places (file and line) that a log names, with how much the form of the line says that it is the one at fault."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentmesh.builtin.log_lines import Line


@dataclass
class Place:
    """A place as the log writes it. `function` is where the log says it lies, if it does."""

    file: str
    line: int | None
    at: int  #: index of the line of the log that names it
    kind: str  #: frame, error, test, warning, note, head, other
    score: float
    function: str | None = None


_OUTSIDE = re.compile(
    r"site-packages|dist-packages|/lib/python\d|node_modules|node:|^<|^internal/|\(internal|/rustc/|\.cargo/registry|/usr/include|/usr/lib/|"
    r"/usr/local/go/|/usr/lib/go|/usr/share/|^runtime/|^testing/|/library/(?:std|core|alloc|test)/|frozen |lib/ruby|/x86_64|sysdeps|csu/|asan_|interceptors|/gems/"
)
_JAVA_OUTSIDE = re.compile(
    r"^(?:java|javax|jdk|sun|com\.sun|org\.junit|junit|org\.apache|org\.hamcrest|org\.gradle|org\.springframework|kotlin|scala)[./]"
)
_F = r"((?:[A-Za-z]:)?(?:file://)?[\w@.+~/\\-]*[\w@+~-]\.[A-Za-z][A-Za-z0-9+]{0,5})"
_PY_FRAME = re.compile(r'File "([^"]{1,300})", line (\d{1,7})(?:,? in (.{1,120}))?')
_COLON = re.compile(rf"(?:^|[\s('\"`\[=|])(?:vet: )?{_F}:(\d{{1,7}})(?::(\d{{1,5}}))?(?::? ?(.{{0,200}}))?")
_PAREN = re.compile(rf"(?:^|\s){_F}\((\d{{1,7}}),(\d{{1,5}})\): (\w+)")
_ON_LINE = re.compile(rf"\b(?:in|of|at|file) [\"']?{_F}[\"']?,? (?:on |at )?line (\d{{1,7}})")
_SH = re.compile(r"(?:^|\s)([\w./+-]{1,200}\.(?:sh|bash)|[\w./-]{1,200}/[\w.-]{1,100}): line (\d{1,7}): (.*)")
_LINE_FIRST = re.compile(r"line (\d{1,7}) of ([\w./+-]{1,200})")
_REQUIREMENT = re.compile(r"\(from -r ([\w./+-]{1,200}) \(line (\d{1,7})\)\)")
_MAKE = re.compile(r"(?:^|\s)((?:[\w./-]{0,200}/)?(?:GNUm|M|m)akefile|[\w./-]{1,200}\.mk):(\d{1,7}): (.*)")
_CMAKE = re.compile(r"CMake Error at ([\w./-]{1,200}):(\d{1,7})")
_JAVA_FRAME = re.compile(
    r"^\s*at (?:[\w.@-]{1,60}/{1,2})?([\w.$<>]{1,200})\.([\w$<>]{1,100})\((\w+\.(?:java|kt|scala)):(\d{1,7})\)"
)
_NODE_FRAME = re.compile(
    r"^\s*(?:at )?(?:async )?(?:([\w.<>$ \[\]]{1,100}?) )?\(?((?:file://|/|\.{1,2}/|[A-Za-z]:\\|[\w-]+/)[^():]{1,300}):(\d{1,7}):(\d{1,5})\)?$"
)
_ASAN = re.compile(r"^\s*#\d+ 0x[0-9a-f]+ in (\S+) (\S+?):(\d{1,7})(?::\d+)?$")
_LINK = re.compile(
    r"(?:^|[\s:])([\w./+-]{1,200}\.(?:c|cc|cpp|cxx|m|rs|go)):(?:\(\.[\w.+]+\+0x[0-9a-f]+\)|(\d{1,7})): undefined reference"
)
_UNDER_HEADER = re.compile(r"^\s+(\d{1,7}):(\d{1,5})\s+(\S+)")
_HEADER = re.compile(rf"^{_F}:?$")
_COMPACT = re.compile(rf"(?:^|\s){_F}: line (\d{{1,7}}), col (\d+), (\w+)")
_JSON_FILE = re.compile(r"npm (?:ERR!|error) (?:code EJSONPARSE|JSON\.parse|path)\b.*?((?:/[\w./-]+/)?package\.json)")
_TEST_WORD = re.compile(r"location:|^\s*at .*\bTest\b")
_ERROR_START = re.compile(
    r"(?:fatal )?error\b|E\d{3}|[A-Z]\w*(?:Error|Exception)\b|Assertion|undefined|syntax|\*\*\*|Failed|panic",
    re.IGNORECASE,
)


def project(path: str) -> bool:
    """Whether the path is not of an interpreter, a standard library or an installed package."""
    return not _OUTSIDE.search(path)


def _clean(path: str) -> str:
    return path.removeprefix("file://")


def find(lines: list[Line]) -> list[Place]:
    """Every place, in the order of the log."""
    found: list[Place] = []
    header: str | None = None
    for at, line in enumerate(lines):
        text = line.text
        if ":" not in text and " line " not in text and "(" not in text:
            under = _HEADER.match(text.strip()) if "." in text else None
            if under:
                header = under.group(1)
            elif header and (match := _UNDER_HEADER.match(text)):
                found.append(Place(header, int(match.group(1)), at, "error", 70))
            continue
        if header and (match := _UNDER_HEADER.match(text)):
            warning = match.group(3) == "warning"
            found.append(
                Place(header, int(match.group(1)), at, "warning" if warning else "error", 50 if warning else 90)
            )
            continue
        if (under := _HEADER.match(text.strip())) and ":" not in text.strip()[:-1]:
            header = under.group(1)
        place = _of_line(text, at)
        if place:
            found.append(place)
    _rank(found, lines)
    return found


def _of_line(text: str, at: int) -> Place | None:
    """The place that one line names, if it names one."""
    if match := _PY_FRAME.search(text):
        return Place(match.group(1), int(match.group(2)), at, "frame", 40, match.group(3))
    stripped = text.lstrip()
    if stripped.startswith("at ") or stripped.endswith(")") and ".js:" in text:
        if match := _JAVA_FRAME.match(text):
            owner, method, file, number = match.groups()
            outside = _JAVA_OUTSIDE.match(owner + ".")
            return Place(file, int(number), at, "frame", -60 if outside else 40, method)
        if match := _NODE_FRAME.match(text):
            function = (match.group(1) or "").removeprefix("Object.").removeprefix("Context.").removeprefix("new ")
            named = function if function and not function.startswith(("<", "Test", "Suite", "Module.")) else None
            return Place(_clean(match.group(2)), int(match.group(3)), at, "frame", 40, named)
    if match := _ASAN.match(text):
        return Place(match.group(2), int(match.group(3)), at, "frame", 40, match.group(1))
    if match := _LINK.search(text):
        return Place(match.group(1), int(match.group(2)) if match.group(2) else None, at, "error", 95)
    if match := _REQUIREMENT.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 90 if "ERROR" in text else 30)
    if match := _MAKE.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 85 if "***" in match.group(3) else 40)
    if match := _CMAKE.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 85)
    if match := _SH.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 80)
    if match := _PAREN.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 95 if match.group(4) == "error" else 40)
    if match := _COLON.search(text):
        return _colon(match, text, at)
    if match := _ON_LINE.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 80)
    if match := _LINE_FIRST.search(text):
        return Place(match.group(2), int(match.group(1)), at, "error", 80)
    if match := _JSON_FILE.search(text):
        return Place(match.group(1), None, at, "other", 45)
    if match := _COMPACT.search(text):
        return Place(match.group(1), int(match.group(2)), at, "error", 90 if match.group(4) == "Error" else 50)
    return None


def _colon(match: re.Match[str], text: str, at: int) -> Place | None:
    """`file:line` and what follows it."""
    file, number, _, rest = match.group(1), int(match.group(2)), match.group(3), (match.group(4) or "").strip()
    before = text[: match.start(1)]
    if re.search(r"https?:/{0,2}$|://", before + file) and not file.startswith("file://"):
        return None
    file = _clean(file)
    if re.match(r"\d+\.\d", file):
        return None
    kind, score, function = "other", 25.0, None
    if rest.startswith("in "):
        kind, score, function = "frame", 40, rest[3:].strip("`'\": ")
    elif "panicked at" in before:
        kind, score = "error", 100
    elif before.strip().endswith("-->"):
        kind, score = "arrow", 60
    elif "included from" in before or re.match(r"\s+from ", text):
        kind, score = "note", 10
    elif re.match(r"(?:warning|W\d{4})\b", rest):
        kind, score = "warning", 50
    elif rest.startswith(("note:", "In ", "help:")):
        kind, score = "note", 10
    elif "location:" in before:
        kind, score = "test", 30
    elif before.rstrip().endswith(("at", "(")) and text.lstrip().startswith("at "):
        kind, score = "frame", 40
    elif re.match(r"\s*/\S+\.go:\d+ \+0x", text):
        kind, score = "frame", 40
    elif not before.strip() and not rest:
        kind, score = "head", 55
    elif rest and (not before.strip() or before.strip().endswith((":", "E"))):
        kind, score = "error", 100 if _ERROR_START.match(rest) else 85
        if re.match(r"[\w.]+(?:Error|Exception|Failed|Exit|Timeout|Warning)\b", rest):
            kind, score = ("frame", 60) if "Warning" not in rest else ("warning", 30)
    elif _ERROR_START.search(before):
        kind, score = "error", 70
    return Place(file, number, at, kind, score, function)


def _rank(found: list[Place], lines: list[Line]) -> None:
    """Raises the innermost frame of the project in each stack, and lowers what lies outside of it."""
    for place in found:
        if not project(place.file):
            place.score -= 100
    run: list[Place] = []
    blocks: list[list[Place]] = []
    for place in found:
        if place.kind == "frame":
            gap = place.at - run[-1].at if run else 0
            # Sources and locals stand between frames in the long forms; a blank traceback line begins a new one.
            broken = (
                any(
                    re.search(
                        r"Traceback \(most|^Caused by|^_{3,} |^={5,}|^-{5,}$|\.\.\. \d+ more", lines[i].text.strip()
                    )
                    for i in range(run[-1].at + 1, place.at)
                )
                if run and gap < 200
                else False
            )
            if run and (gap > 60 or broken):
                blocks.append(run)
                run = []
            run.append(place)
    if run:
        blocks.append(run)
    for block in blocks:
        inner_last = _python_like(block, lines)
        ours = [place for place in (reversed(block) if inner_last else block) if place.score > 0]
        if ours:
            ours[0].score = 110
            if lines[max(0, block[0].at - 1)].text.startswith("Caused by"):
                ours[0].score = 115


def _python_like(block: list[Place], lines: list[Line]) -> bool:
    """Whether the innermost frame comes last, as in Python; elsewhere, and for a signal in Python, it comes first."""
    text = lines[block[0].at].text
    if 'File "' in text:
        before = [lines[i].text for i in range(max(0, block[0].at - 2), block[0].at)]
        return not any("most recent call first" in line for line in before)
    return block[0].file.endswith(".py") and not text.lstrip().startswith("at ")
