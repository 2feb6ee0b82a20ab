"""Every verb, and what stands around it: what is right loads with its types, what is wrong is told at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.app import store_of
from agentmesh.errors import ServeError
from agentmesh.settings import Secrets, Settings
from tests.core.test_check import DESK, MESH, faults, flow

HOSTED = MESH.replace("default_model", "  big: {url: http://127.0.0.1:1/v1, model: y}\ndefault_model")
DATABASES = HOSTED + "databases: {orders: 'postgresql://reader@db.example.com/orders', local: 'sqlite:///orders.db'}\n"
FILES = {"agentmesh.yaml": DATABASES, "servers/desk.yaml": DESK + "    annotations: {readOnlyHint: true}\n"}
ANSWER = "{type: object, properties: {text: {type: string}}, required: [text], additionalProperties: false}"
ASK = f"llm: {{prompt: x, output: {ANSWER}}}"


def told(folder: Path, steps: str, *, head: str = "") -> list[str]:
    return [f.message for f in faults(folder, {**FILES, **flow(steps, head=head)})]


RIGHT = {
    "http": """
        - id: get
          http: {url: "https://example.com/a?b=${{ input.text }}", headers: {Accept: text/plain}, query: {n: 1}}
          output: {type: object, properties: {count: {type: integer}}}
        - {id: use, set: "${{ steps.get.output.status + steps.get.output.body.count }}"}
        - {id: kind, set: "${{ steps.get.output.headers['content-type'] }}"}
        - {id: open, http: {method: POST, url: "${{ input.text }}", json: {a: 1}, expect: [200, 409]}}
        - {id: free, set: "${{ steps.open.output.body.whatever }}"}
    """,
    "sql": """
        - id: rows
          sql: {database: orders, query: "select a, ':x' from t -- :y\\nwhere c = :who and d::date > :since", rows: 10}
          with: {who: "${{ input.text }}", since: 5}
        - {id: use, set: "${{ steps.rows.output.rows.map(r, r.a) }}"}
        - {id: n, set: "${{ steps.rows.output.truncated ? 0 : steps.rows.output.count }}"}
        - {id: put, effect: write, sql: {database: local, query: "insert into t values (:a);"}, with: {a: null}}
        - {id: both, sql: {database: local, query: "with x as (select 1) select * from x"}}
    """,
    "parallel": """
        - {id: before, set: {a: 1}}
        - id: both
          parallel:
            left: [{id: l1, set: "${{ steps.before.output.a }}"}, {id: l2, set: {n: "${{ steps.l1.output }}"}}]
            right: [{id: r1, set: {t: x}}]
        - {id: use, set: "${{ string(steps.both.output.left.n) + steps.both.output.right.t }}"}
    """,
    "loop": f"""
        - {{id: before, set: 3}}
        - id: again
          loop: {{max: 5, while: loop.index < steps.before.output, until: "size(steps.try.output.text) > 3", at_max: stop}}
          steps:
            - id: try
              llm: {{prompt: "${{{{ loop.last == null ? 'first' : loop.last.text }}}}", output: {ANSWER}}}
        - {{id: use, if: steps.again.output != null, set: "${{{{ steps.again.output.text }}}}"}}
    """,
    "loops in loops": """
        - id: a
          loop: {max: 2}
          steps:
            - id: b
              loop: {max: 2}
              steps: [{id: c, set: {n: "${{ loop.index }}", l: "${{ loop.last }}"}}]
    """,
    "wait": """
        - {id: nap, wait: 5m}
        - {id: number, wait: 30}
        - {id: computed, wait: {for: "${{ size(input.text) > 3 ? '5m' : '1h' }}"}}
        - {id: until, wait: {until: "'2026-11-22T16:45:00+01:00'"}}
        - {id: moment, wait: {until: "input.n[0]"}}
        - {id: paid, wait: {signal: paid, schema: {type: object, properties: {sum: {type: number}}}, expires: 2d}}
        - {id: use, set: "${{ steps.paid.output.sum > 3 }}"}
        - {id: any, wait: {signal: any}}
        - {id: what, set: "${{ steps.any.output.whatever }}"}
    """,
    "approve": """
        - id: review
          approve:
            ask: "Send ${{ input.text }}?"
            show: {text: "${{ input.text }}"}
            form: {type: object, properties: {note: {type: string}}, required: [note]}
            expires: 2d
        - {id: use, set: "${{ steps.review.output.values.note + steps.review.output.by }}"}
        - {id: plain, approve: {ask: "Again?"}}
        - {id: when, set: "${{ steps.plain.output.values == null && steps.plain.output.approved }}"}
    """,
    "on_error": """
        - id: get
          http: {url: "https://example.com"}
          output: {type: object, properties: {a: {type: string}}}
          on_error:
            steps: [{id: instead, set: {status: 0, why: "${{ error.code + error.message }}"}}]
        - {id: use, set: "${{ steps.get.output.status }}"}
        - {id: why, set: "${{ has(steps.get.output.why) }}"}
    """,
    "compensate": """
        - id: book
          http: {method: POST, url: "https://example.com/book", json: {text: "${{ input.text }}"}}
          output: {type: object, properties: {id: {type: string}}}
          idempotent: true
          compensate:
            http: {method: DELETE, url: "https://example.com/book/${{ output.body.id }}"}
            retry: {attempts: 5, on: [unanswered, not_sent]}
            timeout: 20s
    """,
    "cache": """
        - {id: a, llm: {prompt: x}, cache: true}
        - {id: b, http: {url: "https://example.com"}, cache: {ttl: 1h}}
        - {id: c, tool: desk.classify, with: {text: x}, cache: true}
        - {id: d, python: "os:getcwd", effect: read, cache: true}
    """,
    "ray": """
        - {id: a, python: "os:getcwd", on: ray}
    """,
    "agents": """
        - {id: a, llm: {prompt: x, tools: ["desk.*"], max_turns: 3}}
        - {id: b, llm: {prompt: x, tools: [desk.classify]}}
    """,
    "validators": """
        - id: a
          llm: {prompt: x, output: {type: object, properties: {text: {type: string}, n: {type: number}}, required: [text]}}
          validate:
            - schema: {type: object, required: [text]}
            - ensure: size(output.text) > 3
              message: more
            - grounded: [output.text]
              in: input.text
            - tool: {name: desk.classify, with: {text: "${{ output.text }}"}, passes: 'result.queue == "bug"', path: output.text}
            - judge: {model: big, rubric: "Polite? ${{ input.text }}", at_least: 0.8, path: output.text}
            - vote: {samples: 5, agree: 3, path: output.text}
            - approve: {ask: "Fine?", show: "${{ output.text }}", path: output.text, expires: 1d}
          on_invalid:
            - repair: 2
            - resample: 1
            - escalate: {model: big, repair: 1}
            - ask: {question: "What is right?", show: "${{ output }}", expires: 2h}
            - fallback: {text: "${{ input.text }}"}
    """,
    "stages that end": """
        - {id: a, llm: {prompt: x}, validate: [{ensure: 'output != ""'}], on_invalid: [{repair: 1}, compensate]}
        - {id: b, llm: {prompt: x}, validate: [{ensure: 'output != ""'}], on_invalid: [compensate, fail]}
        - {id: c, llm: {prompt: x}, validate: [{ensure: 'output != ""'}], on_invalid: [{fallback: none}]}
        - {id: d, set: 1, validate: [{ensure: output > 0}], on_invalid: [{ask: {question: "How many?"}}, fail]}
    """,
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_loads(tmp_path: Path, name: str) -> None:
    """With the types that the next steps count on."""
    assert told(tmp_path, RIGHT[name], head="deadline: 3d\n") == []


WRONG = [
    # http
    ("- {id: a, http: {url: ftp://x}}", "'ftp://x' is not an address"),
    ("- {id: a, http: {url: 'https://'}}", "is not an address"),
    ("- {id: a, http: {url: '${{ input.n }}'}}", "must be text, this is a list"),
    ("- {id: a, http: {ulr: x}}", "unknown key 'ulr'; did you mean 'url'?"),
    ("- {id: a, http: {url: 'http://x', method: PSOT}}", "did you mean 'POST'?"),
    ("- {id: a, http: {url: 'http://x', json: 1}}", "a GET has no body"),
    ("- {id: a, http: {method: POST, url: 'http://x', json: 1, text: x}}", "a request has one body"),
    ("- {id: a, http: {url: 'http://x', expect: [20]}}", "20 is no status"),
    ("- {id: a, http: {url: 'http://x', expect: []}}", "must not be empty"),
    ("- {id: a, http: {url: 'http://x', headers: {'a b': x}}}", "is no name of a header"),
    ("- {id: a, http: {url: 'http://x', headers: {a: '${{ input.txt }}'}}}", "did you mean 'text'?"),
    ("- {id: a, http: {url: 'http://x', headers: {a: '${{ secrets.K }}'}}}", "AGENTMESH_SECRET_K"),
    ("- {id: a, http: {url: 'http://x', headers: {a: '${{ secrets.K }} ${{ input.text }}'}}}", "not both"),
    ("- {id: a, http: {url: 'http://x?k=${{ secrets.K }}'}}", "a secret may stand only in"),
    ("- {id: a, http: {url: 'http://x'}}\n- {id: b, set: '${{ steps.a.output.stats }}'}", "did you mean 'status'?"),
    ("- {id: a, http: {url: 'http://x'}, output: {type: object, properties: {q: {}}}}\n- {id: b, set: '${{ steps.a.output.body.p }}'}",
     "has no 'p'"),
    ("- {id: a, http: {url: 'http://x'}, with: {a: 1}}", "`with` belongs to tool and python and workflow and sql"),
    # sql
    ("- {id: a, sql: {database: ordres, query: select 1}}", "unknown database 'ordres'; did you mean 'orders'?"),
    ("- {id: a, sql: {database: orders, query: 'select ${{ input.text }}'}}", "may not stand in the text of a statement"),
    ("- {id: a, sql: {database: orders, query: 'select 1; drop table t'}}", "one statement; a second begins here"),
    ("- {id: a, sql: {database: orders, query: ' '}}", "the statement is empty"),
    ("- {id: a, sql: {database: orders, query: \"select 'x\"}}", "is never closed"),
    ("- {id: a, sql: {database: orders, query: 'select :who'}}", "the parameter :who is not given"),
    ("- {id: a, sql: {database: orders, query: 'select 1'}, with: {who: 1}}", "the statement has no parameter :who"),
    ("- {id: a, sql: {database: orders, query: 'select :n'}, with: {n: '${{ input.n }}'}}", "this is a list"),
    ("- {id: a, sql: {database: orders, query: 'delete from t'}}", "DELETE changes the database: say `effect: write`"),
    ("- {id: a, sql: {database: orders, query: 'with x as (delete from t returning 1) select 1'}}", "DELETE changes"),
    ("- {id: a, sql: {database: orders, query: 'select 1'}}\n- {id: b, set: '${{ steps.a.output.row }}'}", "did you mean 'rows'?"),
    # parallel
    ("- {id: a, parallel: {}}", "must not be empty"),
    ("- {id: a, parallel: {l: []}}", "a branch needs steps"),
    ("- {id: a, parallel: {'l-1': [{id: b, set: 1}]}}", "'l-1' cannot name a branch"),
    ("- {id: a, parallel: {l: [{id: b, set: 1}], r: [{id: c, set: '${{ steps.b.output }}'}]}}", "step 'b' is not visible here"),
    ("- {id: a, parallel: {l: [{id: b, set: 1}], r: [{id: b, set: 1}]}}", "the id 'b' stands here twice"),
    ("- {id: a, parallel: {l: [{id: b, set: 1}]}}\n- {id: c, set: '${{ steps.a.output.m }}'}", "has no 'm'"),
    ("- {id: a, parallel: {l: [{id: b, sett: 1}]}}", "unknown key 'sett'; did you mean 'set'?"),
    # loop
    ("- {id: a, loop: {max: 3}}", "a loop step needs `steps`"),
    ("- {id: a, loop: {}, steps: [{id: b, set: 1}]}", "'max' is missing"),
    ("- {id: a, loop: {max: 3, until: steps.b.output}, steps: [{id: b, set: 1}]}", "must be true or false"),
    ("- {id: a, loop: {max: 3, while: steps.b.output == 1}, steps: [{id: b, set: 1}]}", "step 'b' is not visible here"),
    ("- {id: a, loop: {max: 3, until: loop.indx > 1}, steps: [{id: b, set: 1}]}", "did you mean 'index'?"),
    ("- {id: a, loop: {max: 3}, steps: [{id: b, set: {t: '${{ loop.last.tt }}'}}]}", "loop.last has no 'tt'"),
    ("- {id: a, loop: {max: 3, while: 'false'}, steps: [{id: b, set: 1}]}", "always false: the steps inside are never reached"),
    ("- {id: a, loop: {max: 3, until: 1 == 1}, steps: [{id: b, set: 1}]}", "always true: the loop would end after one round"),
    ("- {id: a, set: '${{ loop.index }}'}", "unknown name 'loop'"),
    # wait
    ("- {id: a, wait: {}}", "exactly one of for, until, signal; this has none"),
    ("- {id: a, wait: {for: 5m, signal: x}}", "this has for and signal"),
    ("- {id: a, wait: 5y}", "'5y' is not a duration"),
    ("- {id: a, wait: {for: -5}}", "must not be negative"),
    ("- {id: a, wait: {until: input.n}}", "must be a time"),
    ("- {id: a, wait: {until: \"'tomorrow'\"}}", "is no time as in RFC 3339"),
    ("- {id: a, wait: {signal: '${{ input.text }}'}}", "a signal has a fixed name"),
    ("- {id: a, wait: {for: 5m, expires: 5m}}", "`expires` belongs to `signal`"),
    ("- {id: a, wait: {signal: x, expires: 0}}", "nobody could ever be in time"),
    ("- {id: a, wait: {signal: x, schema: {type: strng}}}", "did you mean 'string'?"),
    ("- {id: a, wait: {signal: x, schema: {type: string}}}\n- {id: b, set: '${{ steps.a.output.x }}'}", "is text, it has no 'x'"),
    ("- {id: a, wait: {singal: x}}", "unknown key 'singal'; did you mean 'signal'?"),
    ("- {id: a, wait: 4d}", "longer than the run may take: its deadline is 3d"),
    # approve
    ("- {id: a, approve: {ask: x, path: output.y}}", "`path` belongs to an approve that stands in `validate`"),
    ("- {id: a, approve: {ask: x, form: {type: string}}}", "must be of `type: object`"),
    ("- {id: a, approve: {ask: x, show: '${{ input.txt }}'}}", "did you mean 'text'?"),
    ("- {id: a, approve: {ask: x}}\n- {id: b, set: '${{ steps.a.output.values.x }}'}", "is null, it has no 'x'"),
    ("- {id: a, approve: {ask: x}}\n- {id: b, set: '${{ steps.a.output.aproved }}'}", "did you mean 'approved'?"),
    ("- {id: a, approve: {ask: x, expires: 4d}}", "longer than the run may take"),
    # on_error
    ("- {id: a, http: {url: 'http://x'}, on_error: {steps: [{id: b, set: '${{ error.cod }}'}]}}", "did you mean 'code'?"),
    ("- {id: a, http: {url: 'http://x'}, on_error: {stesp: [{id: b, set: 1}]}}", "unknown key 'stesp'; did you mean 'steps'?"),
    ("- {id: a, http: {url: 'http://x'}, on_error: {steps: []}}", "must not be empty"),
    ("- {id: a, http: {url: 'http://x'}, on_error: {steps: [{id: b, set: 1}]}}\n- {id: c, set: '${{ steps.b.output }}'}", "not visible"),
    ("- {id: a, http: {url: 'http://x'}, on_error: continue}\n- {id: c, set: '${{ steps.a.output.status }}'}", "may have failed"),
    ("- {id: a, set: '${{ error.code }}'}", "unknown name 'error'"),
    # compensate
    ("- {id: a, python: 'os:getcwd', compensate: {set: 1}}", "exactly one verb of tool, python, http"),
    ("- {id: a, python: 'os:getcwd', compensate: {python: 'os:getcwd', tool: desk.classify}}", "this has tool and python"),
    ("- {id: a, python: 'os:getcwd', compensate: {python: 'os:getcwd', if: 'true'}}", "`if` may not stand in `compensate`"),
    ("- {id: a, python: 'os:getcwd', compensate: {python: 'os:getcwd', id: x}}", "`id` may not stand in `compensate`"),
    ("- {id: a, set: 1, compensate: {python: 'os:getcwd'}}", "`compensate` belongs to"),
    ("- {id: a, http: {url: 'http://x'}, compensate: {http: {url: '${{ output.bdy }}'}}}", "did you mean 'body'?"),
    # around
    ("- {id: a, python: 'os:getcwd', cache: true}", "a step that writes is not cached"),
    ("- {id: a, set: 1, cache: true}", "`cache` belongs to llm"),
    ("- {id: a, llm: {prompt: x}, cache: 5m}", "must be true or an object"),
    ("- {id: a, llm: {prompt: x}, cache: {ttl: 5y}}", "is not a duration"),
    ("- {id: a, llm: {prompt: x}, cache: {tll: 5m}}", "did you mean 'ttl'?"),
    ("- {id: a, http: {url: 'http://x'}, retry: {on: [unanswred]}}", "no error has the code 'unanswred'; did you mean 'unanswered'?"),
    ("- {id: a, http: {url: 'http://x'}, retry: {on: []}}", "nothing would be tried again"),
    ("- {id: a, map: {over: input.n}, retry: {}, steps: [{id: b, set: 1}]}", "put `retry` on the steps inside"),
    ("- {id: a, http: {url: 'http://x'}, idempotent: true}", "this step only reads"),
    ("- {id: a, set: 1, effect: write}", "`effect` belongs to"),
    ("- {id: a, tool: desk.classify, with: {text: x}, on: ray}", "`on` belongs to python"),
    ("- {id: a, python: 'os:getcwd', on: rai}", "must be 'ray'"),
    ("- {id: a, set: 1, timeout: 4d}", "longer than the run may take"),
    ("- {id: a, llm: {prompt: x, max_tokens: 600}}", "600 is more than the run's whole budget of 500 tokens"),
    # agents
    ("- {id: a, llm: {prompt: x, tools: [desk.clasify]}}", "unknown tool 'desk.clasify'; did you mean 'desk.classify'?"),
    ("- {id: a, llm: {prompt: x, tools: ['crm.*']}}", "no tool fits 'crm.*'; there is desk.classify"),
    ("- {id: a, llm: {prompt: x, tools: []}}", "must not be empty"),
    ("- {id: a, llm: {prompt: x, max_turns: 3}}", "`max_turns` belongs to `tools`"),
    # validators
    (f"- {{id: a, {ASK}, validate: [{{ensure: 'true', judge: {{rubric: x}}}}]}}", "a validator is one of schema, ensure"),
    (f"- {{id: a, {ASK}, validate: [{{tool: {{name: desk.clasify}}}}]}}", "did you mean 'desk.classify'?"),
    (f"- {{id: a, {ASK}, validate: [{{tool: {{name: desk.classify}}}}]}}", "needs 'text'"),
    (f"- {{id: a, {ASK}, validate: [{{tool: {{name: desk.classify, with: {{text: x}}}}}}]}}", "answers no `ok`"),
    (f"- {{id: a, {ASK}, validate: [{{tool: {{name: desk.classify, with: {{text: x}}, passes: result.quue}}}}]}}", "did you mean 'queue'?"),
    (f"- {{id: a, {ASK}, validate: [{{tool: {{name: desk.classify, with: {{text: x}}, passes: result.queue}}}}]}}", "must be true"),
    (f"- {{id: a, {ASK}, validate: [{{judge: {{rubric: x, model: bg}}}}]}}", "unknown model 'bg'; did you mean 'big'?"),
    (f"- {{id: a, {ASK}, validate: [{{judge: {{rubric: x, path: output.txt}}}}]}}", "did you mean 'text'?"),
    (f"- {{id: a, {ASK}, validate: [{{judge: {{rubric: x, path: input.text}}}}]}}", "is no part of the output"),
    (f"- {{id: a, {ASK}, validate: [{{judge: {{rubrik: x}}}}]}}", "unknown key 'rubrik'; did you mean 'rubric'?"),
    (f"- {{id: a, {ASK}, validate: [{{vote: {{samples: 3, agree: 4}}}}]}}", "must be at most `samples`"),
    ("- {id: a, set: 1, validate: [{vote: {samples: 3}}]}", "`vote` belongs to an llm"),
    (f"- {{id: a, {ASK}, validate: [{{approve: {{ask: x, path: output.z}}}}]}}", "has no 'z'"),
    (f"- {{id: a, {ASK}, validate: [{{ensur: 'true'}}]}}", "did you mean 'ensure'?"),
    # on_invalid
    (f"- {{id: a, {ASK}, on_invalid: [{{repiar: 2}}]}}", "'repiar' is no stage of on_invalid; did you mean 'repair'?"),
    (f"- {{id: a, {ASK}, on_invalid: [{{repair: two}}]}}", "must be a whole number from 1 to 100"),
    (f"- {{id: a, {ASK}, on_invalid: [repair]}}", "must be {repair: N}"),
    (f"- {{id: a, {ASK}, on_invalid: [{{resample: 0}}]}}", "must be a whole number from 1 to 100"),
    (f"- {{id: a, {ASK}, on_invalid: [{{escalate: {{model: bg}}}}]}}", "did you mean 'big'?"),
    (f"- {{id: a, {ASK}, on_invalid: [{{escalate: {{modle: big}}}}]}}", "must be {model: NAME, repair: N}"),
    (f"- {{id: a, {ASK}, on_invalid: [{{escalate: {{model: big, repairs: 1}}}}]}}", "did you mean 'repair'?"),
    (f"- {{id: a, {ASK}, on_invalid: [{{fallback: {{text: 5}}}}]}}", "does not take this"),
    (f"- {{id: a, {ASK}, on_invalid: [{{fallback: {{text: '${{{{ input.n }}}}'}}}}]}}", "wants text here, this is a list"),
    (f"- {{id: a, {ASK}, on_invalid: [{{fallback: null}}]}}", "not null"),
    (f"- {{id: a, {ASK}, on_invalid: [{{fallback: {{text: x}}}}, fail]}}", "nothing after it would happen"),
    (f"- {{id: a, {ASK}, on_invalid: [fail, {{repair: 1}}]}}", "nothing after it would happen"),
    (f"- {{id: a, {ASK}, on_invalid: [{{ask: {{qestion: x}}}}]}}", "must be {question: TEXT}"),
    (f"- {{id: a, {ASK}, on_invalid: [{{ask: {{question: x, shw: 1}}}}]}}", "did you mean 'show'?"),
    (f"- {{id: a, {ASK}, on_invalid: [{{ask: {{question: x, expires: 5y}}}}]}}", "is not a duration"),
    (f"- {{id: a, {ASK}, on_invalid: [{{compensate: 1}}]}}", "`compensate` stands alone"),
    ("- {id: a, set: 1, on_invalid: [{resample: 2}]}", "`resample` needs an llm"),
    (f"- {{id: a, {ASK}, validate: [{{ensure: 'false'}}]}}", "always false: nothing could ever pass"),
    (f"- {{id: a, {ASK}, validate: [{{ensure: '1 == 1'}}]}}", "always true: it checks nothing"),
    ("- {id: a, set: 1, timeout: 0}", "over before anything can be done"),
    ("- {id: a, loop: {max: 3, at_max: fail}, steps: [{id: b, set: 1}]}", "`at_max` belongs to `while` and `until`"),
    # grounded
    ("- {id: a, llm: {prompt: x, output: {type: object, properties: {n: {type: integer}}}}, validate: [{grounded: [output.n]}]}",
     "output.n is a number"),
    (("- id: a\n  llm: {prompt: x, output: {type: object, properties: {l: {type: array, items: {type: number}}}}}\n"
      "  validate: [{grounded: [output]}]"), "output.l[] is a number"),
    (("- id: a\n  llm: {prompt: x, output: {type: object, properties: {t: {type: string}}}}\n"
      "  validate: [{grounded: [output.t], in: output.t}]"), "the very output that it checks"),
    # what is never reached
    ("- {id: a, if: 'false', set: 1}", "always false: the step is never reached"),
    ("- {id: a, if: 'false && input.text == \"x\"', set: 1}", "always false"),
    ("- {id: a, if: 1 < 2, set: 1}", "always true: leave the `if` out"),
    ("- {id: a, switch: [{when: 'true', steps: [{id: b, set: 1}]}, {when: input.text == 'x', steps: [{id: c, set: 1}]}]}",
     "always true: what comes after is never reached"),
    ("- {id: a, switch: [{when: '!true', steps: [{id: b, set: 1}]}]}", "always false: these steps are never reached"),
    ("- {id: a, map: {over: '[]'}, steps: [{id: b, set: 1}]}", "the list is always empty"),
    ("- {id: a, map: {over: input.n, as: package}, steps: [{id: b, set: 1}]}", "'package' cannot name the item"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "says"), WRONG)
def test_what_is_wrong_is_told_at_its_place(tmp_path: Path, steps: str, says: str) -> None:
    """One sentence, with the line, a caret under the fault and the near name where there is one."""
    found = faults(tmp_path, {**FILES, **flow(steps, head="deadline: 3d\nbudget: {tokens: 500}\n")})
    assert [f.message for f in found if says in f.message], found
    assert all(f.file == "workflows/w.yaml" and f.line >= 5 and f.column > 0 for f in found)


def test_each_fault_is_told_once(tmp_path: Path) -> None:
    """What a faulty part was taken from is not blamed for what is missing then."""
    steps = "- {id: a, loop: {max: 0}, steps: [{id: b, set: 1}]}\n- {id: c, http: {method: PSOT, url: 'http://x'}, retry: {attempts: 0}}"
    found = faults(tmp_path, {**FILES, **flow(steps)})
    assert [f.message.partition(",")[0] for f in found] == ["must be at least 1", "must be 'GET'", "must be at least 1"]


HEADS = [
    ("concurrency: 0", "at least 1"),
    ("on_failure: x", "unknown workflow 'x'"),
    ("on_failure: mourn", "workflow 'mourn' needs 'who'"),
    ("on: {webhook: {path: x}}", "a webhook needs `token` or `key`"),
    ("on: {webhook: {path: x, token: plain}}", "a token is a secret"),
    ("on: {webhook: {path: x, token: '${{ input.text }}'}}", "a token is a secret"),
    ("on: {webhook: {path: a/b, token: '${{ secrets.K }}'}}", "'a/b' is no path of a webhook"),
    ("on: {webhook: {path: x, token: '${{ secrets.K }}', header: X}}", "`header` belongs to `key`"),
    ("on: {webhook: {path: taken, token: '${{ secrets.K }}'}}", "stands in workflows/other.yaml already"),
    ("on: {webhook: {path: x, token: '${{ secrets.GONE }}'}}", "AGENTMESH_SECRET_GONE"),
    ("on: {webhok: {path: x}}", "did you mean 'webhook'?"),
]


@pytest.mark.parametrize(("head", "says"), HEADS)
def test_the_head_of_a_workflow_is_checked(tmp_path: Path, head: str, says: str) -> None:
    """Triggers, limits and what follows a failure."""
    files = {
        "workflows/mourn.yaml": "name: mourn\ninput: {type: object, properties: {who: {}}, required: [who]}\nsteps: [{id: a, set: 1}]\n",
        "workflows/other.yaml": "name: other\non: {webhook: {path: taken, key: '${{ secrets.K }}', header: X}}\nsteps: [{id: a, set: 1}]\n",
        **flow("- {id: a, set: 1}", head=head + "\n"),
    }
    found = faults(tmp_path, files, {"K": "k"})
    assert [f for f in found if says in f.message and f.file == "workflows/w.yaml"], found


def test_a_head_that_is_right_loads(tmp_path: Path) -> None:
    """A webhook by token and key, a limit, and a workflow that mourns a failed run."""
    hook = "{path: x, token: '${{ secrets.K }}', key: '${{ secrets.K }}', id_header: X-Id}"
    head = f"concurrency: 3\non_failure: mourn\non: {{webhook: {hook}}}\n"
    taken = "{run: {type: string}, workflow: {type: string}, error: {type: object}, input: {}}"
    mourn = f"name: mourn\ninput: {{type: object, properties: {taken}}}\n"
    files = {"workflows/mourn.yaml": mourn + "steps: [{id: a, set: 1}]\n", **flow("- {id: a, set: 1}", head=head)}
    assert faults(tmp_path, files, {"K": "k"}) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://x/y", "must be sqlite:///FILE or postgresql://"),
        ("postgres://x/y", "did you mean 'postgresql'?"),
        ("sqlite:///", "must be sqlite:///FILE"),
        ("sqlite://orders.db", "three slashes: sqlite:///orders.db"),
        ("sqlite:///agentmesh.db", "this is the mesh's own store"),
        ("sqlite:///./sub/../agentmesh.db", "this is the mesh's own store"),
        ("postgresql://${{ input.x }}@h/d", "an expression may not stand here"),
    ],
)
def test_a_database_is_named_by_an_address_that_is_not_the_stores(tmp_path: Path, url: str, says: str) -> None:
    """A step that could write there could write anybody's journal."""
    found = faults(tmp_path, {"agentmesh.yaml": MESH + f"databases: {{x: '{url}'}}\n"})
    assert [f for f in found if says in f.message and f.file == "agentmesh.yaml"], found


