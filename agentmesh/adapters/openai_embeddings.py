"""Embeddings in OpenAI's words: what is asked at `/v1/embeddings`, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import isfinite

from agentmesh.errors import ModelUnavailable

BATCH = 64
"""Texts in one request: what every endpoint takes."""
LENGTH = 8192
"""Numbers in a vector at most."""


def embedding_bodies(model: str, texts: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """The requests for these texts, and how many texts each has. `model`: as the endpoint calls it."""
    for at in range(0, len(texts), BATCH):
        some = list(texts[at : at + BATCH])
        yield json.dumps({"model": model, "input": some, "encoding_format": "float"}).encode(), len(some)


def vectors_of(model: str, data: bytes, count: int) -> list[list[float]]:
    """The vectors of one answer in the order of its texts. ModelUnavailable when it is no such answer."""
    try:
        entries = sorted(json.loads(data)["data"], key=lambda entry: int(entry["index"]))
        places = [int(entry["index"]) for entry in entries]
        found = [[float(number) for number in entry["embedding"]] for entry in entries]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelUnavailable(f"model {model!r} sent no embeddings; is it a model that makes them?") from error
    if places != list(range(count)):
        raise ModelUnavailable(f"model {model!r} sent {len(places)} embeddings for {count} texts; is `url` right?")
    if not all(0 < len(vector) <= LENGTH and all(map(isfinite, vector)) for vector in found):
        raise ModelUnavailable(f"model {model!r} sent embeddings that are empty, not numbers or over {LENGTH} long")
    return found
