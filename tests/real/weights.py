"""A Llama of random weights, small enough to make in a test: answers nonsense, but by the real engine."""

from __future__ import annotations

import json
from pathlib import Path

WIDTH, LAYERS, HEADS, INNER, WORDS = 64, 2, 2, 128, 512  # vLLM's attention on the CPU wants heads of 32 at least
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}<|assistant|>"


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write config, tokenizer and weights in Hugging Face's layout."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))

    made = np.random.default_rng(seed)

    def tensor(*shape: int) -> np.ndarray:
        return (made.standard_normal(shape) * 0.05).astype(np.float32)

    weights = {"model.embed_tokens.weight": tensor(WORDS, WIDTH), "lm_head.weight": tensor(WORDS, WIDTH)}
    weights["model.norm.weight"] = np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        weights |= {f"{at}.self_attn.{part}_proj.weight": tensor(WIDTH, WIDTH) for part in "qkvo"}
        weights |= {f"{at}.mlp.{part}_proj.weight": tensor(INNER, WIDTH) for part in ("gate", "up")}
        weights[f"{at}.mlp.down_proj.weight"] = tensor(WIDTH, INNER)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}.{norm}.weight"] = np.ones(WIDTH, np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": WORDS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "chat_template": TEMPLATE,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder
