"""Verb: one function per verb that does I/O; each checks it and answers the type of its output.

The verbs that hold other steps (`switch`, `map`, `parallel`, `loop`) stand in `core.flow`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from agentmesh.core.checker import NOT_BUILT
from agentmesh.core.constant import NOTHING, constant_value
from agentmesh.core.document import Path
from agentmesh.core.inference import DYN, JsonSchema, describe, kinds
from agentmesh.core.mesh import CALL_OF
from agentmesh.core.scope import HTTP_OUTPUT, SQL_OUTPUT, Scope, closed
from agentmesh.core.secret import secret_names
from agentmesh.core.statement import parameters_of, statement_faults, writes
from agentmesh.core.validation import OutputChecker
from agentmesh.core.workflow import HttpSpec, SqlSpec, Step, WaitSpec

_SCALARS = frozenset({"null", "boolean", "integer", "number", "string"})
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class VerbChecker(OutputChecker):
    """The leaves of a workflow. `given`: type of the step's `with`."""

    def with_path(self, path: Path) -> Path:
        return (*path, "with") if self.document.get((*path, "with")) is not None else path

    def verb_tool(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        tools, name = self.world.mesh.tools, step.tool or ""
        if message := self.world.unknown("tools", name, tools):
            self.fault((*path, "tool"), message)
        if name not in tools:
            return DYN
        self.arguments(self.with_path(path), given, self.world.sound(tools[name].input_schema), f"tool {name!r}")
        return self.tool_output(name)

    def verb_llm(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        return self.llm((*path, "llm"), step.llm, scope.names, scope.facts) if step.llm is not None else DYN

    def verb_python(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        function = self.python((*path, "python"))
        if function is not None and function.parameters is not None:
            schema = {
                "properties": dict.fromkeys(function.parameters, DYN),
                "required": function.required,
                "additionalProperties": False,
            }
            self.arguments(self.with_path(path), given, schema, f"{step.python!r}")
        return step.output if step.output is not None and self.schema((*path, "output")) else DYN

    def verb_set(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        return self.template((*path, "set"), scope.names, facts=scope.facts)

    def verb_agent(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        agent, at = step.agent, (*path, "agent")
        if agent is None:
            return DYN
        message = self.template((*at, "message"), scope.names, facts=scope.facts)
        if agent.peer is not None:
            if problem := self.world.unknown("agents", agent.peer, self.world.mesh.file.agents):
                self.fault((*at, "peer"), f"{problem}; agentmesh.yaml declares them: `agents: {{NAME: {{card: URL}}}}`")
            if agent.skill is not None and "${{" in agent.skill:
                self.template((*at, "skill"), scope.names, facts=scope.facts)
                self.fault((*at, "skill"), f"a skill chosen by an expression is {NOT_BUILT}; use a switch")
            return step.output if step.output is not None and self.schema((*path, "output")) else DYN
        if step.output is not None:
            self.fault(
                (*path, "output"),
                "a skill of this mesh has its workflow's `output_schema`; `output` is for a peer's",
                key=True,
            )
        skills = self.world.mesh.skills
        if agent.skill is None:
            self.fault(at, "'skill' is missing", key=True)
            return DYN
        if "${{" in agent.skill:
            self.template((*at, "skill"), scope.names, facts=scope.facts)
            self.fault(
                (*at, "skill"),
                f"a skill chosen by an expression is {NOT_BUILT}; use a switch with one agent step per skill",
            )
            return DYN
        if problem := self.world.unknown("skills", agent.skill, skills):
            self.fault((*at, "skill"), problem)
        if agent.skill not in skills:
            return DYN
        target = skills[agent.skill]
        if target.workflow.startswith(CALL_OF):
            self.fault((*at, "skill"), f"skill {agent.skill!r} is a tool of this mesh; call it: `tool: {agent.skill}`")
            return DYN
        if kinds(message) == {"object"}:
            self.arguments((*at, "message"), message, self.world.sound(target.input_schema), f"skill {agent.skill!r}")
        return self.world.sound(self.world.mesh.workflows[target.workflow].output_schema)

    def verb_workflow(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        workflows, name = self.world.mesh.workflows, step.workflow or ""
        if problem := self.world.unknown("workflows", name, workflows):
            self.fault((*path, "workflow"), problem)
        if name not in workflows:
            return DYN
        self.arguments(self.with_path(path), given, self.world.sound(workflows[name].input), f"workflow {name!r}")
        return self.world.sound(workflows[name].output_schema)

    def verb_http(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        body = step.output if step.output is not None and self.schema((*path, "output")) else DYN
        if step.http is not None:
            self.http((*path, "http"), step.http, scope)
        return closed({**HTTP_OUTPUT, "body": body}, required=True)

    def verb_sql(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        if step.sql is not None:
            self.sql(path, step.sql, given, effect=step.effect)
        return SQL_OUTPUT

    def verb_wait(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        return self.wait((*path, "wait"), step.wait, scope) if step.wait is not None else DYN

    def verb_approve(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        at = (*path, "approve")
        if step.approve is None:
            return DYN
        if step.approve.path is not None:
            self.fault((*at, "path"), "`path` belongs to an approve that stands in `validate`", key=True)
        return self.approval(at, step.approve, scope.names, scope.facts)

    # HTTP

    def http(self, path: Path, spec: HttpSpec, scope: Scope) -> None:
        """One request, of a step or of a tool."""
        self.address((*path, "url"), spec.url, scope)
        for name in spec.headers:
            self.header((*path, "headers", name), name, scope)
        for name in spec.query:
            found = self.template((*path, "query", name), scope.names, facts=scope.facts)
            if not kinds(found) & (_SCALARS | {"array"}):
                self.fault(
                    (*path, "query", name), f"must be text, a number or a list of them, this is {describe(found)}"
                )
        bodies = [name for name in ("json", "text") if self.document.get((*path, name)) is not None]
        for name in bodies:
            self.template((*path, name), scope.names, facts=scope.facts)
        if len(bodies) == 2:
            self.fault((*path, "text"), "a request has one body: `json` or `text`", key=True)
        if bodies and spec.method in ("GET", "HEAD"):
            self.fault((*path, bodies[0]), f"a {spec.method} has no body; use `query`, or another `method`", key=True)
        for i, status in enumerate(spec.expect or ()):
            if not 100 <= status <= 599:
                self.fault((*path, "expect", i), f"{status} is no status of HTTP (100 to 599)")
        if spec.expect == ():
            self.fault((*path, "expect"), "must not be empty: no answer would be a success", key=True)

    def address(self, path: Path, url: str, scope: Scope) -> None:
        """The scheme and the host are the author's where they are written; what an expression gives is seen when it is sent."""
        found = self.template(path, scope.names, facts=scope.facts)
        if "string" not in kinds(found):
            self.fault(path, f"must be text, this is {describe(found)}")
        literal = url.partition("${{")[0]
        if literal == "" and "${{" in url:
            return
        try:
            parts = urlsplit(literal)
            right = parts.scheme in ("http", "https") and (bool(parts.hostname) or literal != url)
        except ValueError:
            right = literal != url
        if not right:
            self.fault(path, f"{url!r} is not an address: http://HOST[:PORT]/... or https://...")

    def header(self, path: Path, name: str, scope: Scope) -> None:
        value = self.document.get(path)
        if not _HEADER.fullmatch(name):
            self.fault(path, f"{name!r} is no name of a header", key=True)
        if not isinstance(value, str):
            return
        named = secret_names(value)
        if "secrets." not in value:
            found = self.template(path, scope.names, facts=scope.facts)
            if not kinds(found) & (_SCALARS - {"null"}):
                self.fault(path, f"must be text, this is {describe(found)}")
        elif None in named:
            self.world.visited.add((self.document.file, path))
            self.fault(path, "a header holds secrets or expressions, not both: put them into two headers")

    # SQL

    def sql(self, path: Path, spec: SqlSpec, given: JsonSchema, *, effect: str | None) -> None:
        databases, at = self.world.mesh.file.databases, (*path, "sql")
        if message := self.world.unknown("databases", spec.database, databases):
            if not databases:
                message += "; agentmesh.yaml names none: `databases: {NAME: URL}`"
            self.fault((*at, "database"), message)
        if "${{" in spec.query:
            offset = spec.query.index("${{")
            self.world.visited.add((self.document.file, (*at, "query")))
            message = (
                "an expression may not stand in the text of a statement: write :name, and give it in the step's `with`"
            )
            self.fault((*at, "query"), message, offset=offset)
            return
        wrong = statement_faults(spec.query)
        for offset, message in wrong:
            self.fault((*at, "query"), message, offset=offset)
        if not wrong and effect != "write" and (word := writes(spec.query)):
            self.fault(
                (*at, "query"), f"{word} changes the database: say `effect: write` beside `sql`", offset=word.offset
            )
        named = parameters_of(spec.query)
        have: Mapping[str, Any] = given.get("properties", {})
        for name, offset in named.items():
            if name not in have:
                self.fault((*at, "query"), f"the parameter :{name} is not given: add it to `with`", offset=offset)
        for name, found in have.items():
            if name not in named:
                self.fault((*path, "with", name), f"the statement has no parameter :{name}", key=True)
            elif not kinds(found) & _SCALARS:
                self.fault(
                    (*path, "with", name),
                    f"a parameter is text, a number, true, false or null; this is {describe(found)}",
                )

    # Waiting

    def wait(self, path: Path, spec: WaitSpec, scope: Scope) -> JsonSchema:
        given = [name for name in ("for", "until", "signal") if self.document.get((*path, name)) is not None]
        plain = not given and spec.for_ is not None
        if len(given) != 1 and not plain:
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"a wait has exactly one of for, until, signal; {says}", key=True)
        if isinstance(spec.for_, str) and "${{" in spec.for_:
            found = self.template(path if plain else (*path, "for"), scope.names, facts=scope.facts)
            if not kinds(found) & {"integer", "number", "string"}:
                self.fault(path, f"must be seconds or text such as 5m, this is {describe(found)}")
        elif spec.for_ is not None:
            self.duration(path if plain else (*path, "for"))
        if spec.until is not None:
            self.moment((*path, "until"), spec.until, scope)
        for name in ("schema", "expires"):
            if "signal" not in given and self.document.get((*path, name)) is not None:
                self.fault((*path, name), f"`{name}` belongs to `signal`", key=True)
        if spec.signal is None:
            return {"type": "null"}
        if "${{" in spec.signal or not spec.signal.strip():
            self.world.visited.add((self.document.file, (*path, "signal")))
            self.fault((*path, "signal"), "a signal has a fixed name, such as paid: who sends it must know it")
        self.expiry((*path, "expires"), spec.expires)
        sound = self.schema((*path, "schema"))
        return spec.schema_ if spec.schema_ is not None and sound else DYN

    def moment(self, path: Path, text: str, scope: Scope) -> None:
        found = self.expression(path, scope.names, facts=scope.facts)
        if not kinds(found) & {"integer", "number", "string"}:
            self.fault(path, f"must be a time: Unix seconds or text as in RFC 3339; this is {describe(found)}")
        value = constant_value(text)
        if isinstance(value, str) and value is not NOTHING:
            try:
                aware = datetime.fromisoformat(value).tzinfo is not None
            except ValueError:
                aware = False
            if not aware:
                self.fault(path, f"{value!r} is no time as in RFC 3339: 2026-11-22T16:45:00+01:00")
