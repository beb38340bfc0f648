"""How far iterations reach, of a profile's points or of a run: what lies further out is extrapolated. Ours."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Extent:
    """The largest of each quantity that an iteration's time depends on; they need not be of one iteration."""

    decodes: int
    kv_tokens: int  # of the decodes, together
    chunk_tokens: int
    context_tokens: int  # that a token of a chunk attends to, on average

    def joined(self, other: Self) -> Self:
        """Return the larger of both, quantity by quantity."""
        return type(self)(*map(max, astuple(self), astuple(other)))

    def text(self) -> str:
        """Say it in words."""
        return ", ".join(f"{name} to {reach:,}" for name, reach in zip(_NAMES, astuple(self), strict=True))

    def beyond(self, limits: Self) -> str:
        """Say which quantities pass the limits, and by how much; empty where none does."""
        pairs = zip(_NAMES, astuple(self), astuple(limits), strict=True)
        return ", ".join(f"{name} to {reach:,} (points to {most:,})" for name, reach, most in pairs if reach > most)


_NAMES = ("batches", "KV tokens", "chunks", "prefill contexts")
