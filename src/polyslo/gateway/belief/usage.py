"""The token counts that engines state, picked out of a response's last bytes without parsing the rest."""

from __future__ import annotations

import re

_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,9})')
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,9})')


def completion_tokens(tail: bytes) -> int | None:
    """Return the last stated number of output tokens, or None."""
    return _last(_COMPLETION, tail)


def prompt_tokens(tail: bytes) -> int | None:
    """Return the last stated number of prompt tokens, or None."""
    return _last(_PROMPT, tail)


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int | None:
    found = pattern.findall(tail)
    return int(found[-1]) if found else None
