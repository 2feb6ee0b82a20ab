"""Workflow: a file in workflows/, its steps and what stands around them, as typed values.

These models hold the *shape* of the file. What names mean (a step that exists, an expression that type-checks, a cron
line that fires) is decided by `core.check` over the whole mesh. Expressions stay strings here: a string with `${{ }}`
is a template, and `if`, `when`, `ensure` are bare CEL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Duration = str | float
"""Seconds as a number, or `500ms`, `20s`, `5m`, `2h`, `3d`."""

STEP_ID = r"^[a-z][a-z0-9_]{0,62}$"
NAME = r"^[a-z][a-z0-9_-]{0,62}$"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class LlmSpec(_File):
    """A question to a model. With `output` decoding is constrained to the schema, and the answer checked again.

    With `tools` it is an agent: turns of the model and calls of tools, until the model answers or `max_turns` are used up.
    """

    model: str | None = None
    """None: the mesh's `default_model`."""
    prompt: str
    system: str | None = None
    output: dict[str, Any] | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    tools: tuple[str, ...] | None = None
    """Names of the mesh's tools, with `*` for any part of a name: `desk.*`."""
    max_turns: int | None = Field(None, ge=1, le=100)
    """Turns of the model in one attempt; None: 8. Belongs to `tools`."""


class ToolCheck(_File):
    """The validator `tool`: calls a tool; the output passes where `passes` holds over its `result`."""

    name: str
    with_: dict[str, Any] = Field({}, alias="with")
    passes: str = "result.ok"
    """CEL over `result` (the tool's output) besides the step's own names; boolean."""
    path: str | None = None
    """What was looked at, such as `output.reply`; None: the whole output."""


class Judge(_File):
    """The validator `judge`: a model scores the output against a rubric, from 0 to 1."""

    model: str | None = None
    rubric: str
    """A template; what is judged is added after it."""
    at_least: float = Field(0.7, ge=0, le=1)
    path: str | None = None
    max_tokens: int = Field(256, ge=16)


class Vote(_File):
    """The validator `vote`: the same question asked again; enough of the samples must agree with the output."""

    samples: int = Field(3, ge=2, le=25)
    """In all, the output counted in."""
    agree: int | None = Field(None, ge=2)
    """At least so many of them; None: more than half."""
    path: str | None = None
    """What must agree, such as `output.queue`; None: the whole output."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Of the further samples; None: the step's own, or 0.7 when that is 0 or not given."""


class ApproveSpec(_File):
    """A person says yes or no. Declined and expired fail the step with those codes."""

    ask: str
    """The question; a template."""
    show: Any = None
    """What the person decides about; a template."""
    form: dict[str, Any] | None = None
    """JSON Schema (an object) of values that the person fills in; None: yes or no is all."""
    expires: Duration | None = None
    path: str | None = None
    """As a validator: what was approved, such as `output.reply`; None: the whole output."""


class AskSpec(_File):
    """`on_invalid: {ask: ...}`: a person gives the output that the model could not give; it is checked like the model's."""

    question: str
    show: Any = None
    expires: Duration | None = None


class Validator(_File):
    """Exactly one validator; `message` goes back to the model in a repair."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")
    ensure: str | None = None
    grounded: list[str] | None = None
    """Paths such as `output.quotes`: each string there must stand in the text of `in`."""
    in_: str | None = Field(None, alias="in")
    """Expression for the text that `grounded` looks in; None: every string of the run's (or tool's) input."""
    tool: ToolCheck | None = None
    judge: Judge | None = None
    vote: Vote | None = None
    approve: ApproveSpec | None = None
    message: str | None = None

    @property
    def kind(self) -> str:
        """The validator's name; the loader has made sure there is exactly one."""
        return next(k for k in VALIDATORS if (k if k != "schema" else "schema_") in self.model_fields_set)


VALIDATORS = ("schema", "ensure", "grounded", "tool", "vote", "judge", "approve")
"""Cheapest first: the order in which a step's validators are asked."""


