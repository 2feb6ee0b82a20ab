"""Secret: where `${{ secrets.X }}` may stand, and how it is filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentmesh.core.checker import World
from agentmesh.core.document import Path, strings
from agentmesh.core.shape import Source


def check_strays(world: World, source: Source[Any], secrets: frozenset[str]) -> None:
    """`${{ }}` where nothing would fill it in, and secrets where they may not stand or are not set."""
    document = source.document
    for path, text in strings(document.value):
        if any(path[: len(p)] == p for p in source.removed if p):
            continue
        if "${{" not in text or (document.file, path) in world.visited:
            if "${{" in text and "secrets." in text:
                world.faults.append(document.fault(path, _PLACES))
            continue
        offset = text.index("${{")
        if "secrets." not in text:
            world.faults.append(
                document.fault(path, "an expression may not stand here: nothing would fill it in", offset=offset)
            )
        elif not _may_hold_secret(path):
            world.faults.append(document.fault(path, _PLACES, offset=offset))
        else:
            for name in secret_names(text):
                if name is None:
                    world.faults.append(document.fault(path, "write ${{ secrets.NAME }}", offset=offset))
                elif name not in secrets:
                    variable = f"AGENTMESH_SECRET_{name}"
                    world.faults.append(
                        document.fault(
                            path,
                            f"the secret {name} is not set: give it in the environment as {variable}",
                            offset=offset,
                        )
                    )


_PLACES = "a secret may stand only in `key` of a model, `token`, `key` and `client_key`, in `headers` and `env`, and in `databases`"


def _may_hold_secret(path: Path) -> bool:
    return bool(path) and (
        path[-1] in ("key", "token", "client_key")
        or path[0] == "databases"
        or any(p in ("headers", "env") for p in path[:-1])
    )


def secret_names(text: str) -> list[str | None]:
    """Names of the secrets in a text; None for an expression that is not one secret."""
    found = re.findall(r"\$\{\{(.*?)\}\}", text)
    matches = [re.fullmatch(r"\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*", inner) for inner in found]
    return [m[1] if m else None for m in matches]


def fill_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """A text with its secrets in place."""
    return re.sub(r"\$\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}", lambda m: secrets[m[1]], text)


SHORT = 6
"""A secret of fewer characters is not looked for in what comes back: it might be any word."""


def hide(value: Any, secrets: Iterable[str]) -> Any:
    """The value without these secrets in any text of it: an answer may repeat what it was sent, and is recorded."""
    hidden = [secret for secret in secrets if len(secret) >= SHORT]
    if not hidden:
        return value
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {hide(k, hidden): hide(v, hidden) for k, v in value.items()}
    if isinstance(value, list):
        return [hide(v, hidden) for v in value]
    return value