def test_the_store_is_known_by_any_user(tmp_path: Path) -> None:
    """On PostgreSQL the host, port and name decide, not who logs in; a secret is filled in when the mesh is loaded."""
    mesh = (
        MESH
        + "store: postgresql://mesh:x@db/mesh\ndatabases: {x: 'postgresql://reader:${{ secrets.PW }}@db:5432/%s'}\n"
    )
    (fault,) = faults(tmp_path, {"agentmesh.yaml": mesh % "mesh"}, {"PW": "p"})
    assert "own store" in fault.message
    assert faults(tmp_path, {"agentmesh.yaml": mesh % "orders"}, {"PW": "p"}) == []


def test_circles_through_failures_and_models_are_faults(tmp_path: Path) -> None:
    """`on_failure`, a loop's steps, a branch, and a model that may call the workflow it stands in."""
    tail = "input: {type: object}\n"
    files = {
        "workflows/a.yaml": f"name: a\non_failure: b\n{tail}steps: [{{id: x, set: 1}}]\n",
        "workflows/b.yaml": f"name: b\n{tail}steps: [{{id: x, parallel: {{l: [{{id: y, workflow: a}}]}}}}]\n",
        "workflows/c.yaml": f"name: c\non: {{mcp: {{}}}}\n{tail}steps: [{{id: x, llm: {{prompt: x, tools: ['*']}}}}]\n",
        "workflows/d.yaml": f"name: d\n{tail}steps: [{{id: x, loop: {{max: 2}}, steps: [{{id: y, workflow: d}}]}}]\n",
        "workflows/e.yaml": f"name: e\non_failure: e\n{tail}steps: [{{id: x, set: 1}}]\n",
    }
    found = [(f.file[10:-5], f.message) for f in faults(tmp_path, files) if "never end" in f.message]
    assert [name for name, _ in found] == ["a", "b", "c", "d", "e"]
    assert "a -> b -> a" in found[0][1]
    assert "the model could call 'c' at each turn" in found[2][1]


