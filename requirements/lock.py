"""Writes requirements/base.txt and requirements/dev.txt: exact versions of everything a set-up installs.

Run by `make lock` inside an environment that works. It walks from pyproject.toml's own requirements (with the `cpu` extra) through the
metadata of what is installed, for every Python the project supports, so that `pip install --no-deps -r` needs no resolver and
brings nothing that the walk left out.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("cpu", "postgres")

LEFT_OUT = {
    # CUDA builds that the resolver picks beside CPU torch, and that fail with it at import ("operator torchvision::nms does not exist").
    "torchvision": "CUDA build; text models do not need it",
    "torchaudio": "CUDA build; text models do not need it",
    "torchcodec": "CUDA build; text models do not need it",
    "triton": "a gigabyte of GPU compiler",
    # `fastapi[standard]` is vLLM's requirement: the command of FastAPI and the client of its hosting service.
    "fastapi-cli": "a development server that nothing here starts",
}
TOOLS = {"pip"}


def requirements(name: str) -> list[str]:
    """What an installed distribution asks for; a SystemExit that says what to install when it is absent."""
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        sys.exit(f"lock: {name} is required but not installed here; install it and run `make lock` again")


def walk(roots: list[str], python: str, left_out: set[str]) -> set[str]:
    """Names of everything that `roots` need under one Python version on Linux x86-64."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(r), "") for r in roots]
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "platform_system": "Linux",
        "platform_machine": "x86_64", "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in left_out or name in TOOLS:
            continue
        found.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(r), wanted) for r in requirements(name)]
    return found


def marker(pythons: list[str]) -> str:
    """The marker for a package that only some Python versions need."""
    if pythons == list(PYTHONS):
        return ""
    if pythons == list(PYTHONS[: len(pythons)]):
        return f' ; python_version < "{PYTHONS[len(pythons)]}"'
    return f' ; python_version >= "{pythons[0]}"'


def write(path: Path, comments: list[str], by_python: dict[str, set[str]]) -> None:
    """One lock file, sorted."""
    names = sorted(set().union(*by_python.values()))
    lines = [f"# {c}" for c in (*comments, "Written by `make lock`; installed with `pip install --no-deps -r`.")]
    for name in names:
        lines.append(f"{name}=={distribution(name).version}{marker([p for p in PYTHONS if name in by_python[p]])}")
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(names)} packages")


def main() -> None:
    """Reads pyproject.toml, writes both files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    base = project["project"]["dependencies"] + ["setuptools"]
    for extra in EXTRAS:
        base += project["project"]["optional-dependencies"][extra]
    left_out = {canonicalize_name(name) for name in LEFT_OUT}
    runtime = {p: walk(base, p, left_out) for p in PYTHONS}
    develop = {p: walk(project["dependency-groups"]["dev"], p, left_out) - runtime[p] for p in PYTHONS}
    reasons = [f"  {name}: {why}" for name, why in sorted(LEFT_OUT.items())]
    write(
        HERE / "base.txt",
        ["What AgentMesh runs on, models on the CPU included. Left out on purpose:", *reasons],
        runtime,
    )
    write(HERE / "dev.txt", ["What its tests and checks need besides."], develop)
    clash = [n for n in runtime["3.11"] if re.match(r"nvidia-|cuda-", n)]
    if clash:
        sys.exit(f"lock: GPU packages slipped in: {', '.join(clash)}")


if __name__ == "__main__":
    main()
