"""requestState and cursors: what clients carry for the server, so that any replica can go on where another one stopped.

Both are attacker-controlled when they come back (2026-07-28 basic/patterns/mrtr, Server Requirements). A state is sealed
(AES-256-GCM by the SDK's codec) and bound to who made the call, its method, name and arguments, and to a time; a cursor is
signed and bound to its list. Replicas with the same keys read each other's; whatever does not fit is InvalidInput (-32602).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState

from agentmesh.core.policy import Principal
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput, TooLarge

log = logging.getLogger("agentmesh.mcp")

STATE_SECONDS: Final = 24 * 3600.0
"""How long a client may take to come again: a person answers it, perhaps after lunch."""
STATE_BYTES: Final = 256 * 1024
"""Most of what a client is given to carry; the answers of all rounds are in it."""
_SKEW: Final = 60.0
"""Seconds that the clocks of replicas may differ by."""
_MAC: Final = 12
"""Bytes of a cursor's signature."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What earlier rounds of a call left for this one."""

    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those that were used, by key."""
    run_id: str | None = None
    state: JSON = None
    """`InputRequired.state`."""


NOTHING: Final = Carried()


@dataclass(frozen=True, slots=True)
class Binding:
    """The call that a state belongs to."""

    principal: Principal
    method: str
    target: str
    """Name of the tool or prompt, or the resource's URI."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def claims(self) -> list[str]:
        text = json.dumps(self.arguments, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return [self.principal.tenant, self.principal.subject, self.method, self.target, digest]


class Seals:
    """The keys of a mesh as this edge uses them. The first seals and signs, all of them open."""

    def __init__(self, keys: Sequence[bytes], *, mesh: str, clock: Callable[[], float]) -> None:
        self._codec = AESGCMRequestStateCodec(list(keys))
        self._signers = [hashlib.sha256(b"agentmesh/cursor" + key).digest() for key in keys]
        self._mesh = mesh
        self._clock = clock

    def seal(self, carried: Carried, binding: Binding) -> str:
        """A requestState. TooLarge when the answers are."""
        now = self._clock()
        envelope = {
            "v": 1, "at": now, "until": now + STATE_SECONDS, "mesh": self._mesh, "of": binding.claims(),
            "answers": carried.answers, "run": carried.run_id, "state": carried.state,
        }  # fmt: skip
        text = json.dumps(envelope, separators=(",", ":")).encode()
        if len(text) > STATE_BYTES:
            raise TooLarge(f"the answers so far are over {STATE_BYTES} bytes, more than a client can carry back")
        return self._codec.seal(text)

    def open(self, token: str, binding: Binding) -> Carried:
        """What was sealed for this very call. InvalidInput for anything else."""
        try:
            envelope = json.loads(self._codec.unseal(token))
        except (InvalidRequestState, ValueError) as error:
            raise _refused(binding, str(error)) from None
        now = self._clock()
        if envelope.get("v") != 1 or envelope.get("mesh") != self._mesh:
            raise _refused(binding, "another mesh's, or another release's")
        if not envelope["at"] <= now + _SKEW or not now < envelope["until"]:
            raise _refused(binding, "expired")
        if envelope["of"] != binding.claims():
            raise _refused(binding, "of another call or caller")
        return Carried(envelope["answers"], envelope["run"], envelope["state"])

    def cursor(self, kind: str, name: str) -> str:
        """A place in a list sorted by name: after `name`. It stays right when entries come and go."""
        return _text(self._sign(self._signers[0], kind, name) + name.encode("utf-8", "surrogatepass"))

    def after(self, kind: str, cursor: str) -> str:
        """The name that a cursor stands after. InvalidInput for one that this list did not give."""
        try:
            raw = urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
            mac, name = raw[:_MAC], raw[_MAC:].decode("utf-8", "surrogatepass")
        except ValueError:
            mac, name = b"", ""
        if not any(hmac.compare_digest(mac, self._sign(signer, kind, name)) for signer in self._signers):
            raise InvalidInput(f"The cursor is not one that {kind} gave; list again without a cursor.")
        return name

    @staticmethod
    def _sign(key: bytes, kind: str, name: str) -> bytes:
        told = f"{kind}\0{name}".encode("utf-8", "surrogatepass")
        return hmac.new(key, told, hashlib.sha256).digest()[:_MAC]


def _refused(binding: Binding, why: str) -> InvalidInput:
    log.warning(
        "refused a requestState of %s %s by %s: %s", binding.method, binding.target, binding.principal.subject, why
    )
    return InvalidInput(
        "The requestState is not valid for this call, or has expired; make the call again without it.",
        reason="invalid_request_state",
    )


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
