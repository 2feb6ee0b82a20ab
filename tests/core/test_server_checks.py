"""What files in servers/, and `agents:` and `mcp:` of agentmesh.yaml, may not say: upstreams, APIs, resources, prompts, questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.settings import Secrets
from tests.core.test_check import MESH, faults, flow, write

SECRETS = {"TOKEN": "t0ken", "OTHER": "0ther"}
GITHUB = """
name: github
upstream: {url: https://mcp.example.com/mcp, token: "${{ secrets.TOKEN }}", headers: {X-Team: "${{ secrets.OTHER }}"}}
expose: [search_*, get_*, create_issue]
reads: [search_*, get_*]
"""
PYTHON = "tools: {t: {description: T, python: 'agentmesh.core.content:text', "
SAYING = "name: x\n" + PYTHON + "elicit: {said: {message: Say, form: FORM}}}}\n"
FULL = """
name: shell
upstream:
  command: [npx, -y, some-server]
  env: {API_KEY: "${{ secrets.TOKEN }}"}
  cwd: servers
  memory: 512MiB
  timeout: 20s
pin: [run]
offer: search
"""


def test_whole_files_of_every_kind_are_taken(tmp_path: Path) -> None:
    """With their secrets in place once they are loaded, and not in what is printed of them."""
    oauth = "{flow: client_credentials, client_id: x, client_key: '${{ secrets.OTHER }}', scopes: [read]}"
    files = {
        "servers/github.yaml": GITHUB,
        "servers/shell.yaml": FULL,
        "servers/linear.yaml": f"name: linear\nupstream: {{url: https://l.example.com/mcp, oauth: {oauth}}}\n",
        "servers/pets.yaml": """
            name: pets
            openapi:
              document: apis/pets.json
              token: ${{ secrets.TOKEN }}
              operations:
                addPet: {name: add_pet, rename: {petName: name}, arguments: {dryRun: false}}
            """,
        "apis/pets.json": "{}",
        "agentmesh.yaml": MESH + "agents: {billing: {card: 'https://b.example.com/card.json', token: '${{ secrets.OTHER }}'}}\n"
        "mcp: {offer: search, pin: ['github.get_*', 'desk.classify'], task_ttl: 1d}\n",
    }  # fmt: skip
    mesh = load_mesh(write(tmp_path, files), Secrets(SECRETS))
    github, shell, linear = (mesh.servers[name].upstream for name in ("github", "shell", "linear"))
    assert github is not None
    assert shell is not None
    assert linear is not None
    assert linear.oauth is not None
    assert (github.token, github.headers) == ("t0ken", {"X-Team": "0ther"})
    assert (shell.env, linear.oauth.client_key) == ({"API_KEY": "t0ken"}, "0ther")
    pets = mesh.servers["pets"].openapi
    assert pets is not None
    assert pets.token == "t0ken"
    assert mesh.file.agents["billing"].token == "0ther"
    assert not {"t0ken", "0ther"} & set(repr(mesh).replace("'", " ").split())


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("name: x\nupstream: {}\n", (2, 1), "an upstream has either `url` or `command`; this has neither"),
        (
            "name: x\nupstream: {url: 'https://a', command: [b]}\n",
            (2, 1),
            "an upstream has either `url` or `command`; this has both",
        ),
        (
            "name: x\nupstream: {url: ftp://a}\n",
            (2, 17),
            "'ftp://a' is not an address: http://HOST[:PORT]/... or https://...",
        ),
        (
            "name: x\nupstream: {url: 'https://u:p@a'}\n",
            (2, 17),
            "an address holds no name and password: write `token` or `headers`, with a secret",
        ),
        (
            "name: x\nupstream: {url: 'https://a', env: {A: b}}\n",
            (2, 30),
            "`env` belongs to an upstream with `command`",
        ),
        (
            "name: x\nupstream: {command: [a], token: b}\n",
            (2, 26),
            "`token` belongs to an upstream with `url`; a child has `env`",
        ),
        ("name: x\nupstream: {command: []}\n", (2, 12), "must not be empty: a program, then its arguments"),
        (
            "name: x\nupstream: {command: [npx -y some-server]}\n",
            (2, 22),
            "no shell reads this: write each word by itself, [npx, -y, some-server]",
        ),
        ("name: x\nupstream: {command: [a], env: {A-B: c}}\n", (2, 32), "'A-B' is no name of a variable"),
        ("name: x\nupstream: {command: [a], memory: lots}\n", (2, 34), "'lots' is no size: write 512MiB or 1GiB"),
        ("name: x\nupstream: {command: [a], memory: 1MiB}\n", (2, 34), "nothing starts in 1MiB; the least is 16MiB"),
        ("name: x\nupstream: {command: [a], cwd: ../b}\n", (2, 31), "'../b' must lie in the mesh's folder"),
        (
            "name: x\nupstream: {command: [a], cwd: server}\n",
            (2, 31),
            "the folder server is missing; did you mean 'servers'?",
        ),
        (
            "name: x\nupstream: {command: [a], timeout: 0}\n",
            (2, 35),
            "must be more than 0: nothing would be waited for",
        ),
        ("name: x\nupstream: {command: [a], at_once: 0}\n", (2, 35), "must be at least 1, this is 0"),
        (
            "name: x\nupstream: {url: 'https://a', headers: {Authorization: b}, token: c}\n",
            (2, 40),
            "`token` and `oauth` are sent as Authorization: leave one of the two out",
        ),
        (
            "name: x\nupstream: {url: 'https://a', token: b, oauth: {flow: authorization_code}}\n",
            (2, 30),
            "`oauth` gets tokens by itself: leave one of the two out",
        ),
        (
            "name: x\nupstream: {url: 'https://a', oauth: {flow: client_credentials}}\n",
            (2, 30),
            "'client_id' is missing: with client_credentials the mesh itself is known to the authorization server",
        ),
        (
            "name: x\nupstream: {url: 'https://a', oauth: {flow: authorization_code, client_key: '${{ secrets.TOKEN }}'}}\n",
            (2, 64),
            "'client_id' is missing: whose key is this?",
        ),
        (
            "name: x\nupstream: {url: 'https://a', oauth: {flow: authorization_code, scopes: ['a b']}}\n",
            (2, 73),
            "'a b' is no scope: one word each, without blanks and quotes",
        ),
        (
            "name: x\nupstream: {url: 'https://a', token: '${{ secrets.NONE }}'}\n",
            (2, 38),
            "the secret NONE is not set: give it in the environment as AGENTMESH_SECRET_NONE",
        ),
        ("name: x\nupstream: {command: [a, '${{ secrets.TOKEN }}']}\n", (2, 26), None),
        (
            "name: x\nupstream: {url: 'https://a'}\nexpose: []\n",
            (3, 1),
            "must not be empty: nothing would be offered; leave it out to offer everything",
        ),
        (
            "name: x\nupstream: {url: 'https://a'}\nreads: [x.get_*]\n",
            (3, 9),
            "this is looked for among the server's own names: write get_*",
        ),
        (
            "name: x\nupstream: {url: 'https://a'}\nprefix: false\n",
            (3, 1),
            "`prefix: false` is for tools of your own: what others call theirs is not known before they answer",
        ),
        (
            "name: x\nupstream: {url: 'https://a'}\ntools: {t: {description: T, workflow: w}}\n",
            (3, 1),
            "this file offers the tools of its `upstream`; put your own into another file",
        ),
        (
            "name: x\nupstream: {url: 'https://a'}\nopenapi: {document: 'https://b'}\n",
            (3, 1),
            "a server file has `upstream` or `openapi`, not both: make two files",
        ),
        ("name: x\nopenapi: {document: none.json}\n", (2, 21), "the file none.json is missing"),
        ("name: x\nopenapi: {document: .hidden.json}\n", (2, 21), "'.hidden.json' is hidden, or no path of a file"),
        (
            "name: x\nopenapi: {document: 'https://b', operations: {a: {name: 'b c'}}}\n",
            (2, 57),
            "'b c' cannot name a tool: letters, digits, '_', '-' and '.', at most 64",
        ),
        (
            "name: x\nopenapi: {document: 'https://b', operations: {a: {name: t}, b: {name: t}}}\n",
            (2, 71),
            "'t' is the name of a already",
        ),
        (
            "name: x\nopenapi: {document: 'https://b', operations: {a: {rename: {q: r}, arguments: {q: 1}}}}\n",
            (2, 60),
            "'q' is filled in by `arguments`: callers never see it",
        ),
        (
            "name: x\nopenapi: {document: 'https://b', operations: {a: {rename: {q: r, p: s}, name: t, arguments: {p: 1}}}}\n",
            (2, 66),
            "'p' is filled in by `arguments`: callers never see it",
        ),
        (
            "name: x\n",
            (1, 1),
            "a server file declares `tools`, `resources` or `prompts`, or has `upstream` or `openapi`",
        ),
        (
            "name: x\ntools: {t: {description: T, workflow: w}}\nreads: [t]\n",
            (3, 1),
            "`reads` goes with `upstream` and `openapi`: it is about what others serve",
        ),
        (
            "name: x\ntools: {send: {description: T, workflow: w}}\npin: [sned]\n",
            (3, 7),
            "no tool of this file fits 'sned'; did you mean 'send'?",
        ),
    ],
)
def test_each_fault_of_a_server_file_is_told_at_its_place(
    tmp_path: Path, text: str, place: tuple[int, int], message: str | None
) -> None:
    """One fault, at line and column."""
    files = {"servers/x.yaml": text, **flow("- {id: a, set: 1}")}
    found = faults(tmp_path, files, SECRETS)
    assert [(f.file, f.line, f.column) for f in found] == [("servers/x.yaml", *place)], found
    assert message is None or found[0].message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "resources: {a: {uri: 'x://a', description: A}}",
            "a resource has exactly one of text, file, python; this has none",
        ),
        (
            "resources: {a: {uri: 'x://a', description: A, text: t, file: f}}",
            "a resource has exactly one of text, file, python; this has text and file",
        ),
        (
            "resources: {a: {uri: a, description: A, text: t}}",
            "'a' is no URI: it begins with a scheme, as desk://orders or file:///notes.md do",
        ),
        (
            "resources: {a: {uri: 'mesh://a', description: A, text: t}}",
            "mesh:// is where the mesh shows its own runs and workflows; take another scheme",
        ),
        (
            "resources: {a: {uri: 'x://{+a}', description: A, text: t}}",
            "{+a} is not read here: a value is written {NAME} (RFC 6570, level 1)",
        ),
        (
            "resources: {a: {uri: 'x://a', description: A, text: t}, b: {uri: 'x://a', description: B, text: t}}",
            "the resource 'x://a' stands in servers/x.yaml already",
        ),
        (
            "resources: {a: {uri: 'x://{id}', description: A, text: '${{ input.ident }}'}}",
            "input has no 'ident'; it has id",
        ),
        (
            "resources: {a: {uri: 'x://a', description: A, text: t, subscribe: true}}",
            "a `text` stands in this file and does not change; leave it out",
        ),
        (
            "resources: {a: {uri: 'x://a', description: A, text: t, mime: text}}",
            "'text' is no MIME type: text/plain, image/png",
        ),
        (
            "resources: {a: {uri: 'x://a', description: A, file: docs/b.md}}",
            "the file docs/b.md is missing; did you mean 'a.md'?",
        ),
        ("resources: {a: {uri: 'x://a', description: A, file: ../a.md}}", "'../a.md' must lie in the mesh's folder"),
        ("resources: {a: {uri: 'x://a', description: A, file: .env}}", "'.env' is hidden, or no path of a file"),
        (
            "resources: {a: {uri: 'x://a', description: A, file: docs/link.md}}",
            "'docs/link.md' goes by a link (link.md), which is not followed",
        ),
        (
            "resources: {a: {uri: 'x://{n}', description: A, file: '${{ input.n }}.md'}}",
            "the folder must be written out, as in docs/${{ input.name }}.md: callers choose only the rest",
        ),
        (
            "resources: {a: {uri: 'x://{n}', description: A, python: 'agentmesh.core.content:text'}}",
            "'agentmesh.core.content:text' takes no 'n', which the URI has; it takes said",
        ),
        (
            "resources: {a: {uri: 'x://{n}', description: A, python: 'agentmesh.core.content:nothing'}}",
            "module 'agentmesh.core.content' has no 'nothing'",
        ),
        ("prompts: {p: {description: P}}", "a prompt has exactly one of messages, python; this has none"),
        ("prompts: {p: {description: P, messages: []}}", "must not be empty"),
        (
            "prompts: {'a b': {description: P, messages: [{text: t}]}}",
            "'a b' cannot name a prompt: letters, digits, '_', '-' and '.', at most 64 with the server's",
        ),
        (
            "prompts: {p: {description: P, messages: [{text: t, file: docs/a.md}]}}",
            "a message has exactly one of text, resource, file; this has text and file",
        ),
        (
            "prompts: {p: {description: P, arguments: {who: {}}, messages: [{text: 'Hi ${{ input.whom }}'}]}}",
            "input has no 'whom'; did you mean 'who'?",
        ),
        (
            "prompts: {p: {description: P, arguments: {a-b: {}}, messages: [{text: t}]}}",
            "'a-b' cannot name an argument: letters, digits and '_'",
        ),
        (
            "prompts: {p: {description: P, messages: [{resource: 'x://b'}]}, }\nresources: {a: {uri: 'x://a', description: A, text: t}}",
            "there is no resource 'x://b'; did you mean 'x://a'?",
        ),
        (
            "prompts: {p: {description: P, arguments: {said: {}}, python: 'agentmesh.core.content:text'}}",
            "'agentmesh.core.content:text' needs 'said', which the prompt does not require",
        ),
        (
            "tools: {t: {description: T, workflow: w, execution: {taskSupport: required}}}",
            "`taskSupport` is for python and http tools; one that asks a model, or is a workflow, can be a task always",
        ),
        (
            PYTHON + "elicit: {said: {message: Say}}, input: {type: object, properties: {said: {}}}}}",
            "'said' is a property of `input`: callers give it, or their user is asked, not both",
        ),
        (
            PYTHON + "elicit: {side: {message: Say}, said: {message: Say}}}}",
            "'agentmesh.core.content:text' takes no 'side'; did you mean 'said'?",
        ),
        (
            "tools: {t: {description: T, llm: {prompt: p}, elicit: {said: {message: Say}}}}",
            "`elicit` is for python, http and workflow tools; ask in a workflow's `approve` step",
        ),
        (PYTHON + "elicit: {said: {message: '${{ input.x }}'}}, input: {type: object, properties: {y: {}}}}}", None),
    ],
)
def test_each_fault_of_what_a_server_shows_is_told(tmp_path: Path, text: str, message: str | None) -> None:
    """Resources, prompts, and what the caller's user is asked."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("a")
    (tmp_path / "docs" / "link.md").symlink_to("/etc/passwd")
    (tmp_path / ".env").write_text("KEY=1")
    found = faults(tmp_path, {"servers/x.yaml": "name: x\n" + text + "\n", **flow("- {id: a, set: 1}")})
    found = [fault for fault in found if "takes no 'y'" not in fault.message]
    assert found
    assert all(fault.line for fault in found), found
    assert message is None or message in [fault.message for fault in found], found


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            "{type: object, properties: {a: {type: object}}}",
            "a field of a form is a string, number, integer, boolean, or an array of choices; this is 'object'",
        ),
        (
            "{type: object, properties: {a: {}}}",
            "a field of a form is a string, number, integer, boolean, or an array of choices; this names no type",
        ),
        ("{type: object, properties: {a: {type: string, $ref: '#/x'}}}", None),
        (
            "{type: object, properties: {a: {type: string, format: hostname}}}",
            "a form knows the formats email, uri, date, date-time",
        ),
        (
            "{type: object, properties: {a: {type: array, items: {type: string}}}}",
            "an array in a form is a choice of several: `items` has `enum`, or `anyOf` with const and title",
        ),
        (
            "{type: object, properties: {a: {type: string, oneOf: [{const: x}]}}}",
            "a choice is {const: VALUE, title: WHAT IS SHOWN}",
        ),
        (
            "{type: object, properties: {a: {type: string}}, required: [b]}",
            "'b' is none of the properties: nobody could fill it in",
        ),
        (
            "{type: object, anyOf: [{}]}",
            "`anyOf` has no place in a form that a client shows: here stand type, properties and required",
        ),
        ("{type: string}", "must be of `type: object`: a form with a field for each property"),
    ],
)
def test_a_form_is_flat(tmp_path: Path, form: str, message: str | None) -> None:
    """As MCP's clients can show it (2026-07-28 client/elicitation)."""
    text = SAYING.replace("FORM", form)
    found = faults(tmp_path, {"servers/x.yaml": text})
    assert found, "a fault"
    assert message is None or message in [fault.message for fault in found], found


