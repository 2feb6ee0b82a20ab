"""From records of the corpus to samples: a prompt as the workflow renders it, the answer, and which candidates are true."""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agentmesh.builtin.log_hints import CAUSES
from agentmesh.builtin.log_lines import clean
from agentmesh.builtin.triage import cut
from training.case import TRAIN

DATA = Path(__file__).parent / "data"
WORKFLOW = Path(__file__).parent.parent / "workflows" / "triage.yaml"
Record = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """`right` has the labels that are true for each question; the first is what the model learns to say."""

    prompt: str
    right: dict[str, list[str]]
    cut: dict[str, Any]
    record: Record
    log: str = ""


def records(split: str) -> list[Record]:
    """The corpus of a split, in a fixed order."""
    found: list[Record] = []
    for path in sorted(DATA.glob(f"{split}*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines]
    return found


def llm_step() -> dict[str, Any]:
    """The step of workflows/triage.yaml that asks the model: the one place where the prompt is written."""
    document = yaml.safe_load(WORKFLOW.read_text())
    step: dict[str, Any] = next(step["llm"] for step in document["steps"] if "llm" in step)
    return step


def complaint() -> str:
    """What the workflow says to the model when its check of the answer fails."""
    document = yaml.safe_load(WORKFLOW.read_text())
    return next(str(step["validate"][0]["message"]) for step in document["steps"] if "llm" in step)


_PROMPT = llm_step()["prompt"]


def render(text: str) -> str:
    """The prompt for a cut log."""
    return str(_PROMPT).replace("${{ steps.cut.output.text }}", text)


def schema(found: dict[str, Any]) -> dict[str, Any]:
    """The step's output schema with its enums filled in, as the engine sends it."""
    filled: dict[str, Any] = json.loads(json.dumps(llm_step()["output"]))
    for value in filled["properties"].values():
        if isinstance(value["enum"], str):
            value["enum"] = found[value["enum"].split(".output.")[1].split(" ")[0]]
    return filled


def place_right(record: Record, file: str | None, line: int | None) -> bool:
    """Whether file and line both name the place at fault, however the log spells the path."""
    truth = record["file"]
    if truth is None or file is None:
        return truth is None and file is None
    name = file.replace(record["root"] + "/", "").removeprefix("./")
    same = name == truth or truth.endswith("/" + name) or name.endswith("/" + truth)
    return bool(same and line == record["line"])


def subject_right(record: Record, subject: str | None) -> bool:
    """Whether the subject is one of the true names, with or without what it belongs to."""
    if not record["subjects"] or subject is None:
        return not record["subjects"] and subject is None
    return any(subject == name or f"-l{subject}" == name or subject.endswith(("." + name, "::" + name, " " + name)) for name in record["subjects"])


def quote_right(record: Record, quote: str | None) -> bool:
    """Whether the quoted line holds one of the texts that show the fault."""
    return quote is not None and any(key in clean(quote) for key in record["keys"])


def sample(record: Record, log: str | None = None) -> Sample:
    """The question that the workflow would ask about the record's log, with its true answers."""
    log = record["log"] if log is None else log
    found = cut(log)
    table = found["table"]
    places = [p for p in found["places"] if place_right(record, *((table[p]["file"], table[p]["line"]) if p in table else (None, None)))]
    subjects = [s for s in found["subjects"] if subject_right(record, table.get(s))]
    quotes = [q for q in found["quotes"] if quote_right(record, table.get(q))]
    right = {"quote": quotes, "cause": [record["cause"]], "place": places, "subject": subjects}
    return Sample(render(found["text"]), right, found, record, log)


def answer(sample: Sample) -> str:
    """What the model should write: compact JSON in the order of the schema, as constrained decoding emits it."""
    said = {key: (values[0] if values else {"quote": "Q1", "place": "P0", "subject": "S0"}[key]) for key, values in sample.right.items()}
    return json.dumps(said, separators=(",", ":"))


def free_prompt(log: str) -> str:
    """The log alone, for the comparison without rules: its beginning and its end, as much as the context holds."""
    return "Read this log.\n" + (log if len(log) <= 2200 else log[:800] + "\n...\n" + log[-1400:])


def free_answer(sample: Sample) -> str:
    """The answer to the question without candidates."""
    record = sample.record
    quote = sample.cut["table"].get(sample.right["quote"][0]) if sample.right["quote"] else ""
    said = {"quote": str(quote)[:100], "cause": record["cause"], "file": record["file"], "line": record["line"], "subject": next(iter(record["subjects"]), None)}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


def blur(sample: Sample, rng: random.Random) -> Sample:
    """The sample with some of the rules' help taken away, as logs do whose words the rules do not know.

    Hints become `other`, words become unknown ones under a hint that is right, and now and then the order of the candidates
    says nothing: so the model learns what to go by when it cannot go by the words it knows.
    """
    text, right = sample.prompt, dict(sample.right)
    draw = rng.random()
    if draw < 0.08:
        text = re.sub(r"\|(?:" + "|".join(CAUSES) + r") Q", "|other Q", text)
    elif draw < 0.42 and right["quote"] and re.search(rf"\|{right['cause'][0]} {right['quote'][0]}\b", text):
        # Words that nobody knows, under a hint that is right.
        text = re.sub(r"^.*(?= \|[a-z]+ Q\d)", lambda m: re.sub(r"[A-Za-z]{4,}", lambda w: _word(rng) if rng.random() < 0.6 else w.group(0), m.group(0)), text, flags=re.MULTILINE)
    for kind, key in (("Q", "quote"), ("P", "place"), ("S", "subject")):
        labels = [label for label in sample.cut[key + "s"] if not label.endswith("0")]
        if len(labels) > 1 and rng.random() < 0.06:
            other = dict(zip(labels, rng.sample(labels, len(labels)), strict=True))
            text = re.sub(rf"(?<=[ |]){kind}\d(?=[ \n]|$)", lambda m, other=other: other.get(m.group(0), m.group(0)), text)  # type: ignore[misc]
            right[key] = sorted(other.get(label, label) for label in right[key])
    return Sample(text, right, sample.cut, sample.record, sample.log)


_KEEP = set("node rule job frame report item volume image comment registry layer table review season order label alert metric token folder".split())
_SWAPPED = [word for word in (TRAIN["noun"] + TRAIN["pkg"]).split() if word not in _KEEP]
_SWAP = re.compile(r"(?<![A-Za-z])(" + "|".join(sorted({form for word in _SWAPPED for form in (word, word.title(), word.upper())}, key=len, reverse=True)) + r")(?![a-z])")
_ONSETS, _ENDS = "b br c ch d dr f fl g gl gr h j k l m n p pl pr qu r s sc sh sl st t tr v w z".split(), "a e i o u ai ea oo ar er or an en in on ast ell ick ode um ix".split()


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_ONSETS) + rng.choice(_ENDS) for _ in range(rng.randint(1, 3))) + rng.choice(["", "", "s", "t", "n"])


