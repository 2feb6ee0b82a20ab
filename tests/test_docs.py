"""Documentation holds: every code block runs or is checked, and whatever a user can write has its place in the docs."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from pydantic import BaseModel

from agentmesh.adapters.files import load_mesh
from agentmesh.cli.main import app
from agentmesh.core import mesh, model, policy, server_file, tool, validation, workflow
from agentmesh.settings import Secrets
from tests import docs_examples

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    where: str
    language: str
    text: str


def blocks(file: Path) -> Iterator[Block]:
    content = file.read_text()
    for found in FENCE.finditer(content):
        line = content.count("\n", 0, found.start()) + 1
        indent = found[1]
        text = "".join(row.removeprefix(indent) for row in found[3].splitlines(keepends=True))
        yield Block(f"{file.relative_to(ROOT)}:{line}", found[2], text)


ALL = [block for file in FILES for block in blocks(file)]


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for block in ALL if block.language in languages]


def headings(*names: str) -> set[str]:
    return {found for name in names for found in HEADING.findall((ROOT / "docs" / name).read_text())}


def commands() -> dict[str, Any]:
    """Every command of the program by its full name."""
    found: dict[str, Any] = {}

    def walk(prefix: str, command: Any) -> None:
        if hasattr(command, "commands"):
            if command.invoke_without_command and prefix != "agentmesh":
                found[prefix] = command
            for name, inner in command.commands.items():
                walk(f"{prefix} {name}", inner)
        else:
            found[prefix] = command

    walk("agentmesh", typer.main.get_command(app))
    return found


COMMANDS = commands()


def check_command(words: list[str], where: str) -> None:
    """The program has this command with these options."""
    words = [Path(words[0]).name, *words[1:]]
    name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in COMMANDS), None)
    if name is None and words[1:] in (["--version"], ["--help"]):
        return
    assert name, f"{where}: there is no command {' '.join(words[:3])!r}"
    options = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in words[1:]:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in options, f"{where}: {name} has no option {word}"


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_line(line: str, where: str) -> None:
    """A shell line calls what exists: a target of the Makefile, a command of the program."""
    for part in re.split(r"\s*(?:&&|\|\||;|\|)\s*", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if words[:1] == ["make"]:
            assert {w for w in words[1:] if "=" not in w} <= targets(), f"{where}: make has no target {words[1:]}"
        elif words and Path(words[0]).name == "agentmesh":
            plain = [w for w in words if not w.startswith((">", "<", "2>"))]
            check_command(plain, where)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """A block without a language, or of one that nobody checks, would be documentation that may rot."""
    known = {"sh", "console", "yaml", "python", "json", "text"}
    assert ALL
    assert not [f"{b.where}: {b.language or 'no language'}" for b in ALL if b.language not in known]


@pytest.mark.parametrize("block", of("sh"))
def test_shell_blocks_call_what_exists(block: Block) -> None:
    """The syntax is right, and every command and option in it exists."""
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"{block.where}: {checked.stderr}"
    for line in block.text.replace("\\\n", " ").splitlines():
        check_line(line, block.where)


@pytest.mark.parametrize("block", of("console"))
def test_console_blocks_call_what_exists(block: Block) -> None:
    """Lines that begin with $ are commands that exist; what follows is what they printed."""
    lines = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    assert lines, f"{block.where}: a console block shows a command"
    for line in lines:
        check_line(line, block.where)


@pytest.mark.parametrize("document", sorted({b.where.rpartition(":")[0] for b in ALL if b.language == "yaml"}))
def test_project_files_in_the_docs_are_right(document: str, tmp_path: Path) -> None:
    """Each names its file in its first line, and those of a document load together without a fault."""
    together = [b for b in ALL if b.language == "yaml" and b.where.rpartition(":")[0] == document]
    secrets = {"LLM_KEY": "k"}
    for each in together:
        name = re.match(r"# ([\w./-]+\.yaml)$", each.text.splitlines()[0])
        assert name, f"{each.where}: the first line names the file, as in `# workflows/greet.yaml`"
        target = tmp_path / name[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        assert not target.exists(), f"{each.where}: {name[1]} stands twice in {document}"
        target.write_text(each.text)
        secrets |= dict.fromkeys(re.findall(r"secrets\.(\w+)", each.text), "k")
        for file in re.findall(
            r"^ +(?:- )?file: \"?([\w./-]+)", each.text, re.MULTILINE
        ):  # shown, and none of the document's
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch() if not file.endswith("/") else (tmp_path / file).mkdir(exist_ok=True)
    if not (tmp_path / "agentmesh.yaml").exists():
        (tmp_path / "agentmesh.yaml").write_text("name: documentation\n")
    load_mesh(tmp_path, Secrets(secrets))


@pytest.mark.parametrize("block", of("python"))
def test_python_blocks_run(block: Block) -> None:
    """They run as they stand."""
    exec(compile(block.text, block.where, "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("block", of("json"))
def test_json_blocks_are_json(block: Block) -> None:
    """They parse."""
    json.loads(block.text)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_heading(name: str) -> None:
    """docs/cli.md has a heading for each command, and no command that does not exist."""
    assert name in headings("cli.md")


@pytest.mark.parametrize("name", sorted(n for n in headings("cli.md") if n.startswith("agentmesh ")))
def test_every_heading_has_a_command(name: str) -> None:
    """What was removed from the program is removed from its documentation."""
    assert name in COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_described(name: str) -> None:
    """Under the command's heading, but for the options that all have."""
    section = (ROOT / "docs" / "cli.md").read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]
    for parameter in COMMANDS[name].params:
        for option in parameter.opts:
            if option.startswith("--") and option not in {"--json", "--mesh", "--input"}:
                assert f"`{option}" in section, f"docs/cli.md does not describe {option} of {name}"


