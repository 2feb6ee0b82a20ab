"""What comes over gRPC is looked at before any operation: bytes that are no message, and values that no other binding can carry."""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

from a2a.utils.errors import InvalidParamsError, InvalidRequestError
from google.protobuf.message import DecodeError

from agentmesh.core.json_text import VALUES

Wire = TypeVar("Wire", bound=Any)
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""Of the years 1 to 9999, which a google.protobuf.Timestamp may be in."""
NANOS: Final = 999_999_999


def read(model: type[Wire], body: bytes) -> Wire:
    """The request as its message. A2AError says what is wrong with it, in words without Python's; unknown fields are let pass."""
    try:
        message = model.FromString(body)
    except DecodeError:
        raise InvalidRequestError(
            f"the request cannot be read as {model.DESCRIPTOR.full_name}: it is malformed, holds text that is not UTF-8, "
            "or is nested deeper than protobuf reads"
        ) from None
    _check(message)
    return message  # type: ignore[no-any-return]


def _check(message: Any) -> None:
    """Numbers that JSON has no spelling for, values of enumerations that nobody has named, and moments outside the calendar."""
    todo, seen = [("", message)], 0
    while todo:
        path, one = todo.pop()
        seen += 1
        if seen > VALUES:
            raise InvalidParamsError(f"the request holds more than {VALUES} values")
        match one.DESCRIPTOR.full_name:
            case "google.protobuf.Value":
                kind = one.WhichOneof("kind")
                if kind == "number_value" and not math.isfinite(one.number_value):
                    raise InvalidParamsError(f"{path} holds a number that JSON has not: NaN or an infinity")
                if kind in {"struct_value", "list_value"}:
                    todo.append((path, getattr(one, kind)))
            case "google.protobuf.Struct":
                todo += [(path, value) for value in one.fields.values()]
            case "google.protobuf.ListValue":
                todo += [(path, value) for value in one.values]
            case "google.protobuf.Timestamp":
                if not (FIRST_SECOND <= one.seconds <= LAST_SECOND and 0 <= one.nanos <= NANOS):
                    raise InvalidParamsError(f"{path} is no moment of the years 1 to 9999")
            case _:
                for field, value in one.ListFields():
                    here = f"{path}.{field.camelcase_name}".removeprefix(".")
                    values = value if field.is_repeated else (value,)
                    if field.message_type is not None:
                        todo += [(here, item) for item in values]
                    elif field.enum_type is not None:
                        _check_enum(here, field.enum_type, values)


def _check_enum(path: str, enum: Any, values: Any) -> None:
    """A number without a name would mean "all" to a filter, and nothing to anybody else."""
    for value in values:
        if value not in enum.values_by_number:
            there_are = ", ".join(named.name for named in enum.values if named.number)
            raise InvalidParamsError(f"{path} has no value {value}; there are: {there_are}")