def test_every_field_of_a_flat_form_is_taken(tmp_path: Path) -> None:
    """All that the specification lists."""
    form = (
        "{type: object, required: [name], properties: {name: {type: string, title: N, minLength: 1, format: email, default: a},"
        " age: {type: integer, minimum: 0}, score: {type: number, default: 1.5}, sure: {type: boolean, default: true},"
        " one: {type: string, enum: [a, b]}, two: {type: string, oneOf: [{const: a, title: A}]},"
        " some: {type: array, minItems: 1, items: {type: string, enum: [a]}},"
        " more: {type: array, items: {anyOf: [{const: a, title: A}]}}}}"
    )
    text = SAYING.replace("FORM", form)
    assert faults(tmp_path, {"servers/x.yaml": text}) == []


def agent(tools: str) -> str:
    return f"- {{id: ask, llm: {{prompt: 'Do ${{{{ input.text }}}}', tools: {tools}, max_turns: 2}}}}"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("- {id: a, tool: github.search_issues, with: {q: x}}", None),
        ("- {id: a, tool: billing.pay, with: {q: x}}", None),
        ("- {id: a, tool: githb.search_issues}", "unknown tool 'githb.search_issues'"),
        (
            "- {id: a, tool: github.delete_repo}",
            "server github does not offer 'github.delete_repo': add it to `expose` in its file",
        ),
        (
            "- {id: a, tool: github.search_issues, validate: [{tool: {name: github.get_issue, passes: result.ok}}]}",
            None,
        ),
        (agent("['github.*']"), None),
        (agent("['github.search_issues']"), None),
        (agent("['githb.*']"), "no tool fits 'githb.*'"),
        (
            agent("['github.create_issue']"),
            "the model could call 'github.create_issue', which writes as far as is known here",
        ),
        (
            agent("['billing.pay']"),
            "the model could call 'billing.pay', which writes as far as is known here, with what it likes: it is a peer's skill",
        ),
    ],
)
def test_a_name_of_somebody_elses_tool_stands_when_a_file_may_have_it(
    tmp_path: Path, steps: str, message: str | None
) -> None:
    """They are known when they answer; a wrong prefix, or what is not exposed, is unknown now."""
    peers = "agents: {billing: {card: 'https://b.example.com/card.json'}}\n"
    found = faults(tmp_path, {"servers/github.yaml": GITHUB, "agentmesh.yaml": MESH + peers, **flow(steps)}, SECRETS)
    if message is None:
        assert found == []
    else:
        assert [fault.message[: len(message)] for fault in found] == [message], found


