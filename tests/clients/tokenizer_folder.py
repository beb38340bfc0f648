"""A tokenizer for benchmark clients that counts as emulated engines do: every four characters are a token.

Its vocabulary is a thousand pieces of four letters and decodes by joining them, so that a prompt drawn from it has as
many tokens here, in the client and in the engine. Any other text has them too, as pieces that it does not know.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

SPECIALS = ("<unk>", "<s>", "</s>")
SYLLABLES = tuple(map("".join, product("bdlmnrsv", "aeio")))


def write_tokenizer(folder: Path) -> Path:
    """Write it as Hugging Face's libraries read it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIALS, *(first + second for first in SYLLABLES for second in SYLLABLES)]
    model = {"type": "WordLevel", "vocab": {word: k for k, word in enumerate(words)}, "unk_token": "<unk>"}
    added = [
        {"id": k, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for k, word in enumerate(SPECIALS)
    ]  # fmt: skip
    splits = {"type": "Split", "pattern": {"Regex": "[\\s\\S]{1,4}"}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": splits, "post_processor": None, "decoder": {"type": "Fuse"}, "model": model,
    }  # fmt: skip
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(words)}))
    return folder
