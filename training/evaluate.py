"""Measures the shipped model on logs that nobody trained on, beside what it has to beat.

    python -m training.evaluate [--server http://127.0.0.1:8000] [--model agentmesh/builtin/tiny] [--split held,stranger]

Without --server the model runs here, with the schema's constraint applied by scoring.py; with it each question goes to a
server that speaks the OpenAI protocol (vLLM), as the workflow sends it, and --compare says how often the two agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from agentmesh.builtin.triage import resolve
from training import dataset
from training.dataset import Sample
from training.scoring import choose, write

ASKED = ("cause", "place", "subject", "quote")
Answer = dict[str, Any]


def score(sample: Sample, answer: Answer) -> dict[str, bool]:
    """Which parts of an answer, as `resolve` gives it, are right."""
    record = sample.record
    quotes = answer["quotes"]
    return {
        "cause": answer["cause"] == record["cause"],
        "place": dataset.place_right(record, answer["file"], answer["line"]),
        "subject": dataset.subject_right(record, answer["subject"]),
        "quote": bool(quotes) and dataset.quote_right(record, quotes[0]),
    }


def ask(server: str, name: str, sample: Sample) -> dict[str, str]:
    """The model's choice from a server, by the request that the workflow's step makes."""
    body = {
        "model": name, "messages": [{"role": "user", "content": sample.prompt}], "temperature": 0, "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": dataset.schema(sample.cut), "strict": True}},
    }  # fmt: skip
    request = urllib.request.Request(f"{server}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        choice: dict[str, str] = json.loads(json.load(reply)["choices"][0]["message"]["content"])
    return choice


def from_server(server: str, samples: list[Sample]) -> list[dict[str, str]]:
    """Every choice, eight questions at once, with progress."""
    with urllib.request.urlopen(f"{server}/v1/models", timeout=60) as reply:
        name = json.load(reply)["data"][0]["id"]
    started, choices = time.monotonic(), []
    with ThreadPoolExecutor(8) as pool:
        for number, choice in enumerate(pool.map(lambda s: ask(server, name, s), samples), 1):
            choices.append(choice)
            if number % 100 == 0:
                left = (time.monotonic() - started) / number * (len(samples) - number)
                print(f"{number}/{len(samples)} asked, {left:.0f} s left", file=sys.stderr, flush=True)
    return choices


def table(title: str, samples: list[Sample], answers: list[Answer]) -> dict[str, float]:
    """Prints one row and returns its shares."""
    right = Counter[str]()
    for sample, answer in zip(samples, answers, strict=True):
        parts = score(sample, answer)
        right.update(key for key, ok in parts.items() if ok)
        right["all"] += all(parts.values())
    shares = {key: right[key] / len(samples) for key in (*ASKED, "all")}
    print(f"| {title} | " + " | ".join(f"{100 * shares[key]:.1f} %" for key in (*ASKED, "all")) + " |", flush=True)
    return shares


def main() -> None:
    """Prints a table for each split, and the weakest faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="agentmesh/builtin/tiny")
    parser.add_argument("--free", default="", help="weights of `train --free`, which write the answer themselves, for the row without rules")
    parser.add_argument("--split", default="held,stranger")
    parser.add_argument("--compare", action="store_true", help="with --server: how often scoring.py agrees")
    parser.add_argument("--weak", type=int, default=0, help="show so many of the weakest faults")
    parser.add_argument("--json", default="", help="write the shares to this file")
    args = parser.parse_args()
    torch.set_num_threads(2)
    commonest = Counter(record["cause"] for record in dataset.records("train")).most_common(1)[0][0]
    results: dict[str, Any] = {}
    for split in args.split.split(","):
        samples = list(dataset.held_samples(split))
        print(f"\n{split}: {len(samples)} logs\n\n| | cause | file and line | subject | true quote | all four |\n| --- | --- | --- | --- | --- | --- |")
        rows: dict[str, list[Answer]] = {}
        local = None
        if not args.server or args.compare:
            model, tokenizer = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval(), Tokenizer.from_file(str(Path(args.model) / "tokenizer.json"))
            local = choose(model, tokenizer, samples)
        choices = from_server(args.server, samples) if args.server else local or []
        rows["rules and model"] = [resolve(choice, sample.cut["table"]) for choice, sample in zip(choices, samples, strict=True)]
        rows["rules without a model"] = [resolve(sample.cut["rules"], sample.cut["table"]) for sample in samples]
        if args.free:
            model, tokenizer = LlamaForCausalLM.from_pretrained(args.free, dtype=torch.float32).eval(), Tokenizer.from_file(str(Path(args.free) / "tokenizer.json"))
            few = samples[:: max(1, len(samples) // 70)]
            table(f"model without rules ({len(few)} logs)", few, write(model, tokenizer, few))
        rows[f"always {commonest}, no place"] = [{"cause": commonest, "file": None, "line": None, "subject": None, "quotes": []} for _ in samples]
        results[split] = {"logs": len(samples)} | {title: table(title, samples, answers) for title, answers in rows.items()}
        if args.server and local:
            same = sum(a == b for a, b in zip(local, choices, strict=True))
            print(f"\nscoring.py and the server agree on {same} of {len(samples)} logs")
            results[split]["agree"] = same
        if args.weak:
            _weakest(samples, rows["rules and model"], args.weak)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def _weakest(samples: list[Sample], answers: list[Answer], count: int) -> None:
    wrong: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, answer in zip(samples, answers, strict=True):
        parts = score(sample, answer)
        wrong[dataset.fault(sample.record)].update(["logs", *(key for key, ok in parts.items() if not ok)])
    for name, counts in sorted(wrong.items(), key=lambda item: -sum(v for k, v in item[1].items() if k != "logs"))[:count]:
        print(name, dict(counts))


if __name__ == "__main__":
    main()