def test_what_a_model_said_reaches_no_tool_of_somebody_else_that_writes(tmp_path: Path) -> None:
    """Unless the operator says that it reads; the upstream's own word for it is not even there."""
    steps = "- {{id: said, llm: {{prompt: p}}}}\n- {{id: act, tool: github.{0}, with: {{title: '${{{{ steps.said.output }}}}'}}}}"
    (found,) = faults(tmp_path, {"servers/github.yaml": GITHUB, **flow(steps.format("create_issue"))}, SECRETS)
    assert "nothing has checked it" in found.message
    assert faults(tmp_path, {"servers/github.yaml": GITHUB, **flow(steps.format("search_issues"))}, SECRETS) == []


def test_what_an_agent_elsewhere_said_is_what_a_model_said(tmp_path: Path) -> None:
    """Nobody knows who speaks there; with a check that names it, it may act."""
    peers = {"agentmesh.yaml": MESH + "agents: {billing: {card: 'https://b.example.com/card.json'}}\n"}
    asked = "- {id: said, tool: billing.ask, with: {q: x}CHECK}\n- {id: act, http: {method: POST, url: 'https://x.example.com', "
    asked += "json: {a: '${{ steps.said.output.text }}'}}}"
    (found,) = faults(tmp_path, peers | flow(asked.replace("CHECK", "")))
    assert "an agent elsewhere, asked by 'billing.ask'," in found.message
    checked = ", validate: [{ensure: output.text == 'yes'}]"
    assert faults(tmp_path, peers | flow(asked.replace("CHECK", checked))) == []


