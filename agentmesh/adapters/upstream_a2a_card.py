"""Whether an agent's card is signed, and by whom (A2A 1.0.1 section 8.4.3).

A signature says who answers for a card only when the key is known to be theirs. It is, when it stands in the key set that the operator has
named; and it is the card's own host that answers, when it stands in a key set there. Where a signature says that its key is (`jku`) counts
only within that: whoever forges a card can name a key set of their own. What is verified is the very card that is read: what this mesh
takes from it is in the bytes that were signed. (Empty values are not, the way the SDKs sign: a security requirement without scopes may be
added or taken away. Nothing here goes by those.)
"""

from __future__ import annotations

import binascii
import copy
import functools
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import anyio.to_thread
import jwt
from a2a.client.card_resolver import parse_agent_card
from a2a.types import a2a_pb2 as pb
from google.api import field_behavior_pb2  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict, ParseError
from google.protobuf.message import Message

from agentmesh.core.agent import Json
from agentmesh.core.canonical import canonical, without_empty
from agentmesh.core.json_text import parse_once
from agentmesh.errors import Fail, InvalidInput, MeshError, TooLarge

Verdict = Literal["verified", "unsigned", "unknown key"]
Fetch = Callable[[str], Awaitable[Json]]
"""Reads the JSON object at an address. MeshError."""
KEY_SET: Final = "/.well-known/jwks.json"
"""Where the keys of a card are that does not say where."""
ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "RS256": ("RSA", ""),
    "PS256": ("RSA", ""),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""What is taken for a signature, and the type of its keys: nothing that whoever can check can also make."""
SIGNATURES: Final = 16
HEADER: Final = 8 * 1024
"""Characters of a protected header."""
SIGNATURE: Final = 2 * 1024
KEYS: Final = 100
RSA_BITS: Final = range(2048, 8193)
FRESH: Final = 600.0
"""Seconds after which a key set is read again: a key that was taken back is not to be used."""
AGAIN: Final = 60.0
"""Seconds before a key set is asked once more for a key that it did not have."""
STALE: Final = 24 * 3600.0
"""Seconds for which a key set that cannot be read any more still counts."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_PUBLIC: Final = ("kty", "crv", "x", "y", "n", "e")


@dataclass(frozen=True, slots=True)
class _Signature:
    protected: str
    value: bytes
    alg: str
    kid: str
    jku: str | None


@dataclass(slots=True)
class _KeySet:
    keys: Sequence[Json] = ()
    read_at: float = float("-inf")
    """When it was read for the last time."""
    asked_at: float = float("-inf")
    """When it was asked for the last time."""
    error: MeshError | None = None
    """Of the last time that it was asked."""


