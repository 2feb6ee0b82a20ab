"""Workflow: a file in workflows/, its steps and what stands around them, as typed values.

These models hold the *shape* of the file. What names mean (a step that exists, an expression that type-checks, a cron
line that fires) is decided by `core.check` over the whole mesh. Expressions stay strings here: a string with `${{ }}`
is a template, and `if`, `when`, `ensure` are bare CEL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from agentmesh.core.validator import (
    VALIDATORS,
    ApproveSpec,
    AskSpec,
    Duration,
    Judge,
    Part,
    ToolCheck,
    Validator,
    Vote,
)

__all__ = [
    "COMPENSATE", "NAME", "STEP_ID", "VALIDATORS", "VERBS", "A2aTrigger", "AgentSpec", "ApproveSpec", "AskSpec", "Budget", "Cache",
    "Case", "Compensation", "Duration", "HttpSpec", "Judge", "LlmSpec", "LoopSpec", "MapSpec", "McpTrigger", "OnError", "Retry_",
    "Schedule", "SqlSpec", "Step", "ToolCheck", "Triggers", "Validator", "Vote", "WaitSpec", "WebhookTrigger", "Workflow", "seconds",
]  # fmt: skip

STEP_ID = r"^[a-z][a-z0-9_]{0,62}$"
NAME = r"^[a-z][a-z0-9_-]{0,62}$"


class LlmSpec(Part):
    """A question to a model. With `output` decoding is constrained to the schema, and the answer checked again.

    With `tools` it is an agent: turns of the model and calls of tools, until the model answers or `max_turns` are used up.
    """

    model: str | None = None
    """None: the mesh's `default_model`."""
    prompt: str
    """The question; a template."""
    system: str | None = None
    """What the model is told before it; a template."""
    output: dict[str, Any] | None = None
    """JSON Schema of the answer, in which an `enum` may be an expression; None: free text."""
    max_tokens: int | None = Field(None, ge=1)
    """Of one answer."""
    temperature: float | None = Field(None, ge=0, le=2)
    """None: the endpoint's own."""
    seed: int | None = None
    """For endpoints that sample by one."""
    tools: tuple[str, ...] | None = None
    """Names of the mesh's tools, with `*` for any part of a name: `desk.*`."""
    max_turns: int | None = Field(None, ge=1, le=100)
    """Turns of the model in one attempt; None: 8. Belongs to `tools`."""


class Retry_(Part):  # noqa: N801 - `Retry` is the error
    """How often a step is tried in all, and how long apart. Backoff doubles each time."""

    attempts: int = Field(3, ge=1, le=100)
    """In all, the first counted in."""
    backoff: Duration = 1.0
    """Before the second attempt; it doubles before each further one."""
    max_backoff: Duration = 60.0
    """It grows no longer than this."""
    jitter: float = Field(0.1, ge=0, le=1)
    """Part of it by which it is made longer, at most."""
    on: tuple[str, ...] | None = None
    """Codes of the errors that are tried again; None: those that say that trying again may help."""


class AgentSpec(Part):
    """A message to an agent. The step's output is that of the workflow behind the skill, or what the peer's task came to.

    An object that is sent is the workflow's input; text fills the only text that its input requires.
    """

    skill: str | None = None
    """Of a workflow with `on.a2a`; with `peer` one of the peer's, which may be left to it."""
    peer: str | None = None
    """An agent elsewhere: its name in `agents:`."""
    message: Any
    """A string becomes a text part, an object a data part."""


