"""What a model said may not act by itself: a table of workflows that may, and of those that may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmesh.errors import Fault
from tests.core.test_check import MESH, faults, flow

SERVER = """
name: desk
tools:
  find:
    description: Reads.
    input: {type: object, properties: {q: {type: string}}, required: [q]}
    python: os:getcwd
    output: {type: object, properties: {text: {type: string}, kind: {enum: [a, b]}}, additionalProperties: false}
    annotations: {readOnlyHint: true}
  send:
    description: Writes.
    input: {type: object, properties: {text: {}}}
    python: os:getcwd
  pick:
    description: Writes one of two.
    input: {type: object, properties: {kind: {enum: [a, b]}, sure: {type: boolean}}, additionalProperties: false}
    python: os:getcwd
  ask:
    description: Asks a model.
    input: {type: object}
    llm:
      prompt: x
      output:
        type: object
        properties: {text: {type: string}, kind: {enum: [a, b]}, seen: {type: string}}
        additionalProperties: false
    validate: [{ensure: size(output.seen) < 9}]
    annotations: {readOnlyHint: true}
"""
CHILD = """
name: child
on: {a2a: {}}
input: {type: object, properties: {text: {}}}
steps: [{id: x, llm: {prompt: x, output: {type: object, properties: {text: {type: string}, kind: {enum: [a]}}}}}]
output_schema: {type: object, properties: {text: {type: string}, kind: {enum: [a, b]}}, additionalProperties: false}
"""
PLAIN = "name: plain\ninput: {type: object}\nsteps: [{id: x, set: {text: '${{ input.text }}'}}]\n"
WRITER = "name: writer\ninput: {type: object}\nsteps: [{id: x, python: 'os:getcwd'}]\n"
FILES = {
    "servers/desk.yaml": SERVER,
    "workflows/child.yaml": CHILD,
    "workflows/plain.yaml": PLAIN,
    "workflows/writer.yaml": WRITER,
    "agentmesh.yaml": MESH + "databases: {d: 'sqlite:///d.db'}\n",
}
DRAFT = """
- id: draft
  llm:
    prompt: x
    output:
      type: object
      properties:
        text: {type: string}
        other: {type: string}
        kind: {enum: [a, b]}
        sure: {type: boolean}
        n: {type: integer, minimum: 0, maximum: 9}
        open: {type: integer, minimum: 0}
        maybe: {type: [string, "null"]}
        kinds: {type: array, items: {enum: [a, b]}}
        texts: {type: array, items: {type: object, properties: {t: {type: string}, k: {const: a}}, additionalProperties: false}}
      additionalProperties: false
