"""A call of an API's operation as the HTTP request that it is, and the answer as the tool's result. Pure.

Each argument stays where it belongs: whatever it holds, a path parameter is (part of) one segment, a query parameter one value, a header
one line.
"""

from __future__ import annotations

import json
import mimetypes
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

import anyio

from agentmesh.adapters.openapi_operation import ApiOperation, Body, Parameter
from agentmesh.core import content
from agentmesh.core.json_text import parse_json, write_json
from agentmesh.core.outside import HttpAnswer, HttpRequest
from agentmesh.core.schema import validator
from agentmesh.core.tool import ToolResult
from agentmesh.errors import Fail, InvalidInput, Retry, StepError, Unanswered

ANSWER: Final = 4 * 1024 * 1024
"""Bytes of an answer's body."""
NOT_DONE: Final = frozenset({408, 425, 429, 503})
"""Statuses that say the request was not worked on."""
LONGEST_WAIT: Final = 86400.0
"""Seconds of a Retry-After that are heeded."""
_QUOTED: Final = 2000
"""Characters of an answer's body that an error shows."""
_THREAD: Final = 64 * 1024
_RESERVED: Final = ":/?#[]@!$&'()*+,;="

# The request


def request_of(
    operation: ApiOperation, arguments: Mapping[str, Any], *, headers: Mapping[str, str], key: str, timeout: float
) -> HttpRequest:
    """The request of one call. `headers`: the operator's own, which go before any argument. `key`: sent with what may write.

    InvalidInput when an argument cannot stand where it belongs.
    """
    given = {**arguments, **operation.fixed}
    own = {name.lower() for name in headers}
    sent: dict[str, str] = {}
    pairs: list[str] = []
    cookies: list[str] = []
    for parameter in operation.parameters:
        if parameter.where == "path" or given.get(parameter.argument) is None:
            continue
        value = given[parameter.argument]
        if isinstance(value, dict) and parameter.explode and parameter.style == "form" and not parameter.as_json:
            # Its names stand beside the others': one that the operator has fixed must not be said a second time.
            others = {p.name for p in operation.parameters if p.where == parameter.where and p is not parameter}
            if taken := sorted(others & set(value)):
                raise InvalidInput(f"{parameter.argument} may not hold {taken[0]!r}, which is a parameter of its own")
        if parameter.where == "query":
            pairs += _query(parameter, value)
        elif parameter.where == "cookie":
            cookies += [f"{name}={quote(text, safe='')}" for name, text in _form(parameter, value)]
        elif parameter.name.lower() not in own:
            sent[parameter.name] = _line(parameter, _simple(parameter, value))
    if cookies:
        sent["Cookie"] = "; ".join(cookies)
    data: bytes | None = None
    if operation.body is not None and given.get(operation.body.argument) is not None:
        data, kind = _body(operation.body, given[operation.body.argument])
        sent["Content-Type"] = kind
    elif operation.method in {"POST", "PUT", "PATCH"}:
        data = b""
    if key:
        sent["Idempotency-Key"] = key
    url = operation.base + _path(operation, given)
    if pairs:
        url += ("&" if "?" in url else "?") + "&".join(pairs)
    return HttpRequest(operation.method, url, {**sent, **headers}, data, timeout, raw=True, limit=ANSWER)


def _path(operation: ApiOperation, given: Mapping[str, Any]) -> str:
    by_name = {p.name: p for p in operation.parameters if p.where == "path"}
    parts = []
    for segment in operation.path.split("/"):
        filled = re.sub(r"\{([^{}]*)\}", lambda m: _segment(by_name[m[1]], given), segment)
        plain = re.sub(r"%2[eE]", ".", filled)
        if plain in {".", ".."} and filled != segment:
            raise InvalidInput(f"the path of {operation.name} may not have {plain!r} in it")
        parts.append(filled)
    return "/".join(parts)


