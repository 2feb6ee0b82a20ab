"""A run's question as an MCP elicitation, and the answer back: the same for a request to an older client and an input request of today's.

A form in MCP is a flat object of text, numbers, yes/no and choices (schema `PrimitiveSchemaDefinition`); a form of the mesh is any
JSON Schema. What a client need not know of a schema is left out of what it is shown, and all of it is held against the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard

from mcp_types.version import LATEST_MODERN_VERSION

from agentmesh.core.question import Question, Reply
from agentmesh.core.run import JSON
from agentmesh.engine.validators import require_input
from agentmesh.errors import InvalidInput

SHOWN: Final = 8000
"""Characters of what is shown with a question; a client's dialog carries no more, and says so where it is cut."""
_WHOLE: Final = "json"
"""The one field of a form that MCP cannot carry."""
_VALUE: Final = "value"
"""The one field of a form that is no object."""
_CHOICES_SINCE: Final = "2025-11-25"
"""From here on a form may have choices with titles and several choices at once (SEP-1330)."""
_OLDEST: Final = "2025-06-18"
"""The first revision with elicitation."""
_EMPTY: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
_TOLD: Final = ("title", "description", "default")
_FORMATS: Final = frozenset({"email", "uri", "date", "date-time"})


def to_elicitation(question: Question, version: str = LATEST_MODERN_VERSION) -> dict[str, Any]:
    """`ElicitRequestFormParams` for a question. `version`: the revision that the client speaks."""
    message = question.ask
    shown = _shown(question)
    if shown:
        message = f"{message}\n\n{shown}"
    if question.kind == "approval" and question.form is None:
        message = f"{message}\n\n(Accept means yes, decline means no.)"
    return {
        "mode": "form",
        "message": message.encode("utf-8", "replace").decode(),
        "requestedSchema": _requested(question, version),
    }


def key_of(question: Question) -> str:
    """What a client knows a question by: another one when it shows something else, so that an answer is to what was shown."""
    return f"{question.id}/{question.digest[:16]}"


def from_elicitation(question: Question, result: Mapping[str, Any]) -> Reply | None:
    """What an `ElicitResult` says to the question; None when it was cancelled: nobody answered.

    InvalidInput when it is none, or what it holds does not fit the question's form: then the question is still open.
    """
    action = result.get("action") if isinstance(result, Mapping) else None
    if action == "cancel":
        return None
    if action == "decline":
        return Reply(yes=False)
    if action != "accept":
        raise InvalidInput(f"the answer to {question.id} has no action; it is one of accept, decline, cancel")
    if question.kind == "approval" and question.form is None:
        return Reply(yes=True)
    content = result.get("content")
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise InvalidInput(f"the content of the answer to {question.id} is no object")
    value = _value(question, content)
    if question.form is not None:
        require_input(question.form, value, f"the answer to {question.id}")
    return Reply(yes=True, value=value)


def _shown(question: Question) -> str:
    show = question.show
    if show is None:
        return ""
    if isinstance(show, str):
        text = show
    elif isinstance(show, Mapping) and all(not isinstance(value, (Mapping, list)) for value in show.values()):
        text = "\n".join(f"{name}: {_plain(value)}" for name, value in show.items())
    else:
        text = json.dumps(show, ensure_ascii=False, indent=2)
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}\n... ({len(text) - SHOWN} characters more; all of it is in run {question.run_id})"


def _plain(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _requested(question: Question, version: str) -> dict[str, Any]:
    """`requestedSchema`: the form where MCP can carry it, else one field."""
    form = question.form
    if form is None:
        return dict(_EMPTY) if question.kind == "approval" else _whole(None)
    if not _is_object(form):
        field = _field(form, version)
        return _whole(form) if field is None else _of({_VALUE: field}, [_VALUE])
    fields = _fields(form, version)
    return _whole(form) if fields is None else _of(fields, list(form.get("required", ())))


def _of(fields: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), **({"required": required} if required else {})}


def _whole(form: Mapping[str, Any] | None) -> dict[str, Any]:
    """A form of one text: the whole value as JSON."""
    what = "The answer, as JSON."
    if form is not None:
        what = f"The answer, as JSON of this schema: {json.dumps(form, ensure_ascii=False, separators=(',', ':'))}"
        what = what if len(what) <= SHOWN else f"{what[:SHOWN]}..."
    name = _whole_name(form)
    return _of({name: {"type": "string", "title": "Answer as JSON", "description": what, "minLength": 1}}, [name])


def _whole_name(form: Mapping[str, Any] | None) -> str:
    """A name that no field of the form has, so that an answer tells which of the two forms was filled in."""
    name = _WHOLE
    while form is not None and name in form.get("properties", ()):
        name += "_"
    return name