"""
SEND = '- {id: send, tool: desk.send, with: {text: "${{ %s }}"}}'


def draft(*validators: str, send: str = "steps.draft.output.text", between: str = "") -> str:
    checks = "  validate:\n" + "".join(f"    - {v}\n" for v in validators) if validators else ""
    return DRAFT + checks + between + SEND % send


ALLOWED = {
    "a caller's text": SEND % "input.text",
    "an enum": draft(send="steps.draft.output.kind"),
    "a boolean": draft(send="steps.draft.output.sure"),
    "a number with both bounds": draft(send="steps.draft.output.n"),
    "a list of an enum": draft(send="steps.draft.output.kinds"),
    "a const in a list": draft(send="steps.draft.output.texts[0].k"),
    "checked by ensure": draft("ensure: output.text != output.kind"),
    "one item checked by ensure": draft("ensure: output.texts[0].t != ''", send="steps.draft.output.texts[0].t"),
    "all items checked by ensure": draft(
        "ensure: output.texts.all(t, t.t != '')", send="steps.draft.output.texts[1].t"
    ),
    "checked by grounded": draft("grounded: [output.text]"),
    "each of a list by grounded": draft("grounded: ['output.texts[].t']", send="steps.draft.output.texts"),
    "checked by a judge": draft("judge: {rubric: x, path: output.text}"),
    "all by a judge": draft("judge: {rubric: x}", send="steps.draft.output"),
    "checked by a vote": draft("vote: {samples: 3, path: output.text}"),
    "checked by a person": draft("approve: {ask: x, path: output.text}"),
    "checked by a tool": draft(
        "tool: {name: desk.find, with: {q: '${{ output.text }}'}, passes: 'result.kind == \"a\"', path: output.text}"
    ),
    "checked by what a tool was given": draft(
        "tool: {name: desk.find, with: {q: '${{ output.text }}'}, passes: 'result.kind == \"a\"'}"
    ),
    "bounded by a schema of validate": draft("schema: {properties: {text: {enum: [x, y]}}}"),
    "covered in a set": draft(
        between="- {id: m, set: {t: '${{ steps.draft.output.text }}'}, validate: [{ensure: size(output.t) < 9}]}\n",
        send="steps.m.output.t",
    ),
    "a set keeps what is clean apart": draft(
        between="- {id: m, set: {t: '${{ steps.draft.output.text }}', k: '${{ steps.draft.output.kind }}'}}\n",
        send="steps.m.output.k",
    ),
    "an if that reads what is clean": draft(send="input.text").replace(
        "tool: desk.send", "if: steps.draft.output.sure, tool: desk.send"
    ),
    "a guard on a step's state": draft(send="input.text").replace(
        "tool: desk.send", "if: 'steps.draft.state == \"completed\"', tool: desk.send"
    ),
    "a guard by null": (
        DRAFT.replace("  llm:", "  on_error: continue\n  llm:")
        + (SEND % "input.text").replace("tool: desk.send", "if: steps.draft.output != null, tool: desk.send")
    ),
    "a read": DRAFT + "- {id: r, tool: desk.find, with: {q: '${{ steps.draft.output.text }}'}}",
    "a GET": DRAFT + "- {id: r, http: {url: 'https://x/${{ steps.draft.output.text }}'}}",
    "a read of a database": (
        DRAFT + "- {id: r, sql: {database: d, query: 'select :t'}, with: {t: '${{ steps.draft.output.text }}'}}"
    ),
    "effect: read": draft().replace("tool: desk.send", "effect: read, tool: desk.send"),
    "a bounded result of a read": (
        DRAFT
        + "- {id: r, tool: desk.find, with: {q: '${{ steps.draft.output.text }}'}}\n"
        + SEND % "steps.r.output.kind"
    ),
    "the status of a request": (
        DRAFT + "- {id: r, http: {url: 'https://x/${{ steps.draft.output.text }}'}}\n" + SEND % "steps.r.output.status"
    ),
    "shown by an approve before": draft(
        between="- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n"
    ),
    "shown within more": draft(
        between="- {id: ok, approve: {ask: x, show: {a: 'Send ${{ steps.draft.output }}'}}}\n",
        send="steps.draft.output.other",
    ),
    "shown as an item of a list": draft(
        between="- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.texts[0].t }}'}}\n",
        send="steps.draft.output.texts[0].t",
    ),
    "shown where an if guards it": draft(
        between="- {id: ok, if: input.text != '', approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n"
    ).replace("tool: desk.send", "if: 'steps.ok.state == \"completed\"', tool: desk.send"),
    "shown, then set": draft(
        between="- {id: m, set: '${{ steps.draft.output.text }}!'}\n"
        "- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n",
        send="steps.m.output",
    ),
    "what a person filled in": draft(
        between="- {id: ok, approve: {ask: x, form: {type: object, properties: {note: {type: string}}}}}\n",
        send="steps.ok.output.values.note",
    ),
    "a signal": "- {id: s, wait: {signal: x}}\n" + SEND % "steps.s.output.text",
    "a decision that a person saw": DRAFT
    + "- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n"
    + (SEND % "input.text").replace("tool: desk.send", "if: steps.draft.output.text == 'yes', tool: desk.send"),
    "each item approved": DRAFT
    + """- id: each
  map: {over: steps.draft.output.texts}
  steps:
    - {id: ok, approve: {ask: x, show: "${{ item.t }}"}}
    - {id: send, tool: desk.send, with: {text: "${{ item.t }}"}}
""",
    "checked in a branch": """
- id: both
  parallel:
    one:
      - id: a
        llm: {prompt: x, output: {type: object, properties: {t: {type: string}}, additionalProperties: false}}
        validate: [{ensure: size(output.t) < 9}]
    two: [{id: b, llm: {prompt: x}}]
