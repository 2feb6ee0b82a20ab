"""C, C++, Rust and Go programs with one fault each, built by hand, by make, by cmake and by cargo."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import MARK, Case, Words, pad

# id, cause, body of the function {f}, key, subject ("" none, "f" the function, else a name of the body)
Fault = tuple[str, str, str, str, str]

C_TRAIN: list[Fault] = [
    ("undeclared", "type", "    int {v} = 2;\n§    return {v} + {u};", "undeclared", "u"),
    ("implicit", "type", "    int {v} = 2;\n§    return {m}({v});", "implicit declaration of function", "m"),
    ("int-from-ptr", "type", "§    int {v} = \"{n}\";\n    return {v};", "makes integer from pointer", "f"),
    ("ptr-from-int", "type", "    int {w} = 4;\n§    const char *{v} = {w};\n    return {v}[0];", "makes pointer from integer", "f"),
    ("no-member", "type", "    struct {n}_t {v} = {{3}};\n§    return {v}.{m};", "has no member named", "m"),
    ("few-args", "type", "§    return {h}({a});", "too few arguments", "h"),
    ("many-args", "type", "§    return {h}({a}, 2, 3);", "too many arguments", "h"),
    ("unknown-type", "type", "§    {C} {v} = 3;\n    return 2;", "unknown type name", "C"),
    ("not-struct", "type", "    int {v} = 2;\n§    return {v}.{n};", "request for member", "n"),
    ("return-struct", "type", "    struct {n}_t {v} = {{3}};\n§    return {v};", "incompatible types", "f"),
    ("semicolon", "syntax", "    int {v} = 2\n§    return {v};", "error: expected", "f"),
    ("paren", "syntax", "    int {v} = 2;\n§    if ({v} > 1 {{\n        return 1; }}\n    return {v};", "error: expected", "f"),
    ("else", "syntax", "    int {v} = 2;\n§    else {{ return 1; }}\n    return {v};", "error: ", "f"),
    ("quote", "syntax", "§    const char *{v} = \"{n};\n    return 0;", "missing terminating", "f"),
    ("stray", "syntax", "§    int {v} = 2 @ 3;\n    return {v};", "stray", "f"),
]
C_HELD: list[Fault] = [
    ("redeclared", "type", "    int {v} = 2;\n§    char *{v} = 0;\n    return 1;", "conflicting types|redeclared|redefinition", "v"),
    ("redefined", "type", "    int {v} = 2;\n§    int {v} = 3;\n    return {v};", "redefinition of", "v"),
    ("const", "type", "    const int {v} = 2;\n§    {v} = 3;\n    return {v};", "assignment of read-only|cannot assign to variable", "v"),
    ("subscript", "type", "    int {v} = 2;\n§    return {v}[1];", "subscripted value", "f"),
    ("call-int", "type", "    int {v} = 2;\n§    return {v}(3);", "called object", "v"),
    ("incomplete", "type", "§    struct {m} {v};\n    return 1;", "storage size of|incomplete type", "v"),
    ("bracket", "syntax", "    int {v}[3];\n§    return {v}[1;", "error: expected", "f"),
    ("keyword", "syntax", "§    int for = 3;\n    return 1;", "error: expected", "f"),
    ("comma", "syntax", "§    return {h}({a},, 2);", "error: expected", "f"),
]
CXX_TRAIN: list[Fault] = [
    ("no-member", "type", "    std::vector<int> {v};\n§    return {v}.{m}();", "has no member named", "m"),
    ("not-declared", "type", "§    return {u} + 1;", "was not declared in this scope", "u"),
    ("no-match", "type", "    std::string {v} = \"{n}\";\n§    return {v} * 2;", "no match for", "f"),
    ("convert", "type", "    std::string {v} = \"{n}\";\n§    int {w} = {v};\n    return {w};", "cannot convert", "f"),
    ("namespace", "type", "§    std::{m}<int> {v};\n    return 1;", "is not a member of", "m"),
    ("semicolon", "syntax", "    auto {v} = 2\n§    return {v};", "error: expected", "f"),
    ("brace", "syntax", "    std::vector<int> {v}{{1, 2}};\n§    for (auto {w} : {v} {{ return {w}; }}\n    return 1;", "error: expected", "f"),
]
CXX_HELD: list[Fault] = [
    ("no-call", "type", "    std::vector<std::string> {v};\n§    {v}.push_back(3);\n    return 1;", "no matching function", "f"),
    ("const-member", "type", "    const std::string {v} = \"{n}\";\n§    {v}.clear();\n    return 1;", "discards qualifiers|no matching|not marked const|passing", "f"),
    ("private", "type", "    {C} {v};\n§    return {v}.hidden;", "is private within|private member", "hidden"),
    ("template", "syntax", "§    std::vector<int {v};\n    return 1;", "error: ", "f"),
]
RUST_TRAIN: list[Fault] = [
    ("mismatch", "type", "§    let {v}: i64 = \"{n}\";\n    {v}", "mismatched types", "f"),
    ("not-found", "type", "§    {a} + {u}", "cannot find value", "u"),
    ("no-fn", "type", "§    {m}({a})", "cannot find function", "m"),
    ("no-method", "type", "§    {a}.{m}()", "no method named", "m"),
    ("no-field", "type", "    let {v} = Point {{ x: 1 }};\n§    {v}.{n}", "no field", "n"),
    ("moved", "type", "    let {v} = String::from(\"{n}\");\n    let {w} = {v};\n§    {v}.len() as i64 + {w}.len() as i64", "borrow of moved value", "v"),
    ("crate-import", "import", "§    use crate::{m}::{u};\n    {u}({a})", "unresolved import", "crate::{m}|{m}"),
    ("syntax-semi", "syntax", "§    let {v} = 2\n    {v}", "error: expected", ""),
    ("syntax-paren", "syntax", "§    let {v} = ({a} + 2;\n    {v}", "error: ", ""),
]
RUST_HELD: list[Fault] = [
    ("immutable", "type", "    let {v} = 2;\n§    {v} += 1;\n    {v}", "cannot assign twice", "v"),
    ("arg-count", "type", "§    helper({a}, 2)", "this function takes", "helper"),
    ("trait", "type", "§    {a} + \"{n}\"", "cannot add", "f"),
    ("lifetime", "type", "    let {v};\n    {{ let {w} = 5; \n§      {v} = &{w}; }}\n    *{v}", "does not live long enough", "w"),
    ("mod-file", "import", "    {a}\n}}\n§mod {m};\npub fn {u}() {{", "file not found for module", "m"),
    ("syntax-let", "syntax", "§    let = {a};\n    2", "error: expected", ""),
]
GO_TRAIN: list[Fault] = [
    ("undefined", "type", "§\treturn {a} + {u}", "undefined: ", "u"),
    ("mismatch", "type", "§\tvar {v} int = \"{n}\"\n\treturn {v}", "cannot use", "f"),
    ("unused", "type", "§\t{v} := 3\n\treturn {a}", "declared but not used|declared and not used", "v"),
    ("syntax", "syntax", "§\t{v} := [3\n\treturn {a}", "syntax error", ""),
]
GO_HELD: list[Fault] = [
    ("method", "type", "\t{v} := \"{n}\"\n§\treturn {v}.{m}()", "undefined (type", "m"),
    ("return", "type", "§\treturn {a}, 2", "too many return values", "f"),
    ("syntax-brace", "syntax", "§\tif {a} > 1 \n\t{{ return 2 }}\n\treturn 1", "syntax error", ""),
]
C_RUNS_TRAIN = ["gcc", "gcc", "make", "make-j", "cmake"]
C_RUNS_HELD = ["gcc-wall", "make-k", "clang", "make-sub"]
OWN_DIRS = ["include", "src", "core", "lib"]
SYSTEM_TRAIN = [("zlib-ng.h", "z"), ("curl/curl.h", "curl"), ("libpq-fe.h", "pq"), ("SDL2/SDL.h", "SDL2"), ("gtk/gtk.h", "gtk"), ("lua.h", "lua"), ("mosquitto.h", "mosquitto"), ("hiredis/hiredis.h", "hiredis")]  # fmt: skip
SYSTEM_HELD = [("uv.h", "uv"), ("jansson.h", "jansson"), ("GL/glew.h", "GLEW"), ("sodium.h", "sodium"), ("boost/asio.hpp", "boost_system")]


class _Unit:
    """One C or C++ source with helper functions, and ways to build it among others."""

    def __init__(self, rng: random.Random, held: bool, suffix: str, body: str) -> None:
        words = Words(rng, held)
        self.rng, self.words, self.suffix = rng, words, suffix
        names = {k: words.noun() for k in "avnw"} | {k: words.func() for k in "fmuh"} | {"C": words.cls()}
        self.names = names
        headers = "#include <stdio.h>\n" if suffix == "c" else "#include <string>\n#include <vector>\n"
        struct = f"struct {names['n']}_t {{ int {names['w']}; }};\n" if suffix == "c" else f"class {names['C']} {{ int hidden; }};\n"
        helper = f"static int {names['h']}(int {names['a']}, int {names['w']}) {{\n    return {names['a']} + {names['w']};\n}}\n\n"
        if "{h}" not in body:
            helper = ""
        self.folder = rng.choice(["", "src/", "src/", "lib/"])
        self.path = f"{self.folder}{words.noun()}.{suffix}"
        arg = f"int {names['a']}"
        fill = "".join(f"int {words.func()}(int value) {{\n    return value + {rng.randint(1, 9)};\n}}\n\n" for _ in range(rng.randint(0, 2)))
        self.text = headers + pad(rng, "//") + "\n" + struct + "\n" + helper + fill + f"int {names['f']}({arg}) {{\n" + body.format(**names) + "\n}\n"
        self.others = {
            f"{self.folder}{name}.{suffix}": f"int {name}_{self.names['m']}(void) {{\n    return {rng.randint(1, 99)};\n}}\n"
            for name in (words.noun() for _ in range(rng.randint(1, 3)))
        }  # fmt: skip
        self.compiler = "gcc" if suffix == "c" else "g++"

    def files(self) -> dict[str, str]:
        main = "int main(void) {\n    return 0;\n}\n"
        return {self.path: self.text, f"{self.folder}main.{self.suffix}": main, **self.others}

    def build(self, run: str, libs: str = "", runs: str = "") -> tuple[dict[str, str], str]:
        files = self.files()
        compiler = {"clang": "clang" if self.suffix == "c" else "clang++"}.get(run, self.compiler)
        flags = self.rng.choice(["-Wall -O2", "-g", "-std=c11 -Wextra" if self.suffix == "c" else "-std=c++17", "-g -O1 -Iinclude"])
        if self.suffix == "c":
            flags += " -Werror=implicit-function-declaration -Werror=int-conversion"
        sources = sorted(files)
        if run in ("gcc", "gcc-wall", "clang"):
            picked = self.rng.choice([" ".join(sources), self.path]) if not runs else " ".join(sources)
            extra = " -c" if picked == self.path else " -o app"
            return files, f"{compiler} {flags}{' -Wall -Wextra -fdiagnostics-color=always' if run == 'gcc-wall' else ''} {picked}{extra}{libs}{runs}"
        if run == "cmake":
            files["CMakeLists.txt"] = (
                f"cmake_minimum_required(VERSION 3.10)\nproject({self.words.noun()} {'C' if self.suffix == 'c' else 'CXX'})\n"
                f"add_compile_options({' '.join(flags.split())})\nadd_executable(app {' '.join(sources)})\n" + (f"target_link_libraries(app{libs.replace('-l', '')})\n" if libs else "")
            )
            return files, f"cmake -S . -B build && cmake --build build{runs.replace('./app', './build/app')}"
        rules = "".join(f"build/{s.replace('/', '_')}.o: {s}\n\t@mkdir -p build\n\t{self.rng.choice(['', '@echo CC $<; '])}$(CC) $(CFLAGS) -c $< -o $@\n\n" for s in sources)
        objects = " ".join(f"build/{s.replace('/', '_')}.o" for s in sources)
        after = f"check: app\n\t{runs.removeprefix(' && ')}\n" if runs else ""
        makefile = f"CC = {compiler}\nCFLAGS = {flags}\n\n{'all: check' if runs else 'all: app'}\n\napp: {objects}\n\t$(CC) -o $@ $^{libs}\n\n{after}\n{rules}"
        if run == "make-sub":
            files = {f"core/{path}": text for path, text in files.items()}
            files["core/Makefile"], files["Makefile"] = makefile, "all:\n\t$(MAKE) -C core\n"
        else:
            files["Makefile"] = makefile
        return files, "make" + {"make": "", "make-j": " -j4", "make-k": " -k", "make-sub": ""}[run]


def _fill(text: str, names: dict[str, str]) -> tuple[str, ...]:
    return tuple(part.format(**names) for part in text.split("|"))


def _compile(rng: random.Random, held: bool, suffix: str, fault: Fault, run: str) -> Case:
    name, cause, body, key, subject = fault
    unit = _Unit(rng, held, suffix, body)
    subjects = (unit.names.get(subject, subject),) if subject else ()
    if rng.random() < 0.25:  # a second fault further down, which a reader has to leave aside
        unit.text += f"\nint {unit.words.func()}(void) {{\n    return {unit.words.func()};\n}}\n"
    files, command = unit.build(run)
    if subjects and subject == "f" and (run == "clang" or "-fno" in command):
        subjects = ()  # clang does not name the function
    return Case(f"{suffix}/{name}/{run}", unit.compiler, files, command, cause, tuple(key.split("|")), subjects)


def _include(rng: random.Random, held: bool, own: bool, run: str) -> Case:
    unit = _Unit(rng, held, rng.choice(["c", "cpp"]), "    return {a};")
    header, _ = rng.choice(SYSTEM_HELD if held else SYSTEM_TRAIN)
    if own:
        header = rng.choice(["", "", f"{unit.words.pkg()}/", "../include/"]) + f"{unit.words.noun()}.h"
        line = f'{MARK}#include "{header}"'
    else:
        line = f"{MARK}#include <{header}>"
    lines = unit.text.split("\n")
    lines.insert(rng.randint(1, 2), line)
    unit.text = "\n".join(lines)
    files, command = unit.build(run)
    return Case(
        f"{unit.suffix}/include-{'own' if own else 'system'}/{run}", unit.compiler, files, command, "import" if own else "dependency",
        ("No such file or directory", "file not found"), (header, header.rsplit("/", 1)[-1]),
    )  # fmt: skip


def _link(rng: random.Random, held: bool, run: str) -> Case:
    unit = _Unit(rng, held, "c", "    extern int {m}_{u}(int);\n§    return {m}_{u}({a});")
    symbol = f"{unit.names['m']}_{unit.names['u']}"
    files, _ = unit.build(run)
    run = run if run in ("make", "make-k", "cmake", "make-j") else "gcc"
    files, command = unit.build(run)
    if run == "gcc":
        command = command.replace(" -c", "") if " -o app" in command else f"gcc {' '.join(sorted(p for p in files if p.endswith('.c')))} -o app"
    debug = "-g" in command or any("-g" in text for path, text in files.items() if path in ("Makefile", "CMakeLists.txt"))
    if debug:
        return Case(f"c/link-g/{run}", "gcc", files, command, "type", ("undefined reference",), (symbol,))
    return Case(f"c/link/{run}", "gcc", files, command, "type", ("undefined reference",), (symbol,), file=unit.path, line=None)


def _missing_lib(rng: random.Random, held: bool, run: str) -> Case:
    unit = _Unit(rng, held, "c", "    return {a};")
    _, lib = rng.choice([pair for pair in (SYSTEM_HELD if held else SYSTEM_TRAIN) if pair[1] != "z"])
    run = run if run in ("make", "make-k", "make-j") else "gcc"
    files, command = unit.build(run, f" -l{lib}")
    if run == "gcc":
        command = f"gcc {' '.join(sorted(files))} -o app -l{lib}"
    return Case(f"c/no-lib/{run}", "gcc", files, command, "dependency", ("cannot find -l", "unable to find library"), (lib, f"-l{lib}", f"lib{lib}"), file=None, line=None)


RUNTIME_TRAIN = [
    ("segv", "crash", "    int *{v} = 0;\n    if ({a}) *{v} = 3;\n    return *{v};", "Segmentation fault", False),
    ("abort", "crash", "    if ({a}) abort();\n    return 1;", "Aborted", False),
    ("assert", "assertion", "    int {v} = {a} + 2;\n§    assert({v} == 99);\n    return {v};", "Assertion `", True),
    ("kill9", "memory", "    printf(\"reading {n}\\n\");\n    fflush(stdout);\n    kill(getpid(), 9);\n    return {a};", "Killed", False),
    ("asan", "crash", "    int *{v} = malloc(8);\n    free({v});\n§    return {v}[{a}];", "AddressSanitizer: heap-use-after-free", True),
]
RUNTIME_HELD = [
    ("fpe", "crash", "    int {v} = 0;\n    return 4 / ({v} * {a});", "Floating point exception|Illegal instruction", False),
    ("bus", "crash", "    raise(SIGBUS);\n    return {a};", "Bus error", False),
    ("assert-msg", "assertion", "    int *{v} = 0;\n§    assert({v} && \"{n} must be set\");\n    return 3;", "Assertion `", True),
    ("asan-overflow", "crash", "    int {v}[3] = {{1, 2, 3}};\n    volatile int {w} = 3 + {a};\n§    return {v}[{w}];", "AddressSanitizer: stack-buffer-overflow", True),
]
CXX_RUNTIME = [
    ("bad-alloc", "memory", "    std::vector<long> {v};\n    {v}.reserve((std::size_t)1 << 44);\n    return {a};", "std::bad_alloc", False),
    ("throw", "crash", "    if ({a}) throw std::runtime_error(\"{n} was lost\");\n    return 1;", "terminate called after throwing", False),
]


def _runtime(rng: random.Random, held: bool, fault: tuple[str, str, str, str, bool], run: str, suffix: str = "c") -> Case:
    name, cause, body, key, placed = fault
    unit = _Unit(rng, held, suffix, body)
    more = "#include <assert.h>\n#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\n" if suffix == "c" else "#include <stdexcept>\n"
    unit.text = more + unit.text
    main = f"#include <stdio.h>\nint {unit.names['f']}(int);\nint main(void) {{\n    printf(\"1..4\\nok 1 - {unit.words.noun()}\\n\");\n    fflush(stdout);\n    return {unit.names['f']}(1);\n}}\n"
    build = run if run in ("make", "make-j", "make-k") else "gcc"
    files, command = unit.build(build, runs=" && ./app")
    files[f"{unit.folder}main.{suffix}"] = main
    flags = "-g -fsanitize=address" if "asan" in name else "-g"
    if build == "gcc":
        command = f"{unit.compiler} {flags} {' '.join(sorted(files))} -o app && ./app; exit $?"
    else:
        files["Makefile"] = files["Makefile"].replace("CFLAGS = ", f"CFLAGS = {flags} ").replace("-o $@ $^", f"{flags} -o $@ $^")
    subjects = (unit.names["f"],) if placed else ()
    keys = tuple({"Segmentation fault": "Segmentation fault|Error 139", "Killed": "Killed|Error 137"}.get(key, key).split("|"))
    return Case(f"{suffix}/{name}/{build}", unit.compiler, files, command, cause, keys, subjects, **({} if placed else {"file": None, "line": None}))  # type: ignore[arg-type]


def _rust(rng: random.Random, held: bool, fault: Fault, run: str) -> Case:
    name, cause, body, key, subject = fault
    words = Words(rng, held)
    names = {k: words.noun() for k in "avnw"} | {k: words.func() for k in "fmuh"}
    text = pad(rng, "//") + "pub struct Point { pub x: i64 }\n\npub fn helper(value: i64) -> i64 {\n    value\n}\n\n"
    text += f"pub fn {names['f']}({names['a']}: i64) -> i64 {{\n" + body.format(**names) + "\n}\n"
    subjects = tuple(part.format(**names) for part in ((names.get(subject, subject),) if "{" not in subject else tuple(subject.split("|")))) if subject else ()
    module = words.noun()
    if run.startswith("cargo"):
        pkg = words.pkg()
        files = {
            "Cargo.toml": f'[package]\nname = "{pkg}"\nversion = "0.1.0"\nedition = "2021"\n',
            f"src/{module}.rs": text,
            "src/main.rs": f"mod {module};\n\nfn main() {{\n    println!(\"{{}}\", {module}::{names['f']}(2));\n}}\n",
        }
        return Case(f"rust/{name}/{run}", "cargo", files, f"{run} --offline", cause, tuple(key.split("|")), subjects)
    path = rng.choice([f"{module}.rs", f"src/{module}.rs"])
    return Case(f"rust/{name}/{run}", "rustc", {path: text}, f"{run} --crate-type lib --emit=metadata {path}", cause, tuple(key.split("|")), subjects)


PANICS_TRAIN = [
    ("assert-eq", "assertion", "§    assert_eq!({a} + 1, 99);\n    {a}", "assertion `left == right` failed|assertion failed"),
    ("unwrap", "other", "    let {v}: Option<i64> = None;\n§    {v}.unwrap() + {a}", "called `Option::unwrap()`"),
    ("bounds", "other", "    let {v} = vec![1i64, 2];\n§    {v}[{a} as usize + 7]", "index out of bounds"),
    ("panic", "other", "    if {a} > 0 {{\n§        panic!(\"{n} is not set\");\n    }}\n    {a}", "panicked at"),
]
PANICS_HELD = [
    ("assert", "assertion", "§    assert!({a} > 40, \"{n} too small: {{}}\", {a});\n    {a}", "panicked at|too small: "),
    ("assert-ne", "assertion", "§    assert_ne!({a}, 2);\n    {a}", "assertion `left != right` failed"),
    ("expect", "other", "    let {v}: Result<i64, String> = Err(\"no {n}\".into());\n§    {v}.expect(\"{m}\") + {a}", "{m}"),
]


def _panic(rng: random.Random, held: bool, fault: tuple[str, str, str, str], run: str) -> Case:
    name, cause, body, key = fault
    words = Words(rng, held)
    names = {k: words.noun() for k in "avnw"} | {k: words.func() for k in "fmuh"}
    module, pkg, test = words.noun(), words.pkg(), words.func()
    tests = "".join(f"    #[test]\n    fn {words.func()}() {{\n        assert_eq!(1 + 1, 2);\n    }}\n\n" for _ in range(rng.randint(0, 3)))
    text = pad(rng, "//") + f"pub fn {names['f']}({names['a']}: i64) -> i64 {{\n" + body.format(**names) + "\n}\n\n"
    text += f"#[cfg(test)]\nmod tests {{\n    use super::*;\n\n{tests}    #[test]\n    fn {test}() {{\n        assert!({names['f']}(2) > 0);\n    }}\n}}\n"
    files = {
        "Cargo.toml": f'[package]\nname = "{pkg}"\nversion = "0.1.0"\nedition = "2021"\n',
        f"src/{module}.rs": text, "src/lib.rs": f"pub mod {module};\n",
    }  # fmt: skip
    if run == "run":
        files["src/main.rs"] = f"fn main() {{\n    println!(\"{{}}\", {pkg}::{module}::{names['f']}(2));\n}}\n"
        return Case(f"rust/{name}/run", "cargo", files, "cargo run --offline", cause, _fill(key, names))
    subjects = (f"{module}::tests::{test}", test)
    return Case(f"rust/{name}/test", "cargo", files, "cargo test --offline", cause, _fill(key, names), subjects)


def _crate(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    crate = rng.choice(["serde_json", "tokio", "regex", "rand", "clap"] if not held else ["anyhow", "reqwest", "chrono"])
    pkg = words.pkg()
    if rng.random() < 0.5:
        files = {"Cargo.toml": f'[package]\nname = "{pkg}"\nversion = "0.1.0"\n\n[dependencies]\n{crate} = "1"\n', "src/main.rs": "fn main() {}\n"}
        return Case("rust/no-crate/cargo", "cargo", files, "cargo build --offline", "dependency", ("no matching package named", "failed to get"), (crate,), file=None, line=None)
    text = pad(rng, "//") + f"§use {crate}::{words.cls()};\n\npub fn {words.func()}() {{}}\n"
    path = f"src/{words.noun()}.rs"
    return Case("rust/extern-crate/rustc", "rustc", {path: text}, f"rustc --edition 2021 --crate-type lib --emit=metadata {path}", "dependency", ("unresolved import",), (crate,))


def _go(rng: random.Random, held: bool, fault: Fault, run: str) -> Case:
    name, cause, body, key, subject = fault
    words = Words(rng, held)
    names = {k: words.noun() for k in "avnw"} | {k: words.camel() for k in "fmuh"}
    pkg, module = words.pkg(), words.noun()
    text = f"package {pkg}\n\n" + pad(rng, "//") + f"func {names['f']}({names['a']} int) int {{\n" + body.format(**names) + "\n}\n"
    files = {"go.mod": f"module example.com/{pkg}\n\ngo 1.19\n", f"{pkg}/{module}.go": text, "main.go": f'package main\n\nimport "example.com/{pkg}/{pkg}"\n\nfunc main() {{\n\tprintln({pkg}.{names["f"]}(2))\n}}\n'}
    subjects = (names.get(subject, subject),) if subject and subject != "f" else ()
    return Case(f"go/{name}/{run}", "go", files, run, cause, tuple(key.split("|")), subjects)


def _go_test(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    func, test, pkg = words.camel().title(), "Test" + words.cls(), words.pkg()
    kind = rng.choice(["error", "panic"] if not held else ["fatal", "nil"])
    body = {"error": f'§\tif {func}(2) != 9 {{\n\t\tt.Errorf("{func}(2) = %d, want 9", {func}(2))\n\t}}', "fatal": f'\tgot := {func}(3)\n§\tif got != 10 {{\n\t\tt.Fatalf("got %d, want %d", got, 10)\n\t}}'}.get(kind, f"\t_ = {func}(2)")
    body = body.replace("§", "").replace("\t\tt.", "§\t\tt.")
    inner = {"panic": "§\treturn []int{1}[value+5]", "nil": "\tvar m map[string]int\n§\tm[\"a\"] = value\n\treturn 1"}.get(kind, "\treturn value")
    files = {
        "go.mod": f"module example.com/{pkg}\n\ngo 1.19\n",
        f"{pkg}.go": f"package {pkg}\n\n{pad(rng, '//')}func {func}(value int) int {{\n{inner}\n}}\n",
        f"{pkg}_test.go": f"package {pkg}\n\nimport \"testing\"\n\nfunc TestFine(t *testing.T) {{}}\n\nfunc {test}(t *testing.T) {{\n{body}\n}}\n",
    }
    key = {"error": "want 9", "fatal": "want 10", "panic": "index out of range", "nil": "assignment to entry in nil map"}[kind]
    return Case(f"go/test-{kind}", "go", files, rng.choice(["go test ./...", "go test -v ./..."]), "assertion" if kind in ("error", "fatal") else "other", (key,), (test,))


def _makefile(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    target = words.noun()
    kind = rng.choice(["separator", "command", "no-rule"] if not held else ["commands", "not-found-sh", "no-rule-c"])
    head = pad(rng, "#", 10)
    tool = rng.choice(["protoc", "cmake3", "sphinx-build", "docker-compose", "poetry", "tsc"] if not held else ["pnpm", "bazel", "mvn", "terraform", "yarn"])
    if kind == "separator":
        return Case("make/separator", "make", {"Makefile": f"{head}all: {target}\n\n{target}:\n§    echo {target}\n"}, "make", "syntax", ("missing separator",))
    if kind == "commands":
        return Case("make/commands", "make", {"Makefile": f"{head}§\techo {target}\n"}, "make all", "syntax", ("recipe commences before first target",))
    if kind in ("command", "not-found-sh"):
        if kind == "command":
            return Case("make/command", "make", {"Makefile": f"{head}all:\n\t{tool} --out {target}\n"}, "make", "dependency", (f"{tool}: not found", f"{tool}: No such file", f"{tool}: command not found"), (tool,), file=None, line=None)
        return Case("sh/command", "bash", {"build.sh": f"#!/bin/bash\nset -e\necho building {target}\n§{tool} build {target}\n"}, "bash build.sh", "dependency", (f"{tool}: command not found",), (tool,))
    name = f"{target}.{'h' if kind == 'no-rule' else 'c'}"
    return Case(f"make/{kind}", "make", {"Makefile": f"{head}all: app\n\napp: src/{name}\n\tgcc -o $@ $<\n"}, "make", "import", ("No rule to make target",), (f"src/{name}", name), file=None, line=None)


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Every fault in some of the ways to build it; share 1.0 is about 600 cases."""

    def times(count: float) -> int:
        return int(count * share + rng.random())

    runs = C_RUNS_HELD if held else C_RUNS_TRAIN
    for suffix, faults in (("c", C_HELD if held else C_TRAIN), ("cpp", CXX_HELD if held else CXX_TRAIN)):
        for fault in faults:
            for _ in range(times(9)):
                yield _compile(rng, held, suffix, fault, rng.choice(runs))
    for _ in range(times(30)):
        yield _include(rng, held, True, rng.choice(runs))
        yield _include(rng, held, False, rng.choice(runs))
    for _ in range(times(14)):
        yield _link(rng, held, rng.choice(runs))
        yield _missing_lib(rng, held, rng.choice(runs))
    for fault5 in RUNTIME_HELD if held else RUNTIME_TRAIN:
        for _ in range(times(14)):
            yield _runtime(rng, held, fault5, rng.choice(runs))
    for fault5 in CXX_RUNTIME[held:] if held else CXX_RUNTIME[:1]:
        for _ in range(times(12)):
            yield _runtime(rng, held, fault5, rng.choice(runs), "cpp")
    for fault in RUST_HELD if held else RUST_TRAIN:
        for _ in range(times(9)):
            yield _rust(rng, held, fault, rng.choice(["rustc", "rustc --edition 2021", "cargo build"] if not held else ["rustc --edition 2018", "cargo check"]))
    for panic in PANICS_HELD if held else PANICS_TRAIN:
        for _ in range(times(6)):
            yield _panic(rng, held, panic, rng.choice(["run", "test", "test"]))
    for _ in range(times(14)):
        yield _crate(rng, held)
        yield _makefile(rng, held)
        yield _makefile(rng, held)
        yield _go_test(rng, held)
    for fault in GO_HELD if held else GO_TRAIN:
        for _ in range(times(6)):
            yield _go(rng, held, fault, rng.choice(["go build ./...", "go vet ./..."] if not held else ["go build -o app .", "go test ./..."]))
