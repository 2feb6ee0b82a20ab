"""Operations of an OpenAPI document (3.0, 3.1, 3.2) as tools: names, arguments, and where each stands in the request.

Pure: from the document's value to `ApiOperation`s, and a sentence for each operation that cannot be offered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from urllib.parse import urljoin, urlsplit

from agentmesh.adapters.openapi_schema import Schemas
from agentmesh.adapters.reach import names_inside
from agentmesh.core.server_file import ServerFile
from agentmesh.errors import Fail

METHODS: Final = ("get", "head", "options", "put", "post", "patch", "delete", "query")
READING: Final = frozenset({"GET", "HEAD"})
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "QUERY"})
"""RFC 9110 section 9.2.2."""
MAX_OPERATIONS: Final = 2000
MAX_PARAMETERS: Final = 200
NAME_LENGTH: Final = 64
_WORDS: Final = 4000
"""Characters of an operation's description that a model is told."""
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]+")
_UNSENT: Final = frozenset({
    "accept", "content-type", "authorization", "host", "content-length", "transfer-encoding", "connection", "cookie", "te",
    "upgrade", "trailer", "expect", "proxy-authorization", "idempotency-key",
})  # fmt: skip
"""Headers that no caller gives: what OpenAPI says is not described there, what frames the request, and the key that we send."""