"""
    + SEND % "steps.both.output.one.t",
    "what a tool's own check covers": "- {id: t, tool: desk.ask}\n" + SEND % "steps.t.output.seen",
    "what a tool's schema bounds": "- {id: t, tool: desk.ask}\n" + SEND % "steps.t.output.kind",
    "what a child's schema bounds": "- {id: c, workflow: child}\n" + SEND % "steps.c.output.kind",
    "a child without a model": "- {id: c, workflow: plain, with: {text: x}}\n" + SEND % "steps.c.output",
    "a child that only reads": DRAFT + "- {id: c, workflow: plain, with: {text: '${{ steps.draft.output.text }}'}}",
    "a model with tools that read": "- {id: a, llm: {prompt: x, tools: [desk.find]}}",
    "a model with a tool that bounds its arguments": "- {id: a, llm: {prompt: x, tools: [desk.pick]}}",
    "a model with tools, vouched for": "- {id: a, effect: read, llm: {prompt: x, tools: [desk.send]}}",
    "a fallback of the author's": draft("ensure: output.text != ''").replace(
        "- {id: send", "  on_invalid: [{fallback: {text: '${{ input.text }}'}}]\n- {id: send"
    ),
    "an enum from a caller's list": (
        "- {id: d, llm: {prompt: x, output: {type: string, enum: '${{ input.n }}'}}}\n" + SEND % "steps.d.output"
    ),
    "null or an enum": (
        "- {id: d, llm: {prompt: x, output: {anyOf: [{type: 'null'}, {enum: [a]}]}}}\n" + SEND % "steps.d.output"
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_clean_may_act(tmp_path: Path, name: str) -> None:
    """Bounded, checked, seen by a person, or never a model's."""
    assert told(tmp_path, ALLOWED[name]) == []


