"""What is decided about a deployment before Ray is asked; the rest is in tests/real."""

from __future__ import annotations

import json
import socket

import pytest

from agentmesh.adapters.model_link import Spec
from agentmesh.adapters.model_source import locate
from agentmesh.adapters.ray_deploy import cause_of, choose_ports, replica_plan, serve_environment
from agentmesh.core.model import Deploy, Model, Replicas
from agentmesh.errors import ModelFailed


@pytest.fixture
def weights(tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_a_small_model_on_the_cpu_is_computed_eagerly_without_free_whitespace():
    engine = replica_plan("tiny", Spec("/w", local=True, revision="r", small=True), "n", "l")["config"]["engine_kwargs"]
    assert (engine["dtype"], engine["enforce_eager"], engine["kv_cache_memory_bytes"]) == ("bfloat16", True, 512 << 20)
    assert engine["structured_outputs_config"] == {"backend": "xgrammar", "disable_any_whitespace": True}
    assert engine["enable_prefix_caching"]
    assert "max_model_len" not in engine


def test_gpus_split_a_model_over_as_many():
    plan = replica_plan(
        "big", Spec("a/b", local=False, revision="", device="gpu", gpus=2, max_model_len=4096), "n", "l"
    )
    assert plan["config"]["engine_kwargs"]["tensor_parallel_size"] == 2
    assert plan["config"]["engine_kwargs"]["max_model_len"] == 4096
    assert plan["config"]["placement_group_config"] == {"bundles": [{"GPU": 1.0}, {"GPU": 1.0}]}


def test_ports_are_kept_from_start_to_start_unless_taken(tmp_path):
    """Two meshes, or one that starts again: free ones, all different, in the replicas' range below the ephemeral ones."""
    file = tmp_path / "ports.json"
    first = choose_ports(file)
    assert choose_ports(file) == first
    assert 20_000 <= first["replicas"] < 32_000
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["proxy"]))
        second = choose_ports(file)
    assert second["proxy"] != first["proxy"]
    assert json.loads(file.read_text()) == second
    environment = serve_environment(second)
    assert environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == str(second["replicas"])
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            (
                "RuntimeError: Failed to create vLLM engine config: 1 validation error for ModelConfig\n  Value error, The "
                "checkpoint has model type `nosuch`. Update. [type=value_error, input_value=...]"
            ),
            "The checkpoint has model type `nosuch`",
        ),
        ("ValueError: bad weights", "ValueError: bad weights"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "SafetensorError: header too large"),
        ("", "SafetensorError: header too large"),
    ],
)
def test_the_cause_of_a_failed_start_is_a_sentence(tmp_path, failure, sentence):
    """The engine's own error from its log where the replica only heard that the engine failed."""
    log = tmp_path / "tiny.log"
    log.write_text(
        "(EngineCore pid=1) ERROR SafetensorError: header too large\nRuntimeError: Engine core initialization failed.\n"
    )
    assert cause_of(failure, log) == sentence


def test_weights_are_known_by_their_content(weights):
    """The revision changes with the weights, and with nothing else; a folder is relative to the mesh."""
    model = Model(source="./" + weights.name, deploy=Deploy())
    first = locate("tiny", model, weights.parent)
    assert locate("tiny", model, weights.parent) == first
    (weights / "model.safetensors").write_text("other")
    second = locate("tiny", model, weights.parent)
    assert second.revision != first.revision
    assert (second.source, second.local, second.device, second.small) == (str(weights), True, "cpu", True)


def test_an_id_of_hugging_face_is_left_to_vllm(tmp_path):
    spec = locate("qwen", Model(source="Qwen/Qwen3-8B", deploy=Deploy(gpus=1)), tmp_path)
    assert (spec.source, spec.local, spec.device, spec.gpus) == ("Qwen/Qwen3-8B", False, "gpu", 1)


@pytest.mark.parametrize(
    ("deploy", "says"),
    [
        (Deploy(adapters={"legal": "./legal"}), "`adapters` are not built yet"),
        (Deploy(replicas=Replicas(min=0)), "`replicas.min: 0` is not built yet"),
        (Deploy(replicas=Replicas(min=3, max=2)), "`replicas.max` is less than `min`"),
        (None, "has no `deploy:`"),
    ],
)
def test_what_is_not_built_is_refused(weights, deploy, says):
    with pytest.raises(ModelFailed, match=says):
        locate("tiny", Model(source=str(weights), deploy=deploy), weights)


def test_a_model_is_offered_tools_where_its_form_of_calls_is_known(weights):
    """vLLM must be told how to read them; without that it refuses tools itself."""
    spec = locate("m", Model(source=str(weights), deploy=Deploy(tool_parser="hermes")), weights)
    engine = replica_plan("m", spec, "n", "l")["config"]["engine_kwargs"]
    assert (engine["enable_auto_tool_choice"], engine["tool_call_parser"]) == (True, "hermes")
    spec = locate("m", Model(source=str(weights), deploy=Deploy()), weights)
    assert "enable_auto_tool_choice" not in replica_plan("m", spec, "n", "l")["config"]["engine_kwargs"]