@dataclass(slots=True)
class CardVerifier:
    """Verifies the cards of one agent; keeps the key sets that it has read."""

    clock: Callable[[], float] = time.monotonic
    _sets: dict[str, _KeySet] = field(default_factory=dict)

    async def verify(self, card: Json, *, jwks: str | None, card_url: str, fetch: Fetch) -> Verdict:
        """What is known of the card's signatures; one that is right is enough.

        `jwks`: the key set that the operator names: the card must be signed by one of its keys. None: keys at the card's own origin are
        tried, and a card that is not signed, or by a key that is elsewhere, is let pass. `fetch` is asked for these addresses only.
        Fail for a signature that is wrong, or none at all; what `fetch` raises when the key set of the operator cannot be read.
        """
        entries = card.get("signatures")
        if entries in (None, []):
            if jwks is not None:
                raise Fail("its card is not signed, and `jwks` asks for a signature; if that is right, leave jwks out")
            return "unsigned"
        if not isinstance(entries, list) or len(entries) > SIGNATURES:
            raise Fail(f"the signatures of its card are no list of at most {SIGNATURES}")
        refused, wrong, unknown = "", 0, 0
        forms: list[bytes] | None = None
        for entry in entries:
            try:
                signature = _read(entry)
            except InvalidInput as error:
                refused = error.message
                continue
            keys = await self._keys(signature, jwks, card_url, fetch)
            if not keys:
                unknown += 1
                continue
            if forms is None:
                forms = await anyio.to_thread.run_sync(_forms, card)
            if await anyio.to_thread.run_sync(_is_right, signature, keys, forms):
                return "verified"
            wrong += 1
        if wrong:
            raise Fail("the signature of its card is wrong: the card is not what was signed, or not by that key")
        if jwks is not None and unknown:
            raise Fail("its card is signed by a key that is not in the key set that `jwks` names")
        if not unknown:
            raise Fail(f"the signature of its card is none: {refused}")
        return "unknown key"

    async def _keys(self, signature: _Signature, jwks: str | None, card_url: str, fetch: Fetch) -> list[Json]:
        """The keys that may have made a signature; none when they are nowhere that is trusted."""
        where = jwks if jwks is not None else _at_home(signature.jku, card_url)
        if where is None:
            return []
        if where not in self._sets and len(self._sets) >= SIGNATURES:
            self._sets.clear()
        known = self._sets.setdefault(where, _KeySet())
        now = self.clock()
        there = any(key.get("kid") == signature.kid for key in known.keys)
        if now - known.asked_at >= AGAIN and (not there or now - known.read_at >= FRESH):
            known.asked_at = now
            try:
                known.keys, known.error = _key_set(await fetch(where)), None
                known.read_at = now
            except MeshError as error:
                known.error = error
        if now - known.read_at >= STALE:
            known.keys = ()
        found = [key for key in known.keys if key.get("kid") == signature.kid]
        if not found and known.error is not None and jwks is not None:
            raise known.error
        return found


async def verify(card: Json, *, jwks: str | None, card_url: str, fetch: Fetch) -> Verdict:
    """See CardVerifier.verify; keeps nothing."""
    return await CardVerifier().verify(card, jwks=jwks, card_url=card_url, fetch=fetch)


def _read(entry: Any) -> _Signature:
    """InvalidInput says why an entry is no signature."""
    protected, value = (entry.get("protected"), entry.get("signature")) if isinstance(entry, Mapping) else (None, None)
    if not isinstance(protected, str) or not isinstance(value, str):
        raise InvalidInput("it lacks `protected` or `signature`")
    if len(protected) > HEADER or len(value) > SIGNATURE:
        raise InvalidInput("it is longer than any signature")
    try:
        header = parse_once(_decoded(protected))
    except (ValueError, RecursionError, InvalidInput, TooLarge):
        raise InvalidInput("its protected header is no JSON object with each name once, in base64url") from None
    if not isinstance(header, dict):
        raise InvalidInput("its protected header is no JSON object")
    beside = entry.get("header")
    if beside is not None and (not isinstance(beside, Mapping) or header.keys() & beside.keys()):
        raise InvalidInput("its two headers are no objects that have different names")
    alg, kid, jku = header.get("alg"), header.get("kid"), header.get("jku")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise InvalidInput(f"its algorithm is {str(alg)[:40]!r}; it has to be one of {', '.join(ALGORITHMS)}")
    if "crit" in header or "b64" in header:
        raise InvalidInput("its header holds what not everybody understands (crit)")
    if not isinstance(kid, str) or not kid:
        raise InvalidInput("it does not name its key (kid)")
    if jku is not None and not isinstance(jku, str):
        raise InvalidInput("its jku is no address")
    try:
        return _Signature(protected, _decoded(value), alg, kid, jku)
    except ValueError:
        raise InvalidInput("it is not in base64url") from None


def _decoded(text: str) -> bytes:
    """Base64url as JWS has it: without padding, and nothing between."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None


def _at_home(jku: str | None, card_url: str) -> str | None:
    """Where the keys are, if that is at the card's own origin."""
    home = _origin(card_url)
    if home is None:
        return None
    if jku is None:
        parts = urlsplit(card_url)
        return f"{parts.scheme}://{parts.netloc}{KEY_SET}"
    return jku if _origin(jku) == home else None


def _origin(url: str) -> tuple[str, str, int] | None:
    """None for what is no plain http(s) address."""
    if len(url) > 2048 or not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return None
    if not port or not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port