def swap(record: Record, rng: random.Random) -> Record:
    """The record with the program's own words replaced by others: a log of the same fault in a program never written."""
    words: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        word = match.group(1)
        new = words.setdefault(word.lower(), rng.choice(_SWAPPED) if rng.random() < 0.3 else _word(rng))
        return new.title() if word.istitle() else new.upper() if word.isupper() else new

    def turn(value: Any) -> Any:
        if isinstance(value, str):
            return _SWAP.sub(other, value)
        return [turn(part) for part in value] if isinstance(value, list) else value

    return {key: turn(value) if key in ("log", "file", "subjects", "keys", "root") else value for key, value in record.items()}


_BEFORE = {
    False: [
        "Collecting requests\n  Downloading requests-2.31.0-py3-none-any.whl (62 kB)\nInstalling collected packages: urllib3, idna, requests\nSuccessfully installed idna-3.6 requests-2.31.0 urllib3-2.1.0",
        "npm warn deprecated inflight@1.0.6: This module is not supported, and leaks memory.\nnpm warn deprecated glob@7.2.3: Glob versions prior to v9 are no longer supported\n\nadded 214 packages in 4s",
        "Run actions/checkout@v4\nSyncing repository: group/app\nGetting Git version info\nWorking directory is clean",
        "warning: unused variable in generated code ignored\n[1/4] Generating sources\n[2/4] Checking schema", "Running with gitlab-runner 16.5.0\nPreparing the \"docker\" executor\nUsing docker image python:3.11 ...\n$ make ci",
        "WARN connection refused, retrying (1/3)\nWARN connection refused, retrying (2/3)\nconnected after 3 attempts", "DeprecationWarning: pkg_resources is deprecated as an API\nINFO: 0 errors in configuration",
        "-- Configuring done\n-- Generating done\n-- Build files have been written to: /build", "Hit:1 mirror bookworm InRelease\nReading package lists... Done\nBuilding dependency tree... Done",
        "Step 4/9 : COPY . /app\n ---> 3f2a91bb01c2\nStep 5/9 : RUN make test\n ---> Running in 4ddc1b2aa013", "src/gen.c:3:9: warning: unused variable 'tmp' [-Wunused-variable]\n    3 |     int tmp;\n      |         ^~~",
    ],
    True: [
        "Downloading numpy-1.26.4-cp311-manylinux.whl (18.3 MB)\n     18.3/18.3 MB 41.2 MB/s eta 0:00:00\nnotice: a new release of pip is available", "yarn install v1.22.19\n[1/4] Resolving packages...\n[2/4] Fetching packages...\nwarning \"a > b@1.0.0\" has unmet peer dependency \"c@^2\".\nDone in 12.40s.",
        "##[section]Starting: Build\nTask         : Command line\nVersion      : 2.212.0", "+ set -e\n+ export CI=true\n+ ./configure --prefix=/usr\nchecking for gcc... gcc\nchecking whether the C compiler works... yes",
        "Warning: cache miss for key linux-deps-91c\nerror_page template compiled\nRestored 0 files", "health check timed out, trying again\nhealth check passed\nmigrations applied: 14", "lib/old.js:1:1: warning 'use strict' is unnecessary\nremote: Enumerating objects: 41, done.",
        "[INFO] Scanning for projects...\n[INFO] ---------------< com.acme:app >---------------\n[INFO] Building app 1.0", "time=\"2026-05-01\" level=warning msg=\"version is obsolete\"\nNetwork app_default  Created",
    ],
}  # fmt: skip
_AFTER = {
    False: [
        "##[error]Process completed with exit code 1.", "ERROR: Job failed: exit code 1", "Error: Process completed with exit code 2.", "Cleaning up project directory and file based variables\nERROR: Job failed: command terminated with exit code 1",
        "Uploading artifacts...\nWARNING: reports/junit.xml: no matching files", "script returned exit code 1\nFinished: FAILURE", "Saving cache for failed job", "The command \"make test\" exited with 1.",
    ],
    True: ["##[error]Bash exited with code '1'.\n##[section]Finishing: Build", "Build step 'Execute shell' marked build as failure", "Exited with code exit status 1\nCircleCI received exit code 1", "ERROR: process \"/bin/sh -c make test\" did not complete successfully: exit code: 1", "Post job cleanup.\nTerminate orphan process: pid (2113) (node)"],
}  # fmt: skip


