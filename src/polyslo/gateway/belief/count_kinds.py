"""How the events of a stream say how many tokens they carry: chosen by what its client asked for."""

from __future__ import annotations

EVENTS = 0  # they don't: each is as many as events of its engine have been (`EventTokens`)
LISTED = 1  # by the ids of their tokens (`return_token_ids`: vLLM, SGLang); one without a list is as with EVENTS
STATED = 2  # by how many there are so far (`stream_options.continuous_usage_stats`: vLLM, SGLang)
