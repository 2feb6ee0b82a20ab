"""`runs answer`, `runs signal` and `runs list --waiting`: a person's part in runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.client import Client, segment
from agentmesh.cli.options import Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import ago, first_line, note, print_json, print_table

RunArgument = Annotated[str, typer.Argument(metavar="ID", help="The run.")]
SHOWN = 4000
"""Characters of what a question shows that are printed; `--json` prints all."""


def add_to(app: typer.Typer) -> None:
    """Registers the commands among those of `runs`."""
    app.command("answer")(answer)
    app.command("signal")(signal)


def answer(
    run_id: RunArgument,
    yes: Annotated[bool | None, typer.Option("--yes/--no", help="Approve, or decline.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--value", metavar="NAME=VALUE", help="A value of the form; VALUE may be @file. Or @object.json."),
    ] = None,
    question: Annotated[str | None, typer.Option(help="Which question, where a run asks several.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run afterwards.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Answer what a run asks; without an answer it is shown, and asked for on a terminal."""
    folder = mesh_folder(mesh)
    client = _client(folder)
    asked = _one(client, run_id, question)
    if not as_json:
        show_question(asked)
    body = {"question": asked["id"], "digest": asked["digest"]}
    if yes is None and not values:
        if not sys.stdin.isatty():
            raise WrongUsage(f"{run_id} waits for an answer: {how(asked)}")
        body |= _ask(asked)
    else:
        body |= _given(asked, yes, values or [])
    found = client.post(f"/v1/runs/{segment(run_id)}/answers", body)
    if watch:
        from agentmesh.cli.runs import finish

        finish(folder, client, run_id, as_json=as_json)
    elif as_json:
        print_json(found)
    else:
        said = "the value" if body.get("yes") is None else "yes" if body["yes"] else "no"
        note(f"{asked['id']} is answered with {said}; `agentmesh runs watch {run_id}` follows the run")


