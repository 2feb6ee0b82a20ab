"""JSON text: whatever JSON can say is read back as it was written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.adapters.json_text import decode, encode
from agentmesh.errors import StoreError

_text = st.text(st.characters(codec=None))
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=20,
)


@given(_values)
def test_any_value_survives(value: Any) -> None:
    """Odd characters, half surrogates, huge and tiny numbers included."""
    assert decode(encode(value)) == value


def test_not_a_number_survives() -> None:
    """A model's NaN score does not make a run unreadable."""
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize("value", [object(), {"x": lambda: 1}, {(1, 2): object()}])
def test_what_is_not_json_is_refused(value: object) -> None:
    """Something JSON has no form for is an error when it is written, not when it is read."""
    with pytest.raises(StoreError, match="not JSON"):
        encode(value)
