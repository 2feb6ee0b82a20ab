"""Reach: verbs that go out of the mesh: HTTP requests, SQL statements, and functions on a Ray cluster.

Each makes one attempt. What an error says of the other side's work is its type: NotSent, Unanswered, Retry and Fail; whether to
try again is decided elsewhere. Secrets are filled in last, and hidden again in everything that comes back.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from agentmesh.core.expression import evaluate, render, segments
from agentmesh.core.json_text import write_json
from agentmesh.core.outside import HttpAnswer, HttpClient, HttpRequest
from agentmesh.core.run import JSON
from agentmesh.core.secret import fill_secrets, hide, secret_names
from agentmesh.core.workflow import HttpSpec
from agentmesh.engine.attempts import Attempt, Done
from agentmesh.engine.faults import as_json
from agentmesh.engine.steps import given, text_of
from agentmesh.errors import Fail, Retry, StepError, Unanswered

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

Scope = Mapping[str, JSON]
TIME = 30.0
"""Seconds for an answer over HTTP when the step has no `timeout`."""
_SLACK = 5.0
"""Seconds that the client gets beyond a step's own timeout, which is to be the one that ends it."""
LONGEST_WAIT = 86400.0
"""Seconds of a Retry-After that are heeded."""
NOT_DONE = frozenset({408, 425, 429, 503})
"""Statuses that say the request was not worked on."""
_QUOTED = 300
"""Characters of an answer's body that an error shows."""
_BODIES: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}


# HTTP


async def http(run: Execution, a: Attempt) -> Done:
    """Sends one request; the output is `{status, headers, body}`."""
    spec = a.step.http
    assert spec is not None
    bench = run.bench
    answer = await request(
        bench.http, spec, a.scope, key=a.key, writes=run.definition.facts(a.step).writes, secrets=bench.secrets,
        timeout=a.timeout, clock=bench.clock,
    )  # fmt: skip
    output = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
    return Done(output, schema=None if a.step.output is None else _around(a.step.output))


async def request(
    client: HttpClient | None,
    spec: HttpSpec,
    scope: Scope,
    *,
    key: str,
    writes: bool,
    secrets: Mapping[str, str],
    timeout: float | None,
    clock: Callable[[], float],
) -> HttpAnswer:
    """One request of a step or tool, and its answer with a status that is expected.

    `key`: sent as Idempotency-Key with a write, unless it is empty. Retry: the other side says it did not do the work (or only
    reads); Unanswered: it may have; Fail.
    """
    if client is None:
        raise Fail("this server has no HTTP client, so it cannot send requests")
    headers, used = _headers(spec.headers, scope, secrets)
    url = url_of(spec, scope)
    body = _body(spec, scope, headers)
    names = {name.lower() for name in headers}
    if writes and key and "idempotency-key" not in names:
        headers["Idempotency-Key"] = quote(key, safe=_SAFE_IN_KEY)
    sent = HttpRequest(spec.method, url, headers, body, TIME if timeout is None else timeout + _SLACK)
    try:
        answer = await client.send(sent)
        if answer.status not in spec.expect if spec.expect is not None else not 200 <= answer.status < 300:
            raise _refusal(sent, answer, writes=writes, now=clock())
    except StepError as error:
        error.args = (hide(error.message, used),)
        raise
    return HttpAnswer(answer.status, hide(dict(answer.headers), used), hide(answer.body, used))


_SAFE_IN_KEY = "".join(c for c in string.printable if c.isprintable() and c != "%")


def url_of(spec: HttpSpec, scope: Scope) -> str:
    """The address: a value within its text is one part of it, whatever it holds; at its very beginning it may be a whole address."""
    parts: list[str] = []
    for place, piece in enumerate(segments(spec.url)):
        if isinstance(piece, str):
            parts.append(piece)
            continue
        value = evaluate(piece[0], scope)
        if value is None or isinstance(value, (list, dict)):
            raise Fail(f"the url of an HTTP request needs text or a number at ${{{{ {piece[0]} }}}}")
        text = text_of(value)
        if place and text in {".", ".."}:
            raise Fail(f"the url of an HTTP request may not have {text!r} at ${{{{ {piece[0]} }}}}")
        parts.append(quote(text, safe="", errors="replace") if place else text)
    url = "".join(parts)
    if not spec.query:
        return url
    try:
        scheme, netloc, path, query, fragment = urlsplit(url)
    except ValueError as error:
        raise Fail(f"the url of an HTTP request is not one: {error}") from None
    pairs = [pair for name, value in spec.query.items() for pair in _pairs(name, render(value, scope))]
    return urlunsplit((scheme, netloc, path, "&".join(filter(None, [query, *pairs])), fragment))


