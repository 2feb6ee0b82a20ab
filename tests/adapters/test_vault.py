"""The vault: what it keeps can be read by who has the key, at its own place, and by nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.vault import Vault, key_of
from agentmesh.core.policy import Principal

pytestmark = pytest.mark.anyio
OLD, NEW = b"o" * 32, b"n" * 32
TOKEN = {"access_token": "very secret", "n": 1}


async def row(store: MemoryStore, scope: str = "github", key: str = "k") -> Any:
    return await store.get(f"vault:{scope}", key)


async def test_round_trip() -> None:
    """What was put comes back; what was forgotten, or never there, does not."""
    async with MemoryStore() as store:
        vault = Vault(store, [NEW])
        await vault.put("github", "k", TOKEN)
        await vault.put("github", "l", {"m": 2})
        assert await vault.get("github", "k") == TOKEN
        assert await vault.scan("github") == {"k": TOKEN, "l": {"m": 2}}
        await vault.forget("github", "k")
        assert await vault.get("github", "k") is None
        assert await vault.get("github", "other") is None
        assert await vault.scan("github") == {"l": {"m": 2}}


async def test_the_store_holds_nothing_to_read() -> None:
    """Neither the value nor its members' names stand in the database, and the same value never looks the same."""
    async with MemoryStore() as store:
        vault = Vault(store, [NEW])
        await vault.put("github", "k", TOKEN)
        first = await row(store)
        await vault.put("github", "k", TOKEN)
        assert first != await row(store)
        assert "secret" not in json.dumps(first)
        assert "access" not in json.dumps(first)


async def test_rotated_keys() -> None:
    """An older key of the ring opens, and what it opened is sealed with the first from then on."""
    async with MemoryStore() as store:
        await Vault(store, [OLD]).put("github", "k", TOKEN)
        assert await Vault(store, [NEW, OLD]).get("github", "k") == TOKEN
        assert await Vault(store, [NEW]).get("github", "k") == TOKEN
        assert await Vault(store, [OLD]).get("github", "k") is None


async def test_a_key_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """What no key opens is as good as none; the log says so, and shows nothing of it."""
    async with MemoryStore() as store:
        await Vault(store, [OLD]).put("github", "k", TOKEN)
        assert await Vault(store, [NEW]).get("github", "k") is None
        assert await Vault(store, [NEW]).scan("github") == {}
        assert "asked for again" in caplog.text
        assert (await row(store))["box"] not in caplog.text


@pytest.mark.parametrize(("scope", "key"), [("gitlab", "k"), ("github", "l")])
async def test_a_row_that_was_moved(scope: str, key: str) -> None:
    """A row that was copied to another upstream or another user does not open there."""
    async with MemoryStore() as store:
        vault = Vault(store, [NEW])
        await vault.put("github", "k", TOKEN)
        await store.put(f"vault:{scope}", key, await row(store))
        assert await vault.get(scope, key) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"v": 1, "box": "AAAA"}, {"v": 1, "box": ""}, {"v": 1, "box": "?"}, {"v": 1, "box": "é"}, {"v": 1}, {"v": 2, "box": "AAAA"},
        [], "text", 1, True, {"v": 1, "box": 7},
    ],
)  # fmt: skip
async def test_a_damaged_row(bad: Any) -> None:
    """Whatever stands there in place of a row of ours: it is asked for again, and nothing falls over."""
    async with MemoryStore() as store:
        await store.put("vault:github", "k", bad)
        assert await Vault(store, [NEW]).get("github", "k") is None


async def test_each_changed_character() -> None:
    """A row in which a single character was changed does not open."""
    async with MemoryStore() as store:
        vault = Vault(store, [NEW])
        await vault.put("github", "k", TOKEN)
        box = (await row(store))["box"]
        for at in range(len(box.rstrip("=")) - 1):  # the last ones may hold bits that count for nothing
            changed = box[:at] + ("A" if box[at] != "A" else "B") + box[at + 1 :]
            await store.put("vault:github", "k", {"v": 1, "box": changed})
            assert await vault.get("github", "k") is None


def test_keys_of_principals() -> None:
    """One for each subject of each tenant, whatever is in their names; and no name in it."""
    names = [("a", "b"), ("a,b", ""), ("", "a,b"), ('a","b', ""), ("b", "a"), ("\0", "x")]
    keys = {key_of(Principal(subject=subject, tenant=tenant)) for subject, tenant in names}
    assert len(keys) == len(names)
    assert all(key.isalnum() for key in keys)
    assert key_of(Principal(claims={"email": "x"})) == key_of(Principal())
