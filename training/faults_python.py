"""Python programs with one fault each, run as scripts, services and tests."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import MARK, Case, Words, pad

Fault = tuple[str, str, str, str, str, str]  # id, cause, body of f(a), argument, text of the line that shows it, subject

_SOCKETS = "import socket\nserver = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()\n"

# In a body: {f} the function, {a} its argument, {v} {w} variables, {n} a noun, {m} a method, {C} a class; @ the subject's name.
TRAIN: list[Fault] = [
    ("mul-none", "type", "{v} = {{'eur': 3}}.get({a})\n§return {v} * 12", "'x'", "TypeError: unsupported operand", "f"),
    ("mul-none2", "type", "{v} = [{{'{n}': {a}}}]\n§return sum(12 * {w}.get('{m}') for {w} in {v})", "2", "TypeError: unsupported", "f"),
    ("add-str", "type", "§{v} = '{n}: ' + len({a})\nreturn {v}", "'x'", "TypeError: can only concatenate", "f"),
    ("none-attr", "type", "{v} = None\n§return {v}.{m}", "1", "AttributeError: 'NoneType'", "m"),
    ("str-attr", "type", "§return {a}.{m}()", "'x'", "AttributeError: 'str' object", "m"),
    ("dict-attr", "type", "{v} = {{'{n}': {a}}}\n§return {v}.{n}", "3", "AttributeError: 'dict' object", "n"),
    ("name", "type", "{v} = {a}\n§return {v} + {u}", "1", "NameError: name", "u"),
    ("unbound", "type", "if not {a}:\n    {v} = 1\n§return {v}", "1", "UnboundLocalError", "v"),
    ("call-int", "type", "{v} = 3\n§return {v}({a})", "1", "TypeError: 'int' object is not callable", "f"),
    ("none-index", "type", "{v} = None\n§return {v}[{a}]", "1", "TypeError: 'NoneType' object is not subscriptable", "f"),
    ("iter-int", "type", "§for {v} in {a}:\n    print({v})", "5", "TypeError: 'int' object is not iterable", "f"),
    ("missing-arg", "type", "def {m}({v}, {w}):\n    return {v} + {w}\n§return {m}({a})", "1", "TypeError: ", "f"),
    ("key", "other", "{v} = {{'{n}': 1}}\n§return {v}[{a}]", "'zz'", "KeyError: ", "f"),
    ("index", "other", "{v} = [1, 2]\n§return {v}[{a}]", "7", "IndexError: list index", "f"),
    ("int", "other", "§return int({a})", "'12,5'", "ValueError: invalid literal", "f"),
    ("zero", "other", "{v} = 0\n§return {a} / {v}", "7", "ZeroDivisionError", "f"),
    ("no-file", "other", "§with open('{n}.json') as {v}:\n    return {v}.read()", "7", "FileNotFoundError", "f"),
    ("json", "other", "import json\n§return json.loads({a})", "'{{bad'", "json.decoder.JSONDecodeError", "f"),
    ("custom", "other", "class {C}Error(Exception):\n    pass\n§raise {C}Error(f'{n} {{{a}}} was not accepted')", "7", "Error: {n} 7 was not", "f"),
    ("runtime", "other", "if {a}:\n§    raise RuntimeError('{n} is not ready: {m} first')", "7", "RuntimeError: {n} is not", "f"),
    ("value", "other", "if {a} > 3:\n§    raise ValueError('{n} must be below 3')", "7", "ValueError: {n} must", "f"),
    ("recursion", "other", "§return {f}({a} + 1)", "7", "RecursionError", "f"),
    ("env", "other", "import os\n§return os.environ['{N}_URL'] + str({a})", "7", "KeyError: '{N}_URL'", "f"),
    ("assert", "assertion", "{v} = {a} * 2\n§assert {v} == 3", "7", "AssertionError|assert 14 == 3|assert {v} == 3", "f"),
    ("assert-msg", "assertion", "§assert {a} > 9, '{n} must be above 9'", "7", "AssertionError: {n} must|must be above 9", "f"),
    ("conn", "network", "import socket\n§return socket.create_connection(('127.0.0.1', 5))", "7", "ConnectionRefusedError", "f"),
    ("urlopen", "network", "from urllib.request import urlopen\n§return urlopen('http://127.0.0.1:9/{n}')", "7", "urllib.error.URLError|Connection refused", "f"),
    ("http", "network", "import http.client\n{v} = http.client.HTTPConnection('localhost', 4)\n§{v}.request('GET', '/{n}')", "7", "ConnectionRefusedError", "f"),
    ("dns", "network", "import socket\n§return socket.create_connection(('{n}.invalid', 443))", "7", "socket.gaierror", "f"),
    ("requests", "network", "import requests\n§return requests.get('http://127.0.0.1:7/{n}').json()", "7", "Connection refused|ConnectionError", "f"),
    ("reset", "network", "if {a}:\n§    raise ConnectionResetError(104, 'Connection reset by peer')", "7", "ConnectionResetError", "f"),
    ("unreach", "network", "if {a}:\n§    raise OSError(101, 'Network is unreachable')", "7", "Network is unreachable", "f"),
    ("sock-timeout", "timeout", _SOCKETS + "{v} = socket.create_connection(server.getsockname(), timeout=0.05)\n§return {v}.recv({a})", "7", "TimeoutError: timed out|socket.timeout", "f"),
    ("subprocess-timeout", "timeout", "import subprocess\n§return subprocess.run(['sleep', '5'], timeout=0.05)", "7", "subprocess.TimeoutExpired", "f"),
    ("wait-for", "timeout", "import asyncio\nasync def {m}():\n§    await asyncio.wait_for(asyncio.sleep({a}), 0.05)\nasyncio.run({m}())", "7", "TimeoutError", "m"),
    ("raise-timeout", "timeout", "if {a}:\n§    raise TimeoutError('{n} did not answer within 30 s')", "7", "TimeoutError: {n}", "f"),
    ("bytearray", "memory", "§{v} = bytearray(1 << 48)\nreturn {v}", "7", "MemoryError", "f"),
    ("list-mem", "memory", "§return [{a}] * (1 << 46)", "7", "MemoryError", "f"),
    ("str-mem", "memory", "{v} = '{n}'\n§return {v} * (1 << 50)", "7", "MemoryError", "f"),
    ("open-root", "permission", "§return open('/root/{n}.json').read()", "7", "PermissionError: [Errno 13]", "f"),
    ("mkdir-etc", "permission", "import os\n§os.makedirs('/etc/{n}/{m}')", "7", "PermissionError: [Errno 13]", "f"),
    ("listdir", "permission", "import os\n§return os.listdir('/root')", "7", "PermissionError: [Errno 13]", "f"),
    ("kill", "permission", "import os\n§os.kill(1, 15)", "7", "PermissionError: [Errno 1]", "f"),
    ("write-log", "permission", "§with open('/var/log/{n}.log', 'a') as {v}:\n    {v}.write(str({a}))", "7", "PermissionError: [Errno 13]", "f"),
    ("third", "dependency", "§import {T}\nreturn {T}.{m}({a})", "7", "ModuleNotFoundError: No module named", "T"),
    ("third-sub", "dependency", "§from {T}.{n} import {m}\nreturn {m}({a})", "7", "ModuleNotFoundError: No module named", "T"),
    ("own-module", "import", "§from {P}.{w} import {m}\nreturn {m}({a})", "7", "ModuleNotFoundError: No module named", "P.w"),
    ("own-module2", "import", "§import {P}.{w}.{v}\nreturn {P}.{w}.{m}({a})", "7", "ModuleNotFoundError: No module named", "P.w"),
    ("own-name", "import", "§from {P}.{M} import {u}\nreturn {u}({a})", "7", "ImportError: cannot import name", "u"),
    ("relative", "import", "§from .{w} import {m}\nreturn {m}({a})", "7", "ModuleNotFoundError: No module named", "P.w"),
]
HELD: list[Fault] = [
    ("less", "type", "{v} = [3, 'b', {a}]\n§return sorted({v})", "1", "TypeError: '<' not supported", "f"),
    ("unhash", "type", "§return {{[{a}]: '{n}'}}", "1", "TypeError: unhashable type", "f"),
    ("not-json", "type", "import json\n§return json.dumps({{'{n}': {{1, {a}}}}})", "2", "TypeError: Object of type set is not JSON", "f"),
    ("int-none", "type", "{v} = {{}}\n§return int({v}.get('{n}'))", "2", "TypeError: int() argument must", "f"),
    ("list-attr", "type", "{v} = [{a}]\n§{v}.{m}(2)\nreturn {v}", "2", "AttributeError: 'list' object", "m"),
    ("name2", "type", "{v} = [{a}]\n§{u}.append({v})\nreturn {v}", "2", "NameError: name", "u"),
    ("list-str", "type", "{v} = [{a}]\n§return {v}['{n}']", "2", "TypeError: list indices must", "f"),
    ("unpack", "other", "§{v}, {w} = [{a}]\nreturn {v}", "2", "ValueError: not enough values", "f"),
    ("sqlite", "other", "import sqlite3\n{v} = sqlite3.connect(':memory:')\n§return {v}.execute('select * from {n}').fetchall()", "2", "sqlite3.OperationalError", "f"),
    ("config", "other", "import configparser\n{v} = configparser.ConfigParser()\n§return {v}['{n}']", "2", "KeyError: '{n}'", "f"),
    ("decimal", "other", "from decimal import Decimal\n§return Decimal('{n}') * {a}", "2", "decimal.InvalidOperation", "f"),
    ("not-impl", "other", "§raise NotImplementedError('{m} of {n}')", "2", "NotImplementedError: {m}", "f"),
    ("isdir", "other", "§return open('/tmp').read()", "2", "IsADirectoryError", "f"),
    ("strptime", "other", "from datetime import datetime\n§return datetime.strptime('31/12/2024', '%Y-%m-%d')", "2", "ValueError: time data", "f"),
    ("assert-in", "assertion", "{v} = ['{n}', '{m}']\n§assert {a} in {v}", "2", "AssertionError|assert 2 in|assert {a} in {v}", "f"),
    ("assert-is", "assertion", "{v} = {{'{n}': {a}}}\n§assert isinstance({v}, list), f'expected a list of {n}, got {{{v}}}'", "2", "AssertionError: expected a|expected a list", "f"),
    ("smtp", "network", "import smtplib\n§return smtplib.SMTP('127.0.0.1', 6)", "2", "ConnectionRefusedError", "f"),
    ("rpc", "network", "from xmlrpc.client import ServerProxy\n§return ServerProxy('http://localhost:8').{m}()", "2", "ConnectionRefusedError", "f"),
    ("async-open", "network", "import asyncio\nasync def {m}():\n§    return await asyncio.open_connection('127.0.0.1', 3)\nreturn asyncio.run({m}())", "2", "ConnectionRefusedError|Connect call failed", "m"),
    ("broken-pipe", "network", "if {a}:\n§    raise BrokenPipeError(32, 'Broken pipe')", "2", "BrokenPipeError", "f"),
    ("getaddr", "network", "import socket\n§return socket.gethostbyname('{n}.{m}.invalid')", "2", "socket.gaierror", "f"),
    ("future-timeout", "timeout", "import time\nfrom concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as {v}:\n§    return {v}.submit(time.sleep, 0.3).result(timeout=0.02)", "2", "TimeoutError", "f"),
    ("asyncio-timeout", "timeout", "import asyncio\nasync def {m}():\n    async with asyncio.timeout(0.02):\n§        await asyncio.sleep(5)\nreturn asyncio.run({m}())", "2", "TimeoutError", "m"),
    ("alarm", "timeout", "import signal, time\ndef {m}(*_):\n    raise TimeoutError('{n} took longer than 1 s')\nsignal.signal(signal.SIGALRM, {m})\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n§time.sleep(3)", "2", "TimeoutError: {n} took", "f|m"),
    ("array-mem", "memory", "import array\n§return array.array('d', [0.0]) * (1 << 50)", "2", "MemoryError", "f"),
    ("bytes-mem", "memory", "§return bytes(1 << 52)", "2", "MemoryError", "f"),
    ("rename", "permission", "import os\n§os.rename('/etc/passwd', '/etc/{n}')", "2", "PermissionError: [Errno 13]", "f"),
    ("copy", "permission", "import shutil\n§return shutil.copy('/etc/hosts', '/usr/{n}.txt')", "2", "PermissionError: [Errno 13]", "f"),
    ("chown", "permission", "import os\n§os.chown('/etc/hosts', 0, 0)", "2", "PermissionError: [Errno 1]", "f"),
    ("third-as", "dependency", "§import {T} as {v}\nreturn {v}.{m}({a})", "2", "ModuleNotFoundError: No module named", "T"),
    ("metadata", "dependency", "from importlib.metadata import version\n§return version('{T}')", "2", "PackageNotFoundError: ", "T"),
    ("own-deep", "import", "§from {P}.{w}.{v} import {m} as {u}\nreturn {u}({a})", "2", "ModuleNotFoundError: No module named", "P.w"),
    ("own-name2", "import", "§from {P}.{M} import {m}, {C}\nreturn {m}({a})", "2", "ImportError: cannot import name", "m"),
]
SYNTAX_TRAIN = [
    ("colon", "def {f}({a})§\n    return {a}", "SyntaxError: expected ':'"),
    ("paren", "{v} = {f}§(1, 2\n", "SyntaxError: '(' was never closed"),
    ("indent", "def {f}({a}):\n    {v} = 1\n§      return {v}", "IndentationError: unexpected indent"),
    ("block", "def {f}({a}):\n§return {a}", "IndentationError: expected an indented block"),
    ("invalid", "§{v} = 3 {w}\n", "SyntaxError: invalid syntax"),
    ("quote", "§{v} = '{n}\n", "SyntaxError: unterminated string literal"),
    ("assign", "§if {v} = 3:\n    pass", "SyntaxError: invalid syntax. Maybe you meant"),
    ("literal", "§3 = {v}\n", "SyntaxError: cannot assign to literal"),
    ("bracket", "{v} = [1, 2§)\n", "SyntaxError: closing parenthesis"),
    ("return", "{v} = 2\n§return {v}", "SyntaxError: 'return' outside function"),
]
SYNTAX_HELD = [
    ("dedent", "def {f}({a}):\n        {v} = 1\n§    return {v}", "IndentationError: unindent does not match"),
    ("await", "def {f}({a}):\n§    await {a}", "SyntaxError: 'await' outside"),
    ("default", "§def {f}({a}=1, {v}):\n    return {a}", "SyntaxError: parameter without a default|SyntaxError: non-default argument"),
    ("zero", "§{v} = 0123\n", "SyntaxError: leading zeros"),
    ("unmatched", "§{v} = 1)\n", "SyntaxError: unmatched ')'"),
    ("comma", "{v} = {{'{n}': 1§ '{m}': 2}}\n", "SyntaxError: invalid syntax"),
]
THIRD_TRAIN = "numpy pandas flask django redis boto3 celery sqlalchemy sklearn scipy psycopg2 jwt lxml matplotlib pydantic fastapi httpx tqdm".split()
THIRD_HELD = "torch cv2 bs4 dotenv pymongo grpc sentry_sdk jinja2 aiohttp structlog confluent_kafka".split()

RUNS_TRAIN = [
    "script", "script", "script", "module", "service", "make-script", "chained", "unittest", "unittest-v",
    "pytest", "pytest -q", "pytest -v", "pytest --tb=short", "pytest --tb=native -q", "pytest -x", "pytest --tb=line",
    "pytest -rA -q", "pytest -vv --tb=short --no-header", "python -m pytest -l", "make-pytest",
]  # fmt: skip
RUNS_HELD = [
    "script", "module", "service-structured", "tox-like", "unittest-b", "chained-from", "pytest", "pytest --tb=auto -ra -s",
    "pytest --tb=short -q --durations=2", "pytest --showlocals -v", "pytest --color=yes", "pytest --tb=line -v",
]  # fmt: skip
PYTHON = "python3.11"


def _indent(text: str, by: str = "    ") -> str:
    lines = []
    for line in text.split("\n"):
        mark = MARK if line.startswith(MARK) else ""
        lines.append(mark + by + line[len(mark) :] if line else line)
    return "\n".join(lines)


class _Program:
    """A package with the function at fault inside, and the chain of calls that leads to it."""

    def __init__(self, rng: random.Random, held: bool, fault: Fault) -> None:
        words = Words(rng, held)
        self.rng, self.words = rng, words
        self.id, self.cause, body, argument, key, subject = fault
        self.pkg, self.mod, self.main = words.pkg(), words.noun() + rng.choice(["", "s"]), rng.choice(["main", "run", "cli", "__main__"])
        names = {
            "f": words.func(), "a": words.noun(), "v": words.noun(), "w": words.noun(), "n": words.noun(), "m": words.func(),
            "u": words.func(), "C": words.cls(), "N": words.noun().upper(), "P": self.pkg, "M": self.mod,
            "T": rng.choice(THIRD_HELD if held else THIRD_TRAIN),
        }  # fmt: skip
        if self.id.startswith("own-name"):
            names["M"] = "settings"
        self.names = names
        self.argument = argument.replace("{{", "{")
        body = body.format(**names)
        self.keys = tuple(part.format(**names) for part in key.split("|"))
        self.subjects = tuple(".".join(names[p] for p in part.split(".")) for part in subject.split("|"))
        if subject == "T" and self.id == "third-sub":
            self.subjects = (names["T"], f"{names['T']}.{names['n']}")
        func, arg = names["f"], names["a"]
        where = rng.random()
        self.method = where < 0.3
        doc = f'    """{func.replace("_", " ").capitalize()}."""\n' if rng.random() < 0.3 else ""
        text = pad(rng, "#") + ("import logging\n\nlog = logging.getLogger(__name__)\n\n" if rng.random() < 0.3 else "")
        if self.method:
            self.cls = words.cls()
            text += f"class {self.cls}:\n    size = 3\n\n    def {func}(self, {arg}):\n" + _indent(doc) + _indent(body, " " * 8) + "\n"
            if self.id == "recursion":
                text = text.replace(f"return {func}(", f"return self.{func}(")
            self.call = f"{self.cls}().{func}"
            self.symbol = self.cls
        else:
            text += f"def {func}({arg}):\n" + doc + _indent(body) + "\n"
            self.call = self.symbol = func
        self.helper = ""
        if rng.random() < 0.5:
            self.helper = words.func()
            text += "\n\n" + pad(rng, "#", 4) + f"def {self.helper}({arg}):\n    return {self.call}({arg})\n"
            self.call = self.symbol = self.helper
        self.flat = rng.random() < 0.3 and "P" not in subject and not self.id.startswith(("own", "relative"))
        self.root = "" if self.flat else self.pkg + "/"
        if not self.flat and rng.random() < 0.3:
            self.root = rng.choice(["src/", "lib/", "backend/"]) + self.root
        self.prefix = self.root.rsplit(self.pkg, 1)[0] if self.root else ""
        self.imported = (f"from {self.mod}" if self.flat else f"from {self.pkg}.{self.mod}") + f" import {self.symbol}\n"
        self.files = {f"{self.root}{self.mod}.py": text}
        if self.root:
            self.files[f"{self.root}__init__.py"] = ""
            self.files[f"{self.root}settings.py"] = "SIZE = 3\n"
        self.env = f"PYTHONPATH={self.prefix or '.'} "

    def case(self, run: str, command: str, subjects: tuple[str, ...] | None = None) -> Case:
        return Case(
            f"py/{self.id}/{run}", run.split()[0], self.files, command, self.cause, self.keys,
            self.subjects if subjects is None else subjects, nobody=self.cause == "permission",
        )  # fmt: skip

    def script(self, run: str) -> Case:
        rng, words = self.rng, self.words
        body = f"{self.call}({self.argument})"
        start = rng.choice(["main", "run", "start", words.func()])
        if run in ("service", "service-structured"):
            fmt = rng.choice(
                ["%(asctime)s %(levelname)s %(name)s: %(message)s", "%(levelname)s:%(name)s:%(message)s", "[%(asctime)s] [%(levelname)s] %(message)s"]
                if run == "service"
                else ['{"ts": "%(asctime)s", "level": "%(levelname)s", "msg": "%(message)s"}', "%(asctime)s | %(levelname)-8s | %(name)s:%(funcName)s - %(message)s"]
            )
            noun = words.noun()
            text = (
                f"import logging\nimport sys\n\n{self.imported}\nlogging.basicConfig(level=logging.INFO, stream=sys.stdout, format={fmt!r})\n"
                f"log = logging.getLogger('{self.pkg}.{noun}')\n\n\ndef {start}():\n    log.info('listening on 127.0.0.1:8000')\n"
                f"    for number in range({rng.randint(1, 5)}):\n        log.info('{noun} %d done in %d ms', number, 12 + number)\n"
                f"    try:\n        {body}\n    except BaseException:\n        log.exception('{noun} failed')\n        log.info('shutting down')\n"
                f"        sys.exit(1)\n\n\n{start}()\n"
            )  # fmt: skip
        elif run.startswith("chained"):
            error = words.cls() + "Error"
            cause = "" if run == "chained" else " from error"
            # The error that was raised first is the cause; the wrapper only says where it was noticed.
            text = (
                f"{self.imported}\n\nclass {error}(Exception):\n    pass\n\n\ndef {start}():\n    try:\n        {body}\n"
                f"    except BaseException as error:\n        raise {error}('could not finish {words.noun()}'){cause}\n\n\n{start}()\n"
            )
        else:
            indent = f"if __name__ == '__main__':\n    {start}()\n"
            text = pad(rng, "#", 5) + f"{self.imported}\n\ndef {start}():\n    print('{words.noun()} {words.verb if False else 'ready'}')\n    {body}\n\n\n{indent}"
        inside = self.root and rng.random() < 0.6
        path = (self.root if inside else "") + f"{self.main}.py"
        self.files[path] = text
        command = f"{self.env}{PYTHON} {path}"
        if run == "module" and inside:
            command = f"{self.env}{PYTHON} -m {self.pkg}.{self.main}"
        if run == "make-script":
            self.files["Makefile"] = f"run:\n\t{command}\n"
            command = "make run"
        return self.case(run, command)

    def test(self, run: str) -> Case:
        rng, words = self.rng, self.words
        tests = [f"test_{words.func()}" for _ in range(rng.randint(1, 4))]
        bad = rng.randrange(len(tests))
        if rng.random() < 0.4 and not self.method:
            tests[bad] = f"test_{self.names['f']}"
        unit = run.startswith("unittest") or rng.random() < 0.2
        classy = unit or rng.random() < 0.3
        lines = [pad(rng, "#", 6) + ("import unittest\n" if unit else "") + self.imported, "\n"]
        if classy:
            lines.append(f"class {rng.choice(['Test' + words.cls(), words.cls() + 'Test' if unit else 'Test' + words.cls()])}{'(unittest.TestCase)' if unit else ''}:")
        pre = "    " if classy else ""
        later = rng.random() < 0.3
        for number, name in enumerate(tests):
            lines.append(f"{pre}def {name}({'self' if classy else ''}):")
            if number == bad:
                lines.append(f"{pre}    {'result = ' if rng.random() < 0.5 else ''}{self.call}({self.argument})")
            elif number > bad and later:
                lines.append(f"{pre}    {self.call}({self.argument})")
            else:
                lines.append(f"{pre}    assert {rng.randint(1, 9)} > 0")
            lines.append("")
        path = rng.choice(["tests/", "tests/unit/", "", "test/"]) + f"test_{self.mod}{rng.choice(['', '_more'])}.py"
        self.files[path] = "\n".join(lines)
        return self.case(run, _test_command(self, run, path, unit), (tests[bad],))


def _test_command(program: _Program, run: str, path: str, unit: bool) -> str:
    env = f"PYTHONPATH={program.prefix or '.'}:. "
    if run.startswith("unittest"):
        flag = {"unittest": "", "unittest-v": "-v", "unittest-b": "-b -v"}[run]
        folder, _, name = path.rpartition("/")
        where = f"-s {folder} -t {folder}" if folder else "-s ."
        return f"{env}{PYTHON} -m unittest discover {flag} {where} -p {name}"
    command = {"make-pytest": "pytest -q", "tox-like": "pytest --tb=short -v"}.get(run, run.removeprefix("python -m "))
    command = env + f"{PYTHON} -m {command} -p no:cacheprovider " + program.rng.choice(["", path])
    if run == "make-pytest":
        program.files["Makefile"] = f"test:\n\t{command}\n\n.PHONY: test\n"
        return "make test"
    if run == "tox-like":
        return f"echo 'py311: commands[0]> pytest --tb=short -v'; {command}; echo 'py311: exit 1 (0.41 seconds)'; echo '  py311: FAIL code 1'; false"
    return command


ASSERTS_TRAIN = [
    ("eq", "§    assert {call} == {x}", "assert {y} == {x}|AssertionError"),
    ("eq-msg", "§    assert {call} == {x}, 'wrong {n}'", "AssertionError: wrong {n}|assert {y} == {x}"),
    ("len", "    {v} = list(range({call}))\n§    assert len({v}) == {x}", "assert {y} == {x}|AssertionError"),
    ("dict", "§    assert {{'{n}': {call}, '{m}': 1}} == {{'{n}': {x}, '{m}': 1}}", "AssertionError: assert {{|AssertionError"),
    ("str", "§    assert str({call}) == '{x} {n}'", "AssertionError: assert '|AssertionError"),
    ("raises", "    import pytest\n§    with pytest.raises(ValueError):\n        {call}", "Failed: DID NOT RAISE"),
    ("true", "    {v} = {call}\n§    assert {v} > 1000", "assert {y} > 1000|AssertionError"),
    ("unit-eq", "§    self.assertEqual({call}, {x})", "AssertionError: {y} != {x}"),
    ("unit-true", "§    self.assertTrue({call} == {x})", "AssertionError: False is not true"),
    ("unit-in", "§    self.assertIn({call}, [{x}])", "AssertionError: {y} not found in"),
    ("unit-list", "§    self.assertEqual([{call}], [{x}])", "AssertionError: Lists differ"),
    ("unit-raises", "§    with self.assertRaises(KeyError):\n        {call}", "AssertionError: KeyError not raised"),
]
ASSERTS_HELD = [
    ("approx", "    import pytest\n§    assert {call} / 7 == pytest.approx({x})", "AssertionError: assert |assert "),
    ("set", "§    assert {{{call}, 1}} == {{{x}, 1}}", "AssertionError: assert |assert {{"),
    ("not-in", "    {v} = [{call}]\n§    assert {y} not in {v}", "assert {y} not in|AssertionError"),
    ("fail", "    import pytest\n    if {call} != {x}:\n§        pytest.fail('{n} is wrong')", "Failed: {n} is wrong"),
    ("match", "    import re\n§    assert re.match('{n}', str({call}))", "AssertionError: assert None|AssertionError"),
    ("unit-almost", "§    self.assertAlmostEqual({call} / 3, {x})", "AssertionError: "),
    ("unit-none", "§    self.assertIsNone({call})", "AssertionError: {y} is not None"),
    ("unit-dict", "§    self.assertDictEqual({{'{n}': {call}}}, {{'{n}': {x}}})", "AssertionError: {{"),
    ("unit-less", "§    self.assertLess({call}, 0, '{n} too high')", "AssertionError: {y} not less than 0"),
]


def _asserting(rng: random.Random, held: bool, fault: tuple[str, str, str], run: str) -> Case:
    """A test whose own check fails, beside tests that pass and sometimes others that fail after it."""
    name, body, key = fault
    fillers: Fault = ("check-" + name, "assertion", "{v} = {a} + 3\nreturn {v}", "4", "-", "f")
    program = _Program(rng, held, fillers)
    words, names = program.words, program.names
    unit = name.startswith("unit")
    y, x = 7, rng.choice([3, 12, 100, -1, 8])
    fields = {"call": f"{program.call}(4)", "x": x, "y": y, "n": names["n"], "m": names["m"], "v": names["v"]}
    tests = [f"test_{words.func()}" for _ in range(rng.randint(1, 5))]
    bad = rng.randrange(len(tests))
    classy = unit or rng.random() < 0.3
    lines = [pad(rng, "#", 8) + ("import unittest\n" if unit else "") + program.imported, "\n"]
    if classy:
        lines.append(f"class {'Test' + words.cls()}{'(unittest.TestCase)' if unit else ''}:")
    pre = "    " if classy else ""
    for number, test in enumerate(tests):
        lines.append(f"{pre}def {test}({'self' if classy else ''}):")
        if number == bad:
            filler = f"    {names['w']} = {rng.randint(1, 9)}\n" * rng.randint(0, 2)
            lines.append(_indent(filler + body.format(**fields), pre) if pre else filler + body.format(**fields))
        elif number > bad and rng.random() < 0.3:
            lines.append(f"{pre}    {rng.choice(['assert 1 == 2', 'print({}[3])', 'assert False', 'int(None)'])}")
        else:
            lines.append(f"{pre}    assert {program.call}(1) == 4")
        lines.append("")
    if unit and bad and "unittest" in run:  # unittest sorts by name: keep the order of the file
        ordered = sorted(tests)
        text = "\n".join(lines)
        for old, new in zip(tests, ordered, strict=True):
            text = text.replace(f"def {old}(", f"def ~{new}(")
        lines, tests = [text.replace("~", "")], ordered
    path = rng.choice(["tests/", "tests/unit/", "", "spec/"]) + f"test_{program.mod}{rng.choice(['', '_api'])}.py"
    program.files[path] = "\n".join(lines)
    program.keys = tuple(part.format(**fields) for part in key.split("|"))
    return program.case(run, _test_command(program, run, path, unit), (tests[bad],))


def _syntax(rng: random.Random, held: bool, fault: tuple[str, str, str], run: str) -> Case:
    name, snippet, key = fault
    program = _Program(rng, held, ("syntax-" + name, "syntax", "return {a}", "1", "-", "f"))
    path = f"{program.root}{program.mod}.py"
    snippet = snippet.format(**program.names | {"f": program.words.func(), "v": program.words.noun()})
    at = snippet.split("\n")
    at = [MARK + line.replace(MARK, "") if MARK in line else line for line in at]
    program.files[path] = pad(rng, "#") + "\n".join(at) + "\n\n" + program.files[path]
    program.keys = tuple(key.split("|"))
    if "pytest" in run or "unittest" in run or run == "tox-like":
        case = program.test(run)
        return Case(**{**case.__dict__, "subjects": ()})
    if run == "compile":
        return program.case("compile", f"{PYTHON} -m compileall -q .", ())
    case = program.script(run)
    return Case(**{**case.__dict__, "subjects": ()})


def _crash(rng: random.Random, held: bool, run: str) -> Case:
    if held:
        body, key = rng.choice([("import os\n§os.abort()", "Aborted"), ("import signal\n§signal.raise_signal(signal.SIGBUS)", "Bus error")])
    else:
        body, key = rng.choice([("import ctypes\n§ctypes.string_at(0)", "Segmentation fault"), ("import os, signal\n§os.kill(os.getpid(), signal.SIGFPE)", "Floating")])
    program = _Program(rng, held, ("crash-" + key.split()[0], "crash", body, "1", key, "f"))
    program.env += "PYTHONFAULTHANDLER=1 "
    case = program.test(run) if "pytest" in run else program.script(run)
    # Python says where it was when the signal came, so the place is known; the test is only a function there.
    keys = (f"Fatal Python error: {key}", key)
    wrapped = f"bash -c '{case.command}; exit $?'" if run == "script" else case.command
    subjects = (*program.subjects, *case.subjects) if "pytest" not in run else (case.subjects[0], *program.subjects)
    return Case(**{**case.__dict__, "keys": keys, "command": wrapped, "subjects": subjects})


def _collect(rng: random.Random, held: bool, run: str) -> Case:
    """A test file whose own import fails, so that no test ran."""
    own = rng.random() < 0.6
    words = Words(rng, held)
    pkg, mod, symbol = words.pkg(), words.noun(), words.func()
    third = rng.choice(THIRD_HELD if held else THIRD_TRAIN)
    line = rng.choice([f"§from {pkg}.{mod} import {symbol}", f"§import {pkg}.{mod}"]) if own else rng.choice([f"§import {third}", f"§from {third} import {symbol}"])
    missing = f"{pkg}.{mod}" if own else third
    if own and rng.random() < 0.3:
        line, missing = f"§from {pkg} import {symbol}", symbol
    path = f"tests/test_{mod}.py"
    text = pad(rng, "#") + f"import os\n{line}\n\n\ndef test_{symbol}():\n    assert os.sep\n"
    files = {path: text, f"{pkg}/__init__.py": "", f"{pkg}/{words.noun()}.py": "X = 1\n", "tests/test_other.py": "def test_fine():\n    assert 1\n"}
    return Case(
        f"py/collect-{'own' if own else 'third'}/{run}", run.split()[0], files, f"{PYTHON} -m {run.removeprefix('python -m ')} -p no:cacheprovider",
        "import" if own else "dependency", ("ModuleNotFoundError", "ImportError: cannot import"), (missing,),
    )  # fmt: skip


def _slow(rng: random.Random, held: bool, run: str) -> Case:
    """A test that pytest-timeout stops."""
    body, cause_line = rng.choice([("import time\n§time.sleep(30)", ""), ("import threading\n§threading.Event().wait()", "")])
    program = _Program(rng, held, ("slow", "timeout", body, "1", "Failed: Timeout", "f"))
    case = program.test(run)
    method = rng.choice(["signal", "thread"]) if not held else "signal"
    keys = ("Failed: Timeout", "Timeout >", "+ Timeout +")
    return Case(**{**case.__dict__, "command": case.command + f" --timeout=0.4 --timeout-method={method}", "keys": keys, "template": case.template + method})


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Every fault in some of the ways to run it; share 1.0 is about 700 cases."""
    runs = RUNS_HELD if held else RUNS_TRAIN
    tests = [run for run in runs if "pytest" in run or "unittest" in run or run == "tox-like"]
    scripts = [run for run in runs if run not in tests]

    def times(count: float) -> int:
        return int(count * share + rng.random())

    for fault in HELD if held else TRAIN:
        for _ in range(times(4)):
            yield _Program(rng, held, fault).script(rng.choice(scripts))
        for _ in range(times(4)):
            yield _Program(rng, held, fault).test(rng.choice(tests))
    for check in ASSERTS_HELD if held else ASSERTS_TRAIN:
        unit = check[0].startswith("unit")
        for _ in range(times(9)):
            yield _asserting(rng, held, check, rng.choice([run for run in tests if unit or "unittest" not in run]))
    for broken in SYNTAX_HELD if held else SYNTAX_TRAIN:
        for _ in range(times(3)):
            yield _syntax(rng, held, broken, rng.choice([*scripts, "compile"]))
        for _ in range(times(2)):
            yield _syntax(rng, held, broken, rng.choice(tests))
    pytests = [run for run in tests if run.startswith(("pytest", "python -m pytest"))]
    for _ in range(times(14)):
        yield _crash(rng, held, rng.choice(["script", "script", *pytests]))
        yield _collect(rng, held, rng.choice(pytests))
        yield _collect(rng, held, rng.choice(pytests))
        yield _slow(rng, held, rng.choice(pytests))