def test_a_tool_behind_which_a_model_calls_tools_is_held_to_the_same(tmp_path: Path) -> None:
    """It may not call itself, nor a tool that writes with what it likes; patterns mean tools that there are."""
    server = """
        name: web
        tools:
          ask: {description: Asks., llm: {prompt: x, tools: ["web.*", crm.find]}, annotations: {readOnlyHint: true}}
          send: {description: Sends., input: {type: object, properties: {to: {type: string}}}, python: "os:getcwd"}
    """
    assert [f.message[:70] for f in faults(tmp_path, {"servers/web.yaml": server})] == [
        "the tool would start itself again and never end: tool web.ask -> tool ",
        "the model could call 'web.send', which writes, with 'to' as it likes: ",
        "unknown tool 'crm.find'; there are desk.classify, web.ask, web.send",
    ]


def test_tools_may_ask_over_http(tmp_path: Path) -> None:
    """`input` is in scope, `output` is what callers see, and a step has its type."""
    server = """
        name: web
        tools:
          weather:
            description: The weather of a city.
            input: {type: object, properties: {city: {type: string}}, required: [city], additionalProperties: false}
            http: {url: "https://example.com/${{ input.%s }}", headers: {Authorization: "${{ secrets.K }}"}}
            output: {type: object, properties: {degrees: {type: number}}, required: [degrees]}
            annotations: {readOnlyHint: true}
    """
    steps = "- {id: a, tool: web.weather, with: {city: Rome}}\n- {id: b, set: '${{ steps.a.output.%s }}'}"
    right = {"servers/web.yaml": server % "city", **flow(steps % "degrees")}
    assert faults(tmp_path, right, {"K": "k"}) == []
    wrong = {"servers/web.yaml": server % "cty", **flow(steps % "degres")}
    assert [f.message for f in faults(tmp_path, wrong, {"K": "k"})] == [
        "input has no 'cty'; did you mean 'city'?",
        "steps.a.output has no 'degres'; did you mean 'degrees'?",
    ]


def test_the_store_of_the_environment_is_no_database_either(tmp_path: Path) -> None:
    """AGENTMESH_STORE may name what a step may reach: the server does not start."""
    files = {"agentmesh.yaml": MESH + "databases: {orders: 'sqlite:///orders.db'}\n"}
    assert faults(tmp_path, files) == []
    mesh = load_mesh(tmp_path, Secrets())
    with pytest.raises(ServeError, match="orders is the mesh's own store"):
        store_of(Settings(tmp_path, store="sqlite:///./orders.db"), mesh)
