"""How engines say in an answer that they can't complete it: an error event, or the finish reason `abort`.

An engine that is stopped ends its streams in either way and then with `[DONE]`, as if all were well (vLLM: `abort`;
SGLang and vLLM after a crash: an error). Found without parsing: inside a JSON text quotes and line ends are escaped,
so what is looked for can't be something that a model has said.
"""

from __future__ import annotations

import re

ERROR = b'"error"'  # a piece of a stream without it tells of no error
_BROKEN = re.compile(
    rb'[\r\n](?:event: ?error\b|data: ?\{\s*"(?:error"\s*:\s*[^\sn]|object"\s*:\s*"error"))'
    rb'|"finish_reason"\s*:\s*"(?:abort|error)"'
)


def is_broken(data: bytes, *, is_beginning: bool = False) -> bool:
    """Tell whether a body, or the last of one, says that it is not whole. `is_beginning`: it is, not what came before.

    Costs about a microsecond a kilobyte: for the beginning and the end of a stream, not for each piece.
    """
    return _BROKEN.search(b"\n" + data if is_beginning else data) is not None
