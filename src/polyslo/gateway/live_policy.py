"""Which policy a live fleet really gets: what PolyServe promises depends on the engines' chunk.

Engines that size their chunks by SLOs keep every iteration within the tier's TPOT. Stock engines put up to
`max_num_batched_tokens` prompt tokens into an iteration; where such an iteration takes longer than a tier's TPOT,
nothing can be promised to that tier, and PolyServe would relegate all of its requests. Then the least loaded instance
is the better choice, and the operator is told what to change. Where prefill is apart from decode no tier waits for a
chunk. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyslo.core.profile import Profile
from polyslo.errors import ConfigError
from polyslo.gateway.config.models import DISAGGREGATED, ModelConfig
from polyslo.policies.table import EXTERNAL, POLICIES
from polyslo.sim.fleet import PolicySpec

FALLBACK = "minimal"
NUM_DECODES, CONTEXT_TOKENS = 16, 1000  # beside which a chunk is recommended, and the KV tokens of each
LEAST_PROMPT_TOKENS = 16  # of a chunk that is recommended
PAGE_TOKENS = 128  # SGLang takes whole pages, of at most so many with most kinds of attention


def live_policy(model: ModelConfig, profile: Profile, tiers_s: Sequence[float]) -> PolicySpec:
    """Return the configured policy as it can work with a model's engines, or the fallback: see `why_fallback`.

    Raises `ConfigError` for a function of one's own: the gateway decides in compiled code.
    """
    spec = PolicySpec.parse(model.policy)
    if spec.kind.code == EXTERNAL:
        raise ConfigError(
            f"policy {model.policy!r} is a function, which only the simulator asks (polyslo compare); "
            f"the gateway takes {', '.join(POLICIES)}"
        )
    if not spec.kind.elastic or model.dynamic_chunking:
        return spec
    if is_chunk_too_large(model, profile, tiers_s):
        return replace(PolicySpec.parse(FALLBACK), chunk_tokens=model.chunk_limit_tokens)
    return replace(spec, without=spec.without | {"chunking"}, chunk_tokens=model.chunk_limit_tokens)


def why_fallback(model: ModelConfig, profile: Profile, tiers_s: Sequence[float]) -> str | None:
    """Return what is wrong where a full chunk takes longer than the tightest tier's TPOT, and the remedy.

    `model` has one of our policies.
    """
    if not is_chunk_too_large(model, profile, tiers_s):
        return None
    chunk = model.chunk_limit_tokens
    full_ms = 1e3 * _full_step_s(profile, chunk)
    fitting = fitting_chunk(model, profile, tiers_s)
    remedy = (
        f"give the engines a chunk of {fitting} tokens (vLLM: --max-num-batched-tokens, SGLang: "
        f"--chunked-prefill-size) and set chunk_limit_tokens = {fitting}"
        if fitting is not None
        else "loosen the tightest tier"
    )
    return (
        f"model {model.name!r}: a full step of {chunk} tokens takes {full_ms:.0f} ms, the tightest tier is "
        f"{1e3 * tiers_s[0]:g} ms: nothing can be promised, so requests go to the least loaded instance; {remedy}, "
        "or use engines with polyslo's scheduler and set dynamic_chunking = true"
    )


def is_chunk_too_large(model: ModelConfig, profile: Profile, tiers_s: Sequence[float]) -> bool:
    """Tell whether the engines' constant chunk keeps the policy from promising anything to the tightest tier."""
    if model.dynamic_chunking or model.mode == DISAGGREGATED or not PolicySpec.parse(model.policy).kind.elastic:
        return False
    return _full_step_s(profile, model.chunk_limit_tokens) > tiers_s[0]


def fitting_chunk(model: ModelConfig, profile: Profile, tiers_s: Sequence[float]) -> int | None:
    """Return the tokens of an iteration, a batch of decodes among them, that the tightest tier has room for.

    None where no prompt could make progress so. Engines take whole pages.
    """
    room = model.chunk_limit_tokens - NUM_DECODES
    prompt = profile.largest_chunk(tiers_s[0], NUM_DECODES, NUM_DECODES * CONTEXT_TOKENS, 0, room)
    if prompt < LEAST_PROMPT_TOKENS:
        return None
    chunk = prompt + NUM_DECODES
    return chunk - chunk % (PAGE_TOKENS if chunk >= PAGE_TOKENS else LEAST_PROMPT_TOKENS)


def _full_step_s(profile: Profile, chunk: int) -> float:
    return profile.iteration_s(0, chunk, 0.0, 0.5 * chunk)
