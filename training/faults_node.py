"""JavaScript and TypeScript programs with one fault each: node, its test runner, mocha, jest, tsc."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import MARK, Case, Words, pad

Fault = tuple[str, str, str, str, str]
TRAIN: list[Fault] = [
    ("read-undefined", "type", "  const {v} = {{}};\n§  return {v}.{n}.{w};", "Cannot read properties of undefined", "f"),
    ("read-null", "type", "  const {v} = null;\n§  return {v}.{n} + {a};", "Cannot read properties of null", "f"),
    ("not-function", "type", "  const {v} = {{}};\n§  return {v}.{m}({a});", "is not a function", "f"),
    ("not-defined", "type", "§  return {u} + {a};", "ReferenceError: |is not defined", "u"),
    ("const", "type", "  const {v} = 2;\n§  {v} += {a};\n  return {v};", "Assignment to constant", "f"),
    ("throw", "other", "§  throw new Error('{n} is not ready');", "{n} is not ready", "f"),
    ("json", "other", "§  return JSON.parse('{{{n}');", "SyntaxError: |in JSON|Expected property name", "f"),
    ("enoent", "other", "§  return require('fs').readFileSync('{n}.json');", "ENOENT: no such file", "f"),
    ("range", "other", "§  return new Array(-{a});", "RangeError", "f"),
    ("eacces", "permission", "§  return require('fs').writeFileSync('/etc/{n}.conf', 'x');", "EACCES: permission denied", "f"),
    ("assert", "assertion", "§  require('assert').strictEqual({a}, 99);", "AssertionError", "f"),
    ("own-module", "import", "§  return require('./{w}').{m}({a});", "Cannot find module", "./{w}"),
    ("own-module-up", "import", "§  return require('../lib/{w}.js').{m}({a});", "Cannot find module", "../lib/{w}.js"),
    ("third", "dependency", "§  return require('{T}').{m}({a});", "Cannot find module", "{T}"),
]
HELD: list[Fault] = [
    ("set-undefined", "type", "  let {v};\n§  {v}.{n} = {a};\n  return {v};", "Cannot set properties of undefined", "f"),
    ("iterable", "type", "§  const [{v}] = {a};\n  return {v};", "is not iterable", "f"),
    ("before-init", "type", "§  {v} += {a};\n  let {v} = 2;\n  return {v};", "ReferenceError: |Cannot access", "v"),
    ("not-constructor", "type", "  const {v} = 3;\n§  return new {v}({a});", "is not a constructor", "f"),
    ("custom", "other", "  class {C}Error extends Error {{}}\n§  throw new {C}Error('{n} was rejected');", "{n} was rejected", "f"),
    ("uri", "other", "§  return decodeURIComponent('%{n}%');", "URIError", "f"),
    ("eacces-dir", "permission", "§  return require('fs').mkdirSync('/usr/{n}');", "EACCES: permission denied", "f"),
    ("assert-deep", "assertion", "§  require('assert').deepStrictEqual([{a}], ['{n}']);", "AssertionError", "f"),
    ("assert-ok", "assertion", "§  require('assert').ok({a} > 50, '{n} is low');", "AssertionError", "f"),
    ("own-deep", "import", "§  const {v} = require('./{w}/{n}');\n  return {v}({a});", "Cannot find module", "./{w}/{n}"),
    ("third-const", "dependency", "§  const {{ {v} }} = require('{T}');\n  return {v}({a});", "Cannot find module", "{T}"),
]
ASYNC_TRAIN: list[Fault] = [
    ("refused", "network", "  await new Promise((ok, bad) => require('net').connect(5, '127.0.0.1').on('error', bad));", "ECONNREFUSED", ""),
    ("http", "network", "  await new Promise((ok, bad) => require('http').get('http://localhost:4/{n}', ok).on('error', bad));", "ECONNREFUSED", ""),
    ("dns", "network", "  await require('dns').promises.lookup('{n}.invalid');", "getaddrinfo", ""),
    ("abort", "timeout", "  await new Promise((ok, bad) => AbortSignal.timeout(20).addEventListener('abort', (e) => bad(e.target.reason)) || setTimeout(ok, 400));", "TimeoutError|aborted due to timeout", ""),
]
ASYNC_HELD: list[Fault] = [
    ("fetch", "network", "  await fetch('http://127.0.0.1:4321/{n}');", "fetch failed|ECONNREFUSED", ""),
    ("resolve", "network", "  await require('dns').promises.resolve4('{n}.{w}.invalid');", "query", ""),
    ("race", "timeout", "§  await Promise.race([new Promise((ok) => setTimeout(ok, 300)), new Promise((_, bad) => setTimeout(() => bad(new Error('{n} timed out after 20 ms')), 20))]);", "timed out after 20", ""),
]
SYNTAX_TRAIN = [
    ("paren", "§const {v} = ({a} + 2;", "SyntaxError: "),
    ("token", "§const {v} = {a} {w};", "SyntaxError: "),
    ("brace", "function {f}({a}) {{\n§  return {a}];\n}}", "SyntaxError: "),
    ("string", "§const {v} = '{n};", "SyntaxError: Invalid or unexpected token"),
    ("redeclare", "const {v} = 1;\n§const {v} = 2;", "SyntaxError: Identifier"),
]
SYNTAX_HELD = [
    ("await", "function {f}({a}) {{\n§  await {a};\n}}", "SyntaxError: "),
    ("import", "§import {v} from './{n}.js';", "SyntaxError: Cannot use import"),
    ("missing-init", "§const {v};", "SyntaxError: Missing initializer"),
]
TS_TRAIN = [
    ("TS2322", "type", "§  const {v}: number = '{n}';\n  return {v};", "TS2322", "f"),
    ("TS2304", "type", "§  return {u} + {a};", "TS2304", "u"),
    ("TS2339", "type", "§  return {a}.{m};", "TS2339", "m"),
    ("TS2345", "type", "§  return Math.abs('{n}');", "TS2345", "f"),
    ("TS1005", "syntax", "§  const {v} = [{a};\n  return 1;", "TS1005", ""),
    ("TS2307-own", "import", "§  return import('./{w}');", "TS2307", "./{w}"),
]
TS_HELD = [
    ("TS2554", "type", "§  return Math.sqrt({a}, 2);", "TS2554", "f"),
    ("TS2531", "type", "  const {v}: string | null = null;\n§  return {v}.length;", "TS18047|TS2339|TS2531", ""),
    ("TS7006", "type", "§  const {v} = ({w}) => {w};\n  return {v};", "TS7006", "w"),
    ("TS1109", "syntax", "§  return {a} + ;", "TS1109", ""),
    ("TS2307-third", "dependency", "§  return import('{T}');", "TS2307", "{T}"),
]
THIRD_TRAIN = "express lodash react axios @acme/client left-pad mongoose pino chalk zod".split()
THIRD_HELD = "fastify dayjs @prisma/client koa ioredis knex vue".split()


def _names(rng: random.Random, held: bool) -> tuple[Words, dict[str, str]]:
    words = Words(rng, held)
    names = {k: words.noun() for k in "avnw"} | {k: words.camel() for k in "fmuh"} | {"C": words.cls(), "T": rng.choice(THIRD_HELD if held else THIRD_TRAIN)}
    names["f"] += "" if len(names["f"]) > 6 else "All"
    return words, names


def _subject(subject: str, names: dict[str, str]) -> tuple[str, ...]:
    if not subject:
        return ()
    return (subject.format(**names),) if "{" in subject else (names[subject],)


def _runtime(rng: random.Random, held: bool, fault: Fault, run: str) -> Case:
    name, cause, body, key, subject = fault
    words, names = _names(rng, held)
    is_async = fault in ASYNC_TRAIN or fault in ASYNC_HELD
    marked = MARK in body
    func, arg, module = names["f"], names["a"], words.noun()
    folder = rng.choice(["src/", "lib/", "", "server/"])
    word = "async function" if is_async else "function"
    text = pad(rng, "//") + ("'use strict';\n" if rng.random() < 0.5 else "") + f"{word} {func}({arg}) {{\n{body.format(**names)}\n}}\n\nmodule.exports = {{ {func} }};\n"
    files = {f"{folder}{module}.js": text}
    pkg = words.pkg()
    keys, subjects = tuple(part.format(**names) for part in key.split("|")), _subject(subject, names)
    extra: dict[str, object] = {} if marked else {"file": None, "line": None}
    if run in ("node", "npm-start"):
        files["index.js"] = f"const {{ {func} }} = require('./{folder}{module}');\n\n{'async ' if is_async else ''}function {words.camel()}() {{\n  console.log('ready');\n  {'await ' if is_async else ''}{func}(3);\n}}\n\n"
        start = files["index.js"].split("function ")[1].split("(")[0]
        files["index.js"] += f"{start}();\n"
        command = "node index.js"
        if run == "npm-start":
            files["package.json"] = f'{{"name": "{pkg}", "version": "1.2.0", "scripts": {{"start": "node index.js"}}}}\n'
            command = "npm start"
        if is_async and not marked and "TimeoutError" not in key:
            subjects = ()
    else:
        title = rng.choice(["{v}s a {n}", "{n} is {v}ed", "should {v} the {n}", "{v} {n}"]).format(v=words.one("verb"), n=words.noun())
        group = words.cls()
        call = f"{'await ' if is_async else ''}{func}(3)"
        path = {"mocha": f"test/{module}.js", "mocha-r": f"test/{module}.spec.js", "jest": f"__tests__/{module}.test.js"}.get(run, f"test/{module}.test.js")
        up = "../"
        head = f"const {{ {func} }} = require('{up}{folder}{module}');\n"
        if run.startswith("node-test") or run == "npm-test":
            head = "const { test, describe, it } = require('node:test');\n" + head
        use = "test" if run.startswith("node-test") or run in ("npm-test", "jest") else "it"
        files[path] = pad(rng, "//", 5) + head + f"\ndescribe('{group}', () => {{\n  {use}('passes', () => {{}});\n\n  {use}('{title}', {'async ' if is_async else ''}() => {{\n    {call};\n  }});\n}});\n"
        command = {"node-test": "node --test test/", "node-test-tap": "node --test --test-reporter=tap test/", "npm-test": "npm test", "mocha": "mocha", "mocha-r": "mocha --reporter dot 'test/*.spec.js'", "jest": "jest"}[run]
        subjects = (title, f"{group} {title}", f"{group} › {title}")
        if run in ("npm-test", "jest"):
            files["package.json"] = f'{{"name": "{pkg}", "version": "0.3.1", "scripts": {{"test": "node --test test/"}}}}\n'
    return Case(f"node/{name}/{run}", run.split("-")[0], files, command, cause, keys, subjects, nobody=cause == "permission" and run in ("node", "npm-start"), **extra)  # type: ignore[arg-type]


def _test(rng: random.Random, held: bool, run: str) -> Case:
    """A test whose own check fails."""
    words, names = _names(rng, held)
    title = rng.choice(["{v}s a {n}", "{n} is {v}ed", "should {v} the {n}"]).format(v=words.one("verb"), n=words.noun())
    module, group, func = words.noun(), words.cls(), names["f"]
    jest = run == "jest"
    checks = [f"expect({func}(3)).toBe(9)", f"expect([{func}(3)]).toEqual([1])"] if jest else ["assert.strictEqual({f}(3), 9)", "assert.equal({f}(3), {x})", "assert.deepEqual([{f}(3)], [1, 2])"]
    if held:
        checks = [f"expect({func}(3)).toBeNull()", f"expect({func}(3)).toBeGreaterThan(30)"] if jest else ["assert.deepStrictEqual({{ {n}: {f}(3) }}, {{ {n}: 8 }})", "assert.ok({f}(3) > 10)", "assert.match(String({f}(3)), /{n}/)"]
    check = rng.choice(checks)
    if not jest:
        check = check.format(f=func, x=rng.randint(10, 99), n=names["n"])
    path = {"mocha": f"test/{module}.js", "mocha-r": f"test/{module}.spec.js", "jest": f"src/{module}.test.js"}.get(run, f"test/{module}.test.js")
    up = "./" if jest else "../src/"
    head = ("" if jest else "const assert = require('assert');\n") + f"const {{ {func} }} = require('{up}{module}');\n"
    use = "it"
    if run.startswith("node-test") or run == "npm-test":
        head, use = "const { test, describe } = require('node:test');\n" + head, "test"
    others = "".join(f"  {use}('{words.one('verb')}s', () => {{}});\n\n" for _ in range(rng.randint(0, 3)))
    later = f"\n  {use}('also {words.noun()}', () => {{\n    throw new Error('later');\n  }});\n" if rng.random() < 0.3 else ""
    files = {
        f"src/{module}.js": f"exports.{func} = ({names['a']}) => {names['a']} + 1;\n",
        path: pad(rng, "//", 6) + head + f"\ndescribe('{group}', () => {{\n{others}  {use}('{title}', () => {{\n§    {check};\n  }});\n{later}}});\n",
    }
    if run in ("npm-test", "jest"):
        files["package.json"] = '{"name": "web", "version": "0.3.1", "scripts": {"test": "node --test test/"}}\n'
    command = {"node-test": "node --test test/", "node-test-tap": "node --test --test-reporter=tap test/", "npm-test": "npm test", "mocha": "mocha", "mocha-r": "mocha --reporter dot 'test/*.spec.js'", "jest": "jest"}[run]
    return Case(f"node/check{'-more' if held else ''}/{run}", run.split("-")[0], files, command, "assertion", ("AssertionError", "expect(", "ERR_ASSERTION", "Expected values", "evaluated to a falsy"), (title, f"{group} {title}", f"{group} › {title}"))


def _syntax(rng: random.Random, held: bool, fault: tuple[str, str, str]) -> Case:
    name, body, key = fault
    words, names = _names(rng, held)
    path = f"{rng.choice(['src/', 'lib/', ''])}{words.noun()}.js"
    files = {path: pad(rng, "//") + body.format(**names) + "\n", "index.js": f"require('./{path}');\n"}
    return Case(f"node/syntax-{name}/node", "node", files, rng.choice(["node index.js", f"node {path}", f"node --check {path}"]), "syntax", (key,))


def _types(rng: random.Random, held: bool, fault: Fault) -> Case:
    name, cause, body, key, subject = fault
    words, names = _names(rng, held)
    path = f"{rng.choice(['src/', 'src/app/', ''])}{words.noun()}.ts"
    text = pad(rng, "//") + f"export function {names['f']}({names['a']}: number) {{\n{body.format(**names)}\n}}\n"
    subjects = () if subject == "f" else _subject(subject, names)  # tsc does not name the function
    flags = rng.choice(["--pretty false", ""] if not held else ["--pretty", "--pretty false --noEmitOnError"])
    files = {path: text, f"src/{words.noun()}.ts": "export const size = 3;\n"}
    return Case(f"ts/{name}/tsc", "tsc", files, f"tsc --strict --noEmit --skipLibCheck --target es2022 --module commonjs --types '' {flags} {' '.join(files)}", cause, tuple(key.split("|")), subjects)


def _memory(rng: random.Random, held: bool) -> Case:
    words, names = _names(rng, held)
    path = f"{rng.choice(['', 'scripts/'])}{words.noun()}.js"
    body = "const all = [];\nfor (;;) all.push(new Array(1000).fill(all.length));\n" if not held else "let text = {};\nfor (let i = 0; ; i++) text['k' + i] = [i, String(i)];\n"
    command = f"node --max-old-space-size=16 {path}"
    files = {path: pad(rng, "//") + body}
    if rng.random() < 0.4:
        files["package.json"] = f'{{"name": "{words.pkg()}", "version": "1.0.0", "scripts": {{"build": "{command}"}}}}\n'
        command = "npm run build"
    return Case("node/heap", "node", files, command, "memory", ("JavaScript heap out of memory",), file=None, line=None)


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Every fault in some of the ways to run it; share 1.0 is about 330 cases."""

    def times(count: float) -> int:
        return int(count * share + rng.random())

    runs = ["node", "node", "npm-start", "node-test", "npm-test", "mocha"] if not held else ["node", "npm-start", "node-test-tap", "mocha-r", "jest"]
    for fault in (HELD + ASYNC_HELD) if held else (TRAIN + ASYNC_TRAIN):
        for _ in range(times(10)):
            yield _runtime(rng, held, fault, rng.choice(runs[:2] if fault[1] == "permission" else runs))
    for _ in range(times(60)):
        yield _test(rng, held, rng.choice(["node-test", "npm-test", "mocha", "jest"] if not held else ["node-test-tap", "mocha-r", "jest", "node-test"]))
    for broken in SYNTAX_HELD if held else SYNTAX_TRAIN:
        for _ in range(times(7)):
            yield _syntax(rng, held, broken)
    for fault in TS_HELD if held else TS_TRAIN:
        for _ in range(times(6)):
            yield _types(rng, held, fault)
    for _ in range(times(14)):
        yield _memory(rng, held)
