"""Make a small model of Llama's architecture, offline: random weights, and a tokenizer trained on Python's sources.

    python make_model.py FOLDER --hidden 256 --layers 4 --heads 4 --kv-heads 2 --vocab 4096 [--context 16384]

Runs in the engines' environment (needs tokenizers, safetensors, numpy). The same arguments give the same model.
Weights are scaled so that activations keep their size: random weights then give varied tokens.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END, PAD, TURN = "<|begin|>", "<|end|>", "<|pad|>", "<|turn|>"
ROLES = ("system", "user", "assistant")
SPECIAL = (BEGIN, END, PAD, TURN, *(f"<|{role}|>" for role in ROLES))
READ = ("argparse", "ast", "inspect", "statistics", "typing", "unittest/mock", "email/header", "http/client")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|turn|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Write the model's files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("hidden", "layers", "heads", "kv-heads", "vocab"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--context", type=int, default=16_384)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(options.vocab)
    tokenizer.save(str(options.folder / "tokenizer.json"))
    config = describe(options, tokenizer)
    for name, content in (
        ("config", config),
        ("generation_config", {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}),
        ("tokenizer_config", tokenizer_config(options.context)),
    ):
        (options.folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    save_file(weights(config), str(options.folder / "model.safetensors"), metadata={"format": "pt"})


def train(vocab: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sources(), trainer)
    return tokenizer


def sources() -> Iterator[str]:
    """Yield text that every machine with Python has."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in READ:
        yield (library / f"{name}.py").read_text(encoding="utf-8")


def tokenizer_config(context: int) -> dict[str, object]:
    """Return what goes beside the tokenizer."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": BEGIN,
        "eos_token": END, "pad_token": PAD, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip


def describe(options: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, object]:
    """Return the model's configuration."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": options.hidden, "intermediate_size": -(-8 * options.hidden // 3 // 64) * 64,
        "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads, "head_dim": options.hidden // options.heads,
        "max_position_embeddings": options.context, "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "dtype": "float32",
        "bos_token_id": tokenizer.token_to_id(BEGIN), "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }  # fmt: skip


def weights(config: dict[str, object]) -> dict[str, np.ndarray]:
    """Return random weights by name."""
    rng = np.random.default_rng(0)
    hidden, inner, vocab, head, layers, heads, kv_heads = (
        int(str(config[key]))
        for key in (
            "hidden_size", "intermediate_size", "vocab_size", "head_dim", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads",
        )
    )  # fmt: skip

    def linear(outputs: int, inputs: int) -> np.ndarray:
        return rng.standard_normal((outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))

    made = {"model.embed_tokens.weight": rng.standard_normal((vocab, hidden), dtype=np.float32)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes = {
            "self_attn.q_proj": (heads * head, hidden), "self_attn.k_proj": (kv_heads * head, hidden),
            "self_attn.v_proj": (kv_heads * head, hidden), "self_attn.o_proj": (hidden, heads * head),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        made |= {f"{prefix}{name}.weight": linear(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{prefix}{name}.weight"] = np.ones(hidden, dtype=np.float32)
    return made | {"model.norm.weight": np.ones(hidden, dtype=np.float32), "lm_head.weight": linear(vocab, hidden)}


if __name__ == "__main__":
    main()
