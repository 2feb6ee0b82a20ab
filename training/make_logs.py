"""Runs the programs with faults and keeps what the tools print, with the truth.

    python -m training.make_logs [--share 1.0] [--only python,native] [--seed 7]

Needs the tools themselves (Python 3.11 with pytest, pytest-timeout and requests, ruff, flake8, pylint, mypy, gcc, g++, clang,
make, JDK, rustc and cargo, Node with npm, typescript, eslint, mocha and jest, Go, Ruby, PHP); a program whose tool is not on
PATH is left out and counted. The corpus in data/ lets training and evaluation run without any of them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training import faults_java, faults_native, faults_node, faults_packages, faults_python, faults_system, strangers
from training.case import MARK, Case, place

DATA = Path(__file__).parent / "data"
FAMILIES = {
    "python": faults_python.cases,
    "native": faults_native.cases,
    "java": faults_java.cases,
    "node": faults_node.cases,
    "packages": faults_packages.cases,
    "system": faults_system.cases,
}
ROOTS_TRAIN = ["/home/ana/src/{p}", "/builds/group/{p}", "/app", "/home/runner/work/{p}/{p}", "/usr/src/app", "/Users/kim/code/{p}", "/var/lib/jenkins/workspace/{p}", "/srv/{p}"]  # fmt: skip
ROOTS_HELD = ["/home/vsts/work/1/s", "/workspace/{p}", "/code", "/opt/atlassian/pipelines/agent/build", "/root/repo", "/mnt/data/projects/{p}", "/github/workspace"]  # fmt: skip
NAMES = ["webshop", "api", "tools", "fleet-core", "portal", "libgeo", "monorepo"]
SITES = ["/usr/lib/python3/dist-packages", "{root}/.venv/lib/python3.11/site-packages", "/usr/local/lib/python3.11/site-packages", "/opt/venv/lib/python3.11/site-packages"]  # fmt: skip
STDLIBS = ["/usr/lib/python3.11", "/usr/local/lib/python3.11", "/opt/hostedtoolcache/Python/3.11.9/x64/lib/python3.11"]


def run(case: Case, rng: random.Random, held: bool, extra_path: str) -> dict[str, Any] | None:
    """The record of one case: its log with this machine's paths replaced, and the truth; None if the fault did not show."""
    base = Path(tempfile.mkdtemp(prefix="case-", dir="/tmp"))
    root = base / "project"
    root.mkdir()
    try:
        for path, text in case.files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace(MARK, ""))
            if path in case.modes:
                target.chmod(case.modes[path])
        base.chmod(0o755)
        env = {
            "PATH": extra_path + os.environ["PATH"],
            "HOME": str(base),
            "LC_ALL": rng.choice(["C.UTF-8", "C.UTF-8", "C"]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NODE_PATH": "",
            "TERM": "xterm",
            "CARGO_HOME": str(base / ".cargo"),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
            "GOFLAGS": "-mod=mod",
            "GOCACHE": "/tmp/case-gocache",
            "npm_config_update_notifier": "false",
            "npm_config_cache": str(base / ".npm"),
        }
        user = 65534 if case.nobody else None
        if case.nobody:
            shutil.chown(root, 65534)
            for found in root.rglob("*"):
                shutil.chown(found, 65534)
        done = subprocess.run(
            ["bash", "-c", case.command], cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=90, user=user, group=user, check=False,
        )  # fmt: skip
        log = done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return None
    finally:
        shutil.rmtree(base, ignore_errors=True)
    new = rng.choice(ROOTS_HELD if held else ROOTS_TRAIN).format(p=rng.choice(NAMES))
    log = neutral(log, str(root), new, rng)
    file, line = place(case)
    said = re.sub(r"\x1b\[[0-9;]*m", "", log)
    if file and (Path(file).name not in said or (line and not re.search(rf"\b{line}\b", said))):
        file = line = None  # the tool did not name the place
    subjects = [name for name in dict.fromkeys(case.subjects) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    if not any(key in said for key in case.keys):
        return {"template": case.template, "failed": log[-1500:], "keys": case.keys}
    return {
        "template": case.template, "tool": case.tool, "cause": case.cause, "file": file, "line": line,
        "subjects": subjects, "keys": list(case.keys), "root": new, "log": log,
    }  # fmt: skip


def neutral(log: str, root: str, new: str, rng: random.Random) -> str:
    """Replaces the paths of the machine that ran the programs by those of a plausible one."""
    log = log.replace("/private" + root, new).replace(root, new).replace(str(Path(root).parent), "/home/user")
    for match in set(re.findall(r"(/[\w./-]+?/site-packages)", log)):
        log = log.replace(match, rng.choice(SITES).format(root=new))
    for match in set(re.findall(r"(/[\w.-]+(?:/[\w.-]+)*?/lib/python3\.\d+)/(?!site-packages)", log)):
        if new not in match and match not in STDLIBS:
            log = log.replace(match, rng.choice(STDLIBS))
    log = re.sub(r"/(?:root|tmp)/[\w./-]*?/node_modules/", new.rstrip("/") + "/node_modules/", log)
    log = re.sub(r"/tmp/[\w./-]*?/bin/", "/usr/bin/", log)
    return re.sub(r"/root/\.(?:cargo|rustup|pyenv)/", "/usr/local/", log)


def _all(seed: int, share: float, only: set[str]) -> Iterator[tuple[str, Case]]:
    rng = random.Random(seed)
    for split, held, part in (("train", False, share), ("dev", False, share * 0.12), ("held", True, share * 0.33)):
        for family, make in FAMILIES.items():
            if only and family not in only:
                continue
            found = list(make(random.Random(rng.random()), held, part))
            random.Random(3).shuffle(found)
            yield from ((split, case) for case in found)
    if not only or "strangers" in only:
        yield from (("stranger", case) for case in strangers.cases())


def main() -> None:
    """Runs every case and writes data/SPLIT-FAMILY.jsonl.xz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--path", default="", help="folders to put before PATH, with a colon at the end")
    parser.add_argument("--name", default="", help="a part of the file's name, when families are run one by one")
    args = parser.parse_args()
    todo = list(_all(args.seed, args.share, set(filter(None, args.only.split(",")))))
    started, bad, kept = time.monotonic(), Counter[str](), {split: list[dict[str, Any]]() for split in ("train", "dev", "held", "stranger")}
    failed: list[dict[str, Any]] = []

    def one(numbered: tuple[int, tuple[str, Case]]) -> tuple[str, Case, dict[str, Any] | None]:
        number, (split, case) = numbered
        return split, case, run(case, random.Random(args.seed * 100003 + number), split in ("held", "stranger"), args.path)

    with ThreadPoolExecutor(2) as pool:
        for number, (split, case, record) in enumerate(pool.map(one, enumerate(todo)), 1):
            if record is None or "failed" in record:
                bad[case.template] += 1
                failed.append(record or {"template": case.template, "failed": "time"})
            else:
                kept[split].append(record)
            if number % 50 == 0:
                left = (time.monotonic() - started) / number * (len(todo) - number)
                print(f"{number}/{len(todo)} run, {sum(bad.values())} without their fault, {left:.0f} s left", file=sys.stderr, flush=True)
    DATA.mkdir(exist_ok=True)
    for split, records in kept.items():
        if records:
            name = "-".join(filter(None, [split, args.name]))
            with lzma.open(DATA / f"{name}.jsonl.xz", "wt", preset=9, encoding="utf-8") as out:
                for record in records:
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(split, len(records), dict(Counter(record["cause"] for record in records)))
    for template, count in bad.most_common(40):
        print("no fault shown:", template, count)
    if failed:
        Path("/tmp/case-failed.jsonl").write_text("\n".join(json.dumps(record) for record in failed))


if __name__ == "__main__":
    main()