def signal(
    run_id: RunArgument,
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    value: Annotated[str | None, typer.Option(metavar="JSON", help="Its value; @file reads one, @- stdin.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key is one signal, however often it is sent.")] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Give a run a signal that one of its steps waits for, or will."""
    from agentmesh.cli.inputs import text_of

    body: dict[str, Any] = {"name": name}
    if value is not None:
        text = text_of("--value", value)
        try:
            body["value"] = json.loads(text)
        except ValueError:
            raise WrongUsage(
                f"--value takes JSON, and {first_line(text, 40)!r} is none; text is written '\"text\"'"
            ) from None
    if key is not None:
        body["key"] = key
    found = _client(mesh_folder(mesh)).post(f"/v1/runs/{segment(run_id)}/signals", body)
    if as_json:
        print_json(found)
    else:
        print(f"{found['id']}  {found['state']}, signal {name} is kept")


def list_waiting(client: Client, *, workflow: str | None, as_json: bool) -> None:
    """`runs list --waiting`: every open question."""
    found = client.get("/v1/questions")
    asked = [q for q in found["questions"] if workflow is None or q["workflow"] == workflow]
    if as_json:
        print_json({"questions": asked, "more": found["more"]})
        return
    rows = [
        (q["run"], q["workflow"], q["id"], ago(q["asked_at"]), ago(q.get("expires_at")), first_line(q["ask"], 60))
        for q in asked
    ]
    print_table(("RUN", "WORKFLOW", "QUESTION", "ASKED", "EXPIRES", ""), rows, "no run waits for a person")
    if asked:
        note("`agentmesh runs answer RUN` shows a question and takes the answer")
    if found["more"]:
        note("there are more runs than were looked through; the newest of them are shown")


def show_question(question: Mapping[str, Any]) -> None:
    """A question with what it shows, on stderr."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    show = question.get("show")
    text = Text(str(question["ask"]), style="bold")
    if show is not None:
        shown = show if isinstance(show, str) else json.dumps(show, indent=2, ensure_ascii=False)
        cut = f"\n… {len(shown) - SHOWN:,} characters more; --json prints all" if len(shown) > SHOWN else ""
        text.append(f"\n\n{shown[:SHOWN]}{cut}", style="not bold")
    for name, schema in _properties(question).items():
        needed = "" if name in _form(question).get("required", ()) else ", may be left out"
        text.append(f"\n\n{name}: {_type(schema)}{needed}", style="not bold cyan")
    expires = question.get("expires_at")
    until = f", until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC" if expires else ""
    title = f"{question['workflow']} asks {question['id']} for {question['caller']}{until}"
    Console(stderr=True, highlight=False).print(Panel(text, title=Text(title), title_align="left"))


def how(question: Mapping[str, Any]) -> str:
    """The command that answers a question."""
    command = f"agentmesh runs answer {question['run']}"
    needed = [name for name in _properties(question) if name in _form(question).get("required", ())]
    values = "".join(f" --value {name}=…" for name in needed) or (" --value …" if question["kind"] == "input" else "")
    if question["kind"] == "input":
        return f"{command}{values}"
    return f"{command} --yes{values}, or --no"


def _one(client: Client, run_id: str, wanted: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = client.get(f"/v1/runs/{segment(run_id)}/questions")["questions"]
    for question in found:
        if question["id"] == wanted or (wanted is None and len(found) == 1):
            return question
    ids = ", ".join(question["id"] for question in found)
    if not found:
        run = client.get(f"/v1/runs/{segment(run_id)}")
        raise WrongUsage(f"run {run_id} asks nothing now: it is {run['state']}")
    if wanted is None:
        for question in found:
            show_question(question)
        raise WrongUsage(f"run {run_id} asks {len(found)} questions; say --question with one of {ids}")
    raise WrongUsage(f"run {run_id} does not ask {wanted!r} now; it asks {ids}")


def _given(question: Mapping[str, Any], yes: bool | None, values: Sequence[str]) -> dict[str, Any]:
    """What the options say, as the body of an answer."""
    from agentmesh.cli.inputs import parse
    from agentmesh.cli.inputs import value as read

    if question["kind"] == "input" and yes is not None:
        raise WrongUsage(f"{question['id']} asks for a value, not for yes or no: {how(question)}")
    if yes is False and values:
        raise WrongUsage("--no takes no --value: what is declined is not filled in")
    body: dict[str, Any] = {} if question["kind"] == "input" else {"yes": yes is not False}
    form = _form(question)
    if not values:
        return body
    if not form:
        raise WrongUsage(f"{question['id']} has no form; it takes --yes or --no alone")
    if form.get("type", "object") == "object":
        return body | {"value": parse(values, form, option="--value")}
    if len(values) > 1:
        raise WrongUsage(f"{question['id']} asks for one value; --value is given {len(values)} times")
    from agentmesh.cli.inputs import text_of

    return body | {"value": read("--value", text_of("--value", values[0]), form)}


def _ask(question: Mapping[str, Any]) -> dict[str, Any]:
    """Asks the person at the terminal."""
    body: dict[str, Any] = {}
    if question["kind"] == "approval":
        body["yes"] = typer.confirm("Yes?", err=True)
        if not body["yes"]:
            return body
    form = _form(question)
    if not form:
        return body
    if form.get("type", "object") != "object":
        return body | {"value": _prompt("value", form, needed=True)}
    filled = {
        name: _prompt(name, schema, needed=name in form.get("required", ()))
        for name, schema in _properties(question).items()
    }
    return body | {"value": {name: value for name, value in filled.items() if value is not None}}


def _prompt(name: str, schema: Mapping[str, Any], *, needed: bool) -> Any:
    """One value, asked until it has its type; None when it was left out."""
    from agentmesh.cli.inputs import value as read
    from agentmesh.errors import InvalidInput

    while True:
        given: str = typer.prompt(
            f"{name} ({_type(schema)})", default=None if needed else "", show_default=False, err=True
        )
        if not given and not needed:
            return None
        try:
            return read(name, given, schema)
        except InvalidInput as error:
            note(error.message)


def _form(question: Mapping[str, Any]) -> Mapping[str, Any]:
    form: Mapping[str, Any] = question.get("form") or {}
    return form


def _properties(question: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _form(question).get("properties") or {}
    return found


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kind = schema.get("type", "any")
    return str(
        schema.get("title") or schema.get("description") or (kind if isinstance(kind, str) else " or ".join(kind))
    )


def _client(folder: Path) -> Client:
    from agentmesh.cli.background import connect

    return connect(folder)
