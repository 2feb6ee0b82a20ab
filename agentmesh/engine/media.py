"""Media types: which parts of messages an agent takes, and which answers of its are wanted."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.core.agent import JSON_TYPE, TEXT, Part
from agentmesh.errors import UnsupportedMedia


def mode_of(part: Part) -> str:
    """The media type of a part, without parameters."""
    mode = (part.media_type or "").partition(";")[0].strip().lower()
    if part.text is not None:
        return mode or TEXT
    return mode or (JSON_TYPE if part.is_data else "application/octet-stream")


def fits(mode: str, pattern: str) -> bool:
    """Whether a media type is meant by a pattern such as `image/*`. Text is text, JSON is JSON, whatever it is called."""
    mode, pattern = mode.partition(";")[0].strip().lower(), pattern.partition(";")[0].strip().lower()
    if pattern in {mode, "*/*", "*", f"{mode.partition('/')[0]}/*"}:
        return True
    if pattern in {"text", "text/plain"}:
        return mode == "text" or mode.startswith("text/")
    return pattern in {"data", "application/json"} and (mode == "data" or mode.endswith(("+json", "/json")))


def takes_all(modes: Sequence[str], takes: Sequence[str]) -> bool:
    """Whether parts of all these types are taken."""
    return all(any(fits(mode, taken) for taken in takes) for mode in modes)


def gives_some(accepted: Sequence[str], gives: Sequence[str]) -> bool:
    """Whether some answer is of a type that is accepted; nothing accepted means anything."""
    return not accepted or any(fits(given, wanted) or fits(wanted, given) for given in gives for wanted in accepted)


def check_modes(
    parts: Sequence[Part], accepted: Sequence[str], takes: Sequence[str], gives: Sequence[str], whose: str
) -> None:
    """UnsupportedMedia unless every part is of a type that is taken, and some type that is given is accepted."""
    for index, part in enumerate(parts):
        mode = mode_of(part)
        if not takes_all([mode], takes):
            raise UnsupportedMedia(f"message.parts[{index}] is {mode}; {whose} takes {', '.join(takes)}")
    if not gives_some(accepted, gives):
        raise UnsupportedMedia(f"none of acceptedOutputModes is offered; {whose} answers {', '.join(gives)}")
