"""How long a decode waits while an engine computes a long prompt: by its chunks, or for all of it at once.

    python benchmarks/prompt_beside_decode.py URL [--prompt 4000] [--vocab 1900]

A stream decodes, a long prompt comes, and the stream's longest gaps are told. Whether TPOTs can be kept beside prompts
shows here: an engine that shares iterations between both makes a decode wait for one chunk, one that computes prompts
first (SGLang without --enable-mixed-chunk) for the whole prompt. The engine must serve nobody else.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import pairwise
from statistics import median

from polyslo.measure.endpoint import Endpoint

CONTEXT_TOKENS = 50  # of the stream that decodes
MOST_TOKENS = 4000  # it is taken back before
BEFORE, AFTER = 30, 30  # tokens around the prompt


async def main() -> None:
    """Measure once, after a first request that warms the engine up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--prompt", type=int, default=4000, help="its tokens")
    parser.add_argument("--vocab", type=int, default=1900, help="token ids are below it")
    options = parser.parse_args()
    endpoint = Endpoint(options.url, vocab_size=options.vocab, longest_tokens=options.prompt)
    try:
        await endpoint.ask(None)
        await endpoint.open(options.prompt, 2).until(2)
        decode = endpoint.open(CONTEXT_TOKENS, MOST_TOKENS)
        await decode.until(BEFORE)
        sent_s = time.monotonic()
        prompt = endpoint.open(options.prompt, 1)
        await prompt.until(1)
        took_s = time.monotonic() - sent_s
        await decode.until(decode.num_tokens + AFTER)
        decode.close()
    finally:
        await endpoint.close()
    gaps = [(later, 1e3 * (later - earlier)) for earlier, later in pairwise(decode.arrival_s)]
    alone_ms = median(gap_ms for at_s, gap_ms in gaps if at_s <= sent_s)
    print(f"a prompt of {options.prompt:,} tokens: first token after {1e3 * took_s:,.0f} ms")
    print(f"a decode: a token in {alone_ms:.1f} ms alone, its longest gap {max(gap_ms for _, gap_ms in gaps):,.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