REFUSED = {
    "free text": ("- {id: draft, llm: {prompt: x}}\n" + SEND % "steps.draft.output", "steps.draft.output is what a model said"),
    "text": (draft(), "steps.draft.output.text is what a model said in 'draft'"),
    "text or null": (draft(send="steps.draft.output.maybe"), "steps.draft.output.maybe is what"),
    "a number with one bound": (draft(send="steps.draft.output.open"), "steps.draft.output.open is what"),
    "all of an object": (draft(send="steps.draft.output"), "steps.draft.output holds steps.draft.output.maybe"),
    "text within text": (draft().replace('"${{ ', '"Dear ${{ '), "steps.draft.output.text is what"),
    "an object that is not closed": (
        "- {id: draft, llm: {prompt: x, output: {type: object, properties: {k: {enum: [a]}}}}}\n" + SEND % "steps.draft.output",
        "steps.draft.output is what a model said",
    ),
    "another path is checked": (draft("ensure: output.other != ''"), "steps.draft.output.text is what"),
    "another item is checked": (
        draft("ensure: output.texts[0].t != ''", send="steps.draft.output.texts[1].t"), "output.texts[1].t holds"
    ),
    "an ensure that names nothing": (draft("ensure: input.text != ''"), "steps.draft.output.text is what"),
    "a judge of another path": (draft("judge: {rubric: x, path: output.other}"), "steps.draft.output.text"),
    "a tool that looked at another": (
        draft("tool: {name: desk.find, with: {q: '${{ output.other }}'}, passes: 'result.kind == \"a\"'}"),
        "steps.draft.output.text is what",
    ),
    "grounded in another": (draft("grounded: [output.other]"), "steps.draft.output.text is what"),
    "a schema that does not bound": (draft("schema: {properties: {text: {type: string, maxLength: 5}}}"), "output.text is what"),
    "through set": (draft(between="- {id: m, set: {t: '${{ steps.draft.output.text }}'}}\n", send="steps.m.output.t"),
                    "steps.m.output.t holds steps.draft.output.text"),
    "through set and set": (
        draft(
            between="- {id: m, set: {t: '${{ steps.draft.output.text }}'}}\n- {id: k, set: ['${{ steps.m.output }}']}\n",
            send="steps.k.output[0].t",
        ),
        "holds steps.draft.output.text",
    ),
    "computed": (draft(send="steps.draft.output.text.upperAscii() + '!'"), "steps.draft.output.text is what"),
    "chosen by it": (draft(send="steps.draft.output.text == 'x' ? 'a' : 'b'"), "steps.draft.output.text is what"),
    "its size": (draft(send="size(steps.draft.output.text)"), "steps.draft.output.text is what"),
    "mapped": (draft(send="steps.draft.output.texts.map(t, t.t)"), "steps.draft.output.texts holds"),
    "filtered": (draft(send="steps.draft.output.texts.filter(t, t.t != '').size()"), "steps.draft.output.texts holds"),
    "in a map": (
        DRAFT + "- id: each\n  map: {over: steps.draft.output.texts, as: one}\n  steps:\n    "
        + SEND.replace("id: send", "id: s") % "one.t",
        "one.t holds steps.draft.output.texts[].t",
    ),
    "out of a map": (
        "- id: each\n  map: {over: input.n}\n  steps: [{id: d, llm: {prompt: x}}]\n" + SEND % "steps.each.output[0]",
        "holds steps.d.output",
    ),
    "out of a branch": (
        "- id: both\n  parallel: {one: [{id: d, llm: {prompt: x}}], two: [{id: e, set: 1}]}\n" + SEND % "steps.both.output.one",
        "holds steps.d.output",
    ),
    "out of a switch": (
        "- id: s\n  switch: [{when: input.text == 'x', steps: [{id: d, llm: {prompt: x}}]}]\n" + SEND % "steps.s.output",
        "holds steps.d.output",
    ),
    "the last round of a loop": (
        "- id: l\n  loop: {max: 3}\n  steps:\n    "
        + SEND % "loop.last" + "\n    - {id: d, llm: {prompt: x}}\n",
        "loop.last holds steps.d.output",
    ),
    "under an if that reads it": (
        draft(send="input.text").replace("tool: desk.send", "if: steps.draft.output.text == 'go', tool: desk.send"),
        "whether 'send' writes (tool desk.send) hangs on steps.draft.output.text",
    ),
    "under a switch that reads it": (
        DRAFT + "- id: s\n  switch:\n    - when: steps.draft.output.text == 'go'\n      steps:\n        " + SEND % "input.text",
        "hangs on steps.draft.output.text",
    ),
    "in the else of one": (
        DRAFT + "- id: s\n  switch: [{when: steps.draft.output.text == 'go', steps: [{id: x, set: 1}]}]\n  else:\n    "
        + SEND % "input.text",
        "hangs on steps.draft.output.text",
    ),
    "in a loop until it says so": (
        "- id: l\n  loop: {max: 3, until: \"steps.d.output == 'stop'\"}\n  steps:\n    - {id: d, llm: {prompt: x}}\n    "
        + SEND % "input.text",
        "hangs on steps.d.output",
    ),
    "what stood under such an if": (
        DRAFT + "- {id: m, if: steps.draft.output.text == 'go', set: 'yes'}\n"
        + (SEND % "input.text").replace("tool: desk.send", "if: steps.m.output == 'yes', tool: desk.send"),
        "hangs on steps.draft.output.text",
    ),
    "a tool that asks a model": ("- {id: t, tool: desk.ask}\n" + SEND % "steps.t.output.text", "a model, asked by the tool 'desk.ask',"),
    "a child that asks a model": (
        "- {id: c, workflow: child}\n" + SEND % "steps.c.output.text", "a model, asked by the workflow 'child',"
    ),
    "an agent that asks a model": (
        "- {id: c, agent: {skill: child, message: {text: x}}}\n" + SEND % "steps.c.output.text",
        "a model, asked by the workflow 'child',",
    ),
    "a read of what it said": (
        DRAFT + "- {id: r, tool: desk.find, with: {q: '${{ steps.draft.output.text }}'}}\n" + SEND % "steps.r.output.text",
        "steps.r.output.text holds steps.draft.output.text",
    ),
    "a GET of what it said": (
        DRAFT + "- {id: r, http: {url: 'https://x/${{ steps.draft.output.text }}'}}\n" + SEND % "steps.r.output.body",
        "holds steps.draft.output.text",
    ),
    "rows of what it said": (
        DRAFT + "- {id: r, sql: {database: d, query: 'select :t'}, with: {t: '${{ steps.draft.output.text }}'}}\n"
        + SEND % "steps.r.output.rows[0].x",
        "holds steps.draft.output.text",
    ),
    "to http": (
        DRAFT + "- {id: p, http: {method: POST, url: 'https://x', json: {a: ['${{ steps.draft.output.text }}']}}}",
        "'p' writes (http POST)",
    ),
    "to an address": (
        DRAFT + "- {id: p, http: {method: DELETE, url: 'https://x/${{ steps.draft.output.text }}'}}", "'p' writes (http DELETE)"
    ),
    "to an agent": (DRAFT + "- {id: p, agent: {skill: child, message: {text: '${{ steps.draft.output.text }}'}}}",
                    "'p' writes (agent child)"),
    "to a function": (DRAFT + "- {id: p, python: 'agentmesh.builtin.inbox:read', with: {folder: a, sha256: b,"
                      " name: '${{ steps.draft.output.text }}'}}", "'p' writes (python agentmesh.builtin.inbox:read)"),
    "to a database": (
        DRAFT + "- {id: p, effect: write, sql: {database: d, query: 'call f(:t)'}, with: {t: '${{ steps.draft.output.text }}'}}",
        "'p' writes (sql)",
    ),
    "to a child that writes": (
        DRAFT + "- {id: p, workflow: writer, with: {text: '${{ steps.draft.output.text }}'}}", "'p' writes (workflow writer)"
    ),
    "to what undoes a step": (
        DRAFT.replace("- id: draft", "- id: draft\n  compensate: {tool: desk.send, with: {text: '${{ output.text }}'}}"),
        "what undoes the step writes",
    ),
    "to a validator's tool": (
        draft("tool: {name: desk.send, with: {text: '${{ output.text }}'}, passes: 'true', path: output.text}", send="input.text"),
        "'draft' writes (tool desk.send)",
    ),
    "shown too late": (draft() + "\n- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.text }}'}}", "output.text is what"),
    "another is shown": (
        draft(between="- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.other }}'}}\n"), "output.text is what"
    ),
    "only a part is shown": (
        draft(between="- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.text.substring(0, 9) }}'}}\n"), "output.text is what"
    ),
    "another item is shown": (
        draft(between="- {id: ok, approve: {ask: x, show: '${{ steps.draft.output.texts[0].t }}'}}\n",
              send="steps.draft.output.texts[1].t"),
        "output.texts[1].t holds",
    ),
    "the approval may be skipped": (
        draft(between="- {id: ok, if: input.text != '', approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n"),
        "output.text is what",
    ),
    "declined is not enough": (
        draft(between="- {id: ok, on_error: continue, approve: {ask: x, show: '${{ steps.draft.output.text }}'}}\n"),
        "output.text is what",
    ),
    "an enum from what it said": (
        DRAFT + "- {id: d, llm: {prompt: x, output: {enum: '${{ steps.draft.output.texts.map(t, t.t) }}'}}}\n" + SEND % "steps.d.output",
        "steps.d.output holds steps.draft.output.texts[].t",
    ),
    "a fallback of what it said": (
        DRAFT + "- id: d\n  llm: {prompt: x}\n  validate: [{ensure: output != ''}]\n"
        "  on_invalid: [{fallback: '${{ steps.draft.output.text }}'}]\n" + SEND % "steps.d.output",
        "holds steps.draft.output.text",
    ),
    "the error that quotes it": (
        DRAFT.replace("- id: draft", "- id: draft\n  on_error: continue") + SEND % "steps.draft.error.message",
        "steps.draft.error.message holds",
    ),
    "a model with tools that write": (
        "- {id: a, llm: {prompt: x, tools: ['desk.*']}}", "the model could call 'desk.send', which writes, with 'text' as it likes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clean_may_not_act(tmp_path: Path, name: str) -> None:
    """It is told once, at the expression or the step, with the value and the step in which a model said it."""
    steps, says = REFUSED[name]
    found = of(tmp_path, steps)
    assert [f.message for f in found if says in f.message], [str(f) for f in found]
    assert len(found) == 1, [str(f) for f in found]
    assert found[0].line > 3
    assert found[0].column > 0


def of(folder: Path, steps: str) -> list[Fault]:
    return faults(folder, {**FILES, **flow(steps.strip("\n") + "\n")})


def told(folder: Path, steps: str) -> list[str]:
    return [str(fault) for fault in of(folder, steps)]


def test_the_fault_shows_where_and_names_three_ways_out(tmp_path: Path) -> None:
    """The caret stands under the value; then a check, a person, or `effect: read`."""
    (fault,) = of(tmp_path, draft(send="steps.draft.output.kind + steps.draft.output.text"))
    assert fault.source[fault.column - 1 :].startswith("steps.draft.output.text }}")
    for way in ("a validator that names it", "`enum`", "the `show` of an `approve` step", "`effect: read`"):
        assert way in fault.message


def test_loops_within_loops_are_followed_in_time(tmp_path: Path) -> None:
    """What the innermost round brings reaches the outermost, without walking the inner ones over and over."""
    steps = "- {id: s, tool: desk.send, with: {text: '${{ loop.last }}'}}\n- {id: d, llm: {prompt: x}}"
    for n in range(12):
        inner = "\n".join("    " + line for line in steps.splitlines())
        steps = f"- id: l{n}\n  loop: {{max: 2}}\n  steps:\n{inner}"
    assert [m for m in told(tmp_path, steps) if "loop.last holds steps.d.output" in m]