def _segment(parameter: Parameter, given: Mapping[str, Any]) -> str:
    """A path parameter's value: within its segment, whatever it holds."""
    value = given.get(parameter.argument)
    texts = list(_leaves(parameter, value))
    whole = "".join(texts)
    if not whole:
        raise InvalidInput(f"{parameter.argument} stands in the path, so it may not be empty")
    if any(part in {".", ".."} for text in texts for part in re.split(r"[/\\]", text)):
        raise InvalidInput(f"{parameter.argument} stands in the path, so it may not have '.' or '..' between slashes")
    if any(ord(c) < 32 or ord(c) == 127 for c in whole):
        raise InvalidInput(f"{parameter.argument} stands in the path, so it may not have control characters")
    quoted: Callable[[str], str] = lambda text: quote(text, safe="", errors="replace")  # noqa: E731
    if parameter.style == "simple":
        return _simple(parameter, value, quoted)
    if parameter.style == "label":
        if isinstance(value, dict):
            items = [
                f"{quoted(k)}{'=' if parameter.explode else '.'}{quoted(_text(parameter, v))}" for k, v in value.items()
            ]
            return "." + ".".join(items)
        items = [quoted(_text(parameter, v)) for v in (value if isinstance(value, list) else [value])]
        return "." + ("." if parameter.explode else ",").join(items)
    name = quoted(parameter.name)
    if isinstance(value, dict):
        if parameter.explode:
            return "".join(f";{quoted(k)}={quoted(_text(parameter, v))}" for k, v in value.items())
        return f";{name}=" + ",".join(f"{quoted(k)},{quoted(_text(parameter, v))}" for k, v in value.items())
    if isinstance(value, list) and parameter.explode:
        return "".join(f";{name}={quoted(_text(parameter, v))}" for v in value)
    return f";{name}=" + ",".join(quoted(_text(parameter, v)) for v in (value if isinstance(value, list) else [value]))