def test_every_setting_has_a_heading() -> None:
    """Each variable of the environment that settings.py reads stands in docs/cli.md."""
    tree = ast.parse((ROOT / "agentmesh" / "settings.py").read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {t for t in texts if re.fullmatch(r"AGENTMESH_[A-Z_]+", t)}
    assert len(names) > 3
    assert {f"{n}NAME" if n.endswith("_") else n for n in names} <= headings("cli.md")


@pytest.mark.parametrize("verb", workflow.VERBS)
def test_every_step_kind_has_a_heading(verb: str) -> None:
    """docs/project-files.md and docs/language.md have a heading for each verb."""
    assert verb in headings("project-files.md")
    assert verb in headings("language.md")


def test_the_language_reference_is_current() -> None:
    """It is what `python docs/generate.py` writes from the schemas, the words beside their fields and the examples."""
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs" / "language.md").read_text() == generate["page"](), "run: python docs/generate.py"


def test_the_language_reference_is_whole() -> None:
    """What stands around a verb, each validator, each stage and each trigger has a heading; every example is shown."""
    found = headings("language.md")
    inside = {"id", "steps", "else", *workflow.VERBS}
    around = {field.alias or name for name, field in workflow.Step.model_fields.items()} - inside
    assert around <= found
    assert {f"Validator {name}" for name in workflow.VALIDATORS} <= found
    assert {f"Stage {name}" for name in validation.STAGES} <= found
    assert {f"Trigger {name}" for name in workflow.Triggers.model_fields} <= found
    page = (ROOT / "docs" / "language.md").read_text()
    assert [name for name in docs_examples.names() if f"# workflows/{name}.yaml" not in page] == []


@pytest.fixture(scope="module")
def examples() -> mesh.Mesh:
    return load_mesh(docs_examples.EXAMPLES, Secrets({"DESK_HOOK": "k"}))


@pytest.mark.anyio
@pytest.mark.parametrize("name", docs_examples.names())
async def test_every_example_does_what_it_says(examples: mesh.Mesh, name: str) -> None:
    """Run on the in-memory adapters, with the answers that its last lines give."""
    script = docs_examples.script_of(docs_examples.EXAMPLES / "workflows" / f"{name}.yaml")
    await docs_examples.play(examples, name, script)


@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_every_policy_effect_has_a_heading(effect: str) -> None:
    """docs/project-files.md has a heading for each effect that is built."""
    assert effect in headings("project-files.md")


FILE_MODELS: list[type[BaseModel]] = [
    *(mesh.MeshFile, mesh.A2aSettings, model.Model, model.Deploy, model.Price, model.Replicas),
    *(
        server_file.ServerFile,
        tool.ToolSpec,
        tool.Annotations,
        tool.Execution,
        tool.Elicit,
        mesh.Peer,
        mesh.McpSettings,
    ),
    *(server_file.Upstream, server_file.OAuth, server_file.OpenApi, server_file.Operation, server_file.ResourceSpec),
    *(server_file.PromptSpec, server_file.PromptArgumentSpec, server_file.PromptMessageSpec),
    *(workflow.Workflow, workflow.Step, workflow.LlmSpec, workflow.Validator, workflow.Retry_, workflow.AgentSpec),
    *(workflow.MapSpec, workflow.Case, workflow.Schedule, workflow.A2aTrigger, workflow.McpTrigger, workflow.Triggers),
    *(
        workflow.HttpSpec,
        workflow.SqlSpec,
        workflow.LoopSpec,
        workflow.WaitSpec,
        workflow.ApproveSpec,
        workflow.AskSpec,
    ),
    *(workflow.ToolCheck, workflow.Judge, workflow.Vote, workflow.Cache, workflow.OnError, workflow.WebhookTrigger),
    *(workflow.Budget, policy.PolicyFile, policy.Role, policy.Rule, policy.PolicyCase),
]


@pytest.mark.parametrize("kind", FILE_MODELS, ids=lambda kind: kind.__name__)
def test_every_key_of_a_project_file_is_described(kind: type[BaseModel]) -> None:
    """A key that a file may have stands in project-files.md, language.md or resources.md: described, or said to be not built yet."""
    text = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("project-files", "language", "resources"))
    keys = {field.alias or name for name, field in kind.model_fields.items()}
    missing = {key for key in keys if not re.search(rf"`[^`\n]*\b{re.escape(key)}\b[^`\n]*`", text)}
    assert not missing, f"docs/project-files.md does not mention {', '.join(sorted(missing))} of {kind.__name__}"


def test_links_lead_somewhere() -> None:
    """A link to a file of the project leads to one."""
    for file in FILES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.relative_to(ROOT)} links to {target}"
