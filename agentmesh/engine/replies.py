"""Replies: what somebody writes to a run that asks, as the answer to its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentmesh.core.agent import Part
from agentmesh.core.question import Question, Reply
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput

YES = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "i approve", "go ahead"})
NO = frozenset({"no", "n", "decline", "declined", "i decline", "reject", "rejected", "deny", "denied"})


def reply_of(parts: Sequence[Part], question: Question) -> Reply:
    """The answer that a message's parts are; InvalidInput when they are none. Not yet checked against the form.

    An approval: a data part `{approved: true|false}` with the form's values beside it, or the word yes or no. An input: a data part
    is the value, text is the value (or its only string property) where the form takes one.
    """
    data = [part.data for part in parts if part.text is None]
    text = "\n".join(part.text for part in parts if part.text is not None).strip()
    if len(data) > 1 or (data and text):
        raise InvalidInput(f"question {question.id} takes one data part or text, not several")
    if not data and not text:
        raise InvalidInput(f"the message is empty; {hint(question)}")
    if question.kind == "approval":
        return _decision(data[0], question) if data else _word(text, question)
    return Reply(yes=True, value=data[0] if data else _typed(text, question))


def hint(question: Question) -> str:
    """How the question is answered in a message, in plain words."""
    if question.kind == "approval" and question.form is None:
        return 'answer yes or no, or with a data part {"approved": true}'
    if question.kind == "approval":
        return (
            'answer with a data part: {"approved": true} and the values of the form beside it, or {"approved": false}'
        )
    return "answer with a data part that fits the form"


def _decision(data: JSON, question: Question) -> Reply:
    if not isinstance(data, Mapping):
        raise InvalidInput(f"the answer must be an object; {hint(question)}")
    rest = {name: value for name, value in data.items() if name != "approved"}
    approved = data.get("approved")
    if not isinstance(approved, bool) and ("approved" in data or question.form is None):
        raise InvalidInput(f"`approved` must be true or false; {hint(question)}")
    if question.form is None and rest:
        raise InvalidInput(
            f"question {question.id} takes no values besides `approved`: {', '.join(sorted(rest))[:200]}"
        )
    yes = approved is not False
    return Reply(yes, rest if question.form is not None and yes else None)


def _word(text: str, question: Question) -> Reply:
    word = text.lower().rstrip(".!")
    if word in NO:
        return Reply(yes=False)
    if word in YES:
        return Reply(yes=True)
    raise InvalidInput(f"{text[:80]!r} is neither yes nor no; {hint(question)}")


def _typed(text: str, question: Question) -> JSON:
    form: Mapping[str, Any] = question.form or {}
    if form.get("type", "string") == "string":
        return text
    properties: Mapping[str, Any] = form.get("properties") or {}
    required = list(form.get("required", ()))
    names = required if len(required) == 1 else list(properties)
    if len(names) == 1 and properties.get(names[0], {}).get("type") == "string":
        return {names[0]: text}
    raise InvalidInput(f"question {question.id} asks for {', '.join(properties) or 'more than text'}; {hint(question)}")
