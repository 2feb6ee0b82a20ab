"""Linters and type checkers, shell scripts, clients of a network, limits of the machine."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import MARK, Case, Words, pad

Fix = dict[str, object]
NOWHERE: Fix = {"file": None, "line": None}

# id, line at fault, rule of ruff and flake8
PY_LINT_TRAIN = [
    ("unused-import", "§import {n}lib", "F401"), ("unused-import-os", "§import os", "F401"), ("none", "def {f}({a}):\n§    return {a} == None", "E711"),
    ("bare", "def {f}({a}):\n    try:\n        return {a}\n§    except:\n        return 1", "E722"), ("unused-var", "def {f}({a}):\n§    {v} = {a}\n    return 1", "F841"),
    ("long", "§{v} = '{n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n} {n}'", "E501"), ("lambda", "§{v} = lambda {a}: {a} + 1", "E731"),
]  # fmt: skip
PY_LINT_HELD = [
    ("fstring", "§{v} = f'{n}'", "F541"), ("multi", "§import os, sys\n\n{v} = os.sep + sys.platform", "E401"), ("bool", "def {f}({a}):\n§    return {a} == True", "E712"),
    ("redefined", "def {f}():\n    return 1\n\n\n§def {f}():\n    return 2", "F811"), ("ambiguous", "§l = 3", "E741"), ("semicolon", "§{v} = 1; {n} = 2", "E702"),
]  # fmt: skip
ESLINT_TRAIN = [("no-unused-vars", "§  const {v} = {a};\n  return 1;"), ("eqeqeq", "§  return {a} == 3;"), ("no-var", "§  var {v} = {a};\n  return {v};"), ("prefer-const", "§  let {v} = {a};\n  return {v};"), ("no-console", "§  console.log({a});"), ("semi", "§  return {a}")]  # fmt: skip
ESLINT_HELD = [("no-empty", "§  if ({a}) {{}}\n  return 1;"), ("no-unreachable", "  return 1;\n§  {f}({a});"), ("curly", "§  if ({a}) return 2;\n  return 1;"), ("no-debugger", "§  debugger;\n  return {a};"), ("quotes", "§  return \"{n}\";")]  # fmt: skip
PYLINT = [("W0611", "§import os", "unused-import"), ("W0702", "def {f}({a}):\n    try:\n        return {a}\n§    except:\n        return 1", "bare-except"), ("W0612", "def {f}({a}):\n§    {v} = {a}\n    return 1", "unused-variable")]
MYPY_TRAIN = [("assignment", "def {f}({a}: int) -> int:\n§    {v}: int = '{n}'\n    return {v}", "assignment"), ("arg-type", "def {f}({a}: int) -> int:\n    return {a}\n\n\n§{f}('{n}')", "arg-type"), ("attr", "def {f}({a}: str) -> str:\n§    return {a}.{m}()", "attr-defined"), ("return", "def {f}({a}: int) -> str:\n§    return {a}", "return-value")]  # fmt: skip
MYPY_HELD = [("call-arg", "def {f}({a}: int) -> int:\n    return {a}\n\n\n§{f}(1, 2)", "call-arg"), ("operator", "def {f}({a}: int) -> str:\n§    return {a} + '{n}'", "operator"), ("index", "def {f}({a}: int) -> int:\n§    return {a}[2]", "index"), ("union", "import re\n\n\ndef {f}({a}: str) -> str:\n§    return re.match('x', {a}).group()", "union-attr")]  # fmt: skip


def _names(words: Words) -> dict[str, str]:
    return {k: words.noun() for k in "avnw"} | {k: words.func() for k in "fmu"} | {"C": words.cls()}


def _lint(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    names = _names(words)
    kind = rng.random()
    folder = rng.choice(["src/", "", f"{words.pkg()}/", "lib/"])
    if kind < 0.35:
        rules = ESLINT_HELD if held else ESLINT_TRAIN
        rule, body = rng.choice(rules)
        path = f"{folder}{words.noun()}.js"
        text = pad(rng, "//", 6) + f"export function {names['f']}({names['a']}) {{\n{body.format(**names)}\n}}\n"
        others = [r for r, _ in rules]
        config = "root: true\nparserOptions: {ecmaVersion: 2022, sourceType: module}\nenv: {node: true, es2022: true}\nrules:\n" + "".join(f"  {r}: error\n" for r in others if r not in ("semi", "quotes") or r == rule)
        if rule == "quotes":
            config = config.replace("quotes: error", "quotes: [error, single]")
        fmt = rng.choice(["", "", "-f stylish"] if not held else ["-f unix", "-f compact", "", "--color"])
        files = {".eslintrc.yml": config, path: text, f"{folder}{words.noun()}.js": "export const size = 3;\n"}
        return Case(f"eslint/{rule}", "eslint", files, f"eslint {fmt} --ext .js .", "lint", (rule,), (rule,))
    path = f"{folder}{words.noun()}.py"
    if held and kind < 0.5:
        code, body, symbol = rng.choice(PYLINT)
        files = {path: pad(rng, "#", 8) + body.format(**names) + "\n"}
        return Case(f"pylint/{code}", "pylint", files, f"pylint --disable=C,R {path}", "lint", (code, symbol), (symbol, code))
    name, body, code = rng.choice(PY_LINT_HELD if held else PY_LINT_TRAIN)
    files = {path: pad(rng, "#", 8) + body.format(**names) + "\n", f"{folder}{words.noun()}.py": "SIZE = 3\n"}
    more = ""
    if rng.random() < 0.3:
        files[f"{folder}z{words.noun()}.py"] = "import json\n"
    if kind < 0.75:
        fmt = rng.choice(["concise", "full", "full"] if not held else ["grouped", "concise", "full", "pylint"])
        command = f"ruff check --isolated --no-cache --select E,F,W --line-length 100 --output-format {fmt} ."
    else:
        command = f"flake8 --isolated --max-line-length 100 --select E501,E4,E7,F{' --show-source' if held else ''} ."
        more = "flake8"
    if rng.random() < 0.3:
        files["Makefile"] = f"lint:\n\t{command}\n"
        command = "make lint"
    return Case(f"{more or 'ruff'}/{name}", more or "ruff", files, command, "lint", (f" {code}", f"{code} ", f"[{code}]"), (code,))


def _mypy(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    names = _names(words)
    name, body, code = rng.choice(MYPY_HELD if held else MYPY_TRAIN)
    names["m"] += "" if "_" in names["m"] else "_one"
    path = f"{rng.choice(['src/', '', 'app/'])}{words.noun()}.py"
    files = {path: pad(rng, "#", 10) + body.format(**names) + "\n"}
    subjects = {"attr": (names["m"],), "call-arg": (names["f"],), "arg-type": (names["f"],)}.get(name, ())
    return Case(f"mypy/{name}", "mypy", files, f"mypy --strict --disable-error-code no-any-return --cache-dir /tmp/case-mypy {'--pretty' if held else ''} {path}", "type", (f"[{code}]", "error: "), subjects)


def _shell(rng: random.Random, held: bool) -> Case:
    """A script that goes through steps and stops at one; the tools say why."""
    words = Words(rng, held)
    names = _names(words)
    n = names["n"]
    train: list[tuple[str, str, str, tuple[str, ...], Fix]] = [
        ("curl-refused", "network", "curl -sS http://127.0.0.1:5/{n}", ("curl: (7)",), NOWHERE), ("curl-dns", "network", "curl -fsS https://{n}.invalid/{f}", ("curl: (6)",), NOWHERE),
        ("wget-refused", "network", "wget -nv http://127.0.0.1:4/{n}.tar.gz", ("Connection refused",), NOWHERE), ("git-dns", "network", "git clone --quiet https://git.{n}.invalid/{f}.git", ("Could not resolve host",), NOWHERE),
        ("curl-timeout", "timeout", "python3 -c 'import socket,subprocess; s=socket.socket(); s.bind((\"127.0.0.1\",0)); s.listen(); raise SystemExit(subprocess.call([\"curl\",\"-sS\",\"-m\",\"0.2\",\"http://127.0.0.1:%d/{n}\" % s.getsockname()[1]]))'", ("curl: (28)", "timed out"), NOWHERE),
        ("exec-bit", "permission", "§./{n}.sh", ("Permission denied",), {}), ("cat", "permission", "cat /etc/shadow", ("Permission denied",), NOWHERE), ("mkdir", "permission", "mkdir /var/{n}", ("Permission denied",), NOWHERE),
        ("killed", "memory", "§bash -c 'kill -9 $$'", ("Killed",), {}), ("timeout", "timeout", "echo 'waiting for {n}'; timeout 0.1 sleep 5 || (echo \"error: {n} timed out after 10 seconds\"; exit 124)", ("timed out after",), NOWHERE),
        ("sh-syntax", "syntax", "§if true; do\nfi", ("syntax error",), {}), ("no-file", "other", "cp {n}.txt /tmp/{f}.none", ("No such file or directory",), NOWHERE), ("unset", "other", "set -u\n§echo $UNSET_{f}", ("unbound variable",), {}),
        ("segv", "crash", "§bash -c 'kill -11 $$'", ("Segmentation fault",), {}),
    ]  # fmt: skip
    test: list[tuple[str, str, str, tuple[str, ...], Fix]] = [
        ("curl-http", "network", "curl -fsS --retry 0 http://localhost:3/api/{n}", ("curl: (7)",), NOWHERE), ("wget-dns", "network", "wget -q --tries=1 https://{n}.invalid/x || (wget -nv --tries=1 https://{n}.invalid/x)", ("unable to resolve", "Name or service not known", "Temporary failure"), NOWHERE),
        ("git-refused", "network", "git ls-remote http://127.0.0.1:5/{n}.git", ("Failed to connect", "Could not connect"), NOWHERE), ("nc", "network", "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 7))' 2>&1 | tail -1 | sed 's/^/{f}: /'; false", ("Connection refused",), NOWHERE),
        ("rm", "permission", "rm /etc/hosts", ("Permission denied",), NOWHERE), ("touch", "permission", "touch /usr/lib/{n}.so", ("Permission denied",), NOWHERE), ("redirect", "permission", "§echo {n} > /etc/{f}.conf", ("Permission denied",), {}),
        ("oom-make", "memory", "printf 'all:\\n\\t@bash -c \"kill -9 $$$$\"\\n' > m.mk; make -f m.mk", ("Killed", "Error 137"), NOWHERE), ("abort", "crash", "§bash -c 'kill -6 $$'", ("Aborted",), {}),
        ("sh-quote", "syntax", "§echo \"{n}", ("unexpected EOF", "syntax error"), {}), ("disk", "other", "echo {n} > /dev/full", ("No space left",), NOWHERE), ("wait", "timeout", "for i in 1 2; do echo \"waiting for {n} ($i)\"; sleep 0.05; done; echo 'ERROR: timed out waiting for {n} to become healthy'; exit 1", ("ERROR: timed out waiting",), NOWHERE),
    ]  # fmt: skip
    name, cause, line, keys, where = rng.choice(test if held else train)
    steps = [f"echo '{rng.choice(['==>', '---', '+', '::'])} {words.one('verb')} {words.noun()}'" for _ in range(rng.randint(1, 6))]
    path = f"{rng.choice(['ci/', 'scripts/', '', 'bin/'])}{words.one('verb')}.sh"
    text = "#!/bin/bash\nset -e\n" + "\n".join(steps) + "\n" + line.format(**names) + "\necho finished\n"
    files = {path: text, f"{n}.sh": "#!/bin/sh\necho hi\n"}
    command = f"bash {path}"
    if rng.random() < 0.25:
        files["Makefile"] = f"deploy:\n\t{command}\n"
        command = "make deploy"
    if name in ("disk", "redirect", "no-file") and MARK not in text and "line" in name:
        where = {}
    # bash itself names script and line only for its own errors; the others are told by the tool alone.
    return Case(f"sh/{name}", "bash", files, command, cause, keys, (), nobody=cause == "permission", **where)  # type: ignore[arg-type]


def _service(rng: random.Random, held: bool) -> Case:
    """A service that logs requests, retries that went well, and then one that did not; without a traceback."""
    words = Words(rng, held)
    n, m, svc = words.noun(), words.noun(), words.pkg()
    train = [
        ("refused", "network", f"could not reach {n}-db: connection refused", "connection refused"), ("dns", "network", f"lookup {n}.internal: no such host", "no such host"),
        ("deadline", "timeout", f"{n} request failed: context deadline exceeded", "deadline exceeded"), ("gateway", "timeout", f"upstream {n} timed out (110: Operation timed out)", "timed out"),
        ("oom", "memory", f"worker {n} was terminated: out of memory (limit 512Mi)", "out of memory"), ("denied", "permission", f"open /data/{n}/{m}.db: permission denied", "permission denied"),
        ("sigsegv", "crash", f"worker (pid:17) was sent SIGSEGV! {n} lost", "SIGSEGV"), ("config", "other", f"invalid configuration: {n}.{m} must be a positive number", "invalid configuration"),
        ("tls", "network", f"tls: failed to verify certificate for {n}.example.com", "failed to verify certificate"), ("reset", "network", f"read tcp 10.0.0.3:443: connection reset by peer ({n})", "connection reset"),
    ]  # fmt: skip
    test = [
        ("unreachable", "network", f"dial tcp 10.1.4.7:5432: connect: no route to host ({n})", "no route to host"), ("broken", "network", f"broker {n} is unreachable, giving up after 3 attempts", "is unreachable"),
        ("slow", "timeout", f"{n} did not finish in 30000 ms, cancelled", "did not finish in"), ("lock", "timeout", f"could not obtain lock on {n} within 5s: timeout expired", "timeout expired"),
        ("oomkill", "memory", f"container {n} exited: OOMKilled", "OOMKilled"), ("cannot-alloc", "memory", f"{n}: cannot allocate memory", "cannot allocate memory"),
        ("forbidden", "permission", f"403 Forbidden: {svc} may not write {n}", "403 Forbidden"), ("signal", "crash", f"{n} worker exited on signal 11 (core dumped)", "signal 11"), ("schema", "other", f"migration 14 of {n} failed: column {m} already exists", "already exists"),
    ]  # fmt: skip
    name, cause, message, key = rng.choice(test if held else train)
    level = rng.choice(["ERROR", "FATAL", "CRITICAL", "error", "E"])
    form = rng.choice(
        ["{t} {l} [{s}] {m}", "{t} [{s}] {l}: {m}", "level={l} ts={t} service={s} msg=\"{m}\"", "{l} {s}: {m}", '{{"level":"{l}","service":"{s}","msg":"{m}"}}']
        if not held
        else ["[{t}] {s}.{l} {m}", "{s} | {t} | {l} | {m}", "{t} {s}[17]: <{l}> {m}"]
    )
    info = {"E": "I", "error": "info"}.get(level, "INFO")
    rows = [(info, f"{words.one('verb')} {words.noun()} in {rng.randint(1, 90)} ms") for _ in range(rng.randint(2, 12))]
    if rng.random() < 0.4:
        rows.insert(rng.randrange(len(rows)), ("WARN", f"{words.noun()} {rng.choice(['timed out, retrying', 'connection refused, retrying in 1 s', 'is slow'])}"))
        rows.append((info, "connected"))
    rows.append((level, message))
    if rng.random() < 0.6:
        rows.append((info, rng.choice(["shutting down", "exit status 1", "stopped"])))
    lines = [form.format(t=f"2026-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}T0{rng.randint(0, 9)}:1{i % 10}:2{i % 7}Z", s=svc, l=lv, m=text) for i, (lv, text) in enumerate(rows)]
    # A small program prints them: what matters here is the form of the line, not who wrote it.
    program = f"import sys\nfor line in {lines!r}:\n    print(line)\nsys.exit(1)\n"
    return Case(f"service/{name}", "service", {"service.py": program}, "python3 service.py", cause, (key,), (), file=None, line=None)


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Share 1.0 is about 560 cases."""
    for make, count in ((_lint, 190), (_mypy, 40), (_shell, 180), (_service, 120)):
        for _ in range(int(count * share + rng.random())):
            yield make(rng, held)