def _key_set(value: Any) -> list[Json]:
    """The keys of a set (RFC 7517). Fail."""
    keys = value.get("keys") if isinstance(value, Mapping) else None
    if not isinstance(keys, list) or len(keys) > KEYS:
        raise Fail(f"what is there is no key set: it has no list `keys` of at most {KEYS}")
    return [key for key in keys if isinstance(key, Mapping)]


# In a thread: a card may be a megabyte.


def _is_right(signature: _Signature, keys: Sequence[Json], forms: Sequence[bytes]) -> bool:
    """Whether one of the keys made the signature of one of the forms."""
    for key in keys[:SIGNATURES]:
        public = _public(key, signature.alg)
        if public is None:
            continue
        for form in forms:
            try:
                if public.Algorithm.verify(f"{signature.protected}.".encode() + form, public.key, signature.value):
                    return True
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
    return False


def _public(key: Json, alg: str) -> jwt.PyJWK | None:
    """The public part of a key, when it is one for such signatures."""
    kind, curve = ALGORITHMS[alg]
    if key.get("kty") != kind or (curve and key.get("crv") != curve):
        return None
    if key.get("use", "sig") != "sig" or key.get("alg", alg) not in {alg, *_same(alg)}:
        return None
    if "key_ops" in key and "verify" not in (key["key_ops"] if isinstance(key["key_ops"], list) else ()):
        return None
    try:
        public = jwt.PyJWK({name: key[name] for name in _PUBLIC if name in key}, _library_name(alg))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind == "RSA" and public.key.key_size not in RSA_BITS:
        return None
    return public


def _same(alg: str) -> tuple[str, ...]:
    """The other name of Ed25519."""
    return ("EdDSA", "Ed25519") if alg in {"EdDSA", "Ed25519"} else ()


def _library_name(alg: str) -> str:
    return "EdDSA" if alg == "Ed25519" else alg


def _forms(card: Json) -> list[bytes]:
    """What may have been signed, as base64url: makers of cards do not agree on what of an empty value is signed. Fail for what is no card.

    Each of them says all that is read from the card: its members as they stand; or those that the protocol knows, without what is empty
    (as the SDKs do), or with what is required though it is empty (as the specification has it). Last, as the SDK of 0.3 did.
    """
    plain = {name: value for name, value in card.items() if name != "signatures"}
    try:
        known = parse_agent_card(copy.deepcopy(plain))
        members = MessageToDict(known)
    except (ParseError, TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        raise Fail(f"what is there is no agent card: {str(error)[:300]}") from None
    makers: tuple[Callable[[], Any], ...] = (
        functools.partial(without_empty, members),
        functools.partial(_with_required, members, known),
        lambda: plain,
        lambda: without_empty({name: value for name, value in plain.items() if _V03_DEFAULTS.get(name) != value}),
    )
    found: dict[bytes, None] = {}
    for make in makers:
        try:
            found[_text(canonical(make()))] = None
        except (InvalidInput, RecursionError):
            continue
    return list(found)


_V03_DEFAULTS: Final = {"protocolVersion": "0.3.0", "preferredTransport": "JSONRPC"}


def _text(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=")


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def _with_required(members: Mapping[str, Any], message: Message) -> dict[str, Any]:
    """The members, and of those that are missing what the protocol requires."""
    found = dict(members)
    for one in message.DESCRIPTOR.fields:
        name = one.json_name
        if name in found and one.message_type is not None and not one.message_type.GetOptions().map_entry:
            inner = getattr(message, one.name)
            if isinstance(found[name], list):
                found[name] = [_with_required(a, b) for a, b in zip(found[name], inner, strict=True)]
            elif one.message_type.full_name.startswith(pb.DESCRIPTOR.package):
                found[name] = _with_required(found[name], inner)
        elif name not in found and _is_required(one):
            found[name] = [] if _repeats(one) else {} if one.message_type is not None else ""
    return found


def _is_required(one: Any) -> bool:
    behavior = one.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return field_behavior_pb2.REQUIRED in cast("Iterator[int]", behavior)


def _repeats(one: Any) -> bool:
    return bool(one.is_repeated)
