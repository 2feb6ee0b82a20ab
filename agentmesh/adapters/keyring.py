"""Keyring: the secret keys of a mesh, from which every key that it uses for something is derived.

The first key seals, all of them open: put a new one in front, and drop the old one when nothing sealed with it is needed any more.
A key itself never encrypts or signs; `derive` gives one for each purpose, so that what is learned of one tells nothing of another.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from agentmesh.errors import ServeError
from agentmesh.settings import SHORTEST_KEY, Settings

log = logging.getLogger(__name__)

FILE = "key"
"""In `.agentmesh/` of the mesh folder."""


def load_keys(settings: Settings, *, store_url: str | None = None) -> tuple[bytes, ...]:
    """AGENTMESH_KEYS, else the key in `.agentmesh/key`, which is made at the first start. ServeError when it cannot be read.

    `store_url`: where the mesh's values are; says in the log that others who share it need the same keys.
    """
    if settings.keys:
        return tuple(key.encode() for key in settings.keys)
    file = settings.folder / ".agentmesh" / FILE
    if store_url is not None and not store_url.startswith("sqlite"):
        log.warning(
            "the keys of this mesh are in %s on this machine; servers on other machines that share its database need them too:"
            " give all of them the same AGENTMESH_KEYS",
            file,
        )
    return (_read_or_make(file),)


def derive(key: bytes, purpose: str, length: int = 32) -> bytes:
    """The key for one purpose (HKDF-SHA256, RFC 5869): always the same for the same key, of no use for any other purpose."""
    # Not before it is needed: a start has other things to do.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=f"agentmesh/{purpose}".encode()).derive(key)


def _read_or_make(file: Path) -> bytes:
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _make(file)
        return _read(file)
    except OSError as error:
        raise ServeError(
            f"the mesh's key {file} cannot be read or made ({error.strerror}); "
            "give this user the right to, or set AGENTMESH_KEYS"
        ) from None


def _make(file: Path) -> None:
    """Writes a new key, whole or not at all; where two servers begin at once, the first one's is both's."""
    draft = file.with_name(f"{FILE}.{secrets.token_hex(8)}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        key = opened.read(4096).strip()
        others = os.fstat(opened.fileno()).st_mode & 0o077
    if others:
        raise ServeError(f"others may read the mesh's key {file}; take that right from them: chmod 600 {file}")
    if len(key) < SHORTEST_KEY:
        raise ServeError(
            f"the mesh's key {file} is shorter than {SHORTEST_KEY} characters; restore it, or remove it to make another"
        )
    return key
