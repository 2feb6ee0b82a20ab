"""Writes docs/language.md: the language reference, from the schemas of the files, the words beside their fields, and the examples.

    python docs/generate.py

A test holds the page equal to what this gives; change the words where they stand, in agentmesh/core/workflow.py and its like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentmesh import errors
from agentmesh.adapters.file_schemas import field_docs, schemas
from agentmesh.core import acting, bounded, cel, expression, schedule, validation, workflow
from agentmesh.core.inference import TEXT_FUNCTIONS

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
PAGE = HERE / "language.md"
_SCRIPT = re.compile(r"^# (?P<key>[a-z]+): (?P<value>.*)\n?", re.MULTILINE)

INTRO = """# The language of workflows

Made by `docs/generate.py` from the schemas that `agentmesh check` uses, the words beside their fields, and the examples in
`docs/examples/`, each of which the tests load and run.
[Project files](project-files.md) tells the same as a story, with the files around a workflow.

A workflow is a file in `workflows/`: what starts it, what it takes, its steps in reading order, and what it gives. The examples
stand in this mesh:
"""
VALUES = {
    "schema": "A JSON Schema, Draft 2020-12, besides the step's own.",
    "ensure": "An expression over `output` and all that the step sees.",
    "grounded": "Each text at these paths must stand in the input, so that nothing is made up.",
}


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield INTRO
    yield from _file(EXAMPLES / "agentmesh.yaml")
    yield from _file(EXAMPLES / "servers" / "desk.yaml")
    yield "Under each example stand the input, what models, services and people answered, and what came out.\n"
    yield from _head()
    yield from _verbs()
    yield from _around()
    yield from _validators()
    yield from _stages()
    yield from _triggers()
    yield from _acting()
    yield from _expressions()
    yield from _errors()


def _head() -> Iterator[str]:
    yield "## The file\n"
    yield from _table(workflow.Workflow)
    yield "`budget` has\n"
    yield from _table(workflow.Budget)
    yield from _example("file-limits")
    yield "A workflow that `on_failure` names takes `run`, `workflow`, `error` and `input`:\n"
    yield from _example("file-on_failure")
    yield (
        "A duration is a number of seconds, or `500ms`, `20s`, `5m`, `2h`, `3d`. A workflow has at most 1,000 steps, a file 10,000 values"
        " and 256 KiB.\n"
    )


_SPECS: dict[str, type[BaseModel]] = {
    "llm": workflow.LlmSpec, "agent": workflow.AgentSpec, "http": workflow.HttpSpec, "sql": workflow.SqlSpec,
    "map": workflow.MapSpec, "loop": workflow.LoopSpec, "wait": workflow.WaitSpec, "approve": workflow.ApproveSpec,
    "switch": workflow.Case,
}  # fmt: skip
_NOT_HERE = {("approve", "path"), ("agent", "peer")}


def _verbs() -> Iterator[str]:
    words = field_docs(workflow.Step)
    yield "## Verbs\n\nA step has an `id` and exactly one verb.\n"
    for verb in workflow.VERBS:
        yield f"### {verb}\n"
        yield from _words(words[verb], _SPECS.get(verb))
        if verb in _SPECS:
            yield from _table(_SPECS[verb], without={key for of, key in _NOT_HERE if of == verb})
        yield from _example(f"verb-{verb}")
        if verb == "llm":
            yield "With `tools` it is an agent:\n"
            yield from _example("verb-llm-tools")
            yield from _paragraph(
                "A model chooses its tools' arguments, so a tool that writes must bound all of its own (see"
                " [below](#what-a-model-said-may-not-act-by-itself)). Each turn and each call is a row of the journal."
            )


_AROUND: dict[str, type[BaseModel] | None] = {
    "if": None, "with": None, "output": None, "validate": None, "on_invalid": None, "on_error": None,
    "retry": workflow.Retry_, "timeout": None, "cache": workflow.Cache, "compensate": None, "effect": None,
    "idempotent": None, "on": None,
}  # fmt: skip


def _around() -> Iterator[str]:
    words = field_docs(workflow.Step)
    yield "## Around a verb\n"
    for name, model in _AROUND.items():
        yield f"### {name}\n"
        yield from _words(words[name], None)
        if model is not None:
            yield from _table(model)
        yield from _example(f"around-{name}")


def _validators() -> Iterator[str]:
    words = field_docs(workflow.Validator)
    models: dict[str, type[BaseModel]] = {
        "tool": workflow.ToolCheck,
        "judge": workflow.Judge,
        "vote": workflow.Vote,
        "approve": workflow.ApproveSpec,
    }
    yield "## Validators\n"
    yield from _paragraph(
        "Each item of `validate` has exactly one validator, and may have a `message`: "
        + words["message"]
        + " They are asked cheapest first, as they stand here, and no further than the first that does not pass. A validator that cannot be"
        " asked (a judge that is down) has not failed: the step is tried again by its `retry`."
    )
    for name in workflow.VALIDATORS:
        yield f"### Validator {name}\n"
        yield from _words(VALUES.get(name, words[name]), models.get(name))
        if name == "grounded":
            yield from _paragraph(f"`grounded`: {words['grounded']} `in`: {words['in']}")
        if name in models:
            yield from _table(models[name])
        yield from _example(f"validator-{name}")


def _stages() -> Iterator[str]:
    yield "## When a check fails\n"
    yield from _paragraph(
        "`on_invalid` is a list of stages, done in order, each as often as it says; `fail` is implied last. A resume after a crash uses up"
        " none of them."
    )
    for name, words in validation.STAGES.items():
        yield f"### Stage {name}\n"
        yield from _paragraph(words)
        if name == "ask":
            yield from _table(workflow.AskSpec)
        yield from _example(f"stage-{name}")


def _triggers() -> Iterator[str]:
    models: dict[str, type[BaseModel]] = {
        "mcp": workflow.McpTrigger,
        "a2a": workflow.A2aTrigger,
        "cron": workflow.Schedule,
        "webhook": workflow.WebhookTrigger,
    }
    yield "## Triggers\n"
    for name, model in models.items():
        yield f"### Trigger {name}\n"
        yield from _words(field_docs(workflow.Triggers)[name], model)
        yield from _table(model)
        yield from _example(f"trigger-{name}")
        if name == "cron":
            forms = ", ".join(f"`{form}` is `{line}`" for form, line in schedule.FORMS.items())
            yield from _paragraph(
                f"{forms}. Lines of six fields, and `@reboot`, are refused. {_first(schedule.instants.__doc__)}"
            )
            yield from _paragraph(
                "`agentmesh check --preview` shows when each entry fires next, and what clock changes do to it."
            )


def _acting() -> Iterator[str]:
    yield "## What a model said may not act by itself\n"
    for part in _parts(acting.__doc__)[1:]:
        yield from _paragraph(part.partition(" Runs after")[0])
    yield from _paragraph(
        "It stays unclean through `set`, `map`, `with`, templates and whatever reads it, and so does what stands under an `if`, `when`,"
        " `while` or `until` that reads it. Tools, workflows and agents that ask a model give what a model said, but for what their output"
        f" schema bounds. There are three ways out: {acting.WAYS_OUT}."
    )
    yield from _example("rule-acting")


def _expressions() -> Iterator[str]:
    yield "## Expressions\n"
    for part in _parts(expression.__doc__):
        yield from _paragraph(part)
    yield from _paragraph(
        "Operators: `+ - * / %`, `== != < <= > >=`, `&& || !`, `? :`, `in`, `x.y`, `x[0]`, `x['y']`, `[a, b]`, `{'a': b}`. Functions:"
        " `size(x)`, `has(x.y)`, `int(x)`, `double(x)`, `string(x)`, `bool(x)`, `timestamp(x)`, `duration(x)`; of lists `x.map(i, ...)`,"
        " `x.filter(i, ...)`, `x.all(i, ...)`, `x.exists(i, ...)`, `x.exists_one(i, ...)`, `x.join(between)`; of text "
        + ", ".join(f"`{name}`" for name in TEXT_FUNCTIONS)
        + "."
    )
    yield from _paragraph(
        f"An expression has at most {cel.MAX_TEXT:,} characters and 32 levels. `map` and `filter` take {bounded.MAX_ITEMS:,} items,"
        f" all loops of one expression {cel.MAX_ROUNDS:,} rounds together; it reads {expression.MAX_READ:,} values (or 10 MB of text)"
        f" at most, makes {bounded.MAX_MADE:,} characters on its way, and yields 256 kB. What is more is a python step's work."
    )
    yield from _paragraph(
        "Names: `input`, `steps.ID.output`, `.state` and `.error`, `run.id`, `run.workflow`, `run.source`, `context.id`; in a `map` the"
        " item's, in a `loop` `loop.index` and `loop.last`, in `validate` and `compensate` also `output`, in `passes` also `result`,"
        " in the steps of `on_error` also `error`."
    )


def _errors() -> Iterator[str]:
    yield "## Codes of errors\n\nWhat `error.code` may be, and `retry.on` may name, besides codes of functions of your own:\n"
    yield "| code | meaning |\n| --- | --- |"
    seen: set[str] = set()

    def walk(kind: type[errors.MeshError]) -> Iterator[str]:
        if kind.code not in seen:
            seen.add(kind.code)
            yield f"| `{kind.code}` | {_first(kind.__doc__)} |"
        for below in kind.__subclasses__():
            if below.__module__ in ("agentmesh.errors", "agentmesh.core.expression"):
                yield from walk(below)

    for kind in (errors.StepError, errors.ModelError, errors.InvalidInput, errors.PolicyDenied, errors.TooLarge):
        yield from walk(kind)
    yield ""


# Pieces


def _table(model: type[BaseModel], without: set[str] = frozenset()) -> Iterator[str]:  # type: ignore[assignment]
    """The keys of a part of a file: each with its type, its default and what it means."""
    whole = schemas()["workflow"]
    found = whole if model is workflow.Workflow else whole["$defs"].get(model.__name__)
    found = found or {**model.model_json_schema(by_alias=True)}
    required = found.get("required", ())
    yield "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    words = field_docs(model)
    for key, value in found["properties"].items():
        if key in without:
            continue
        default = "required" if key in required else _default(value)
        yield f"| `{key}` | {_type(value)} | {default} | {_cell(words.get(key, ''))} |"
    yield ""


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default in (None, {}, [], ()) or isinstance(default, dict) else f"`{json.dumps(default)}`"


_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "array": "list",
          "object": "object", "null": ""}  # fmt: skip


def _type(value: dict[str, Any]) -> str:
    if "enum" in value or "const" in value:
        return ", ".join(f"`{json.dumps(one).strip(chr(34))}`" for one in value.get("enum", [value.get("const")]))
    if "anyOf" in value:
        parts = dict.fromkeys(part for inner in value["anyOf"] if (part := _type(inner)))
        return " or ".join(parts)
    if "$ref" in value:
        return "object"
    kind = value.get("type")
    found = _TYPES.get(kind, "anything") if isinstance(kind, str) else "anything"
    low, high = value.get("minimum", value.get("exclusiveMinimum")), value.get("maximum")
    if low is not None and high is not None:
        return f"{found}, {low:,} to {high:,}"
    return f"{found}, at least {low:,}" if low is not None and "minimum" in value else found


def _words(words: str, model: type[BaseModel] | None) -> Iterator[str]:
    yield from _paragraph(words)
    if model is not None and model is not workflow.Case and model.__doc__:
        for part in _parts(model.__doc__):
            yield from _paragraph(part)


def _paragraph(text: str) -> Iterator[str]:
    yield _cell(" ".join(text.split())).replace("\\|", "|") + "\n"


def _parts(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n")]


def _first(text: str | None) -> str:
    return _parts(text)[0]


def _cell(text: str) -> str:
    return re.sub(r"(^|\. )None:", r"\1Not given:", text).replace("None:", "not given:").replace("|", "\\|")


def _file(file: Path) -> Iterator[str]:
    yield f"```yaml\n{file.read_text().rstrip()}\n```\n"


def _example(name: str) -> Iterator[str]:
    """A workflow as it stands in the file, and its script as text."""
    text = (EXAMPLES / "workflows" / f"{name}.yaml").read_text()
    first, _, rest = text.partition("\n")
    shown = first + "\n" + _SCRIPT.sub("", rest)
    script = [(match["key"], match["value"]) for match in _SCRIPT.finditer(rest)]
    width = max(len(key) for key, _ in script)
    yield f"```yaml\n{shown.rstrip()}\n```\n"
    yield "```text\n" + "\n".join(f"{key:{width}}  {value}" for key, value in script) + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
