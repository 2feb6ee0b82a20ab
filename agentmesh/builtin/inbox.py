"""Files of a folder, each handed on once: the functions of the workflow `inbox`.

What was seen is kept in the workflow's durable values (`ctx.state`), committed together with the step that lists the
files, and so neither lost nor told twice. The files themselves are only read. Plain functions: they run in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agentmesh.core.context import Context
from agentmesh.errors import Fail

LARGEST = 1_000_000
"""Bytes of a file that is handed on."""
MOST_SEEN = 10_000
"""Files looked at in one folder."""
_SEEN = "file:"


def new_files(
    ctx: Context,
    folder: str = "inbox",
    pattern: str = "*",
    settle: float = 5.0,
    most: int = 20,
    now: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Files that are new, or whose content is: `files` [{name, size, sha256}], oldest first; `skipped` [{name, note}].

    A file changed within the last `settle` seconds is left for the next time, and so are those past `most`. A missing
    folder is empty. `folder` is inside the mesh's folder, and its subfolders are not looked into.
    """
    place = _inside(ctx, folder)
    found = _candidates(place, pattern)
    files: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for path, state in found:
        mark = {"size": state.st_size, "mtime": state.st_mtime_ns}
        before = ctx.state.get(_SEEN + _key(folder, path.name))
        if isinstance(before, dict) and {k: before.get(k) for k in mark} == mark:
            continue
        if now() - state.st_mtime < settle:
            continue
        if len(files) >= most:
            skipped.append({"name": "", "note": f"more than {most} new files: the others are taken the next time"})
            break
        if state.st_size > LARGEST:
            note = f"{state.st_size:,} bytes are more than {LARGEST:,}: cut the file, or give its part that matters"
            skipped.append({"name": path.name, "note": note})
            ctx.put(_SEEN + _key(folder, path.name), {**mark, "sha256": None, "note": note})
            continue
        try:
            digest = hashlib.sha256(_read(path)).hexdigest()
        except OSError as error:
            skipped.append({"name": path.name, "note": f"cannot be read: {(error.strerror or str(error)).lower()}"})
            continue
        ctx.put(_SEEN + _key(folder, path.name), {**mark, "sha256": digest})
        if not (isinstance(before, dict) and before.get("sha256") == digest):
            files.append({"name": path.name, "size": state.st_size, "sha256": digest})
    return {"files": files, "skipped": skipped}


def read(ctx: Context, name: str, folder: str = "inbox", sha256: str | None = None) -> str:
    """The text of one file; bytes that are not UTF-8 become U+FFFD. Fails when it changed since it was listed."""
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise Fail(f"{name!r} is not the name of a file in {folder}")
    try:
        data = _read(_inside(ctx, folder) / name)
    except OSError as error:
        raise Fail(f"{folder}/{name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > LARGEST:
        raise Fail(f"{folder}/{name} has more than {LARGEST:,} bytes")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise Fail(f"{folder}/{name} changed after it was listed; it is taken again the next time")
    return data.decode("utf-8", errors="replace")


def _inside(ctx: Context, folder: str) -> Path:
    root = Path(ctx.folder).resolve()
    place = (root / folder).resolve()
    if not place.is_relative_to(root):
        raise Fail(f"the folder {folder!r} is not inside the mesh's folder")
    return place


def _candidates(place: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    """Ordinary files that match, oldest first; links and hidden files are left out."""
    found: list[tuple[Path, os.stat_result]] = []
    try:
        with os.scandir(place) as entries:
            for n, entry in enumerate(entries):
                if n >= MOST_SEEN:
                    raise Fail(f"{place.name} has more than {MOST_SEEN:,} files; move those that are done away")
                if entry.name.startswith(".") or not fnmatchcase(entry.name, pattern):
                    continue
                try:
                    state = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISREG(state.st_mode) and _is_text(entry.name):
                    found.append((Path(entry.path), state))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda item: (item[1].st_mtime_ns, item[0].name))


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON: one that is not UTF-8 on disk cannot."""
    return name.isprintable() and name.encode("utf-8", "replace").decode() == name


def _read(path: Path) -> bytes:
    """At most a byte more than LARGEST; never through a link, and never waiting for a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        return file.read(LARGEST + 1)


def _key(folder: str, name: str) -> str:
    return f"{folder.strip('/')}/{name}"
