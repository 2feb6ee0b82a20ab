"""Installs that fail: pip and npm against folders and servers of this machine, never a real index."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.case import MARK, Case, Words

PIP_TRAIN = ["numpy", "pandas", "requests", "flask", "django", "boto3", "redis", "celery", "pydantic"]
PIP_HELD = ["torch", "aiohttp", "pymongo", "uvloop", "orjson", "structlog", "grpcio"]
NPM_TRAIN = ["express", "lodash", "react", "axios", "@acme/widgets", "webpack", "pino"]
NPM_HELD = ["fastify", "dayjs", "@initech/forms", "vite", "svelte"]
_REGISTRY = """
import http.server, json, sys, threading, subprocess
answers = json.loads(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = answers.get(self.path, answers.get("*", [404, {}]))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
done = subprocess.run(sys.argv[2].replace("REGISTRY", url), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(done.stdout.replace(url, "https://registry.example.com/"), end="")
sys.exit(done.returncode)
"""
_WHEEL = """
import sys, zipfile
for spec in sys.argv[1:]:
    name, version, *needs = spec.split(";")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(f"{name}-{version}-py3-none-any.whl", "w") as whl:
        whl.writestr(f"{name}/__init__.py", "")
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"] + [f"Requires-Dist: {n}" for n in needs]
        whl.writestr(f"{info}/METADATA", "\\n".join(lines) + "\\n")
        whl.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        whl.writestr(f"{info}/RECORD", "")
"""
_VENV = "python3.11 -m pip --disable-pip-version-check"


def _pip(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    names = rng.sample(PIP_HELD if held else PIP_TRAIN, 3)
    own = f"{words.pkg()}-{words.noun()}"
    missing = rng.choice([own, f"{names[0]}=={rng.randint(7, 90)}.{rng.randint(0, 9)}", names[0]])
    bare = missing.split("==")[0]
    kind = rng.choice(["arg", "file", "file-line", "conflict", "refused", "version"] if not held else ["file-deep", "constraint", "dns", "own-needs", "invalid", "arg-quiet"])
    good = words.noun() + "lib"
    wheel = f"python3.11 .wheels.py '{good};1.2.0'"
    files = {".wheels.py": _WHEEL}
    off = "--no-index --find-links ."
    where: dict[str, object] = {"file": None, "line": None}
    keys: tuple[str, ...] = ("No matching distribution found", "Could not find a version")
    cause = "dependency"
    subjects: tuple[str, ...] = (bare, missing)
    target = "--target out --no-cache-dir"
    if kind in ("arg", "arg-quiet"):
        command = f"{wheel}; {_VENV} install {'-q' if held else ''} {off} {target} {good} {missing}"
    elif kind in ("file", "file-line", "file-deep"):
        path = {"file": "requirements.txt", "file-line": rng.choice(["requirements-dev.txt", "requirements.txt"]), "file-deep": rng.choice(["requirements/test.txt", "deps/base.txt"])}[kind]
        filler = "".join(f"# {words.noun()}\n" for _ in range(rng.randint(0, 8)))
        files[path] = f"{filler}{good}>=1.0\n{MARK}{missing}\n"
        where = {}
        command = f"{wheel}; {_VENV} install {off} {target} -r {path}"
        if kind == "file-line":
            files["Makefile"] = f"install:\n\t{_VENV} install {off} {target} -r {path}\n"
            command = wheel + "; make install"
    elif kind == "constraint":
        files["constraints.txt"] = f"{good}<1.0\n"
        command = f"{wheel}; {_VENV} install {off} {target} -c constraints.txt {good}"
        keys, subjects = ("ResolutionImpossible", "No matching distribution found", "Cannot install", "Could not find a version"), (good,)
    elif kind == "conflict":
        a, b, c = words.noun() + "kit", words.noun() + "kit", words.noun() + "core"
        command = f"python3.11 .wheels.py '{a};1.0;{c}==1.0' '{b};2.0;{c}==2.0' '{c};1.0' '{c};2.0'; {_VENV} install {off} {target} {a} {b}"
        keys, subjects = ("conflicting dependencies", "ResolutionImpossible"), (a, b, c)
    elif kind == "own-needs":
        command = f"python3.11 .wheels.py '{good};1.2.0;{bare}>=3'; {_VENV} install {off} {target} {good}"
    elif kind == "version":
        command = f"{wheel}; {_VENV} install {off} {target} '{good}>=4.1'"
        subjects = (good, f"{good}>=4.1")
    elif kind == "invalid":
        files["requirements.txt"] = f"{good}\n{MARK}{bare} = 3\n"
        where = {}
        cause, keys, subjects = "dependency", ("Invalid requirement",), (bare,)
        command = f"{wheel}; {_VENV} install {off} {target} -r requirements.txt"
    else:
        url = "http://127.0.0.1:9/simple" if kind == "refused" else f"http://{words.noun()}.invalid/simple"
        command = f"{_VENV} install --retries {rng.choice([1, 0, 1])} --timeout 1 --index-url {url} {target} {missing}"
        # The index could not be reached: that the package was not found only follows from it.
        cause, keys, subjects = "network", ("Connection refused", "Name or service not known", "Temporary failure in name", "Failed to establish a new connection"), ()
    return Case(f"pip/{kind}", "pip", files, command, cause, keys, subjects, **where)  # type: ignore[arg-type]


def _npm(rng: random.Random, held: bool) -> Case:
    words = Words(rng, held)
    name = rng.choice(NPM_HELD if held else NPM_TRAIN)
    kind = rng.choice(["E404", "ERESOLVE", "refused", "script", "notarget"] if not held else ["ci-lock", "E404-arg", "E401", "dns", "ETARGET-dev", "E500", "ejson"])
    pkg = words.pkg()
    deps = f'"dependencies": {{"{name}": "^{rng.randint(1, 9)}.0.0"}}'
    manifest = f'{{"name": "{pkg}", "version": "1.0.0", {deps}}}\n'
    files = {"package.json": manifest, ".registry.py": _REGISTRY}
    quiet = "--no-audit --no-fund --fetch-retries 0"
    path = "/" + name.replace("/", "%2f")
    where: dict[str, object] = {"file": None, "line": None}
    cause = "dependency"
    subjects: tuple[str, ...] = (name,)
    keys: tuple[str, ...]

    def served(answers: str, command: str) -> str:
        return f"python3.11 .registry.py '{answers}' '{command}'"

    def packument(package: str, version: str, more: str = "") -> str:
        return f'{{"name": "{package}", "dist-tags": {{"latest": "{version}"}}, "versions": {{"{version}": {{"name": "{package}", "version": "{version}", "dist": {{"tarball": "http://127.0.0.1:1/x.tgz", "shasum": "0"}}{more}}}}}}}'

    install = f"npm install {quiet} --registry REGISTRY"
    if kind in ("E404", "E404-arg"):
        extra = f" {name}" if kind == "E404-arg" else ""
        command, keys = served('{"*": [404, {"error": "Not found"}]}', install + extra), ("E404", "404 Not Found", "is not in this registry", "could not be found")
    elif kind == "E401":
        command, keys = served('{"*": [401, {"error": "login first"}]}', install), ("E401", "401 Unauthorized", "Unable to authenticate", "Incorrect or missing password")
        cause, subjects = "permission", ()
    elif kind == "E500":
        command, keys = served('{"*": [503, {"error": "busy"}]}', install), ("E503", "503 Service Unavailable")
        cause, subjects = "network", ()
    elif kind in ("notarget", "ETARGET-dev"):
        command, keys = served(f'{{"{path}": [200, {packument(name, "0.1.0")}]}}', install), ("ETARGET", "No matching version found", "notarget")
        if kind == "ETARGET-dev":
            files["package.json"] = manifest.replace("dependencies", "devDependencies")
    elif kind == "ERESOLVE":
        a, b = words.noun() + "-ui", words.noun() + "-kit"
        files["package.json"] = f'{{"name": "{pkg}", "version": "1.0.0", "dependencies": {{"{a}": "1.0.0", "{b}": "2.0.0"}}}}\n'
        peer = f', "peerDependencies": {{"{b}": "^1.0.0"}}'
        command = served(f'{{"/{a}": [200, {packument(a, "1.0.0", peer)}], "/{b}": [200, {packument(b, "2.0.0")}]}}', install)
        keys, subjects = ("ERESOLVE", "unable to resolve dependency tree", "Could not resolve dependency"), (b, a)
    elif kind in ("refused", "dns"):
        host = "127.0.0.1:4" if kind == "refused" else f"{words.noun()}.invalid"
        command, keys = f"npm install {quiet} --registry http://{host}/", ("ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN")
        cause, subjects = "network", ()
    elif kind == "ci-lock":
        files["package-lock.json"] = f'{{"name": "{pkg}", "version": "1.0.0", "lockfileVersion": 3, "packages": {{"": {{"name": "{pkg}", "version": "1.0.0"}}}}}}\n'
        command, keys = f"npm ci {quiet} --registry http://127.0.0.1:4/", ("can only install packages when", "in sync", f"Missing: {name}")
    elif kind == "ejson":
        files["package.json"] = '{"name": "' + pkg + '",\n "version": "1.0.0",,\n}\n'
        command, keys, cause, subjects = f"npm install {quiet}", ("EJSONPARSE", "JSON.parse"), "syntax", ()
        # npm names the file but not the line.
        where = {"file": "package.json", "line": None}
    else:
        script, tool = rng.choice(["build", "lint", "start"]), rng.choice(["webpack", "vite", "eslint-config", "ng"])
        files["package.json"] = f'{{"name": "{pkg}", "version": "1.0.0", "scripts": {{"{script}": "{tool} --mode production"}}}}\n'
        command, keys, subjects = f"npm run {script}", (f"{tool}: not found", f"{tool}: command not found"), (tool,)
    return Case(f"npm/{kind}", "npm", files, command, cause, keys, subjects, **where)  # type: ignore[arg-type]


def cases(rng: random.Random, held: bool, share: float) -> Iterator[Case]:
    """Share 1.0 is about 190 cases."""
    for _ in range(int(100 * share + rng.random())):
        yield _pip(rng, held)
    for _ in range(int(90 * share + rng.random())):
        yield _npm(rng, held)
