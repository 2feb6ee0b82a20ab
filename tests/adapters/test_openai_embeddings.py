"""Embeddings over HTTP, against a small endpoint on a real socket."""

from __future__ import annotations

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.openai_embeddings import BATCH
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.core.model import Model
from agentmesh.errors import ModelRefused, ModelUnavailable, NotFound
from tests.adapters.test_openai_http import endpoint, reply

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def hosted(url: str) -> dict[str, Model]:
    return {"near": Model(url=url, model="e5", key="k")}


async def vectors(seen) -> bytes:
    """Each text's vector is its length and 1, told backwards."""
    data = [{"index": i, "embedding": [len(text), 1]} for i, text in enumerate(seen.body["input"])]
    return reply({"data": data[::-1]})


async def test_texts_become_vectors_in_their_order():
    async with endpoint(vectors) as here, OpenAiHttp(hosted(here.url)) as backend:
        assert await backend.embed("near", ["a", "bbb"]) == [[1.0, 1.0], [3.0, 1.0]]
        assert here.seen[0].path == "/v1/embeddings"
        assert here.seen[0].headers["authorization"] == "bearer k"
        assert here.seen[0].body == {"model": "e5", "input": ["a", "bbb"], "encoding_format": "float"}


async def test_many_texts_go_in_several_requests():
    texts = ["x" * (1 + i % 7) for i in range(2 * BATCH + 1)]
    async with endpoint(vectors) as here, OpenAiHttp(hosted(here.url)) as backend:
        found = await backend.embed("near", texts)
    assert [vector[0] for vector in found] == [len(text) for text in texts]
    assert [len(seen.body["input"]) for seen in here.seen] == [BATCH, BATCH, 1]


@pytest.mark.parametrize(
    "document",
    [
        {"data": []},
        {"data": [{"index": 1, "embedding": [1]}]},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": ["much"]}]},
        {"data": [{"index": 0, "embedding": [1e999]}]},
        {"choices": []},
        [],
    ],
)
async def test_an_answer_that_is_no_vectors_is_told(document):
    async with endpoint(reply(document)) as here, OpenAiHttp(hosted(here.url)) as backend:
        with pytest.raises(ModelUnavailable, match="near"):
            await backend.embed("near", ["a"])


async def test_vectors_of_different_lengths_are_told():
    two = {"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}
    async with endpoint(reply(two)) as here, OpenAiHttp(hosted(here.url)) as backend:
        with pytest.raises(ModelUnavailable, match="different lengths"):
            await backend.embed("near", ["a", "b"])


async def test_a_busy_endpoint_is_asked_once_more():
    async with endpoint(reply({}, 503), vectors) as here, OpenAiHttp(hosted(here.url)) as backend:
        assert await backend.embed("near", ["a"]) == [[1.0, 1.0]]
    assert len(here.seen) == 2


async def test_a_model_that_makes_no_embeddings_refuses():
    async with endpoint(reply({"error": "no embeddings here"}, 400)) as here, OpenAiHttp(hosted(here.url)) as backend:
        with pytest.raises(ModelRefused, match="no embeddings here"):
            await backend.embed("near", ["a"])
        with pytest.raises(NotFound):
            await backend.embed("far", ["a"])


async def test_the_deadline_bounds_all_of_it():
    async def never(_seen) -> None:
        await anyio.sleep(30)

    async with endpoint(never) as here, OpenAiHttp(hosted(here.url)) as backend:
        with anyio.fail_after(5), pytest.raises(ModelUnavailable, match=r"within 0\.05 s"):
            await backend.embed("near", ["a"], timeout=0.05)


async def test_the_scripted_model_embeds_as_its_script_says():
    model = ScriptedModel(vectors=lambda text: [float(len(text))])
    assert await model.embed("any", ["a", "bb"]) == [[1.0], [2.0]]
    assert model.embedded == [("a", "bb")]
    with pytest.raises(ModelUnavailable):
        await ScriptedModel().embed("any", ["a"])
