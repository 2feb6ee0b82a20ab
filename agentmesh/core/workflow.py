"""Workflow: a file in workflows/, its steps and what stands around them, as typed values.

These models hold the *shape* of the file. What names mean (a step that exists, an expression that type-checks, a cron
line that fires) is decided by `core.check` over the whole mesh. Expressions stay strings here: a string with `${{ }}`
is a template, and `if`, `when`, `ensure` are bare CEL.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Duration = str | float
"""Seconds as a number, or `500ms`, `20s`, `5m`, `2h`, `3d`."""

STEP_ID = r"^[a-z][a-z0-9_]{0,62}$"
NAME = r"^[a-z][a-z0-9_-]{0,62}$"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class LlmSpec(_File):
    """A question to a model. With `output` decoding is constrained to the schema, and the answer checked again."""

    model: str | None = None
    """None: the mesh's `default_model`."""
    prompt: str
    system: str | None = None
    output: dict[str, Any] | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    tools: list[str] | None = None
    max_turns: int | None = None


class Validator(_File):
    """Exactly one validator; `message` goes back to the model in a repair."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")
    ensure: str | None = None
    grounded: list[str] | None = None
    """Paths such as `output.quotes`: each string there must stand in the text of `in`."""
    in_: str | None = Field(None, alias="in")
    """Expression for the text that `grounded` looks in; None: every string of the run's (or tool's) input."""
    tool: Any = None
    judge: Any = None
    vote: Any = None
    approve: Any = None
    message: str | None = None


class Retry_(_File):  # noqa: N801 - `Retry` is the error
    """How often a step is tried in all, and how long apart. Backoff doubles each time."""

    attempts: int = Field(3, ge=1, le=100)
    backoff: Duration = 1.0
    max_backoff: Duration = 60.0
    jitter: float = Field(0.1, ge=0, le=1)


class AgentSpec(_File):
    """A message to an agent. `skill`: of this mesh, or of `peer`."""

    skill: str | None = None
    peer: str | None = None
    message: Any
    """A string becomes a text part, an object a data part."""


class MapSpec(_File):
    over: str
    as_: str = Field("item", alias="as")
    at_once: int = Field(4, ge=1, le=1000)
    on_error: Literal["fail", "collect"] = "fail"


class Case(_File):
    when: str
    steps: tuple[Step, ...] = Field(min_length=1)


class Step(_File):
    """One step; exactly one verb of VERBS. `steps` belongs to `map`; `else` to `switch`."""

    id: str = Field(pattern=STEP_ID)
    # verbs
    tool: str | None = None
    llm: LlmSpec | None = None
    python: str | None = None
    set: Any = None
    agent: AgentSpec | None = None
    switch: tuple[Case, ...] | None = None
    map: MapSpec | None = None
    workflow: str | None = None
    http: Any = None
    parallel: Any = None
    loop: Any = None
    wait: Any = None
    approve: Any = None
    sql: Any = None
    # inside blocks
    steps: tuple[Step, ...] | None = None
    else_: tuple[Step, ...] | None = Field(None, alias="else")
    # around a verb
    if_: str | None = Field(None, alias="if")
    with_: dict[str, Any] = Field({}, alias="with")
    validate_: tuple[Validator, ...] = Field((), alias="validate")
    on_invalid: tuple[Any, ...] = ()
    retry: Retry_ | None = None
    timeout: Duration | None = None
    on_error: Any = None
    """`continue` or None; `{steps: […]}` is not built yet."""
    effect: Literal["read", "write"] | None = None
    output: dict[str, Any] | None = None
    """JSON Schema of a `python` step's result; checked, and what later expressions see."""
    cache: Any = None
    compensate: Any = None
    on: Any = None

    @property
    def verb(self) -> str:
        """The step's verb; the loader has made sure there is exactly one."""
        return next(v for v in VERBS if v in self.model_fields_set)


VERBS = (
    "tool", "llm", "python", "set", "agent", "switch", "map", "workflow",
    "http", "parallel", "loop", "wait", "approve", "sql",
)  # fmt: skip
BUILT_VERBS = VERBS[:8]


class Schedule(_File):
    """One `cron` entry."""

    schedule: str
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_window: Duration = "1d"
    input: dict[str, Any] = {}


class A2aTrigger(_File):
    skill: str | None = None
    """None: the workflow's name."""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


class McpTrigger(_File):
    name: str | None = None


class Triggers(_File):
    mcp: McpTrigger | None = None
    a2a: A2aTrigger | None = None
    webhook: Any = None
    cron: tuple[Schedule, ...] = ()


class Budget(_File):
    """Seconds are those in models and tools; waiting is not counted."""

    tokens: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)


class Workflow(_File):
    """A workflow file."""

    name: str = Field(pattern=NAME)
    title: str | None = None
    description: str | None = None
    on: Triggers = Triggers()
    input: dict[str, Any] = {"type": "object"}
    budget: Budget = Budget()
    deadline: Duration | None = None
    concurrency: int | None = Field(None, ge=1)
    steps: tuple[Step, ...] = Field(min_length=1)
    output: Any = None
    """Template of the run's output; None: the last step's output."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema of the output, offered as the tool's outputSchema and checked; None: not declared."""
    annotations: dict[str, Any] = {}


def seconds(duration: Duration) -> float:
    """Seconds of a duration; ValueError says what a duration looks like."""
    if not isinstance(duration, str):
        return float(duration)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    text = duration.strip()
    for unit in ("ms", "s", "m", "h", "d"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    raise ValueError(f"{duration!r} is not a duration; write seconds as a number, or 500ms, 20s, 5m, 2h, 3d")


Case.model_rebuild()
Step.model_rebuild()
