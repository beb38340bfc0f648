"""A request as the gateway decides about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """What is decided about: when its tokens are due, and how much there is to do."""

    arrival_s: float  # of the event loop's clock
    ttft_s: float
    tpot_s: float
    tier: int
    input_tokens: int
    max_tokens: int
    is_streamed: bool
    num_sequences: int = 1  # answers to it: prompts times n
    expected_tokens: int = 0  # of each answer, as its caller expects; 0: nobody said
    is_best_effort: bool = False  # it asked for no SLO: it runs where no other needs the room, and gives way

    @property
    def shows_tokens(self) -> bool:
        """Whether its stream tells of iterations: several answers' tokens come with each."""
        return self.is_streamed and self.num_sequences == 1
