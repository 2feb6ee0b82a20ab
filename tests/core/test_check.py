"""What the files of a mesh may not say, told all at once, each at its place."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.errors import Fault, ProjectError
from agentmesh.settings import Secrets

MESH = "name: acme\nmodels:\n  m: {url: http://127.0.0.1:1/v1, model: x}\ndefault_model: m\n"
DESK = """
name: desk
tools:
  classify:
    description: Sorts a message.
    input: {type: object, properties: {text: {type: string}}, required: [text], additionalProperties: false}
    llm:
      prompt: "Sort ${{ input.text }}"
      output:
        type: object
        properties: {queue: {enum: [billing, bug]}, urgent: {type: boolean}}
        required: [queue, urgent]
        additionalProperties: false
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"agentmesh.yaml": MESH, "servers/desk.yaml": DESK, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def faults(folder: Path, files: dict[str, str], secrets: dict[str, str] | None = None) -> list[Fault]:
    try:
        load_mesh(write(folder, files), Secrets(secrets or {}))
    except ProjectError as error:
        return error.faults
    return []


def flow(steps: str, *, head: str = "") -> dict[str, str]:
    """A workflow of these steps, indented by two."""
    properties = "{text: {type: string}, who: {type: string}, n: {type: array, items: {type: integer}}}"
    given = f"input: {{type: object, properties: {properties}, required: [text]}}\n"
    return {
        "workflows/w.yaml": "name: w\n"
        + head
        + given
        + "steps:\n"
        + textwrap.indent(textwrap.dedent(steps).strip("\n"), "  ")
        + "\n"
    }


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("- {id: a, tool: desk.clasify, with: {text: x}}", "unknown tool 'desk.clasify'; did you mean 'desk.classify'?"),
        ("- {id: a, tool: desk.classify, with: {txt: x}}", "takes no 'txt'; did you mean 'text'?"),
        ("- {id: a, tool: desk.classify}", "tool 'desk.classify' needs 'text'"),
        ("- {id: a, tool: desk.classify, with: {text: 5}}", "wants text here, this is a whole number"),
        (
            "- {id: a, tool: desk.classify, with: {text: x}}\n- {id: b, set: '${{ steps.a.output.quue }}'}",
            "steps.a.output has no 'quue'; did you mean 'queue'?",
        ),
        ("- {id: a, set: '${{ steps.b.output }}'}\n- {id: b, set: 1}", "step 'b' is not visible here"),
        ("- {id: classify, set: 1}\n- {id: b, set: '${{ steps.clasify.output }}'}", "unknown step 'clasify'; did you mean 'classify'?"),
        ("- {id: one, set: 1}\n- {id: b, set: '${{ steps.two.output }}'}", "unknown step 'two'; before this stand one"),
        ("- {id: a, set: 1}\n- {id: a, set: 2}", "the id 'a' stands here twice, first in line 4"),
        ("- {id: a}", "exactly one verb"),
        ("- {id: a, set: 1, tool: desk.classify, with: {text: x}}", "this has tool and set"),
        ("- {id: a, if: input.text, set: 1}", "must be true or false, this is text"),
        ("- {id: a, if: 'not ${{ input.text }}', set: 1}", "text around an expression"),
        ("- {id: a, llm: {model: n, prompt: x}}", "unknown model 'n'; there is m"),
        ("- {id: a, agent: {skill: s, message: x}}", "unknown skill 's'"),
        ("- {id: a, workflow: v}", "unknown workflow 'v'"),
        ("- {id: a, python: 'agentmesh.builtin.inbox:nw_files'}", "has no 'nw_files'; did you mean 'new_files'?"),
        ("- {id: a, python: 'no_such_package.x:f'}", "cannot find the module"),
        ("- {id: a, python: 'print(1)'}", "write package.module:function"),
        ("- {id: a, python: 'agentmesh.builtin.inbox:read', with: {nme: x}}", "takes no 'nme'; did you mean 'name'?"),
        ("- {id: a, set: 1, timeout: 5y}", "'5y' is not a duration"),
        ("- {id: a, set: 1, on_error: explode}", "must be 'continue' or an object"),
        ("- {id: a, set: 1, on_invalid: [{repair: 2}]}", "needs an llm"),
        ("- {id: a, set: 1, retry: {}}", "`retry` belongs to tool"),
        ("- {id: a, map: {over: input.text}, steps: [{id: b, set: 1}]}", "must be a list, this is text"),
        ("- {id: a, map: {over: input.n, as: steps}, steps: [{id: b, set: 1}]}", "cannot name the item"),
        ("- {id: a, map: {over: input.n}, steps: [{id: b, set: '${{ item.x }}'}]}", "item is a whole number, it has no 'x'"),
        ("- {id: a, map: {over: input.n}, steps: [{id: b, set: 1}]}\n- {id: c, set: '${{ steps.b.output }}'}", "'b' is not visible here"),
        ("- {id: a, map: {over: input.n}}", "needs `steps`"),
        ("- {id: a, llm: {prompt: x, output: {type: objct}}}", "did you mean 'object'?"),
        ("- {id: a, llm: {prompt: x, output: {enum: '${{ input.text }}'}}}", "an enum must be a list"),
        ("- {id: a, llm: {prompt: x, output: {const: '${{ input.text }}'}}}", "may not stand here"),
        ("- {id: a, llm: {prompt: x, output: {$ref: 'https://example.com/s.json'}}}", "would be fetched"),
        ("- {id: a, llm: {prompt: x}, validate: [{grounded: [output]}, {ensure: 'output.x'}]}", "output is text, it has no 'x'"),
        ("- {id: a, llm: {prompt: x}, validate: [{grounded: [ouput]}]}", "unknown name 'ouput'; did you mean 'output'?"),
        ("- {id: a, set: 1, output: {type: object}}", "`output` belongs to python and http and agent steps"),
        ("- {id: a, set: '${{ secrets.KEY }}'}", "a secret may stand only in"),
        ("- {id: a, set: {'${{ input.text }}': 1}}", "may not stand in a key"),
        ("- {id: a, sett: 1}", "unknown key 'sett'; did you mean 'set'?"),
        ("- {id: A, set: 1}", "'A' is not a name"),
        ("- {id: a, switch: []}", "must not be empty"),
        ("- {id: a, tool: 5}", "must be text, this is a number"),
    ],
)  # fmt: skip
def test_a_fault_in_a_step_is_told(tmp_path: Path, steps: str, says: str) -> None:
    """In plain words, with what would be right."""
    found = faults(tmp_path, flow(steps))
    assert [f.message for f in found if says in f.message], found
    assert all(f.file == "workflows/w.yaml" and f.line >= 4 for f in found)