class HttpSpec(Part):
    """One HTTP request. Its output is `{status, headers, body}`; `body` is JSON where the answer says it is, else text.

    A status outside `expect` fails the step; 408, 425, 429 and 5xx may be tried again.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    """Other than GET and HEAD it is a write."""
    url: str
    """A template; what is filled in within it stays one part of the address, whatever it holds."""
    headers: dict[str, str] = Field({})
    """Values may hold secrets; they are filled in when the request is sent and recorded nowhere."""
    query: dict[str, Any] = Field({})
    """Added to the address; a list adds the name once for each item, null not at all."""
    json_: Any = Field(None, alias="json")
    """The body, sent as JSON; a template."""
    text: str | None = None
    """A body of text; at most one of `json` and `text`."""
    expect: tuple[int, ...] | None = None
    """Statuses that are a success; None: 200 to 299."""


class SqlSpec(Part):
    """One statement on a database of `databases:`. Its output is `{rows: [{column: value}], count, truncated}`.

    Values come from the step's `with`, by name (`:customer`); an expression may not stand in the text. It may only read,
    unless the step says `effect: write`.
    """

    database: str
    """Its name in `databases:` of agentmesh.yaml."""
    query: str
    """One statement; values stand in it as `:name`."""
    rows: int = Field(1000, ge=1, le=100_000)
    """Rows handed on at most; `truncated` says that there were more."""


class MapSpec(Part):
    """The step's `steps` for each item of a list; the output is the list of what each item's last step gave, in the order of `over`."""

    over: str
    """An expression that yields a list."""
    as_: str = Field("item", alias="as")
    """The item's name inside."""
    at_once: int = Field(4, ge=1, le=1000)
    """Items in work at once; one that waits keeps its place."""
    on_error: Literal["fail", "collect"] = "fail"
    """`collect`: a failed item is null in the output, and the others go on."""


class LoopSpec(Part):
    """Rounds of `steps`, at most `max`. Inside, `loop.index` counts from 0 and `loop.last` is the last round's output, first null.

    The output is the last round's, null when there was none.
    """

    max: int = Field(ge=1, le=10_000)
    """Rounds at most."""
    while_: str | None = Field(None, alias="while")
    """Asked before each round, over what stands before the loop, and `loop`."""
    until: str | None = None
    """Asked after each round, over the round's steps too."""
    at_max: Literal["fail", "stop"] = "fail"
    """What becomes of a loop whose `until` (or `while`) never ended it; without either it simply stops."""


class WaitSpec(Part):
    """Exactly one of `for`, `until`, `signal`; `wait: 5m` is `wait: {for: 5m}`. A run that waits takes up nothing but a row.

    The output is the signal's value, and null after a time.
    """

    for_: Duration | None = Field(None, alias="for")
    """So long; a template may give it."""
    until: str | None = None
    """An expression: Unix seconds, or a time as in RFC 3339."""
    signal: str | None = None
    """Name of the signal; one that came before the step did is kept and used."""
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """JSON Schema of the signal's value; one that does not fit fails the step."""
    expires: Duration | None = None
    """Of a signal: after so long the step fails with code `expired`."""


def _wait(value: Any) -> Any:
    """`wait: 5m` is `wait: {for: 5m}`."""
    return {"for": value} if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


COMPENSATE = "compensate"
"""Id of what undoes a step: its path is `PATH/compensate`."""


class OnError(Part):
    """What happens instead when a step fails: its output is theirs. They see `error` {code, message, path}."""

    steps: tuple[Step, ...] = Field(min_length=1)
    """The last one's output is the failed step's."""


class Cache(Part):
    """Which answers are used again."""

    ttl: Duration | None = None
    """None: for ever."""