In = Literal["path", "query", "header", "cookie"]
BodyKind = Literal["json", "form", "multipart", "text", "binary"]
_STYLES: Final[Mapping[str, tuple[str, ...]]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""By where a parameter is; the first is what holds when it says none."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, and the argument that it is."""

    name: str
    """The API's."""
    argument: str
    """The tool's."""
    where: In
    style: str
    explode: bool
    required: bool
    schema: Mapping[str, Any]
    as_json: bool = False
    """Its `content` is JSON: the value is sent as that text."""
    reserved: bool = False
    """`allowReserved`: characters such as `/` and `:` stand as they are."""


@dataclass(frozen=True, slots=True)
class Body:
    """The request's body, which is one argument."""

    argument: str
    kind: BodyKind
    media_type: str
    required: bool
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """One operation as it is offered and sent."""

    id: str
    """The document's operationId, or what stands for it."""
    name: str
    """The tool's own name, without the server's."""
    method: str
    path: str
    """With `{name}` in it."""
    base: str
    """Address that the path is put after."""
    description: str
    title: str | None
    parameters: tuple[Parameter, ...]
    body: Body | None
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """By argument: values that callers do not give."""
    read_only: bool = False

    def definition(self) -> dict[str, Any]:
        """What an operator approves: the tool as MCP has it, and the request behind it."""
        annotations = {
            "readOnlyHint": self.read_only, "idempotentHint": self.method in IDEMPOTENT, "openWorldHint": True,
        } | ({} if self.read_only else {"destructiveHint": self.method != "POST"})  # fmt: skip
        request = {
            "method": self.method, "url": self.base + self.path,
            "parameters": [[p.name, p.argument, p.where, p.style, p.explode, p.as_json, p.reserved] for p in self.parameters],
            "body": None if self.body is None else [self.body.argument, self.body.kind, self.body.media_type],
            "fixed": hashlib.sha256(repr(sorted(self.fixed.items())).encode()).hexdigest() if self.fixed else "",
        }  # fmt: skip
        found = {
            "name": self.name, "description": self.description, "inputSchema": dict(self.input_schema),
            "annotations": annotations, "request": request,
        }  # fmt: skip
        if self.title:
            found["title"] = self.title
        if self.output_schema is not None:
            found["outputSchema"] = dict(self.output_schema)
        return found


@dataclass(frozen=True, slots=True)
class Operations:
    """What a document offers. `refused`: by operation, why it is not among the tools."""

    tools: Mapping[str, ApiOperation]
    """By the tool's own name."""
    refused: Mapping[str, str]
    title: str = ""


def read_operations(document: Any, server: ServerFile, *, address: str | None) -> Operations:
    """The operations that the server file exposes. `address`: where the document is from; None: a file of the mesh.

    Fail when it is no document that can be read.
    """
    if not isinstance(document, Mapping):
        raise Fail("the document is no object")
    version = str(document.get("openapi", ""))
    if not re.match(r"3\.[0-9]+(\.|$)", version):
        if "swagger" in document:
            raise Fail(f"the document is Swagger {str(document['swagger'])[:8]}; convert it to OpenAPI 3.0 or later")
        raise Fail("the document does not say `openapi: 3.x`")
    paths = document.get("paths")
    if not isinstance(paths, Mapping):
        raise Fail("the document has no `paths`")
    return _Reading(document, server, Schemas(document, version[:3]), address).all(paths)


class _Reading:
    def __init__(self, document: Mapping[str, Any], server: ServerFile, schemas: Schemas, address: str | None) -> None:
        assert server.openapi is not None
        self._document = document
        self._server, self._spec, self._schemas, self._address = server, server.openapi, schemas, address
        self._held_headers = {name.lower() for name in server.openapi.headers}

    def all(self, paths: Mapping[str, Any]) -> Operations:
        tools: dict[str, ApiOperation] = {}
        refused: dict[str, str] = {}
        seen: set[str] = set()
        for path, method, item, operation in self._each(paths):
            ident = operation.get("operationId")
            ident = ident if isinstance(ident, str) and ident else _made_up(method, path)
            seen.add(ident)
            change = self._spec.operations.get(ident)
            own = (change.name if change is not None else None) or ident
            name = self._name(own, f"{method} {path}", tools)
            if not self._exposed(name, ident):
                continue
            if len(tools) >= MAX_OPERATIONS:
                refused[ident] = f"the document has more than {MAX_OPERATIONS} operations; choose some with `expose`"
                continue
            try:
                tools[name] = self._operation(ident, name, path, method.upper(), item, operation)
            except Fail as fault:
                refused[ident] = fault.message
        for ident in self._spec.operations:
            if ident not in seen:
                refused[ident] = "`operations` of the server file names it, but the document has no such operationId"
        info = self._document.get("info")
        title = info.get("title") if isinstance(info, Mapping) else ""
        return Operations(tools, refused, title if isinstance(title, str) else "")

    def _each(self, paths: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
        for path, given in paths.items():
            item = self._schemas.resolve(given)
            if not isinstance(item, Mapping) or not isinstance(path, str) or not path.startswith("/"):
                continue
            for method in METHODS:
                if isinstance(item.get(method), Mapping):
                    yield path, method, item, item[method]

    def _name(self, given: str, place: str, taken: Mapping[str, Any]) -> str:
        """Legal, short enough with the server's name before it, and nobody else's."""
        most = NAME_LENGTH - len(self._server.name) - 1
        name = _ILLEGAL.sub("_", given).strip("_.") or "operation"
        if len(name) > most or name in taken:
            mark = hashlib.sha256(f"{given} {place}".encode()).hexdigest()[:6]
            name = f"{name[: most - 7]}_{mark}"
        return name

    def _exposed(self, name: str, ident: str) -> bool:
        globs = self._server.expose
        return globs is None or any(fnmatchcase(name, glob) or fnmatchcase(ident, glob) for glob in globs)

    # One operation

    def _operation(
        self, ident: str, name: str, path: str, method: str, item: Mapping[str, Any], operation: Mapping[str, Any]
    ) -> ApiOperation:
        change = self._spec.operations.get(ident)
        rename = dict(change.rename) if change is not None else {}
        parameters = self._parameters(item, operation, path, rename)
        taken = {p.argument for p in parameters}
        body = None if method in READING else self._body(operation.get("requestBody"), taken, rename)
        fixed = self._fixed(change.arguments if change is not None else {}, parameters, body)
        schema = _input(parameters, body, fixed)
        said = [operation.get("summary"), operation.get("description")]
        words = [
            " ".join(text.split()) if i == 0 else text.strip() for i, text in enumerate(said) if isinstance(text, str)
        ]
        words = [text for i, text in enumerate(words) if text and text not in words[:i]]
        description = (change.description if change is not None else None) or "\n\n".join(words) or f"{method} {path}"
        if operation.get("deprecated") is True:
            description = f"Deprecated. {description}"
        reads = any(fnmatchcase(name, glob) or fnmatchcase(ident, glob) for glob in self._server.reads)
        return ApiOperation(
            id=ident, name=name, method=method, path=path, base=self._base(item, operation), description=description[:_WORDS],
            title=words[0] if isinstance(said[0], str) and words and len(words[0]) <= 100 else None,
            parameters=parameters, body=body, input_schema=schema, output_schema=self._output(method, operation),
            fixed=fixed, read_only=method in READING or reads,
        )  # fmt: skip

    def _parameters(
        self, item: Mapping[str, Any], operation: Mapping[str, Any], path: str, rename: Mapping[str, str]
    ) -> tuple[Parameter, ...]:
        given: dict[tuple[str, str], Mapping[str, Any]] = {}
        for level in (item.get("parameters"), operation.get("parameters")):
            for one in level if isinstance(level, list) else ():
                parameter = self._schemas.resolve(one)
                if not isinstance(parameter, Mapping) or not isinstance(parameter.get("name"), str):
                    raise Fail("a parameter of it stands in another document, or is none")
                given[str(parameter.get("in")), parameter["name"]] = parameter
        if len(given) > MAX_PARAMETERS:
            raise Fail(f"it has more than {MAX_PARAMETERS} parameters")
        found: list[Parameter] = []
        taken: set[str] = set()
        for (where, name), parameter in given.items():
            if where not in _STYLES:
                raise Fail(f"its parameter {name!r} is in {where!r}, which is not read")
            if where == "header" and (name.lower() in _UNSENT or name.lower() in self._held_headers):
                continue
            argument = _argument(rename.get(name, name), where, taken)
            taken.add(argument)
            found.append(self._parameter(where, name, argument, parameter))  # type: ignore[arg-type]
        wanted = set(re.findall(r"\{([^{}]*)\}", path))
        missing = wanted - {p.name for p in found if p.where == "path"}
        if missing:
            raise Fail(f"its path has {{{min(missing)}}}, which no parameter describes")
        return tuple(p for p in found if p.where != "path" or p.name in wanted)

    def _parameter(self, where: In, name: str, argument: str, given: Mapping[str, Any]) -> Parameter:
        content = given.get("content")
        schema, as_json = given.get("schema"), False
        if isinstance(content, Mapping) and content:
            media = next(iter(content))
            if not _is_json(str(media)):
                raise Fail(f"its parameter {name!r} is written as {str(media)[:60]}, which is not built")
            media_object = self._schemas.resolve(content[media])
            schema, as_json = (media_object.get("schema") if isinstance(media_object, Mapping) else None), True
        style = given.get("style", _STYLES[where][0])
        if style not in _STYLES[where]:
            raise Fail(
                f"its parameter {name!r} has the style {str(style)[:40]!r}, which is not one of {where} parameters"
            )
        explode = given.get("explode")
        turned = self._schemas.whole(schema if schema is not None else {"type": "string"}, "input")
        if isinstance(given.get("description"), str):
            turned["description"] = given["description"][:1000]
        if given.get("deprecated") is True:
            turned["deprecated"] = True
        return Parameter(
            name, argument, where, style, explode if isinstance(explode, bool) else style == "form",
            where == "path" or given.get("required") is True, turned, as_json,
            where == "query" and given.get("allowReserved") is True,
        )  # fmt: skip

    def _body(self, given: Any, taken: set[str], rename: Mapping[str, str]) -> Body | None:
        if given is None:
            return None
        body = self._schemas.resolve(given)
        content = body.get("content") if isinstance(body, Mapping) else None
        if not isinstance(body, Mapping) or not isinstance(content, Mapping):
            raise Fail("its body stands in another document, or is none")
        if not content:
            return None
        kinds = {str(media): _kind(str(media)) for media in content}
        chosen = next(
            (m for kind in ("json", "form", "multipart", "text", "binary") for m in kinds if kinds[m] == kind), None
        )
        if chosen is None:
            raise Fail(f"its body is {min(kinds)[:60]}, which is not built")
        media_object = self._schemas.resolve(content[chosen])
        schema = media_object.get("schema") if isinstance(media_object, Mapping) else None
        kind = kinds[chosen]
        assert kind is not None
        if kind == "text":
            turned: dict[str, Any] = {"type": "string"}
        elif kind == "binary":
            turned = {"type": "string", "contentEncoding": "base64"}
        else:
            turned = self._schemas.whole(schema if schema is not None else {}, "input")
            if kind != "json" and turned.get("type") != "object":
                raise Fail(f"its body is {chosen[:60]} that is no object")
        if isinstance(body.get("description"), str):
            turned["description"] = body["description"][:1000]
        argument = _argument(rename.get("body", "body"), "request", taken)
        media_type = "application/octet-stream" if "*" in chosen else chosen
        return Body(argument, kind, media_type, body.get("required") is True, turned)

    def _fixed(self, given: Mapping[str, Any], parameters: tuple[Parameter, ...], body: Body | None) -> dict[str, Any]:
        fixed: dict[str, Any] = {}
        for name, value in given.items():
            one = next((p for p in parameters if name in (p.name, p.argument)), None)
            if one is not None:
                fixed[one.argument] = value
            elif body is not None and name in ("body", body.argument):
                fixed[body.argument] = value
            else:
                there = ", ".join([p.name for p in parameters] + (["body"] if body else [])) or "none"
                raise Fail(f"`arguments` gives {name!r}, which it does not take; it takes: {there}")
        return fixed

    def _output(self, method: str, operation: Mapping[str, Any]) -> dict[str, Any] | None:
        """The schema of the JSON that comes back on success; None when it may be something else, or is not described."""
        responses = operation.get("responses")
        if not isinstance(responses, Mapping) or method == "HEAD":
            return None
        successes = [code for code in map(str, responses) if re.fullmatch(r"2\d\d|2XX", code, re.I)]
        schemas: list[Any] = []
        for code in successes or [code for code in responses if code == "default"]:
            response = self._schemas.resolve(responses.get(code, responses.get(int(code) if code.isdigit() else code)))
            content = response.get("content") if isinstance(response, Mapping) else None
            if not isinstance(content, Mapping) or not content:
                return None  # success without a body: then there is no JSON
            for media, media_object in content.items():
                if not _is_json(str(media)):
                    return None
                held = self._schemas.resolve(media_object)
                schemas.append(held.get("schema") if isinstance(held, Mapping) else None)
        if not schemas or any(schema is None for schema in schemas) or any(s != schemas[0] for s in schemas):
            return None
        return self._schemas.whole(schemas[0], "output") or None

    def _base(self, item: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
        """Where the operation is: the operator's `url`, else the nearest `servers`."""
        servers = next(
            (s for s in (operation.get("servers"), item.get("servers"), self._document.get("servers")) if isinstance(s, list) and s),
            [{"url": "/"}],
        )  # fmt: skip
        first = servers[0] if isinstance(servers[0], Mapping) else {}
        variables = first.get("variables")
        if self._spec.url is not None:
            return _filled(self._spec.url, variables).rstrip("/")
        url = _filled(str(first.get("url") or "/"), variables)
        if self._address is not None:
            url = urljoin(self._address, url)
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Fail(f"the document does not say where the API is ({url[:100]!r}); give `url`")
        if parts.query or parts.fragment or parts.username:
            raise Fail(f"the address of the API is none that a path can be put after ({url[:100]!r}); give `url`")
        if self._address is not None and _origin(url) != _origin(self._address):
            if self._spec.token or self._spec.headers:
                raise Fail(
                    f"the document from elsewhere says that the API is at {_origin(url)}; give `url` to send it secrets"
                )
            if names_inside(parts.hostname):
                raise Fail(
                    f"the document from elsewhere says that the API is at {_origin(url)}, a private address; give `url`"
                )
        return url.rstrip("/")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _filled(url: str, variables: Any) -> str:
    """An address with its variables at what the document says they are when nobody chooses."""

    def value(match: re.Match[str]) -> str:
        variable = variables.get(match[1]) if isinstance(variables, Mapping) else None
        default = variable.get("default") if isinstance(variable, Mapping) else None
        if not isinstance(default, (str, int, float)):
            raise Fail(f"the address of the API has {{{match[1]}}}, which has no default; give `url`")
        return str(default)

    return re.sub(r"\{([^{}]*)\}", value, url)


def _made_up(method: str, path: str) -> str:
    """A name for an operation without an id: `get_pets_petId`."""
    return f"{method}_{re.sub(r'[^A-Za-z0-9]+', '_', path).strip('_')}".rstrip("_")


def _argument(name: str, where: str, taken: set[str]) -> str:
    """A parameter's name as models may be told of it, and nobody else's."""
    legal = _ILLEGAL.sub("_", name.replace("[", "_").replace("]", "")).strip("_")[:NAME_LENGTH] or "value"
    if legal not in taken:
        return legal
    legal, count = f"{where}_{legal}"[:NAME_LENGTH], 2
    base = legal
    while legal in taken:
        legal, count = f"{base}_{count}", count + 1
    return legal


def _is_json(media: str) -> bool:
    plain = media.partition(";")[0].strip().lower()
    return plain == "application/json" or plain.endswith("+json") or plain == "*/*"


def _kind(media: str) -> BodyKind | None:
    plain = media.partition(";")[0].strip().lower()
    if _is_json(plain):
        return "json"
    if plain == "application/x-www-form-urlencoded":
        return "form"
    if plain == "multipart/form-data":
        return "multipart"
    if plain.startswith("text/") or plain == "application/xml" or plain.endswith("+xml"):
        return "text"
    if plain.startswith(
        ("application/octet-stream", "image/", "audio/", "video/", "application/pdf", "application/zip")
    ):
        return "binary"
    return None


def _input(parameters: tuple[Parameter, ...], body: Body | None, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's input: one property for each argument. Definitions are put together at the top, where references look."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required: list[str] = []
    given: list[tuple[str, Mapping[str, Any], bool]] = [(p.argument, p.schema, p.required) for p in parameters]
    if body is not None:
        given.append((body.argument, body.schema, body.required))
    for argument, schema, needed in given:
        if argument in fixed:
            continue
        for name, definition in schema.get("$defs", {}).items():  # names are the same throughout the document
            definitions[name] = definition or definitions.get(name, definition)
        plain = {key: value for key, value in schema.items() if key != "$defs"}
        properties[argument] = plain
        if needed:
            required.append(argument)
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    if definitions:
        found["$defs"] = definitions
    return found
