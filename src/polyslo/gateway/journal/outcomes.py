"""How a journal hears what became of requests."""

from __future__ import annotations

from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.records import Outcome
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.served_model import ServedModel


class JournalOutcomes:
    """The `Listener` that writes down outcomes; decisions reach the journal from the decider itself."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def arrived(self, relay: Relay) -> None:
        """See `Listener`."""

    def decided(self, model: ServedModel, relay: Relay, kind: int, i: int) -> None:
        """See `Listener`."""

    def moved(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def health_changed(self, model: ServedModel, i: int) -> None:
        """See `Listener`."""

    def finished(self, relay: Relay, outcome: str) -> None:
        """See `Listener`."""
        passage = relay.passage
        self._journal.ended(
            Outcome(
                r=relay.r,
                outcome=outcome,
                is_relegated=passage.is_relegated,
                tier=relay.request.tier,
                num_tries=passage.num_tries,
                prompt_tokens=passage.prompt_tokens or 0,
                output_tokens=passage.tokens,
                arrival_s=relay.request.arrival_s,
                ttft_s=relay.request.ttft_s,
                first_s=passage.first_token_s,
                last_s=passage.last_token_s,
            )
        )
