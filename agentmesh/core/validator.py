"""Validator: what checks an output, as a file says it; and what a person is asked. See `core.workflow` for the steps they stand at."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Duration = str | float
"""Seconds as a number, or `500ms`, `20s`, `5m`, `2h`, `3d`."""


class Part(BaseModel):
    """A part of a project file: what it does not name may not stand there."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class ToolCheck(Part):
    """The validator `tool`: calls a tool; the output passes where `passes` holds over its `result`."""

    name: str
    """Of a tool of the mesh."""
    with_: dict[str, Any] = Field({}, alias="with")
    """Its arguments; templates, in which `output` is what the step yields."""
    passes: str = "result.ok"
    """CEL over `result` (the tool's output) besides the step's own names; boolean."""
    path: str | None = None
    """What was looked at, such as `output.reply`; None: the whole output."""


class Judge(Part):
    """The validator `judge`: a model scores the output against a rubric, from 0 to 1."""

    model: str | None = None
    """None: the mesh's `default_model`."""
    rubric: str
    """A template; what is judged is added after it."""
    at_least: float = Field(0.7, ge=0, le=1)
    """The score that passes."""
    path: str | None = None
    """What is judged, such as `output.reply`; None: the whole output."""
    max_tokens: int = Field(256, ge=16)
    """Of the judge's answer."""


class Vote(Part):
    """The validator `vote`: the same question asked again; enough of the samples must agree with the output."""

    samples: int = Field(3, ge=2, le=25)
    """In all, the output counted in."""
    agree: int | None = Field(None, ge=2)
    """At least so many of them; None: more than half."""
    path: str | None = None
    """What must agree, such as `output.queue`; None: the whole output."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Of the further samples; None: the step's own, or 0.7 when that is 0 or not given."""


class ApproveSpec(Part):
    """A person says yes or no. Declined and expired fail the step with those codes."""

    ask: str
    """The question; a template."""
    show: Any = None
    """What the person decides about; a template."""
    form: dict[str, Any] | None = None
    """JSON Schema (an object) of values that the person fills in; None: yes or no is all."""
    expires: Duration | None = None
    """After so long without an answer the step fails with code `expired`; None: it waits for ever."""
    path: str | None = None
    """As a validator: what was approved, such as `output.reply`; None: the whole output."""


class AskSpec(Part):
    """`on_invalid: {ask: ...}`: a person gives the output that the model could not give; it is checked like the model's."""

    question: str
    """What is asked; a template."""
    show: Any = None
    """What the person sees with it; a template."""
    expires: Duration | None = None
    """After so long the step fails with code `expired`; None: it waits for ever."""


class Validator(Part):
    """Exactly one validator; `message` goes back to the model in a repair."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """JSON Schema that the output must fit, besides its own."""
    ensure: str | None = None
    """An expression over `output` and what the step sees; it must be true."""
    grounded: list[str] | None = None
    """Paths such as `output.quotes`: each string there must stand in the text of `in`."""
    in_: str | None = Field(None, alias="in")
    """Expression for the text that `grounded` looks in; None: every string of the run's (or tool's) input."""
    tool: ToolCheck | None = None
    """A tool looks at the output."""
    judge: Judge | None = None
    """A model scores the output."""
    vote: Vote | None = None
    """The model is asked again, and enough of its answers agree."""
    approve: ApproveSpec | None = None
    """A person says yes to the output."""
    message: str | None = None
    """What goes back to the model when this does not pass; None: what the validator found."""

    @property
    def kind(self) -> str:
        """The validator's name; the loader has made sure there is exactly one."""
        return next(k for k in VALIDATORS if (k if k != "schema" else "schema_") in self.model_fields_set)


VALIDATORS = ("schema", "ensure", "grounded", "tool", "vote", "judge", "approve")
"""Cheapest first: the order in which a step's validators are asked."""