def test_nothing_of_the_meshs_own_hides_what_others_serve(tmp_path: Path) -> None:
    """A bare name, or a workflow's, that begins as theirs do."""
    bare = "name: x\nprefix: false\ntools: {github.search_x: {description: T, workflow: w}}\n"
    files = {
        "servers/github.yaml": GITHUB,
        "servers/x.yaml": bare,
        **flow("- {id: a, set: 1}", head="on: {mcp: {name: github.flow}}\n"),
    }
    found = faults(tmp_path, files, SECRETS)
    assert [(f.file, f.message) for f in found] == [
        ("servers/x.yaml", "'github.search_x' would hide what github offers, whose names begin so: take another name"),
        ("workflows/w.yaml", "'github.flow' would hide what github offers, whose names begin so: take another name"),
    ]


def test_names_of_peers_and_servers_are_one_kind(tmp_path: Path) -> None:
    """Both begin the names of tools."""
    peers = "agents: {desk: {card: 'https://b'}, Big: {card: b}}\nmcp: {pin: [dsk.*], task_ttl: soon}\n"
    found = [fault.message for fault in faults(tmp_path, {"agentmesh.yaml": MESH + peers})]
    assert "the server 'desk' stands in servers/desk.yaml already" in found
    assert "'Big' cannot name a peer: a small letter, then small letters, digits, '_' or '-'" in found
    assert "'b' is not an address: http://HOST[:PORT]/... or https://..." in found
    assert any(message.startswith("no tool fits 'dsk.*'") for message in found)
    assert len(found) == 5
