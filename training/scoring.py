"""Greedy answers under the schema's constraint, without a server.

At each step only the tokens that keep the text a prefix of some allowed answer may come, which is what constrained decoding
does in vLLM: evaluate.py compares the two.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from training import dataset


def choose(model: LlamaForCausalLM, tokenizer: Tokenizer, samples: list[dataset.Sample], size: int = 16) -> list[dict[str, str]]:
    """For each sample the labels that the model chooses."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
    said: dict[int, dict[str, str]] = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for index, answer in zip(part, _batch(model, tokenizer, [samples[i] for i in part]), strict=True):
            said[index] = answer
    return [said[index] for index in range(len(samples))]


@torch.no_grad()  # type: ignore[untyped-decorator]
def _batch(model: LlamaForCausalLM, tokenizer: Tokenizer, samples: list[dataset.Sample]) -> list[dict[str, str]]:
    """One question after the other: each option's tokens are scored after the answers before it, and the likeliest stays.

    Greedy choice by token among the options' common prefixes equals choosing by the first token at which options differ;
    labels differ in one digit and causes in their first tokens, so the tree is walked token by token.
    """
    heads = [tokenizer.encode("<s><|user|>" + sample.prompt + "<|assistant|>").ids for sample in samples]
    answers: list[dict[str, str]] = [{} for _ in samples]
    keys = list(dataset.llm_step()["output"]["properties"])
    options = [dataset.schema(sample.cut)["properties"] for sample in samples]
    texts = ["{" for _ in samples]
    for key in keys:
        texts = [text + f'"{key}":"' for text in texts]
        alive = [list(options[row][key]["enum"]) for row in range(len(samples))]
        done = [""] * len(samples)
        for _ in range(12):
            if all(len(left) == 1 for left in alive):
                break
            tails = [tokenizer.encode(texts[row] + done[row]).ids for row in range(len(samples))]
            logits = _last(model, [heads[row] + tails[row] for row in range(len(samples))])
            for row in range(len(samples)):
                if len(alive[row]) == 1:
                    continue
                nexts: dict[int, list[str]] = {}
                for option in alive[row]:
                    whole = tokenizer.encode(texts[row] + option + '"').ids
                    nexts.setdefault(whole[len(tails[row])], []).append(option)
                best = max(nexts, key=lambda token: float(logits[row, token]))
                alive[row] = nexts[best]
                if len(alive[row]) > 1:
                    done[row] += tokenizer.decode([best])
        for row in range(len(samples)):
            answers[row][key] = alive[row][0]
            texts[row] += alive[row][0] + '",'
    return answers


def _last(model: LlamaForCausalLM, rows: list[list[int]]) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    hidden = model.model(input_ids=ids).last_hidden_state
    picked = torch.stack([hidden[number, len(row) - 1] for number, row in enumerate(rows)])
    logits: torch.Tensor = model.lm_head(picked)
    return logits


@torch.no_grad()  # type: ignore[untyped-decorator]
def write(model: LlamaForCausalLM, tokenizer: Tokenizer, samples: list[dataset.Sample]) -> list[dict[str, Any]]:
    """Answers written freely from the log, without candidates and without a constraint; what is no JSON counts as empty."""
    answers = []
    for sample in samples:
        ids = tokenizer.encode("<s><|user|>" + dataset.free_prompt(sample.log) + "<|assistant|>").ids
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=140, do_sample=False, pad_token_id=0, eos_token_id=2)
        try:
            said = json.loads(tokenizer.decode(out[0, len(ids) :].tolist(), skip_special_tokens=True))
            answers.append({"cause": said["cause"], "file": said["file"], "line": said["line"], "subject": said["subject"], "quotes": [str(said["quote"])]})
        except (ValueError, KeyError, TypeError):
            answers.append({"cause": None, "file": None, "line": None, "subject": None, "quotes": []})
    return answers
