"""The mesh of the fault tests: a folder with one workflow over all verbs, and some small ones."""

from __future__ import annotations

from pathlib import Path

MESH = """
name: faults
store: {store}
models:
  scripted: {{url: "{upstream}/v1", model: scripted}}
default_model: scripted
"""

ORDER = """
name: order
input:
  type: object
  properties: {{n: {{type: integer, minimum: 0, maximum: 1000000}}}}
  required: [n]
steps:
  - id: reserve
    http: {{method: POST, url: "{upstream}/effect/reserve", json: {{n: "${{{{ input.n }}}}"}}}}
  - id: charge
    python: tests.faults.functions:charge
    with: {{url: "{upstream}/effect/charge", n: "${{{{ input.n }}}}"}}
    output: {{type: object, properties: {{n: {{type: integer}}, charged: {{type: integer}}}}, required: [n, charged]}}
  - id: grade
    llm:
      prompt: "grade ${{{{ input.n }}}}"
      output:
        type: object
        properties: {{grade: {{type: integer, minimum: 0, maximum: 9}}}}
        required: [grade]
        additionalProperties: false
    validate: [{{ensure: output.grade > 0, message: the grade must be above 0}}]
    on_invalid: [{{repair: 2}}, fail]
  - id: each
    map: {{over: "[1, 2, 3]", as: item, at_once: 2}}
    steps:
      - id: send
        http: {{method: POST, url: "{upstream}/effect/send", json: {{item: "${{{{ item }}}}"}}}}
  - id: both
    parallel:
      quick:
        - id: left
          http: {{method: POST, url: "{upstream}/effect/left"}}
      slow:
        - {{id: nap, wait: 50ms}}
        - {{id: right, http: {{method: POST, url: "{upstream}/effect/right"}}}}
  - id: go
    wait: {{signal: go, schema: {{type: object}}, expires: 10m}}
  - id: agree
    approve: {{ask: "Ship it?", show: "${{{{ input.n }}}}", expires: 10m}}
  - id: ship
    workflow: ship
    with: {{n: "${{{{ input.n }}}}"}}
output: {{n: "${{{{ input.n }}}}", grade: "${{{{ steps.grade.output.grade }}}}", charged: "${{{{ steps.charge.output.charged }}}}"}}
"""

SHIP = """
name: ship
input: {{type: object, properties: {{n: {{type: integer}}}}, required: [n]}}
steps:
  - id: pack
    http: {{method: POST, url: "{upstream}/effect/pack"}}
"""

UNDO = """
name: undo
steps:
  - id: book
    http: {{method: POST, url: "{upstream}/effect/book"}}
    compensate: {{http: {{method: POST, url: "{upstream}/effect/unbook"}}}}
  - id: pay
    http: {{method: POST, url: "{upstream}/effect/pay"}}
    compensate: {{http: {{method: POST, url: "{upstream}/effect/unpay"}}}}
  - id: break
    python: tests.faults.functions:refuse
"""

SIGNALED = """
name: signaled
steps:
  - {{id: go, wait: {{signal: go, expires: 1h}}}}
  - {{id: act, http: {{method: POST, url: "{upstream}/effect/act"}}}}
  - {{id: sure, approve: {{ask: "Sure?", expires: 1h}}}}
  - {{id: again, http: {{method: POST, url: "{upstream}/effect/again"}}}}
"""

STEADY = """
name: steady
steps:
  - {{id: one, http: {{method: POST, url: "{upstream}/effect/one"}}}}
  - {{id: two, http: {{method: POST, url: "{upstream}/late/two?s=0.3"}}}}
  - {{id: three, http: {{method: POST, url: "{upstream}/effect/three"}}}}
"""

QUICK = """
name: quick
input: {{type: object, properties: {{n: {{type: integer}}}}}}
on: {{mcp: {{}}}}
steps:
  - {{id: one, set: {{ok: true}}}}
"""

HELD = """
name: held
steps:
  - {{id: first, http: {{method: POST, url: "{upstream}/effect/first"}}}}
  - {{id: hold, http: {{method: POST, url: "{upstream}/hang/hold"}}, timeout: 5m}}
  - {{id: last, http: {{method: POST, url: "{upstream}/effect/last"}}}}
"""

WORKFLOWS = {
    "order": ORDER, "ship": SHIP, "undo": UNDO, "signaled": SIGNALED, "steady": STEADY, "quick": QUICK,
    "held": HELD,
}  # fmt: skip


def write_mesh(folder: Path, upstream: str, *, store: str = "sqlite:///mesh.db", **more: str) -> Path:
    """Writes the mesh; `more`: further workflows by name (`{upstream}` in them is filled in, braces doubled)."""
    (folder / "workflows").mkdir(parents=True, exist_ok=True)
    (folder / "agentmesh.yaml").write_text(MESH.format(upstream=upstream, store=store))
    for name, text in {**WORKFLOWS, **more}.items():
        (folder / "workflows" / f"{name}.yaml").write_text(text.format(upstream=upstream))
    return folder