NOT_BUILT = ["- {id: a, agent: {skill: '${{ input.text }}', message: x}}"]


@pytest.mark.parametrize("steps", NOT_BUILT)
def test_what_is_not_built_is_said(tmp_path: Path, steps: str) -> None:
    """A part of the language that this release lacks is a fault, never ignored."""
    found = faults(tmp_path, flow(steps))
    assert [f for f in found if "not built yet in this release" in f.message], found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("policies/x.yaml", "rules: [{approve: tools.call}]\n"),
        ("policies/x.yaml", "rules: [{allow: '*', redact: [email]}]\n"),
        ("policies/x.yaml", "limits: [{calls: 3}]\n"),
        ("policies/x.yaml", "guards: [{redact: [email]}]\n"),
        ("agentmesh.yaml", "name: a\nmodels: {t: {source: a/b, deploy: {replicas: {min: 0}}}}\ndefault_model: t\n"),
        ("agentmesh.yaml", "name: a\nmodels: {t: {source: a/b, deploy: {adapters: {a: b}}}}\ndefault_model: t\n"),
    ],
)
def test_what_is_not_built_is_said_outside_steps(tmp_path: Path, name: str, text: str) -> None:
    """Triggers, servers, policies and models too."""
    found = faults(tmp_path, {name: text})
    assert [f for f in found if "not built yet in this release" in f.message], found


def test_every_fault_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    """Unreadable, misshapen and senseless files do not hide one another; each has its line and column."""
    found = faults(
        tmp_path,
        {
            "agentmesh.yaml": "name: acme\nmodls: {}\ndefault_model: gone\n",
            "workflows/broken.yaml": "name: broken\nsteps:\n  - id: a\n    if: !has(input.x)\n    set: 1\n",
            "workflows/shape.yaml": "name: shape\nsteps:\n  - {id: a, tool: 5, timeout: 5y}\n  - {id: b, if: input.x + 1, set: 1}\n",
            "workflows/cron.yaml": "name: cron\non: {cron: [{schedule: '61 * * * *', timezone: Europe/Berln}]}\nsteps: [{id: a, set: 1}]\n",
            "policies/p.yaml": "rules:\n  - {allow: tools.cal, to: [nobody]}\n",
        },
    )
    told = {(f.file, f.line, f.column) for f in found}
    assert told >= {
        ("agentmesh.yaml", 2, 1),
        ("agentmesh.yaml", 3, 16),
        ("workflows/broken.yaml", 4, 9),
        ("workflows/shape.yaml", 3, 19),
        ("workflows/shape.yaml", 3, 31),
        ("workflows/shape.yaml", 4, 17),
        ("workflows/cron.yaml", 2, 24),
        ("workflows/cron.yaml", 2, 48),
        ("policies/p.yaml", 2, 13),
        ("policies/p.yaml", 2, 29),
    }
    assert all(f.source for f in found)


