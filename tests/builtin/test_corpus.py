"""The corpus keeps its promises: held-out faults and words are not in training, and no path of the machine that made it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from agentmesh.core.expression import render
from training import dataset
from training.case import HELD, TRAIN

TINY = Path(dataset.__file__).parent.parent / "agentmesh" / "builtin" / "tiny"


def test_held_out_faults_are_not_in_training() -> None:
    """A fault belongs to one side; so do the words that programs are named with."""
    learned = {dataset.fault(record) for split in ("train", "dev") for record in dataset.records(split)}
    held = {dataset.fault(sample.record) for split in ("held", "stranger") for sample in dataset.held_samples(split)}
    assert len(held) > 100
    assert not held & learned
    assert not {word for text in TRAIN.values() for word in text.split()} & {
        word for text in HELD.values() for word in text.split()
    }


def test_no_path_of_the_machine_that_made_the_corpus() -> None:
    """Folders of the programs and homes of the tools were replaced."""
    for split in ("train", "dev", "held", "stranger"):
        for record in dataset.records(split):
            assert not re.search(r"/tmp/(?:case|tri)|/root/\.(?!npm)|(?<!runner)(?<!vsts)/work/", record["log"]), (
                record["template"]
            )


def test_the_prompt_is_the_one_of_the_workflow() -> None:
    """Training renders the prompt of workflows/triage.yaml as the engine does."""
    text = "error: 5 |type Q1\nsubjects:\nsymbol a S1"
    prompt = dataset.llm_step()["prompt"]
    assert dataset.render(text) == render(prompt, {"steps": {"cut": {"output": {"text": text}}}})


def test_weights_are_small_and_complete() -> None:
    """What vLLM needs to serve the model is there, within 16 MB."""
    assert (TINY / "model.safetensors").stat().st_size <= 16_000_000
    config = json.loads((TINY / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "chat_template" in json.loads((TINY / "tokenizer_config.json").read_text())