class Case(Part):
    """One branch of a `switch`."""

    when: str
    """A condition; the first true one is taken."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """What is done then."""


class Step(Part):
    """One step: an id, exactly one verb, and what stands around it."""

    id: str = Field(pattern=STEP_ID)
    """Once in a file; later steps read `steps.ID`."""
    # verbs
    tool: str | None = None
    """Calls a tool of the mesh with the step's `with`; the output is the tool's."""
    llm: LlmSpec | None = None
    """Asks a model."""
    python: str | None = None
    """Calls `package.module:function`, an installed function, as `f(**with)`, or as `f(ctx, **with)` when its first parameter is
    `ctx`. The output is what it returns; with `output`, it is checked. A function that is not async runs in a thread."""
    set: Any = None
    """Puts values together: the output is the value with its templates filled in."""
    agent: AgentSpec | None = None
    """Sends a message to an agent."""
    switch: tuple[Case, ...] | None = None
    """The steps of the first branch whose `when` is true, else those of `else`. The output is the last one's of that branch, null when
    there is none."""
    map: MapSpec | None = None
    """Does its `steps` for each item of a list."""
    workflow: str | None = None
    """Runs another workflow with the step's `with` as its input; the output is that run's."""
    http: HttpSpec | None = None
    """Sends one HTTP request."""
    parallel: dict[str, tuple[Step, ...]] | None = None
    """Branches by name, all begun at once. Each sees what stood before, and not the others; the output is an object of their last
    outputs. A branch that fails ends the others."""
    loop: LoopSpec | None = None
    """Does its `steps` round after round."""
    wait: Annotated[WaitSpec | None, BeforeValidator(_wait, json_schema_input_type=WaitSpec | Duration | None)] = None
    """Waits for a time or a signal."""
    approve: ApproveSpec | None = None
    """Asks a person. The output is `{approved: true, by, at, values}`."""
    sql: SqlSpec | None = None
    """Asks a database."""
    # inside blocks
    steps: tuple[Step, ...] | None = None
    """What a `map` does for each item, and a `loop` in each round."""
    else_: tuple[Step, ...] | None = Field(None, alias="else")
    """What a `switch` does when no branch is true."""
    # around a verb
    if_: str | None = Field(None, alias="if")
    """A condition; when it is false the step is skipped. A path through the output of a step that may be skipped, or may have failed,
    needs a guard: `steps.ID.state == "completed"`, in an `if` or `when` around it or before `&&`, `||`, `?`."""
    with_: dict[str, Any] = Field({}, alias="with")
    """Arguments by name, of `tool`, `python`, `workflow` and `sql`; templates."""
    validate_: tuple[Validator, ...] = Field((), alias="validate")
    """What must hold of the output, cheapest first; when all pass, the step has completed."""
    on_invalid: tuple[Any, ...] = ()
    """In order, each tried once or as often as it says: {repair: n}, {resample: n}, {escalate: {model, repair}}, {fallback: VALUE},
    {ask: AskSpec}, compensate, fail."""
    retry: Retry_ | None = None
    """How often the step is tried when it fails. None: three times, and only where the error says itself that trying again may help.
    A write is tried again only where it cannot have been done, or is `idempotent`."""
    timeout: Duration | None = None
    """Of one attempt; of a block, all of it."""
    on_error: Literal["continue"] | OnError | None = None
    """None: a failed step ends the run. `continue`: the run goes on, the output is null and the state `failed`. With `steps`, those are
    done instead: they see `error` {code, message, path}, and what the last one gives is the output."""
    effect: Literal["read", "write"] | None = None
    """Whether the step changes the world. None: `write` for `agent`, `python`, `http` other than GET and HEAD, and a `tool` that does not
    say `readOnlyHint: true`. A write is recorded before it is done, and may not be fed with what a model said and nothing checked."""
    idempotent: bool | None = None
    """Of a write: doing it twice is doing it once, so that it may be tried again by itself."""
    output: dict[str, Any] | None = None
    """JSON Schema of a `python` step's result, of an `http` step's `body`, or of what a peer answers; checked, and what later steps see."""
    cache: Literal[True] | Cache | None = None
    """The same question is not asked twice: the key is the model and its weights' revision, sampling, schema and the filled-in prompt,
    or the tool and its arguments. Of reads only."""
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


class Schedule(Part):
    """One `cron` entry."""

    schedule: str
    """Five fields (minute hour day month weekday), or @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually."""
    timezone: str = "UTC"
    """IANA's name, as in Europe/Berlin."""
    overlap: Literal["skip", "queue", "allow"] = "skip"
    """When the run before goes on: leave this one out, start it after, or start it beside."""
    catch_up: Literal["none", "last", "all"] = "last"
    """Of what was missed while no server ran; an instant less than a minute ago is not missed, but late."""
    catch_up_window: Duration = "1d"
    """What is longer ago is not caught up with."""
    jitter: Duration = 0.0
    """Each instant is delayed by up to so long, always by the same for the same workflow, entry and instant."""
    input: dict[str, Any] = Field({})
    """Of the run; it must fit the workflow's input."""