class Retry_(_File):  # noqa: N801 - `Retry` is the error
    """How often a step is tried in all, and how long apart. Backoff doubles each time."""

    attempts: int = Field(3, ge=1, le=100)
    backoff: Duration = 1.0
    max_backoff: Duration = 60.0
    jitter: float = Field(0.1, ge=0, le=1)
    on: tuple[str, ...] | None = None
    """Codes of the errors that are tried again; None: those that say that trying again may help."""


class AgentSpec(_File):
    """A message to an agent. `skill`: of this mesh, or of `peer`."""

    skill: str | None = None
    peer: str | None = None
    message: Any
    """A string becomes a text part, an object a data part."""


class HttpSpec(_File):
    """One HTTP request. Its output is `{status, headers, body}`; `body` is JSON where the answer says it is, else text.

    A status outside `expect` fails the step; 408, 425, 429 and 5xx may be tried again.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: str
    headers: dict[str, str] = {}
    """Values may hold secrets; they are filled in when the request is sent and recorded nowhere."""
    query: dict[str, Any] = {}
    json_: Any = Field(None, alias="json")
    text: str | None = None
    """A body of text; at most one of `json` and `text`."""
    expect: tuple[int, ...] | None = None
    """Statuses that are a success; None: 200 to 299."""


class SqlSpec(_File):
    """One statement on a database of `databases:`. Its output is `{rows: [{column: value}], count, truncated}`.

    Values come from the step's `with`, by name (`:customer`); an expression may not stand in the text. It may only read,
    unless the step says `effect: write`.
    """

    database: str
    query: str
    rows: int = Field(1000, ge=1, le=100_000)
    """Rows handed on at most; `truncated` says that there were more."""


class MapSpec(_File):
    over: str
    as_: str = Field("item", alias="as")
    at_once: int = Field(4, ge=1, le=1000)
    """Items in work at once; one that waits keeps its place."""
    on_error: Literal["fail", "collect"] = "fail"


class LoopSpec(_File):
    """Rounds of `steps`, at most `max`. Inside, `loop.index` counts from 0 and `loop.last` is the last round's output, first null.

    The output is the last round's, null when there was none.
    """

    max: int = Field(ge=1, le=10_000)
    while_: str | None = Field(None, alias="while")
    """Asked before each round, over what stands before the loop, and `loop`."""
    until: str | None = None
    """Asked after each round, over the round's steps too."""
    at_max: Literal["fail", "stop"] = "fail"
    """What becomes of a loop whose `until` (or `while`) never ended it; without either it simply stops."""


class WaitSpec(_File):
    """Exactly one of `for`, `until`, `signal`."""

    for_: Duration | None = Field(None, alias="for")
    until: str | None = None
    """An expression: Unix seconds, or a time as in RFC 3339."""
    signal: str | None = None
    """Name of the signal; one that came before the step did is kept and used."""
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """JSON Schema of the signal's value."""
    expires: Duration | None = None
    """Of a signal: after so long the step fails with code `expired`."""


def _wait(value: Any) -> Any:
    """`wait: 5m` is `wait: {for: 5m}`."""
    return {"for": value} if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


COMPENSATE = "compensate"
"""Id of what undoes a step: its path is `PATH/compensate`."""


class OnError(_File):
    """What happens instead when a step fails: its output is theirs. They see `error` {code, message, path}."""

    steps: tuple[Step, ...] = Field(min_length=1)


class Cache(_File):
    ttl: Duration | None = None
    """None: for ever."""


class Case(_File):
    when: str
    steps: tuple[Step, ...] = Field(min_length=1)