def _value(question: Question, content: Mapping[str, Any]) -> JSON:
    """What was filled in, as the question's form has it."""
    form = question.form
    whole = _whole_name(form)
    always, sometimes = _is_whole(form, LATEST_MODERN_VERSION), _is_whole(form, _OLDEST)
    if always or (sometimes and whole in content):
        text = content.get(whole)
        if not isinstance(text, str):
            raise InvalidInput(f"the answer to {question.id} has no text at {whole!r}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInput(f"the text at {whole!r} of the answer to {question.id} is not JSON") from None
    if form is not None and _is_object(form):
        return dict(content)
    if _VALUE not in content:
        raise InvalidInput(f"the answer to {question.id} has no {_VALUE!r}")
    return content[_VALUE]


def _is_whole(form: Mapping[str, Any] | None, version: str) -> bool:
    """Whether a client of that revision was given the form as one text."""
    return form is None or (_fields if _is_object(form) else _field)(form, version) is None


def _is_object(form: Mapping[str, Any]) -> bool:
    return form.get("type") == "object"


def _fields(form: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    """The form's properties as MCP has them; None when there is one that it cannot have."""
    properties = form.get("properties")
    if not isinstance(properties, Mapping) or "$ref" in form or set(form.get("required", ())) - set(properties):
        return None
    fields: dict[str, Any] = {}
    for name, schema in properties.items():
        field = _field(schema, version)
        if field is None:
            return None
        fields[name] = field
    return fields


def _field(schema: Any, version: str) -> dict[str, Any] | None:
    """One property as `PrimitiveSchemaDefinition`; None when it cannot be one. It may allow more than the schema does, never less."""
    if not isinstance(schema, Mapping) or "$ref" in schema:
        return None
    kind = schema.get("type")
    if kind == "string" or (kind is None and _strings(schema.get("enum"))):
        return _text(schema, version)
    if kind in ("number", "integer"):
        bounds = {name: schema[name] for name in ("minimum", "maximum") if _number(schema.get(name))}
        if kind == "integer":
            for name, whole, by in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
                if isinstance(schema.get(name), int) and whole not in bounds:
                    bounds[whole] = schema[name] + by
        return {"type": kind, **_told(schema, _number), **bounds}
    if kind == "boolean":
        return {"type": kind, **_told(schema, lambda value: isinstance(value, bool))}
    if kind == "array" and version >= _CHOICES_SINCE:
        return _several(schema)
    return None


def _text(schema: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    told = _told(schema, lambda value: isinstance(value, str))
    titled = _titled(schema.get("oneOf")) or _titled(schema.get("anyOf"))
    if titled:
        if version >= _CHOICES_SINCE:
            return {"type": "string", **told, "oneOf": titled}
        choices = {"enum": [one["const"] for one in titled], "enumNames": [one["title"] for one in titled]}
        return {"type": "string", **told, **choices}
    choices_ = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices_ is not None:
        if not _strings(choices_):
            return None
        names = schema.get("enumNames")
        named = {"enumNames": list(names)} if _strings(names) and len(names) == len(choices_) else {}
        return {"type": "string", **told, "enum": list(choices_), **named}
    field: dict[str, Any] = {"type": "string", **told}
    for name in ("minLength", "maxLength"):
        if isinstance(schema.get(name), int):
            field[name] = schema[name]
    if schema.get("format") in _FORMATS:
        field["format"] = schema["format"]
    if isinstance(schema.get("pattern"), str):  # which MCP has no word for; better told than found out
        hint = f"Must match {schema['pattern']}"
        field["description"] = f"{field['description']} ({hint})" if "description" in field else hint
    return field


def _several(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Several choices at once."""
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return None
    titled = _titled(items.get("anyOf")) or _titled(items.get("oneOf"))
    if titled:
        choices: dict[str, Any] = {"anyOf": titled}
    elif _strings(items.get("enum")):
        choices = {"type": "string", "enum": list(items["enum"])}
    else:
        return None
    counts = {name: schema[name] for name in ("minItems", "maxItems") if isinstance(schema.get(name), int)}
    return {"type": "array", **_told(schema, _strings), **counts, "items": choices}


def _titled(choices: Any) -> list[dict[str, str]]:
    """Choices with titles; none when that is not what they are."""
    if not isinstance(choices, list) or not choices:
        return []
    found: list[dict[str, str]] = []
    for one in choices:
        if not isinstance(one, Mapping) or not isinstance(one.get("const"), str):
            return []
        title = one.get("title")
        found.append({"const": one["const"], "title": title if isinstance(title, str) else one["const"]})
    return found


def _told(schema: Mapping[str, Any], fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Title, description and default, where they are what MCP takes."""
    found = {name: schema[name] for name in _TOLD if isinstance(schema.get(name), str)}
    found.pop("default", None)
    return found | ({"default": schema["default"]} if "default" in schema and fits(schema["default"]) else {})


def _strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
