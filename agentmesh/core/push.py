"""Push: where a caller wants to be told what happens to a run, and how far that has come.

The journal is the queue: a delivery keeps the seq of the last entry that was delivered, and is due when the run's journal has grown
past it. Nothing is written for an entry when it happens.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from agentmesh.errors import InvalidInput

PER_RUN: Final = 20
"""Configurations of one run."""
LEASE: Final = 30.0
"""Seconds for which a worker has a delivery; longer than one request takes."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 3600.0
"""Seconds between two tries of one event: the first pause, doubled each time up to the longest."""
TRIES: Final = 40
GIVEN_UP_AFTER: Final = 24 * 3600.0
"""Seconds of failures in a row after which an event is given up; or after so many tries."""
TEXT_LENGTH: Final = 4096
"""Characters of a token or of credentials."""
ID_LENGTH: Final = 128
AGAIN: Final = frozenset({408, 425, 429})
"""Statuses of 4xx by which a receiver asks for another try; the others are refusals."""


@dataclass(frozen=True, slots=True)
class PushConfig:
    """A webhook of one run, as its caller configured it (A2A 1.0.1 section 4.3.1)."""

    id: str
    """Empty: one is made."""
    run_id: str
    url: str
    token: str = field(default="", repr=False)
    """Sent along, for the receiver to know the sender by."""
    scheme: str = ""
    """Of HTTP authentication: `Bearer`, `Basic`."""
    credentials: str = field(default="", repr=False)
    version: str = "1.0"
    """Of the protocol in which the caller is told."""

    @property
    def host(self) -> str:
        """What is bound and shown of the url."""
        return (urlsplit(self.url).hostname or "")[:255]

    def to_json(self) -> dict[str, Any]:
        """What is sealed."""
        return {
            "url": self.url, "token": self.token, "scheme": self.scheme, "credentials": self.credentials,
            "version": self.version,
        }  # fmt: skip

    @staticmethod
    def from_json(ident: str, run_id: str, value: Mapping[str, Any]) -> PushConfig:
        """From what `to_json` gave."""
        return PushConfig(
            ident, run_id, value["url"], value.get("token", ""), value.get("scheme", ""), value.get("credentials", ""),
            value.get("version", "1.0"),
        )  # fmt: skip

    def check(self) -> None:
        """InvalidInput for what fits no header, or no path. The url is judged by `Webhooks.check`."""
        if len(self.id) > ID_LENGTH or not self.id.isprintable() or "/" in self.id:
            raise InvalidInput(
                f"the id of a push configuration has at most {ID_LENGTH} printable characters and no slash"
            )
        for name, value in (("token", self.token), ("credentials", self.credentials), ("scheme", self.scheme)):
            if len(value) > TEXT_LENGTH or not value.isascii() or not value.isprintable() or value != value.strip():
                raise InvalidInput(
                    f"the {name} of a push configuration has to fit a header: at most {TEXT_LENGTH} printable ASCII characters"
                )
        if self.credentials and (not self.scheme or " " in self.scheme):
            raise InvalidInput("the authentication of a push configuration has to name one scheme, such as Bearer")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A push configuration in the store, and where it stands."""

    run_id: str
    id: str
    tenant: str
    owner: str
    host: str
    """Of its url; the rest of it is sealed."""
    box: str = field(repr=False)
    """The sealed PushConfig."""
    cursor: int = 0
    """Seq of the last entry that was delivered."""
    part: int = 0
    """How many events of the next entry were delivered."""
    attempts: int = 0
    """Failures in a row of the next event."""
    error: str = ""
    """Of the last try, when it failed."""
    failing_since: float | None = None
    """Unix seconds of the first of those failures."""
    dead_at: float | None = None
    """Unix seconds when it was given up."""
    ended: bool = False
    """Everything was delivered, the end of the run too."""
    epoch: int = 0
    """How often it was claimed."""
    created_at: float = 0.0

    def delivered(self, seq: int, *, part: int = 0) -> Delivery:
        """After an entry, or `part` events of the one after `seq`."""
        return replace(self, cursor=seq, part=part, attempts=0, error="", failing_since=None)

    def failed(self, error: str, now: float, *, refused: bool) -> Delivery:
        """After a try that failed. It is given up when it was refused, and after a day or many tries."""
        since = now if self.failing_since is None else self.failing_since
        attempts = self.attempts + 1
        dead = refused or attempts >= TRIES or now - since >= GIVEN_UP_AFTER
        return replace(
            self, attempts=attempts, error=error[:500], failing_since=since, dead_at=now if dead else None
        )  # fmt: skip

    def pause(self, chance: float, after: float | None) -> float:
        """Seconds until the next try. `chance`: from 0 to 1; `after`: what the receiver asked for, of which an hour counts."""
        backoff = min(FIRST_PAUSE * 2.0 ** min(self.attempts - 1, 30), LONGEST_PAUSE)
        return max(backoff * (0.5 + chance), min(after or 0.0, LONGEST_PAUSE))


def succeeding(old: Delivery, new: Delivery) -> Delivery:
    """A configuration in the place of one with its id: what that one still had to deliver is this one's."""
    undelivered = old.cursor if not old.ended and old.dead_at is None else new.cursor
    return replace(new, cursor=min(undelivered, new.cursor), epoch=old.epoch + 1, created_at=old.created_at)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` asks for (RFC 9110 section 10.2.3); None when it says nothing that is right."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return max(moment.timestamp() - now, 0.0)


class Webhooks(Protocol):
    """Where notifications are sent to: addresses that callers name, and that are judged before anything is sent there."""

    def check(self, url: str) -> None:
        """InvalidInput for a url that is plainly none to send to."""
        ...

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str | None]:
        """The status of the answer, and its `Retry-After`. NotSent, Unanswered; Fail for what may not be sent there."""
        ...


class Seal(Protocol):
    """Keeps what nobody may read in the database."""

    def seal(self, scope: str, key: str, value: Mapping[str, Any]) -> str:
        """A JSON object, to be opened for the same scope and key only."""
        ...

    def open(self, scope: str, key: str, box: str) -> dict[str, Any] | None:
        """What was sealed; None when no key of this mesh opens it."""
        ...