class WebhookTrigger(Part):
    """`POST /webhooks/PATH` starts a run; its JSON body is the input. At least one of `token` and `key`.

    The run's key is the header Idempotency-Key, or `id_header`'s; the same key never starts two.
    """

    path: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Once in the mesh."""
    token: str | None = None
    """A secret; the caller sends it as `Authorization: Bearer`."""
    key: str | None = None
    """A secret; the caller signs the body with it: HMAC-SHA256 in hexadecimal, with or without `sha256=`, in `header`."""
    header: str = "X-Signature-256"
    """Where the signature stands."""
    id_header: str | None = None
    """Where the sender names a delivery; None: only Idempotency-Key."""


class A2aTrigger(Part):
    """The workflow is a skill of the mesh's agent: a message to it starts a run."""

    skill: str | None = None
    """None: the workflow's name."""
    tags: tuple[str, ...] = ()
    """As the agent card shows them."""
    examples: tuple[str, ...] = ()
    """Messages, as the agent card shows them."""
    agent: str | None = Field(None, pattern=NAME)
    """The agent of this mesh that it is a skill of: it has a card and an address of its own. None: the mesh itself."""
    input_modes: tuple[str, ...] | None = None
    """Media types of the parts that it takes, such as `image/png`; None: text and JSON. Files are in `context.message.parts`."""
    output_modes: tuple[str, ...] | None = None
    """Media types of what it answers; None: text and JSON."""
    reply: bool | str = False
    """Whether it answers with a message, not with a task that is kept for its client: true, false or a condition (CEL)."""


class McpTrigger(Part):
    """The workflow is a tool: a call of it starts a run, and is a task for clients that know tasks."""

    name: str | None = None
    """Of the tool; None: the workflow's name."""


class Triggers(Part):
    """What starts a workflow besides `agentmesh run` and other workflows."""

    mcp: McpTrigger | None = None
    """A tool for MCP clients."""
    a2a: A2aTrigger | None = None
    """A skill for A2A clients and `agent` steps."""
    webhook: WebhookTrigger | None = None
    """An HTTP request."""
    cron: tuple[Schedule, ...] = ()
    """The clock; a list of entries."""


class Budget(Part):
    """Seconds are those in models and tools; waiting is not counted."""

    tokens: int | None = Field(None, ge=1)
    """Of all models together, prompts and answers."""
    seconds: float | None = Field(None, gt=0)
    """Of all models and tools together."""


class Workflow(Part):
    """A workflow file."""

    name: str = Field(pattern=NAME)
    """Once in the mesh."""
    title: str | None = None
    """For people."""
    description: str | None = None
    """For people, and for the models of clients that choose among tools."""
    on: Triggers = Triggers()
    """What starts it."""
    input: dict[str, Any] = Field({"type": "object"})
    """JSON Schema of the input, an object."""
    budget: Budget = Budget()
    """What a run may use up; the step that would go past it fails with code `budget`."""
    deadline: Duration | None = None
    """Wall time of a run, waiting counted in; then it fails."""
    concurrency: int | None = Field(None, ge=1)
    """Runs of this workflow at once, over all workers; those that wait for time or people are not counted."""
    on_failure: str | None = None
    """Workflow started when a run of this one has failed, with input {run, workflow, error, input}."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """In reading order."""
    output: Any = None
    """Template of the run's output; None: the last step's output."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema of the output, offered as the tool's outputSchema and checked; None: not declared."""
    annotations: dict[str, Any] = Field({})
    """Of the tool, as MCP has them."""


def seconds(duration: Duration) -> float:
    """Seconds of a duration; ValueError says what a duration looks like."""
    if not isinstance(duration, str):
        return float(duration)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    text = duration.strip()
    if text.replace(".", "", 1).isdigit():
        return float(text)
    for unit in ("ms", "s", "m", "h", "d"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    raise ValueError(f"{duration!r} is not a duration; write seconds as a number, or 500ms, 20s, 5m, 2h, 3d")


OnError.model_rebuild()
Case.model_rebuild()
Step.model_rebuild()
Compensation.model_rebuild()