def decorate(log: str, rng: random.Random, held: bool) -> str:
    """The log inside a larger one: what a CI system prints around it, times before each line, colours."""
    if rng.random() < 0.35:
        log = rng.choice(_BEFORE[held]) + "\n" + log
    if rng.random() < 0.35:
        log = log.rstrip("\n") + "\n" + rng.choice(_AFTER[held]) + "\n"
    kind = rng.random()
    lines = log.split("\n")
    if kind < 0.22:
        second, prefix = rng.randint(0, 3000), rng.randint(0, 2 if not held else 1)
        out = []
        for number, line in enumerate(lines):
            at = second + number // 3
            clock = f"{at // 3600 + 9:02}:{at // 60 % 60:02}:{at % 60:02}"
            if held:
                out.append((f"[2026-04-1{number % 3}T{clock}Z] " if prefix else f"Apr 14 {clock} build-3 runner[811]: ") + line)
            else:
                out.append((f"2026-03-04T{clock}.{number * 7919 % 10000000:07}Z ", f"[{clock}] ", f"#{second % 30} {number * 0.013:.3f} ")[prefix] + line)
        lines = out
    elif kind < 0.28:
        name = rng.choice(["web-1  | ", "app-1      | "] if not held else ["worker-2 | "])
        lines = [name + line for line in lines]
    elif kind < 0.38 and "\x1b" not in log:
        lines = [f"\x1b[31m{line}\x1b[0m" if re.search(r"error|Error|FAILED", line) else line for line in lines]
    elif kind < 0.42:
        lines = [line + "\r" for line in lines]
    return "\n".join(lines)


def held_samples(split: str) -> Iterator[Sample]:
    """The held-out logs whose fault is not in training under any words, half of them inside a larger log; the same on every call."""
    learned = {fault(record) for record in records("train")}
    for number, record in enumerate(record for record in records(split) if fault(record) not in learned):
        rng = random.Random(number)
        yield sample(record, decorate(record["log"], rng, True) if rng.random() < 0.5 else record["log"])


def fault(record: Record) -> str:
    """The fault of a template without the way it was run."""
    return "/".join(record["template"].split("/")[:2])
