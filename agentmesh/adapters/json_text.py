"""JSON as the stores write it: compact text, several times faster than `json`, and total over what `json` can read.

`pydantic_core` does the work. It refuses a few values that arrive in real requests (half of a surrogate pair, more than
200 levels); for those alone the standard library takes over.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from agentmesh.errors import StoreError


def encode(value: Any) -> str:
    """The value as JSON text; StoreError when it holds something that JSON has no form for."""
    try:
        return to_json(value).decode()
    except PydanticSerializationError:
        pass
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"A value cannot be stored because it is not JSON ({error}); pass only JSON values.") from None


def decode(text: str) -> Any:
    """The value of a text that `encode` wrote."""
    try:
        return from_json(text, cache_strings="keys")
    except ValueError:
        return json.loads(text)