def _leaves(parameter: Parameter, value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield _text(parameter, inner)
    elif isinstance(value, list):
        for inner in value:
            yield _text(parameter, inner)
    elif value is not None:
        yield _text(parameter, value)


def _simple(parameter: Parameter, value: Any, quoted: Callable[[str], str] = lambda text: text) -> str:
    if parameter.as_json:
        return quoted(write_json(value).decode())
    if isinstance(value, dict):
        mark = "=" if parameter.explode else ","
        return ",".join(f"{quoted(k)}{mark}{quoted(_text(parameter, v))}" for k, v in value.items())
    return ",".join(quoted(_text(parameter, v)) for v in (value if isinstance(value, list) else [value]))


def _query(parameter: Parameter, value: Any) -> list[str]:
    safe = _RESERVED.replace("#", "").replace("&", "").replace("+", "").replace("=", "") if parameter.reserved else ""

    def quoted(text: str) -> str:
        return quote(text, safe=safe, errors="replace")

    if parameter.style == "deepObject" and isinstance(value, dict) and not parameter.as_json:
        return [f"{quote(name, safe='[]')}={quoted(text)}" for name, text in _deep(parameter, parameter.name, value)]
    joint = {"spaceDelimited": "%20", "pipeDelimited": "|"}.get(parameter.style)
    if joint is not None and isinstance(value, list) and not parameter.explode:
        return [f"{quote(parameter.name, safe='[]')}={joint.join(quoted(_text(parameter, v)) for v in value)}"]
    return [f"{quote(name, safe='[]')}={','.join(map(quoted, texts))}" for name, texts in _form_parts(parameter, value)]


def _deep(parameter: Parameter, name: str, value: Any) -> Iterable[tuple[str, str]]:
    """`filter[status]=x`. Lists and objects within are not defined; they are written as most APIs that take them read them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _deep(parameter, f"{name}[{key}]", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _deep(parameter, f"{name}[]" if isinstance(inner, (str, int, float)) else name, inner)
    elif value is not None:
        yield name, _text(parameter, value)


def _form(parameter: Parameter, value: Any) -> list[tuple[str, str]]:
    return [(name, ",".join(texts)) for name, texts in _form_parts(parameter, value)]


def _form_parts(parameter: Parameter, value: Any) -> list[tuple[str, list[str]]]:
    """Pairs of the style `form`; the texts of one pair are joined by commas that stand as they are."""
    if parameter.as_json:
        return [(parameter.name, [write_json(value).decode()])]
    if isinstance(value, dict):
        if parameter.explode:
            return [(name, [_text(parameter, inner)]) for name, inner in value.items() if inner is not None]
        return [(parameter.name, [text for k, v in value.items() for text in (k, _text(parameter, v))])]
    if isinstance(value, list):
        texts = [_text(parameter, inner) for inner in value]
        return [(parameter.name, [text]) for text in texts] if parameter.explode else [(parameter.name, texts)]
    return [(parameter.name, [_text(parameter, value)])]


def _text(parameter: Parameter, value: Any) -> str:
    """A value as a request has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        if parameter.as_json:
            return write_json(value).decode()
        raise InvalidInput(f"{parameter.argument} may not have lists or objects within lists or objects")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _line(parameter: Parameter, text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise InvalidInput(
            f"{parameter.argument} stands in a header, so it may not have line breaks or control characters"
        )
    return text if text.isascii() else quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")


# Its body


def _body(body: Body, value: Any) -> tuple[bytes, str]:
    if body.kind == "json":
        return write_json(value), "application/json" if "*" in body.media_type else body.media_type
    if body.kind == "text":
        kind = body.media_type if "charset" in body.media_type else f"{body.media_type}; charset=utf-8"
        return str(value).encode(errors="replace"), kind.replace("*", "plain")
    if body.kind == "binary":
        return _bytes(body.argument, value), body.media_type
    if not isinstance(value, dict):
        raise InvalidInput(f"{body.argument} must be an object")
    if body.kind == "form":
        pairs = [
            f"{quote(name, safe='')}={quote(text, safe='')}" for name, inner in value.items() for text in _fields(inner)
        ]
        return "&".join(pairs).encode(), "application/x-www-form-urlencoded"
    return _multipart(body, value)


def _fields(value: Any) -> Iterable[str]:
    """The texts of one field of a form: one for each item of a list; objects as JSON."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (dict, list)):
            yield write_json(item).decode()
        elif item is not None:
            yield ("true" if item else "false") if isinstance(item, bool) else str(item)


def _multipart(body: Body, value: Mapping[str, Any]) -> tuple[bytes, str]:
    """RFC 7578. A property that the document says is binary is given as base64, and sent as a file of the property's name."""
    parts: list[tuple[bytes, bytes]] = []
    properties = body.schema.get("properties", {})
    for name, inner in value.items():
        schema = properties.get(name, {}) if isinstance(properties, Mapping) else {}
        safe = quote(name, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")
        for item in inner if isinstance(inner, list) else [inner]:
            schema_of_item = (
                schema.get("items", schema) if isinstance(inner, list) and isinstance(schema, Mapping) else schema
            )
            if item is None:
                continue
            if _is_file(schema_of_item):
                kind = str(schema_of_item.get("contentMediaType") or "application/octet-stream")
                extension = mimetypes.guess_extension(kind) or ""
                head = f'form-data; name="{safe}"; filename="{safe}{extension}"\r\nContent-Type: {kind}'
                parts.append((head.encode(), _bytes(name, item)))
            elif isinstance(item, (dict, list)):
                parts.append((f'form-data; name="{safe}"\r\nContent-Type: application/json'.encode(), write_json(item)))
            else:
                parts.append((f'form-data; name="{safe}"'.encode(), next(iter(_fields(item))).encode(errors="replace")))
    number = 0
    while any(f"agentmesh-{number}".encode() in data for _, data in parts):
        number += 1
    mark = f"agentmesh-{number}"
    lines = [b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (mark.encode(), head, data) for head, data in parts]
    return b"".join([*lines, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def _is_file(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    media = schema.get("contentMediaType")
    return schema.get("format") == "binary" or (isinstance(media, str) and not media.startswith("text/"))


def _bytes(argument: str, value: Any) -> bytes:
    try:
        return b64decode(str(value), validate=True)
    except (NotBase64, ValueError):
        raise InvalidInput(f"{argument} must be base64") from None


# The answer


async def result_of(
    operation: ApiOperation, sent: HttpRequest, answer: HttpAnswer, *, writes: bool, output_schema: Mapping[str, Any] | None,
    now: float,
) -> ToolResult:  # fmt: skip
    """What the tool answers. Retry and Unanswered as the status means them; other refusals are results with `is_error`."""
    value, is_json = await _read(answer)
    status = answer.status
    if not 200 <= status < 300:
        error = _refusal(operation, answer, value, writes=writes, now=now)
        if isinstance(error, Fail):
            return ToolResult(text=error.message, is_error=True)
        raise error
    if operation.method == "HEAD":
        head = {"status": status, "headers": dict(answer.headers)}
        return ToolResult(head, json.dumps(head))
    if is_json:
        if output_schema is not None and (fault := next(validator(output_schema).iter_errors(value), None)) is not None:
            return _unlike(operation, status, value, fault.json_path, str(fault.message))
        return ToolResult(value, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if value is None:
        return _bare(operation, f"{status} {_phrase(status)}", output_schema)
    if isinstance(value, str):
        return _bare(operation, value, output_schema)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower() or "application/octet-stream"
    parts = urlsplit(sent.url)
    if kind.startswith("image/"):
        block = content.image(value, kind)
    elif kind.startswith("audio/"):
        block = content.audio(value, kind)
    else:
        block = content.resource(f"{parts.scheme}://{parts.netloc}{parts.path}", value, kind)
    if output_schema is not None:
        return _unlike(operation, status, None, "$", f"it is {kind}")
    return ToolResult(text=f"{kind}, {len(value):,} bytes", content=(block,))


def _bare(operation: ApiOperation, text: str, output_schema: Mapping[str, Any] | None) -> ToolResult:
    """Text where JSON may have been promised: then callers are told, who were to rely on it."""
    if output_schema is not None:
        return _unlike(operation, 200, text, "$", "it is no JSON")
    return ToolResult(text=text, content=(content.text(text),))


def _unlike(operation: ApiOperation, status: int, value: Any, path: str, fault: str) -> ToolResult:
    """An answer that its document does not describe: callers who rely on the schema must not take it for one that fits."""
    shown = "" if value is None else f". It said: {_bounded(value)}"
    done = "it was done, but " if operation.method not in {"GET", "HEAD"} else ""
    return ToolResult(
        text=f"{operation.method} {operation.path} answered {status}; {done}the answer is not as its document says: "
        f"{path}: {fault[:300]}{shown}",
        is_error=True,
    )


async def _read(answer: HttpAnswer) -> tuple[Any, bool]:
    """The body: JSON (and True), text, bytes, or None."""
    data = answer.body
    if not isinstance(data, bytes):
        return data, data is not None  # a client in memory has read it already
    if not data:
        return None, False
    kind, _, parameters = answer.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            if len(data) < _THREAD:
                return parse_json(data), True
            return await anyio.to_thread.run_sync(parse_json, data), True
        except InvalidInput as error:
            if answer.status < 400:
                raise Fail(f"the API answered {kind} that is none: {error.message}") from None
            return data.decode(errors="replace"), False
    charset = next((p.split("=", 1)[1].strip(' "') for p in parameters.split(";") if "charset=" in p.lower()), "utf-8")
    if kind.startswith("text/") or kind in {"application/xml", "application/yaml", ""} or kind.endswith("+xml"):
        try:
            return data.decode(charset, errors="strict" if not kind else "replace"), False
        except (LookupError, UnicodeDecodeError):
            return data, False
    return (data.decode(errors="replace") if answer.status >= 400 else data), False


def _refusal(operation: ApiOperation, answer: HttpAnswer, value: Any, *, writes: bool, now: float) -> StepError:
    """What a status that is no success means."""
    status = answer.status
    words = _words(value)
    message = f"{operation.method} {operation.path} answered {status} {_phrase(status)}{': ' if words else ''}{words}"
    if 300 <= status < 400:
        message = (
            f"{operation.method} {operation.path} answered {status} and points elsewhere, where it was not followed"
        )
    after = _retry_after(answer.headers.get("retry-after"), now)
    if status in NOT_DONE:
        return Retry(message, after=after, status=status)
    if status >= 500:
        return (Unanswered if writes else Retry)(message, after=after, status=status)
    return Fail(message, status=status)


def _words(value: Any) -> str:
    """The body's own words, as far as they are in one of the usual places; else all of it, bounded."""
    if isinstance(value, Mapping):
        inner = value.get("error", value)
        if isinstance(inner, Mapping):
            said = [inner.get(name) for name in ("title", "message", "detail", "error_description", "description")]
            texts = [text for text in said if isinstance(text, str) and text]
            extra = {
                name: inner[name]
                for name in ("errors", "detail", "details")
                if isinstance(inner.get(name), (list, Mapping))
            }
            if texts:
                return ": ".join(dict.fromkeys(texts))[:_QUOTED] + (f" {_bounded(extra)}" if extra else "")
        elif isinstance(inner, str) and inner:
            described = value.get("error_description") or value.get("message")
            return (f"{inner}: {described}" if isinstance(described, str) else inner)[:_QUOTED]
    return "" if value is None else _bounded(value)


def _bounded(value: Any) -> str:
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]} (cut)"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for; it is a number of them or a date (RFC 9110 section 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)
