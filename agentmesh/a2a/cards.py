"""Cards: who may see which card, made once for all who see the same, signed, and served with what makes asking again cheap.

What somebody sees is worked out anew when files, agents elsewhere or keys change; two callers who may list the same skills are shown the
same bytes. A card of thousands of skills is made in a thread.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agentmesh.a2a.card import EXTENSIONS, WELL_KNOWN, Place, card_of, extended, for_v03
from agentmesh.a2a.signing import payload_of, signature_of
from agentmesh.core.agent import Agent
from agentmesh.core.card_key import CardKey, CardKeys
from agentmesh.core.json_text import write_json
from agentmesh.core.policy import Principal
from agentmesh.engine import Engine

KEY_SET: Final = "/.well-known/jwks.json"
CARD_CACHE: Final = "private, max-age=60"
"""What an agent offers changes when its files do; the ETag makes asking again cheap (A2A 1.0.1 section 8.6)."""
KEYS_CACHE: Final = "public, max-age=300"
"""Far shorter than a key is published before it signs."""
INLINE: Final = 50
"""Skills up to which a card is made in the event loop: a thread costs more than that."""
BYTES: Final = 64 * 1024 * 1024
"""Of all cards that are kept."""
CALLERS: Final = 1000

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """A card as one caller sees it. Nobody changes it."""

    json: Json
    """Of version 1.0, with its signature."""
    body: bytes
    """As it stands at its well-known path: with the members of 0.3, too."""
    etag: str


class Cards:
    """The cards of one mesh and of its agents."""

    def __init__(
        self, engine: Engine, base_url: str, grpc_address: str = "", keys: CardKeys | None = None, *, most: int = BYTES,
        callers: int = CALLERS,
    ) -> None:  # fmt: skip
        """`base_url`: where clients reach the server. `grpc_address`: see `Place.grpc`; it may be set later. `keys`: None signs nothing.
        `most`: bytes of cards that are kept; `callers`: of how many it is known what they see.
        """
        self._engine = engine
        self._url = base_url.rstrip("/")
        self.grpc_address = grpc_address
        self._keys = keys
        self._most, self._callers = most, callers
        self._marks: tuple[Any, ...] = ()
        """What the kept cards were made from; compared by identity."""
        self._place = Place(self._url)
        self._key: CardKey | None = None
        self._seen: OrderedDict[tuple[Any, ...], tuple[Any, ...]] = OrderedDict()
        """By caller and agent, what they see: a key of `_kept`."""
        self._kept: OrderedDict[tuple[Any, ...], tuple[Agent, Card]] = OrderedDict()
        """By what is seen. The agent is held, too, since the key has ids of what is in it."""
        self._size = 0
        self._making = anyio.Lock()

    def routes(self) -> list[BaseRoute]:
        """The cards at their well-known paths, and the key set."""
        return [
            Route(WELL_KNOWN, self._show_card),
            Route(f"/a2a{WELL_KNOWN}", self._show_card),
            Route(f"/a2a/{{agent}}{WELL_KNOWN}", self._show_card),
            Route(KEY_SET, self._show_keys),
        ]

    async def of(self, principal: Principal, agent: str | None = None, *, more: bool = False) -> Card:
        """The card of an agent, None for the mesh, as the caller may see it; `more`: the extended one. NotFound."""
        self._refresh()
        caller = (agent, more, *self._who(principal))
        found = self._known(caller)
        if found is not None:
            return found
        async with self._making:
            self._refresh()
            found = self._known(caller)
            return found if found is not None else await self._make(caller, principal, agent, more=more)

    async def shown(self, principal: Principal, agent: str | None) -> Json:
        """The same as JSON."""
        return (await self.of(principal, agent)).json

    def _known(self, caller: tuple[Any, ...]) -> Card | None:
        seen = self._seen.get(caller)
        kept = self._kept.get(seen) if seen is not None else None
        if seen is None or kept is None:
            return None
        self._seen.move_to_end(caller)
        self._kept.move_to_end(seen)
        return kept[1]

    async def _make(self, caller: tuple[Any, ...], principal: Principal, name: str | None, *, more: bool) -> Card:
        agents = self._engine.agents
        agent = agents.agent(principal, name)
        seen = (name, more, *map(id, agent.skills))
        kept = self._kept.get(seen)
        if kept is None:
            names = [one.name for one in agents.agents(principal)][1:] if more and name is None else ()
            make = functools.partial(_made, agent, self._place, name, names, self._key, more=more)
            marks = self._marks
            card = make() if len(agent.skills) <= INLINE else await anyio.to_thread.run_sync(make)
            if marks is not self._marks:
                return card  # something changed meanwhile: it is true, but not kept
            kept = self._kept[seen] = agent, card
            self._size += len(card.body)
            while self._size > self._most and len(self._kept) > 1:
                _, (_, old) = self._kept.popitem(last=False)
                self._size -= len(old.body)
        self._seen[caller] = seen
        while len(self._seen) > self._callers:
            self._seen.popitem(last=False)
        return kept[1]

    def _who(self, principal: Principal) -> tuple[Any, ...]:
        """What tells callers apart who may see different things. Without policies all see all."""
        if not self._engine.mesh.policies:
            return ()
        return principal.subject, principal.tenant, write_json(dict(principal.claims))

    def _grpc(self) -> str:
        """Where clients reach A2A over gRPC; empty when nobody says so, and the address that is bound is not where clients come."""
        file = self._engine.mesh.file
        if not self.grpc_address or file.a2a.grpc:
            return self.grpc_address and (file.a2a.grpc or "")
        host = urlsplit(f"//{self.grpc_address}").hostname
        return self.grpc_address if file.url is None or urlsplit(file.url).hostname == host else ""

    def _refresh(self) -> None:
        """Forgets what was made from what has changed since."""
        engine = self._engine
        key = self._keys.current() if self._keys is not None else None
        grpc = self._grpc()
        marks = (
            engine.mesh.revision, key and key.kid, engine.push.offered, grpc,
            tuple(peer.agent() for peer in engine.sources.peers().values()),
        )  # fmt: skip
        if not _same(marks, self._marks):
            self._marks = marks
            asked = engine.mesh.file.a2a
            required = frozenset(asked.required_extensions) & EXTENSIONS.keys()
            self._place = Place(self._url, grpc, tuple(asked.versions), engine.push.offered, required)
            self._key = key
            self._seen.clear()
            self._kept.clear()
            self._size = 0

    async def _show_card(self, request: Request) -> Response:
        card = await self.of(request.state.principal, request.path_params.get("agent"))
        return _answer(request, card.body, card.etag, {"Cache-Control": CARD_CACHE, "Vary": "Authorization"})

    async def _show_keys(self, request: Request) -> Response:
        """The public keys (RFC 7517). There are none when nothing is signed."""
        body = write_json({"keys": list(self._keys.published()) if self._keys is not None else []})
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return _answer(request, body, etag, {"Cache-Control": KEYS_CACHE}, "application/jwk-set+json")


def _made(
    agent: Agent, place: Place, name: str | None, names: Sequence[str], key: CardKey | None, *, more: bool
) -> Card:
    card = card_of(agent, place, name)
    if more:
        card = extended(card, agent, place, names)
    payload = payload_of(card)
    # Over what is signed and the key, not over the signature: a change of the cryptography below changes no ETag.
    etag = hashlib.sha256(payload + (key.kid if key is not None else "").encode()).hexdigest()[:32]
    if key is not None:
        card["signatures"] = [signature_of(payload, key, place.key_set)]
    return Card(card, write_json({**card, **for_v03(card)}), f'"{etag}"')


def _same(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    """Whether nothing changed; of agents elsewhere whether each is the same object."""
    if not old or new[:-1] != old[:-1] or len(new[-1]) != len(old[-1]):
        return False
    return all(one is other for one, other in zip(new[-1], old[-1], strict=True))


def _answer(
    request: Request, body: bytes, etag: str, headers: Mapping[str, str], media_type: str = "application/json"
) -> Response:
    headers = {"ETag": etag, **headers}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)
