"""Java programs with one fault each: the compiler, a program that throws, and JUnit."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import Case, Words, pad

Fault = tuple[str, str, str, str, str]
TRAIN: list[Fault] = [
    ("symbol-var", "type", "§        return {a} + {u};", "cannot find symbol", "u"),
    ("symbol-method", "type", "§        return {m}({a});", "cannot find symbol", "m"),
    ("string-int", "type", "§        int {v} = \"{n}\";\n        return {v};", "incompatible types", "f"),
    ("no-return", "type", "        int {v} = {a};§", "missing return statement", "f"),
    ("args", "type", "§        return Math.max({a});", "no suitable method|cannot be applied", "max"),
    ("semicolon", "syntax", "§        int {v} = {a}\n        return {v};", "';' expected", ""),
    ("paren", "syntax", "§        return ({a} + 2;", "')' expected|')' or ',' expected", ""),
    ("string", "syntax", "§        String {v} = \"{n};\n        return 1;", "unclosed string literal", ""),
]
HELD: list[Fault] = [
    ("uninit", "type", "        int {v};\n§        return {v};", "might not have been initialized", "v"),
    ("exception", "type", "§        Thread.sleep({a});\n        return 1;", "unreported exception", "f"),
    ("lossy", "type", "§        int {v} = 2.5 * {a};\n        return {v};", "possible lossy conversion", "f"),
    ("final", "type", "        final int {v} = 2;\n§        {v} = {a};\n        return {v};", "cannot assign a value to final", "v"),
    ("statement", "syntax", "§        {a} + 2;\n        return 1;", "not a statement", ""),
    ("illegal-start", "syntax", "§        int {v} = * 2;\n        return 1;", "illegal start of expression", ""),
]
RUNTIME_TRAIN: list[Fault] = [
    ("npe", "other", "        String {v} = null;\n§        return {v}.length() + {a};", "NullPointerException", "f"),
    ("bounds", "other", "        int[] {v} = new int[2];\n§        return {v}[{a} + 7];", "ArrayIndexOutOfBounds", "f"),
    ("cast", "type", "        Object {v} = \"{n}\";\n§        return (Integer) {v};", "ClassCastException", "f"),
    ("state", "other", "§        if ({a} > 0) throw new IllegalStateException(\"{n} is closed\");\n        return 1;", "{n} is closed", "f"),
    ("oom", "memory", "        java.util.List<long[]> {v} = new java.util.ArrayList<>();\n§        while (true) {v}.add(new long[1 << 20]);", "OutOfMemoryError", "f"),
    ("connect", "network", "§        try {{ new java.net.Socket(\"127.0.0.1\", 5); }} catch (java.io.IOException e) {{ throw new RuntimeException(e); }}\n        return 1;", "ConnectException", "f"),
]
RUNTIME_HELD: list[Fault] = [
    ("number", "other", "§        return Integer.parseInt(\"{n}\");", "NumberFormatException", "f"),
    ("arith", "other", "        int {v} = 0;\n§        return {a} / {v};", "ArithmeticException", "f"),
    ("host", "network", "§        try {{ new java.net.Socket(\"{n}.invalid\", 5); }} catch (java.io.IOException e) {{ throw new RuntimeException(e); }}\n        return 1;", "UnknownHostException", "f"),
    ("timeout", "timeout", "§        try {{ java.util.concurrent.CompletableFuture.supplyAsync(() -> {{ try {{ Thread.sleep(900); }} catch (Exception x) {{}} return 1; }}).get(20, java.util.concurrent.TimeUnit.MILLISECONDS); }} catch (Exception e) {{ throw new RuntimeException(e); }}\n        return 1;", "TimeoutException", "f"),
    ("array-oom", "memory", "§        return new long[Integer.MAX_VALUE - 8].length;", "OutOfMemoryError", "f"),
]
JUNIT = "/usr/share/java/junit4.jar:/usr/share/java/hamcrest-core.jar"


class _Source:
    def __init__(self, rng: random.Random, held: bool, fault: Fault) -> None:
        self.id, self.cause, body, key, subject = fault
        words = self.words = Words(rng, held)
        names = {k: words.noun() for k in "avnw"} | {k: words.camel() for k in "fmuh"}
        for key_ in "fmu":
            if names[key_] in ("open", "send", "first", "last", "load", "assert"):
                names[key_] += "All"
        self.names = names
        self.pkg = rng.choice(["com.{p}.{n}", "org.{p}", "{p}", "io.{p}.core"]).format(p=words.pkg(), n=words.noun())
        self.cls = words.cls()
        self.root = rng.choice(["src/main/java/", "src/", "", "app/src/main/java/"])
        self.path = f"{self.root}{self.pkg.replace('.', '/')}/{self.cls}.java"
        others = "".join(f"    static int {words.camel()}Of(int value) {{\n        return value + 1;\n    }}\n\n" for _ in range(rng.randint(0, 2)))
        self.imports = ""
        self.text = (
            f"package {self.pkg};\n\n%IMPORTS%{pad(rng, '//')}public class {self.cls} {{\n{others}    static int {names['f']}(int {names['a']}) {{\n"
            + body.format(**names) + "\n    }\n%MAIN%}\n"
        ).replace("§\n    }", "\n§    }")  # fmt: skip
        self.keys = tuple(part.format(**names) for part in key.split("|"))
        self.subjects = (names.get(subject, subject),) if subject else ()

    def case(self, run: str, command: str, main: str = "", imports: str = "", **more: object) -> Case:
        files = {self.path: self.text.replace("%MAIN%", main).replace("%IMPORTS%", imports)}
        values = {"cause": self.cause, "keys": self.keys, "subjects": self.subjects} | more
        return Case(f"java/{self.id}/{run}", "java", files, command, **values)  # type: ignore[arg-type]


def _compile(rng: random.Random, held: bool, fault: Fault) -> Case:
    source = _Source(rng, held, fault)
    run = rng.choice(["javac", "make"] if not held else ["javac -Xlint:all", "mvn-like"])
    command = f"javac {'-Xlint:all ' if 'lint' in run else ''}-d out {source.path}"
    case = source.case(run, command)
    if run == "make":
        case.files["Makefile"] = f"build:\n\t{command}\n"
        return Case(**{**case.__dict__, "command": "make"})
    if run == "mvn-like":
        return Case(**{**case.__dict__, "command": f"echo '[INFO] Compiling 1 source file'; {command} || (echo '[INFO] BUILD FAILURE'; false)"})
    return case


def _package(rng: random.Random, held: bool, own: bool) -> Case:
    source = _Source(rng, held, ("package-own" if own else "package-third", "import" if own else "dependency", "        return {a};", "does not exist", ""))
    third = rng.choice(["org.junit.jupiter.api.Test", "com.google.gson.Gson", "org.slf4j.Logger", "org.apache.commons.lang3.StringUtils"] if not held else ["com.fasterxml.jackson.databind.ObjectMapper", "org.mockito.Mockito", "io.netty.channel.Channel"])
    missing = f"{source.pkg.split('.')[0] + '.' + '.'.join(source.pkg.split('.')[1:] or ['util'])}.{source.words.noun()}.{source.words.cls()}" if own else third
    package, cls = missing.rsplit(".", 1)
    return source.case("javac", f"javac -d out {source.path}", imports=f"§import {missing};\n\n", subjects=(package, missing, cls))


def _run(rng: random.Random, held: bool, fault: Fault) -> Case:
    source = _Source(rng, held, fault)
    start = source.words.camel()
    main = f"\n    static int {start}Now() {{\n        return {source.names['f']}(1);\n    }}\n\n    public static void main(String[] args) {{\n        System.out.println(\"ready\");\n        {start}Now();\n    }}\n"
    command = f"javac -d out {source.path} && java -Xmx24m -cp out {source.pkg}.{source.cls}"
    return source.case("run", command, main)


def _junit(rng: random.Random, held: bool) -> Case:
    check = rng.choice(
        [("§        assertEquals({x}, {f}(3));", "expected:<"), ("§        assertTrue({f}(3) > 99);", "AssertionError")]
        if not held else [("§        assertEquals(\"{n}\", {x}, {f}(3));", "expected:<"), ("§        fail(\"{n} missing\");", "{n} missing"), ("§        assertNull(Integer.valueOf({f}(3)));", "expected null")]
    )  # fmt: skip
    source = _Source(rng, held, ("junit-more" if held else "junit", "assertion", "        return {a} + 1;", check[1], ""))
    test = rng.choice([source.words.camel() + "Works", "test" + source.words.cls()])
    body = check[0].format(x=rng.randint(5, 99), **source.names)
    main = f"\n    @Test\n    public void {test}() {{\n{body}\n    }}\n\n    @Test\n    public void fine() {{\n        assertTrue(true);\n    }}\n"
    command = f"javac -cp {JUNIT} -d out {source.path} && java -cp {JUNIT}:out org.junit.runner.JUnitCore {source.pkg}.{source.cls}"
    return source.case("junit", command, main, "import org.junit.Test;\nimport static org.junit.Assert.*;\n\n", subjects=(test,))


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Every fault some times; share 1.0 is about 180 cases."""

    def times(count: float) -> int:
        return int(count * share + rng.random())

    for fault in HELD if held else TRAIN:
        for _ in range(times(9)):
            yield _compile(rng, held, fault)
    for fault in RUNTIME_HELD if held else RUNTIME_TRAIN:
        for _ in range(times(7)):
            yield _run(rng, held, fault)
    for _ in range(times(10)):
        yield _package(rng, held, True)
        yield _package(rng, held, False)
        yield _junit(rng, held)