def test_the_caret_stands_under_the_fault_of_an_expression(tmp_path: Path) -> None:
    """In the file's own line, however deep the expression stands."""
    (fault,) = faults(
        tmp_path,
        flow("- {id: a, tool: desk.classify, with: {text: x}}\n- id: b\n  set: {q: 'is ${{ steps.a.output.quue }}'}"),
    )
    assert str(fault).splitlines()[1:] == [
        "    set: {q: 'is ${{ steps.a.output.quue }}'}".rjust(49),
        "^".rjust(4 + fault.column),
    ]
    assert fault.source[fault.column - 1 :].startswith("quue")


@pytest.mark.parametrize(
    "guard",
    [
        "- {id: b, if: 'steps.a.state == \"completed\"', set: '${{ steps.a.output.urgent }}'}",
        "- {id: b, if: steps.a.output != null, set: '${{ steps.a.output.urgent }}'}",
        "- {id: b, if: has(input.who), set: '${{ steps.a.output.urgent }}'}",
        "- {id: b, set: '${{ steps.a.state == \"completed\" && steps.a.output.urgent }}'}",
        "- {id: b, set: '${{ steps.a.output == null ? false : steps.a.output.urgent }}'}",
        (
            "- {id: b, switch: [{when: steps.a.output == null, steps: [{id: c, set: 1}]}],\n"
            "   else: [{id: d, set: '${{ steps.a.output.urgent }}'}]}"
        ),
        "- {id: b, if: steps.a.output != null, set: 1}\n- {id: c, if: steps.b.state == 'completed', set: '${{ steps.a.output.urgent }}'}",
        "- {id: b, set: '${{ steps.a.output }}'}",
    ],
)
def test_a_step_that_may_be_skipped_needs_a_guard(tmp_path: Path, guard: str) -> None:
    """A path through its output is refused bare, and allowed behind any of these."""
    skipped = "- {id: a, if: has(input.who), tool: desk.classify, with: {text: x}}\n"
    assert faults(tmp_path, flow(skipped + guard)) == []
    (fault,) = faults(tmp_path, flow(skipped + "- {id: b, set: '${{ steps.a.output.urgent }}'}"))
    assert "may be skipped and then has no output; guard it" in fault.message


def test_blocks_have_types(tmp_path: Path) -> None:
    """`map` is a list of its last step's output, `switch` one of its branches, a workflow what it declares."""
    steps = """
    - id: each
      map: {over: input.n, as: number}
      steps:
        - {id: sort, tool: desk.classify, with: {text: "${{ string(number) }}"}}
    - {id: first, set: "${{ steps.each.output[0].%s }}"}
    - id: pick
      switch:
        - {when: size(input.n) > 3, steps: [{id: x, set: {name: a}}]}
      else:
        - {id: y, set: {name: b}}
    - {id: last, set: "${{ steps.pick.output.%s }}"}
    """
    assert faults(tmp_path, flow(steps % ("queue", "name"))) == []
    assert [f.message for f in faults(tmp_path, flow(steps % ("quue", "nam")))] == [
        "this has no 'quue'; did you mean 'queue'?",
        "steps.pick.output has no 'nam'; did you mean 'name'?",
    ]


def test_names_are_claimed_once(tmp_path: Path) -> None:
    """Servers, tools, workflows and skills, across files."""
    found = faults(
        tmp_path,
        {
            "servers/other.yaml": "name: desk\ntools: {classify: {description: x, python: 'os:getcwd'}}\n",
            "workflows/a.yaml": "name: a\non: {mcp: {name: desk.classify}, a2a: {skill: s}}\nsteps: [{id: x, set: 1}]\n",
            "workflows/b.yaml": "name: a\non: {a2a: {skill: s}}\nsteps: [{id: x, set: 1}]\n",
        },
    )
    messages = sorted(f"{f.file}: {f.message}" for f in found)
    assert messages == [
        "servers/other.yaml: the server 'desk' stands in servers/desk.yaml already",
        "servers/other.yaml: the tool 'desk.classify' stands in servers/desk.yaml already",
        "workflows/a.yaml: the tool 'desk.classify' stands in servers/desk.yaml already",
        "workflows/b.yaml: the skill 's' stands in workflows/a.yaml already",
        "workflows/b.yaml: the workflow 'a' stands in workflows/a.yaml already",
    ]


def test_secrets_are_filled_in_or_asked_for(tmp_path: Path) -> None:
    """A missing one names its variable; elsewhere than in `key` it is refused."""
    mesh = "name: a\nmodels: {m: {url: 'http://x/v1', model: x, key: '${{ secrets.LLM_KEY }}'}}\ndefault_model: m\n"
    (fault,) = faults(tmp_path, {"agentmesh.yaml": mesh})
    assert "AGENTMESH_SECRET_LLM_KEY" in fault.message
    loaded = load_mesh(tmp_path, Secrets({"LLM_KEY": "s3cret"}))
    assert loaded.file.models["m"].key == "s3cret"
    (fault,) = faults(
        tmp_path, {"agentmesh.yaml": mesh.replace("model: x", "model: '${{ secrets.LLM_KEY }}'")}, {"LLM_KEY": "x"}
    )
    assert "may stand only in" in fault.message


