"""Validators: one function per validator, each to Verdicts; and JSON Schemas, compiled once.

Schemas are JSON Schema 2020-12, applied by `core.schema`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema.exceptions import ValidationError
from referencing.exceptions import Unresolvable

from agentmesh.core import schema as json_schema
from agentmesh.core.expression import evaluate, evaluate_bool, render
from agentmesh.core.run import JSON
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import Validator
from agentmesh.errors import InvalidInput, StepError

Scope = Mapping[str, JSON]
SHOWN = 5
"""Faults told of one value; a caller needs the first few."""
_LENGTH = 240
"""Characters of one message."""
_COMPILED: OrderedDict[int, tuple[Mapping[str, Any], Any]] = OrderedDict()
_KEPT = 2048


def compiled(schema: Mapping[str, Any]) -> Any:
    """The jsonschema validator of a schema, kept for as long as the same object is asked for again."""
    known = _COMPILED.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    validator = json_schema.validator(schema)
    _COMPILED[id(schema)] = (schema, validator)  # holds the schema, so that its id stays its own
    if len(_COMPILED) > _KEPT:
        _COMPILED.popitem(last=False)
    return validator


def faults(schema: Mapping[str, Any], value: JSON, root: str) -> list[tuple[str, str]]:
    """(path, message) of what does not fit, at most SHOWN; paths begin with `root`, such as `output.quotes[1]`."""
    validator = compiled(schema)
    found: list[tuple[str, str]] = []
    try:
        for error in validator.iter_errors(value):
            found.append((_path(root, error.absolute_path), _explain(error)))
            if len(found) >= SHOWN:
                break
    except (Unresolvable, ValueError) as error:
        raise StepError(f"the JSON Schema of {root} cannot be used: {_cut(str(error))}") from None
    except RecursionError:
        found.append((root, "is nested too deeply"))
    return found


def require_input(schema: Mapping[str, Any], value: JSON, root: str = "input") -> None:
    """InvalidInput that names each path and what is expected there."""
    found = faults(schema, value, root)
    if found:
        raise InvalidInput(
            "; ".join(f"{path}: {message}" for path, message in found),
            faults=[{"path": path, "message": message} for path, message in found],
        )


def render_schema(schema: Any, scope: Scope) -> Any:
    """An output schema with the expressions at `enum` filled in; an empty list allows only null. The same object when there are none."""
    if isinstance(schema, Mapping):
        changed: dict[str, Any] | None = None
        for key, value in schema.items():
            filled = _render_enum(value, scope) if key == "enum" else render_schema(value, scope)
            if filled is not value:
                changed = dict(schema) if changed is None else changed
                changed[key] = filled
        return schema if changed is None else changed
    if isinstance(schema, list):
        items = [render_schema(item, scope) for item in schema]
        return schema if all(a is b for a, b in zip(items, schema, strict=True)) else items
    return schema


def _render_enum(value: Any, scope: Scope) -> Any:
    if isinstance(value, str):
        filled = render(value, scope)
        if not isinstance(filled, list):
            raise StepError(f"enum: {value} must be a list")
    elif isinstance(value, list) and any(isinstance(item, str) and "${{" in item for item in value):
        filled = render(value, scope)
    else:
        return value
    # JSON Schema wants every value once.
    unique = [item for i, item in enumerate(filled) if item not in filled[:i]]
    return unique or [None]


def check_output(
    validators: Sequence[Validator], output: JSON, scope: Scope, *, schema: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """The verdicts of every validator that asks nobody, in order; those after a schema that does not fit would stumble, and are not asked.

    One that would have to ask somebody could not check: those are `engine.checks`'.
    """
    verdicts: list[Verdict] = []
    if schema is not None:
        verdicts += by_schema(schema, output)
    scope = {**scope, "output": output}
    for validator in validators:
        if any(v.outcome is Outcome.FAIL and v.validator == "schema" for v in verdicts):
            break
        try:
            if validator.schema_ is not None:
                verdicts += by_schema(render_schema(validator.schema_, scope), output, validator.message)
            elif validator.ensure is not None:
                verdicts.append(by_ensure(validator.ensure, scope, validator.message))
            elif validator.grounded is not None:
                verdicts += by_grounded(validator.grounded, scope, validator.in_, validator.message)
            else:
                verdicts.append(
                    Verdict(validator.kind, Outcome.COULD_NOT_CHECK, "asks somebody, which only a step can")
                )
        except StepError as error:
            verdicts.append(Verdict(validator.kind, Outcome.COULD_NOT_CHECK, error.message))
    return verdicts


def by_schema(schema: Mapping[str, Any], output: JSON, message: str | None = None) -> list[Verdict]:
    found = faults(schema, output, "output")
    return [Verdict("schema", Outcome.FAIL, message or text, path) for path, text in found] or [
        Verdict("schema", Outcome.PASS)
    ]


def by_ensure(expression: str, scope: Scope, message: str | None) -> Verdict:
    if evaluate_bool(expression, scope):
        return Verdict("ensure", Outcome.PASS)
    return Verdict("ensure", Outcome.FAIL, message or f"must hold: {expression}")


def by_grounded(paths: Sequence[str], scope: Scope, source: str | None, message: str | None) -> list[Verdict]:
    """Each string at the paths must stand in a string of `source`, by default of the input."""
    texts = list(strings(evaluate(source, scope) if source is not None else scope.get("input")))
    verdicts: list[Verdict] = []
    for path in paths:
        for place, value in at(path, scope):
            for where, text in strings_with_paths(value, place):
                if not any(text in whole for whole in texts):
                    verdicts.append(
                        Verdict(
                            "grounded",
                            Outcome.FAIL,
                            message or f"{_cut(repr(text), 80)} does not stand in the text",
                            where,
                        )
                    )
    return verdicts or [Verdict("grounded", Outcome.PASS)]


_PART = re.compile(r"([^.\[\]]+)|\[(\d*)\]")


def at(path: str, scope: Scope) -> Iterator[tuple[str, JSON]]:
    """The values at a path such as `output.places[].file`, with where each stands; none where there is nothing or null."""
    values: list[tuple[str, JSON]] = [("", scope)]
    for name, index in _PART.findall(path):
        following: list[tuple[str, JSON]] = []
        for where, value in values:
            if name and isinstance(value, Mapping) and name in value:
                following.append((f"{where}.{name}" if where else name, value[name]))
            elif name and isinstance(value, list):  # `places.file` is each place's file
                following += [
                    (f"{where}[{i}].{name}", item[name])
                    for i, item in enumerate(value)
                    if isinstance(item, Mapping) and name in item
                ]
            elif not name and isinstance(value, list):
                chosen = range(len(value)) if not index else [i for i in (int(index),) if i < len(value)]
                following += [(f"{where}[{i}]", value[i]) for i in chosen]
        values = following
    return iter((where, value) for where, value in values if value is not None)


def strings(value: JSON) -> Iterator[str]:
    """Every string in a JSON value, keys left out."""
    return (text for _, text in strings_with_paths(value, ""))


def strings_with_paths(value: JSON, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from strings_with_paths(item, f"{path}[{i}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_with_paths(item, f"{path}.{key}")


def _path(root: str, parts: Iterable[str | int]) -> str:
    return root + "".join(f"[{p}]" if isinstance(p, int) else f".{_cut(p, 80)}" for p in parts)


def _cut(text: str, length: int = _LENGTH) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _explain(error: ValidationError) -> str:
    """What is expected, without the value when it may be long."""
    expected: Any = error.validator_value
    instance: Any = error.instance
    match error.validator:
        case "type":
            types = expected if isinstance(expected, list) else [expected]
            return f"must be {' or '.join(map(str, types))}, this is {_type(error.instance)}"
        case "required":
            return _cut(error.message.replace("is a required property", "is missing"))
        case "enum":
            return _cut("must be one of " + ", ".join(repr(item) for item in expected))
        case "const":
            return _cut(f"must be {expected!r}")
        case "maxLength" | "minLength":
            bound = "at most" if error.validator == "maxLength" else "at least"
            return f"must have {bound} {expected} characters, this has {len(instance)}"
        case "maxItems" | "minItems":
            bound = "at most" if error.validator == "maxItems" else "at least"
            return f"must have {bound} {expected} items, this has {len(instance)}"
        case "pattern":
            return _cut(f"must match {expected}")
        case "anyOf" | "oneOf":
            return _cut(
                "fits none of the allowed forms: "
                + "; or ".join(dict.fromkeys(_explain(e) for e in (error.context or [])[:4]))
                if error.context
                else error.message
            )
    return _cut(error.message)


def _type(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"
