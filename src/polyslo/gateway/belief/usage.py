"""The token counts that engines state, picked out of a response's bytes without decoding them.

Quotes inside a JSON text are escaped, so a name in quotes and a colon can't be something that a model has said. A token
may be the name of a number in `logprobs`: that one is no whole number.
"""

from __future__ import annotations

import re

_COMPLETION, _PROMPT = b'"completion_tokens"', b'"prompt_tokens"'
_WHOLE = re.compile(rb'"\w+"\s*:\s*(\d{1,9})(?=\s*[,}])')
_IDS = re.compile(rb'"token_ids"\s*:\s*\[\s*(\d[^\]]*)?\]')


def completion_tokens(data: bytes) -> int | None:
    """Return the last stated number of output tokens, or None."""
    return _last(_COMPLETION, data)


def prompt_tokens(data: bytes) -> int | None:
    """Return the last stated number of prompt tokens, or None."""
    return _last(_PROMPT, data)


def listed_tokens(data: bytes) -> tuple[int, int]:
    """Return how many lists of output tokens' ids there are, and how many ids in all of them."""
    num_lists = num_ids = 0
    for found in _IDS.finditer(data):
        start, end = found.span(1)
        num_lists += 1
        num_ids += data.count(b",", start, end) + (end > start)
    return num_lists, num_ids


def _last(name: bytes, data: bytes) -> int | None:
    at = data.rfind(name)
    while at >= 0:
        found = _WHOLE.match(data, at)
        if found is not None:
            return int(found[1])
        at = data.rfind(name, 0, at)
    return None