def test_a_cron_input_must_fit_the_workflow(tmp_path: Path) -> None:
    """So that the run of three in the morning does not fail for a typo."""
    schema = "{type: object, properties: {folder: {type: string}}, required: [folder], additionalProperties: false}"
    cron = "on: {cron: [{schedule: '0 3 * * *', input: {fodler: x}}]}"
    text = f"name: w\n{cron}\ninput: {schema}\nsteps: [{{id: a, set: 1}}]\n"
    assert sorted(f.message for f in faults(tmp_path, {"workflows/w.yaml": text})) == [
        "does not fit the workflow's input: 'folder' is a required property",
        "does not fit the workflow's input: unknown: 'fodler'; did you mean 'folder'?",
    ]


def test_a_workflow_that_starts_itself_for_ever_is_a_fault(tmp_path: Path) -> None:
    """Directly or through others; behind an `if` it may."""
    agent = "{id: x, agent: {skill: b, message: {}}%s}"
    files = {
        "workflows/a.yaml": f"name: a\nsteps: [{agent % ''}]\n",
        "workflows/b.yaml": "name: b\non: {a2a: {}}\nsteps: [{id: x, tool: t}]\n",
        "servers/t.yaml": "name: t\nprefix: false\ntools: {t: {description: x, workflow: a}}\n",
    }
    found = faults(tmp_path, files)
    assert sorted(f.file for f in found) == ["workflows/a.yaml", "workflows/b.yaml"]
    assert "never end: a -> b -> a" in found[0].message
    guarded = {
        **files,
        "workflows/a.yaml": f"name: a\nsteps: [{agent % ', if: run.source != 12.0'}]\n".replace("12.0", "'step'"),
    }
    assert faults(tmp_path, guarded) == []


PEERS = MESH + "agents: {billing: {card: 'https://billing.example.com/card.json'}}\n"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"agentmesh.yaml": MESH + "agents: {tasks: {card: 'https://x.example.com'}}\n"}, "a peer cannot be called 'tasks'"),
        ({"agentmesh.yaml": PEERS, **flow("- {id: a, agent: {peer: biling, message: x}}")}, "did you mean 'billing'?"),
        ({"agentmesh.yaml": PEERS, **flow("- {id: a, set: 1}", head="on: {a2a: {agent: billing}}\n")}, "is an agent elsewhere"),
        (flow("- {id: a, set: 1}", head="on: {a2a: {agent: acme}}\n"), "is the mesh itself"),
        (flow("- {id: a, set: 1}", head="on: {a2a: {agent: tasks}}\n"), "its address would mean something else"),
        (flow("- {id: a, set: 1}", head="on: {a2a: {reply: input.text}}\n"), "must be true or false, this is text"),
        (flow("- {id: a, set: 1}", head="on: {a2a: {reply: 'context.message.txt == \"\"'}}\n"), "has no 'txt'; did you mean"),
        (flow("- {id: a, set: 1}", head="on: {a2a: {input_modes: [picture]}}\n"), "is no media type"),
        ({"agentmesh.yaml": MESH + "a2a: {embed: nothing}\n"}, "unknown model 'nothing'"),
        ({"agentmesh.yaml": MESH + "a2a: {required_extensions: ['urn:x']}\n"}, "no extension 'urn:x'; there are urn:agentmesh:a2a:"),
        (
            {"agentmesh.yaml": MESH + "a2a: {required_extensions: ['urn:agentmesh:a2a:idempotency:2']}\n"},
            "did you mean 'urn:agentmesh:a2a:idempotency:1'?",
        ),
        (
            {
                "agentmesh.yaml": PEERS,
                **flow(
                    "- {id: a, agent: {peer: billing, message: x}}\n"
                    "- {id: b, http: {method: POST, url: 'https://x.example.com', json: '${{ steps.a.output }}'}}"
                ),
            },
            "an agent elsewhere, 'billing',",
        ),
        (
            flow("- {id: b, http: {method: POST, url: 'https://x.example.com', json: '${{ context.messages }}'}}"),
            "in an earlier task of the context",
        ),
    ],
)  # fmt: skip
def test_a_fault_about_agents_is_told(tmp_path: Path, files: dict[str, str], says: str) -> None:
    """Names that addresses take, peers that are not there, and what agents said acting by itself."""
    found = faults(tmp_path, files)
    assert [f.message for f in found if says in f.message], found