class Step(_File):
    """One step; exactly one verb of VERBS. `steps` belongs to `map` and `loop`; `else` to `switch`."""

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
    http: HttpSpec | None = None
    parallel: dict[str, tuple[Step, ...]] | None = None
    """Branches by name, all begun at once; the output is an object of their last outputs."""
    loop: LoopSpec | None = None
    wait: Annotated[WaitSpec | None, BeforeValidator(_wait, json_schema_input_type=WaitSpec | Duration | None)] = None
    approve: ApproveSpec | None = None
    """The output is `{approved: true, by, at, values}`."""
    sql: SqlSpec | None = None
    # inside blocks
    steps: tuple[Step, ...] | None = None
    else_: tuple[Step, ...] | None = Field(None, alias="else")
    # around a verb
    if_: str | None = Field(None, alias="if")
    with_: dict[str, Any] = Field({}, alias="with")
    validate_: tuple[Validator, ...] = Field((), alias="validate")
    on_invalid: tuple[Any, ...] = ()
    """In order, each tried once or as often as it says: {repair: n}, {resample: n}, {escalate: {model, repair}}, {fallback: VALUE},
    {ask: AskSpec}, compensate, fail."""
    retry: Retry_ | None = None
    timeout: Duration | None = None
    on_error: Literal["continue"] | OnError | None = None
    effect: Literal["read", "write"] | None = None
    idempotent: bool | None = None
    """Of a write: doing it twice is doing it once, so that it may be tried again by itself."""
    output: dict[str, Any] | None = None
    """JSON Schema of a `python` step's result, or of an `http` step's `body`; checked, and what later expressions see."""
    cache: Literal[True] | Cache | None = None
    compensate: Compensation | None = None
    """What undoes the completed step when the run fails or is canceled later: tool, http, python, sql, agent or workflow, with `with`,
    `retry` and `timeout`. It sees what the step saw, and the step's own output as `output`."""
    on: Literal["ray"] | None = None
    """Where a `python` step runs; None: in the server."""

    @property
    def verb(self) -> str:
        """The step's verb; the loader has made sure there is exactly one."""
        return next(v for v in VERBS if v in self.model_fields_set)

    def blocks(self) -> list[tuple[tuple[str | int, ...], tuple[Step, ...]]]:
        """The lists of steps inside, each with its path in the file below the step."""
        found: list[tuple[tuple[str | int, ...], tuple[Step, ...]]] = []
        if self.steps:
            found.append((("steps",), self.steps))
        found += [(("switch", i, "steps"), case.steps) for i, case in enumerate(self.switch or ())]
        found += [(("parallel", name), steps) for name, steps in (self.parallel or {}).items()]
        if self.else_:
            found.append((("else",), self.else_))
        if isinstance(self.on_error, OnError):
            found.append((("on_error", "steps"), self.on_error.steps))
        if self.compensate is not None:
            found.append((("compensate",), (self.compensate,)))
        return found


class Compensation(Step):
    """What undoes a step: a step without an id of its own."""

    id: str = COMPENSATE


VERBS = (
    "tool", "llm", "python", "set", "agent", "switch", "map", "workflow",
    "http", "parallel", "loop", "wait", "approve", "sql",
)  # fmt: skip
BUILT_VERBS = VERBS[:8]


class Schedule(_File):
    """One `cron` entry."""

    schedule: str
    """Five fields, or @hourly, @daily, @weekly, @monthly, @yearly."""
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_window: Duration = "1d"
    jitter: Duration = 0.0
    """Each instant is delayed by up to so long, always by the same for the same workflow, entry and instant."""
    input: dict[str, Any] = {}


class WebhookTrigger(_File):
    """`POST /webhooks/PATH` starts a run; its JSON body is the input. At least one of `token` and `key`.

    The run's key is the header Idempotency-Key, or `id_header`'s; the same key never starts two.
    """

    path: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    token: str | None = None
    """A secret; the caller sends it as `Authorization: Bearer`."""
    key: str | None = None
    """A secret; the caller signs the body with it: HMAC-SHA256 in hexadecimal, with or without `sha256=`, in `header`."""
    header: str = "X-Signature-256"
    id_header: str | None = None


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
    webhook: WebhookTrigger | None = None
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
    """Runs of this workflow at once, over all workers; those that wait for time or people are not counted."""
    on_failure: str | None = None
    """Workflow started when a run of this one has failed, with input {run, workflow, error, input}."""
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


OnError.model_rebuild()
Case.model_rebuild()
Step.model_rebuild()
Compensation.model_rebuild()
