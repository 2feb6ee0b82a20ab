"""Failing tests and symbols that a log names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentmesh.builtin.log_lines import Line
from agentmesh.builtin.log_places import Place, project


@dataclass(frozen=True)
class Subject:
    """A name, and what it is: test, symbol (said to be wrong or missing), function (where it happened), package or rule."""

    name: str
    kind: str
    at: int
    score: float


_Q = "['\"`‘“]"
_N = r"([^'\"`’‘“”]{1,120})"
_TESTS = [
    re.compile(r"^(?:FAILED|ERROR) +(?:\S+::)([\w\[\]. -]+?)(?:\[.*?\])?(?: - .*)?$"),
    re.compile(r"^\S+::(\w+)(?:\[.*?\])? (?:FAILED|ERROR)\b"),
    re.compile(r"^_{2,} (?:[\w.]+\.)?(\w+)(?:\[.*?\])? _{2,}$"),
    re.compile(r"^(?:FAIL|ERROR): (\w+) \("),
    re.compile(r"^(\w+) \([\w.]+\)(?: \.\.\.)? (?:FAIL|ERROR)$"),
    re.compile(r"^(test\w*) \([\w.]+\)"),
    re.compile(r"^\s*--- FAIL: (\S+) \("),
    re.compile(r"^test (\S+) (?:- .* )?\.\.\. FAILED$"),
    re.compile(r"^---- (\S+) stdout ----$"),
    re.compile(r"^thread '([^']+::[^']+)' (?:\(\d+\) )?panicked"),
    re.compile(r"^\s*not ok \d+ -? ?(.{1,150}?)(?: #.*)?$"),
    re.compile(r"^\s*[✖✗×✘] (?!\d+ problem|failing)(.{1,150}?)(?: \([\d.]+m?s\))?$"),
    re.compile(r"^\s*● (?:.* › )?(.{1,150})$"),
    re.compile(r"^\d+\) ([A-Za-z_]\w*)\([\w.$]+\)$"),
    re.compile(r"^\s*\d+\) (?:Failure|Error):?$"),
    re.compile(r"^(?:Failure|Error): ?\n?(\w+)#?(\w+)?"),
    re.compile(r"^\s*\d+\) [\w:]+(?:#|::)(\w+)"),
    re.compile(r"^(?:Failure|Error):\s*(?:\w+#)?(test_\w+)"),
    re.compile(r"\bin test case ['\"]?([\w.]+)"),
    re.compile(r"^\[ +FAILED +\] ([\w./]+)"),
    re.compile(r"^\s*\d+/\d+ Test +#\d+: (\S+) \.+\*+"),
]
_MOCHA = re.compile(r"^\s+\d+\) (.{1,150}?):?$")
_SYMBOLS = [
    (re.compile(rf"name {_Q}{_N}['’] is not defined"), 0),
    (re.compile(r"(?:cannot access local variable|local variable) '([^']+)'"), 0),
    (re.compile(rf"has no attribute {_Q}{_N}['’\"]"), 0),
    (re.compile(r"No module named '?([\w.]+)'?"), 0),
    (re.compile(r"cannot import name '([^']+)'"), 0),
    (re.compile(r"No package metadata was found for (\S+)|PackageNotFoundError: (\S+)$"), 0),
    (re.compile(r"undefined reference to [`'‘\"]([^'’\"(]+)"), 0),
    (re.compile(r"cannot find -l([\w+.-]+)"), 0),
    (re.compile(r"fatal error: '?([\w./+-]+)'?(?:: No such| file not found)"), 0),
    (re.compile(r"^\s*symbol: +(?:variable|method|class) (\w+)"), 3),
    (re.compile(r"error: (?:package|variable|cannot find symbol class) ([\w.]+)"), 0),
    (re.compile(r"final variable (\w+)"), 1),
    (re.compile(r"error: (?:method|constructor) (\w+)"), 0),
    (re.compile(r"no suitable (?:method|constructor) found for (\w+)"), 1),
    (re.compile(r"(?:ReferenceError: )(?:Cannot access ')?([\w$]+)"), 0),
    (re.compile(r"Cannot find (?:module|package|name) '([^']+)'"), 0),
    (re.compile(r"Property '([^']+)' does not exist"), 0),
    (re.compile(r"Parameter '([^']+)' implicitly"), 0),
    (re.compile(r"undefined: ([\w.]+)"), 0),
    (re.compile(r"\.(\w+) undefined \(type"), 1),
    (re.compile(r"\b(\w+) (?:declared but not used|declared and not used)|declared and not used: (\w+)"), 0),
    (re.compile(r"(?:^|[: ])([\w./@+-]+): (?:command not found|not found)$"), 0),
    (
        re.compile(
            r"\b(?:make(?:\[\d+\])?|/bin/sh|exec): (?:\d+: )?([\w.+-]+): (?:No such file|not found|command not found)"
        ),
        1,
    ),
    (re.compile(r"No rule to make target [`'‘\"]([^'’\"]+)"), 0),
    (re.compile(r"No matching distribution found for ([\w.\[\]-]+)"), 1),
    (re.compile(r"satisfies the requirement ([\w.\[\]-]+)"), 0),
    (re.compile(r"Invalid requirement: ['\"]?([\w.-]+)"), 0),
    (re.compile(r"Cannot install (?:-r \S+ \(line \d+\) and )?([\w.-]+?)(?:==| and|,| because)"), 0),
    (re.compile(r"The conflict is caused by:|depends on ([\w.-]+)"), -1),
    (re.compile(r": (\w+): Assertion [`'‘]|Assertion failed: .*function (\w+)"), 0),
    (re.compile(r"npm (?:error|ERR!).*?['\"]((?:@[\w.-]+/)?[\w.-]+)@"), 1),
    (re.compile(r"Argument \S+ (?:to|of) \"(\w+)\"|(?:arguments for|call to) \"(\w+)\""), 0),
    (re.compile(r"404 +(?:Not Found - GET \S*/)?'?((?:@[\w.-]+/)?[\w.-]+)@"), 1),
    (re.compile(r"No matching version found for ((?:@[\w.-]+/)?[\w.-]+)@"), 1),
    (re.compile(r"peer ((?:@[\w.-]+/)?[\w.-]+)@"), 1),
    (re.compile(r"Missing: ((?:@[\w.-]+/)?[\w.-]+)@"), 1),
    (re.compile(r"no matching package named `([^`]+)`"), 0),
    (re.compile(r"(?:unresolved import|maybe a missing crate|unlinked crate) `([^`]+)`|crate or module `([^`]+)`"), 0),
    (
        re.compile(
            r"Undefined (?:variable|constant|property|array key) \"?\$?([\w:]+)|undefined (?:local variable or )?method [`']([^'`]+)'|undefined local variable or method [`']([^'`]+)'"
        ),
        0,
    ),
    (re.compile(r"Call to undefined (?:function|method) ([\w\\:]+)"), 0),
    (re.compile(r"cannot load such file -- (\S+)|require(?:_once)?\(([^)]+)\)"), 0),
    (re.compile(r"uninitialized constant ([\w:]+)"), 0),
    (
        re.compile(
            r"got an unexpected keyword argument|(?:Too many|Missing \w+ \w+|Argument \d+ .*?) (?:arguments )?(?:for|to) \"?(\w+)\"?"
        ),
        -1,
    ),
]
_QUOTED = re.compile(r"[`‘“']([\w.$:/@<>-]{1,80})(?:\(\))?['’”`]")
_FUNCTION = re.compile(r"In (?:member )?function [`'‘](?:[\w:<>&* ]*[ :*&])?(\w+)(?:\(.*\))?['’]")
_RULES = [
    re.compile(r"(?:^|\s|\[)\*?([A-Z]{1,4}\d{3,4})(?::|\]|\s|$)"),
    re.compile(r"\d+:\d+ +(?:error|warning) .* ([a-z][\w/@-]+)$"),
    re.compile(r"\[(?:Error|Warning)/([\w/@-]+)\]$"),
    re.compile(r"(?:Error|Warning) - .* \(([\w/@-]+)\)$"),
    re.compile(r": [CRWEF]\d{4}: .* \(([a-z-]+)\)$"),
]
_ERROR_LINE = re.compile(r"\berror\b|Error\b|warning", re.IGNORECASE)


def _name(text: str) -> str:
    text = text.strip().rstrip(".,:;")
    return text.removesuffix("()")


def find(lines: list[Line], places: list[Place], matter: set[int]) -> list[Subject]:
    """Names, best first. `matter` are the indices of lines that say what is wrong: symbols are looked for there."""
    found: list[Subject] = []
    mocha: int | None = None
    for at, line in enumerate(lines):
        text = line.text
        for pattern in _TESTS:
            if (match := pattern.match(text)) and (name := next((g for g in match.groups() if g), None)):
                # In Mocha and in TAP a suite stands above its test; the deeper of the two is the test.
                depth = len(text) - len(text.lstrip())
                found.append(
                    Subject(
                        _name(name), "test", at, 100 + (depth if "not ok" in text or "✖" in text else 0) - at * 0.001
                    )
                )
                break
        else:
            if _MOCHA.match(text):
                mocha = at
            elif mocha is not None and at - mocha <= 3 and (match := re.match(r"^\s{5,}(.{1,150}?):$", text)):
                found.append(Subject(match.group(1), "test", at, 104 - at * 0.001))
                mocha = None
        if at in matter or text.startswith(" ") and "symbol:" in text:
            found += _symbols(text, at)
        if match := _FUNCTION.search(text):
            found.append(Subject(match.group(1), "function", at, 62 - at * 0.001))
    for place in places:
        if place.function and not place.function.startswith("<") and project(place.file) and place.score > 0:
            name = re.split(r"[ (]", place.function)[0].rsplit(".", 1)[-1]
            found.append(Subject(name, "function", place.at, 60 + (10 if place.score >= 100 else 0) - place.at * 0.001))
    best: dict[str, Subject] = {}
    for subject in found:
        if subject.name and (subject.name not in best or best[subject.name].score < subject.score):
            best[subject.name] = subject
    return sorted(best.values(), key=lambda s: -s.score)


def _symbols(text: str, at: int) -> list[Subject]:
    found = []
    for pattern, bonus in _SYMBOLS:
        if (match := pattern.search(text)) and (name := next((g for g in match.groups() if g), None)):
            found.append(Subject(_name(name), "symbol", at, 80 + bonus - at * 0.001))
    if _ERROR_LINE.search(text):
        for number, quoted in enumerate(_QUOTED.findall(text)[:2]):
            found.append(Subject(_name(quoted), "quoted", at, 50 - 5 * number - at * 0.001))
        for pattern in _RULES if not text.startswith("npm") else ():
            if match := pattern.search(text):
                found.append(Subject(match.group(1), "rule", at, 66 - at * 0.001))
    elif not text.startswith("npm") and (match := _RULES[0].search(text)):
        found.append(Subject(match.group(1), "rule", at, 66 - at * 0.001))
    return found