def _pairs(name: str, value: JSON) -> Iterable[str]:
    """A name of the query with its value, once for each item of a list; null is left out."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (list, dict)):
            raise Fail(f"query.{name} of an HTTP request must be text, a number or a list of them")
        if item is not None:
            yield f"{quote(name, safe='', errors='replace')}={quote(text_of(item), safe='', errors='replace')}"


def _headers(
    templates: Mapping[str, str], scope: Scope, secrets: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The headers, and the secrets among them. A header holds secrets or expressions: what was rendered is never filled."""
    found: dict[str, str] = {}
    used: list[str] = []
    for name, template in templates.items():
        named = [secret for secret in secret_names(template) if secret is not None]
        if named:
            missing = next((secret for secret in named if secret not in secrets), None)
            if missing is not None:
                raise Fail(f"the secret {missing} is not set: give it in the environment as AGENTMESH_SECRET_{missing}")
            used += [secrets[secret] for secret in named]
            found[name] = fill_secrets(template, secrets)
        else:
            found[name] = text_of(render(template, scope))
    return found, used


def _body(spec: HttpSpec, scope: Scope, headers: dict[str, str]) -> bytes | None:
    """The body; its content type is added where the file does not say it."""
    if spec.text is not None:
        body, kind = text_of(render(spec.text, scope)).encode(errors="replace"), "text/plain; charset=utf-8"
    elif spec.json_ is not None:
        body, kind = write_json(render(spec.json_, scope)), "application/json"
    else:
        return None
    if all(name.lower() != "content-type" for name in headers):
        headers["Content-Type"] = kind
    return body


def _refusal(sent: HttpRequest, answer: HttpAnswer, *, writes: bool, now: float) -> StepError:
    """What an unexpected status means."""
    parts = urlsplit(sent.url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    said = "" if answer.body is None else text_of(answer.body)[:_QUOTED]
    message = f"{sent.method} {shown} answered {answer.status}{': ' if said else ''}{said}"
    if 300 <= answer.status < 400 and "location" in answer.headers:
        message = f"{sent.method} {shown} answered {answer.status} and points elsewhere, where it was not followed"
    after = _retry_after(answer.headers.get("retry-after"), now)
    if answer.status in NOT_DONE:
        return Retry(message, after=after, status=answer.status)
    if answer.status >= 500:
        kind = Unanswered if writes else Retry
        return kind(message, after=after, status=answer.status)
    return Fail(message, status=answer.status)


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for; it is a number of them or a date (RFC 9110 section 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _around(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an output whose `body` has this one; the same object each time, as compiled ones are kept by it."""
    known = _BODIES.get(id(schema))
    if known is None or known[0] is not schema:
        if len(_BODIES) > 1000:
            _BODIES.clear()
        known = _BODIES[id(schema)] = (schema, {"properties": {"body": schema}})
    return known[1]


# SQL


async def sql(run: Execution, a: Attempt) -> Done:
    """Asks a database one statement; the output is `{rows, count, truncated}`."""
    spec = a.step.sql
    assert spec is not None
    if run.bench.databases is None:
        raise Fail("this server has no `databases:`, so it cannot ask one")
    arguments = given(a)
    assert isinstance(arguments, Mapping)
    found = await run.bench.databases.query(
        spec.database,
        spec.query,
        arguments,
        write=run.definition.facts(a.step).writes,
        rows=spec.rows,
        timeout=a.timeout,
    )
    return Done({"rows": [dict(row) for row in found.rows], "count": found.count, "truncated": found.truncated})


# Ray


async def on_ray(run: Execution, a: Attempt) -> Done:
    """Calls an installed function as a task of the Ray cluster."""
    assert a.step.python is not None
    if run.bench.cluster is None:
        raise Fail("this server has no Ray cluster (it was started without models), so `on: ray` cannot run")
    arguments = given(a)
    assert isinstance(arguments, Mapping)
    output = await run.bench.cluster.call(a.step.python, arguments, key=a.key, timeout=a.timeout)
    return Done(as_json(output, f"the result of {a.step.python}"), schema=a.step.output)
